"""The life of a charge: taken with the job, settled image by image, or voided.

Each is one transaction, idempotent by `job_id`: a repeat changes nothing and answers what the first answered. Charges
that arrive while a transaction is under way share the next one, and so do settlements.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, NamedTuple
from uuid import UUID

import structlog

from pixorly import metrics
from pixorly.db import Connection, Database
from pixorly.errors import InsufficientCredits, InvalidRequest, UserError
from pixorly.events import utcnow
from pixorly.failpoints import failpoint
from pixorly.grouping import Grouper
from pixorly.outcomes import outcome_of
from pixorly_ledger import store
from pixorly_ledger.books import Book, Clock
from pixorly_ledger.rows import Account, Charge, Closing, Draw, NewCharge, Outcome
from pixorly_ledger.settings import Plan, plan_of
from pixorly_ledger.usage import Flow, Tally

_log = structlog.get_logger()

CHARGED = metrics.counter("pixorly_credits_charged", "Credits taken for jobs.")
CAPTURED = metrics.counter("pixorly_credits_captured", "Credits that became revenue.")
REFUNDED = metrics.counter("pixorly_credits_refunded", "Credits given back.")
REFUSED = metrics.counter("pixorly_charges_refused", "Charges that were refused, by why.", "code")
SETTLEMENTS = metrics.counter("pixorly_settlements", "Settlements by what they met.", "result")

_ABANDONED: Final = "abandoned"
_SETTLE_S: Final = 0.03
"""Where settlements come one upon another, they are booked so often, or up to three times as seldom: whoever is told
that a job has ended looks at the balance next."""


class AccountNotFound(UserError):
    """There is no such account."""

    code = "account_not_found"


class AccountSuspended(UserError):
    """The account is suspended."""

    code = "account_suspended"


class StorageQuotaExceeded(UserError):
    """The plan's storage has no room for this job's images."""

    code = "storage_quota_exceeded"


class ChargeVoided(UserError):
    """This charge was given up before it was made."""

    code = "charge_voided"


class ChargeNotFound(UserError):
    """There is no charge for this job."""

    code = "not_found"


class ChargeRequest(NamedTuple):
    """What a job is to cost, and the room that its images are to take: id and estimated bytes by slot."""

    job_id: UUID
    user_id: str
    amount_credits: int
    images: Sequence[tuple[UUID, int]]


class Charged(NamedTuple):
    """What a charge answers.

    Attributes:
        balance_credits: The user's balance right after the charge.
    """

    job_id: UUID
    amount_credits: int
    balance_credits: int
    plan: str
    status: Literal["open", "settled"]


@dataclass(frozen=True, slots=True)
class Settlement:
    """How a job ended.

    Attributes:
        codes: By slot: None for an uploaded one, else the code of its failure.
        processing_ms: None where nothing was processed.
    """

    job_id: UUID
    user_id: str
    outcome: Outcome
    model: str
    codes: Mapping[int, str | None]
    settled_at: datetime
    processing_ms: int | None
    retries: int


Settled = Literal["settled", "repeated", "voided", "missing"]


class Credits:
    """Charges, settles and voids.

    Args:
        database: The ledger's.
        plans: What each plan gives.
        clock: Returns the time now.
        max_group: The most charges, or settlements, in a transaction.
    """

    def __init__(
        self, database: Database, plans: Mapping[str, Plan], *, clock: Clock = utcnow, max_group: int = 256
    ) -> None:
        self._database = database
        self._plans = plans
        self._clock = clock
        self.charges: Grouper[ChargeRequest, Charged] = Grouper(
            self._charge_group, max_group=max_group, name="ledger.charge"
        )
        self.settlements: Grouper[Settlement, Settled] = Grouper(
            self._settle_group, max_group=max_group, spacing_s=_SETTLE_S, name="ledger.settle"
        )

    # Charging

    async def charge(self, request: ChargeRequest) -> Charged:
        """Take a job's credits and keep room for its images.

        Raises:
            InsufficientCredits, StorageQuotaExceeded, AccountSuspended, AccountNotFound: Nothing was taken.
            ChargeVoided: The job was given up.
        """
        _check_shape(request)
        try:
            return await self.charges(request)
        except UserError as refusal:
            REFUSED.labels(refusal.code).inc()
            raise

    async def _charge_group(self, requests: Sequence[ChargeRequest]) -> Sequence[Charged | Exception]:
        try:
            return await self._charge_unlocked(requests) or await self._charge_locked(requests)
        except store.Conflict:
            if len(requests) > 1:
                raise
            # A tombstone came first. It can be seen now.
            return await self._charge_locked(requests)

    async def _charge_unlocked(self, requests: Sequence[ChargeRequest]) -> Sequence[Charged | Exception]:
        """Read, decide, and write what still holds then: two ways to the server and back.

        Returns nothing where it takes locks: an account changed in between, or a lot has expired. What was written all
        the same is a charge like any other, which a repeat is answered with.
        """
        async with self._database.connection() as connection:
            found = await store.find_accounts_for_charges(connection, *_named(requests))
            book, answers = await self._answers(connection, found, requests)
            posted = await book.post_unlocked(connection)
        failpoint("charge.committed")
        CHARGED.inc(book.charged_credits(posted))
        return answers if posted == book.changed else []

    async def _charge_locked(self, requests: Sequence[ChargeRequest]) -> Sequence[Charged | Exception]:
        async with self._database.transaction() as connection:
            found = await store.lock_accounts_for_charges(connection, *_named(requests))
            book, answers = await self._answers(connection, found, requests)
            await book.post(connection)
        failpoint("charge.committed")
        CHARGED.inc(book.charged_credits(book.changed))
        return answers

    async def _answers(
        self, connection: Connection, found: tuple[list[Account], list[UUID]], requests: Sequence[ChargeRequest]
    ) -> tuple[Book, list[Charged | Exception]]:
        accounts, charged = found
        book = Book(accounts, self._clock())
        charges: dict[UUID, Charge | NewCharge] = {}
        if charged:
            charges.update(await store.find_charges(connection, charged))
        await book.load_lots(connection)
        book.expire_all()
        answers = [self._answer(book, charges, request) for request in requests]
        failpoint("charge.decided")
        return book, answers

    def _answer(
        self, book: Book, charges: dict[UUID, Charge | NewCharge], request: ChargeRequest
    ) -> Charged | Exception:
        """Answer one request as if those before it had been answered, and those after it not yet."""
        charge = charges.get(request.job_id)
        if charge is None:
            account = book.accounts.get(request.user_id)
            refusal = self._refusal(account, request)
            if refusal or account is None:
                return refusal or AccountNotFound()
            charge = book.take(account, request.job_id, request.amount_credits, request.images)
            charges[request.job_id] = charge
        return _charged(charge, request)

    def _refusal(self, account: Account | None, request: ChargeRequest) -> UserError | None:
        if account is None:
            return AccountNotFound()
        if account.status != "active":
            return AccountSuspended()
        needed_bytes = sum(size_bytes for _, size_bytes in request.images)
        quota_bytes = plan_of(self._plans, account.plan).quota_bytes
        if account.used_bytes + account.reserved_bytes + needed_bytes > quota_bytes:
            return StorageQuotaExceeded(
                used_bytes=account.used_bytes,
                reserved_bytes=account.reserved_bytes,
                quota_bytes=quota_bytes,
                needed_bytes=needed_bytes,
            )
        if account.balance_credits < request.amount_credits:
            return InsufficientCredits(needed_credits=request.amount_credits, available_credits=account.balance_credits)
        return None

    # Settling

    async def settle(self, settlement: Settlement) -> Settled:
        """Capture what was delivered or failed through the user, refund what failed through us."""
        result = await self.settlements(settlement)
        SETTLEMENTS.labels(result).inc()
        if result == "missing":
            # It will not come by waiting: data was lost, or the message is not ours. A person must look.
            _log.error("a settlement found no charge", job_id=str(settlement.job_id))
        return result

    async def _settle_group(self, settlements: Sequence[Settlement]) -> Sequence[Settled | Exception]:
        by_job = {settlement.job_id: settlement for settlement in reversed(settlements)}
        async with self._database.transaction() as connection:
            book = await Book.open(connection, {settlement.user_id for settlement in by_job.values()}, self._clock)
            charges = await store.find_charges(connection, by_job.keys())
            pairs = [
                (charges[job_id], settlement)
                for job_id, settlement in by_job.items()
                if job_id in charges
                and charges[job_id].status == "open"
                and charges[job_id].user_id == settlement.user_id
            ]
            closings = await self._close(connection, book, pairs)
        failpoint("settle.committed")
        for closing in closings:
            CAPTURED.inc(closing.captured_credits)
            REFUNDED.inc(closing.refunded_credits)
        return _results(settlements, charges, {closing.job_id for closing in closings})

    async def _close(
        self, connection: Connection, book: Book, pairs: Sequence[tuple[Charge, Settlement]]
    ) -> list[Closing]:
        closings = [_closing(charge, settlement, book.now) for charge, settlement in pairs]
        tally = Tally()
        await self._refund(
            connection, book, [(charge, closing) for (charge, _), closing in zip(pairs, closings, strict=True)]
        )
        for (charge, settlement), closing in zip(pairs, closings, strict=True):
            book.capture(settlement.user_id, closing.captured_credits, charge.job_id)
            tally.count(
                settlement.user_id,
                settlement.model,
                settlement.settled_at,
                outcome=settlement.outcome,
                codes=closing.slot_codes or [],
                captured_credits=closing.captured_credits,
                refunded_credits=closing.refunded_credits,
                retries=settlement.retries,
                processing_ms=settlement.processing_ms,
            )
        await book.post(connection)
        await store.close_charges(connection, closings)
        await tally.post(connection)
        failpoint("settle.in_transaction")
        return closings

    async def _refund(self, connection: Connection, book: Book, endings: Sequence[tuple[Charge, Closing]]) -> None:
        """Give back the credits and the room of what was not delivered."""
        drawn = [charge.job_id for charge, closing in endings if charge.lot_credits and closing.refunded_credits]
        draws: defaultdict[UUID, list[Draw]] = defaultdict(list)
        if drawn:
            for draw in await store.find_draws(connection, drawn):
                draws[draw.job_id].append(draw)
            await book.load_lots(connection, [draw for of_job in draws.values() for draw in of_job])
        undelivered: list[UUID] = []
        for charge, closing in endings:
            account = book.accounts[charge.user_id or ""]
            book.give_back(account, charge, closing.refunded_credits, draws[charge.job_id], _reason(closing))
            codes = closing.slot_codes or [_ABANDONED] * len(charge.image_ids)
            undelivered += [image_id for image_id, code in zip(charge.image_ids, codes, strict=True) if code]
        if undelivered:
            await release(connection, book, undelivered)

    # Voiding

    async def void(self, job_id: UUID, user_id: str | None = None) -> Literal["voided", "settled"]:
        """Give back an open charge whole, or see to it that there will be none."""
        while True:
            async with self._database.transaction() as connection:
                charge = (await store.find_charges(connection, [job_id])).get(job_id)
                if charge is None:
                    if await store.insert_tombstone(connection, job_id, user_id, self._clock()):
                        return "voided"
                    continue
                if charge.status == "open":
                    charge = await self._void_open(connection, charge)
                return "settled" if charge.status == "settled" else "voided"

    async def _void_open(self, connection: Connection, seen: Charge) -> Charge:
        book = await Book.open(connection, [seen.user_id or ""], self._clock)
        # It may have been settled before we had the lock.
        charge = (await store.find_charges(connection, [seen.job_id]))[seen.job_id]
        if charge.status == "open":
            closing = Closing(charge.job_id, "voided", None, None, 0, charge.amount_credits, None, None, book.now)
            await self._refund(connection, book, [(charge, closing)])
            await book.post(connection)
            await store.close_charges(connection, [closing])
            charge = charge._replace(status="voided")
        return charge


async def release(connection: Connection, book: Book, image_ids: Sequence[UUID]) -> None:
    """Let the room of images go whose accounts are in the book."""
    flow = Flow()
    for image in await store.release_images(connection, image_ids):
        was_stored = image.bytes if image.state == "stored" else 0
        book.occupy(book.accounts[image.user_id], was_reserved=image.bytes - was_stored, was_stored=was_stored)
        flow.release(image)
    await flow.post(connection, book.now.date())


def _named(requests: Sequence[ChargeRequest]) -> tuple[set[str], set[UUID]]:
    return {request.user_id for request in requests}, {request.job_id for request in requests}


def _check_shape(request: ChargeRequest) -> None:
    if not request.images or request.amount_credits % len(request.images):
        raise InvalidRequest("The amount must be the same for each image.")
    if len({image_id for image_id, _ in request.images}) < len(request.images):
        raise InvalidRequest("The images of a job must differ.")


def _charged(charge: Charge | NewCharge, request: ChargeRequest) -> Charged | Exception:
    if charge.status == "voided":
        return ChargeVoided()
    if charge.user_id != request.user_id:
        return InvalidRequest("This job belongs to another user.")
    return Charged(charge.job_id, charge.amount_credits, charge.balance_credits, charge.plan or "", charge.status)


def _closing(charge: Charge, settlement: Settlement, now: datetime) -> Closing:
    """Return how a settlement closes a charge; a slot that it does not name was not delivered."""
    codes = [settlement.codes.get(index, "internal_error") for index in range(len(charge.image_ids))]
    refunded = [code is not None and outcome_of(code).refunded for code in codes]
    refunded_credits = charge.image_credits * sum(refunded)
    return Closing(
        charge.job_id,
        "settled",
        codes,
        refunded,
        charge.amount_credits - refunded_credits,
        refunded_credits,
        settlement.outcome,
        settlement.model,
        now,
    )


def _reason(closing: Closing) -> str:
    if closing.slot_codes is None or closing.slot_refunded is None:
        return _ABANDONED
    refunded = zip(closing.slot_codes, closing.slot_refunded, strict=True)
    return ", ".join(sorted({code for code, back in refunded if back and code}))


def _results(
    settlements: Sequence[Settlement], charges: Mapping[UUID, Charge], closed: set[UUID]
) -> list[Settled | Exception]:
    results: list[Settled | Exception] = []
    for settlement in settlements:
        charge = charges.get(settlement.job_id)
        if charge is None or (charge.user_id != settlement.user_id and charge.status != "voided"):
            results.append("missing")
        elif settlement.job_id in closed:
            closed.discard(settlement.job_id)
            results.append("settled")
        else:
            results.append("voided" if charge.status == "voided" else "repeated")
    return results
