"""The ledger: its real rules and books around tables in memory, and the way to it over HTTP."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast
from uuid import UUID

from pixorly.errors import InsufficientCredits, OutageError, PixorlyError, UserError
from pixorly.events import JobSettled
from pixorly_ledger import credits as rules
from pixorly_ledger import storage
from pixorly_ledger.books import PLACES, Book
from pixorly_ledger.credits import Charged, ChargeNotFound, ChargeRequest, Credits
from pixorly_ledger.handlers import settlement_of
from pixorly_ledger.rows import Account, Charge, Closing, NewCharge, Transfer
from pixorly_ledger.settings import Plan
from pixorly_ledger.usage import Flow
from simulator.bus import short
from simulator.clockwork import Process
from simulator.database import Database, Outbox, Transaction
from simulator.delivery import Subscription, Worker

if TYPE_CHECKING:
    from simulator.world import World

_T = TypeVar("_T")
_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Room:
    """The storage of an image: a row of the ledger's `images`."""

    image_id: UUID
    user_id: str
    job_id: UUID
    bytes: int
    state: Literal["reserved", "stored", "released"] = "reserved"


class Ledger:
    """The ledger's database, and its transactions as functions.

    Each mirrors the one of the same name in `pixorly_ledger.credits` or `.storage`, for a group of one. What decides
    is the real code: `Credits._answer`, `_closing` and every move of a `Book`.
    """

    def __init__(self, world: "World", plans: dict[str, Plan]) -> None:
        self._world = world
        self._credits = Credits(cast(Any, None), plans, clock=world.now)
        self.accounts: dict[str, Account] = {}
        self.charges: dict[UUID, Charge] = {}
        self.closings: dict[UUID, Closing] = {}
        self.rooms: dict[UUID, Room] = {}
        self.transfers: dict[UUID, Transfer] = {}
        self.database = Database(
            world,
            "ledger",
            accounts=self.accounts,
            charges=self.charges,
            closings=self.closings,
            rooms=self.rooms,
            transfers=self.transfers,
        )

    def _open(self, user_id: str | None) -> Book:
        account = self.accounts.get(user_id or "")
        return Book([replace(account)] if account else [], self._world.now())

    def post(self, book: Book) -> None:
        """Mirrors `Book.post`, and the schema's own refusals."""
        for transfer in book._transfers:
            self.transfers[transfer.id] = transfer
        for charge in book._new_charges:
            self._add(charge, book.now)
        for account in book._changed.values():
            if account.balance_credits < 0 and not self._world.broken("charges without looking"):
                raise InsufficientCredits
            self.accounts[account.user_id] = account

    def _add(self, new: NewCharge, now: datetime) -> None:
        """Mirrors `store.post_charges`."""
        image_ids = [image_id for image_id, _ in new.images]
        self.charges[new.job_id] = Charge(new.job_id, "open", *new[1:6], image_ids, now)
        self.rooms.update({image_id: Room(image_id, new.user_id, new.job_id, size) for image_id, size in new.images})
        if new.seq is not None:
            self.transfers[new.transfer_id] = Transfer(
                new.transfer_id,
                new.user_id,
                new.seq,
                "charge",
                *PLACES["charge"],
                new.amount_credits,
                new.balance_credits,
                new.job_id,
                None,
                None,
                now,
            )

    def charge(self, request: ChargeRequest) -> Charged:
        """Mirrors `_charge_locked`."""
        book = self._open(request.user_id)
        known = self.charges.get(request.job_id)
        charges: dict[UUID, Charge | NewCharge] = {request.job_id: known} if known else {}
        if self._world.broken("charges without looking") and not known:
            account = book.accounts[request.user_id]
            charges[request.job_id] = book.take(account, request.job_id, request.amount_credits, request.images)
        answer = self._credits._answer(book, charges, request)
        self.post(book)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def settle(self, event: JobSettled) -> None:
        """Mirrors `_settle_group` and `_close`."""
        settlement = settlement_of(event)
        charge = self.charges.get(event.job_id)
        once = not self._world.broken("settles twice")
        if charge is None or charge.user_id != settlement.user_id or (charge.status != "open" and once):
            return
        book = self._open(settlement.user_id)
        closing = rules._closing(charge, settlement, book.now)
        self._refund(book, charge, closing)
        book.capture(settlement.user_id, closing.captured_credits, charge.job_id)
        self._close(book, charge, closing)

    def _refund(self, book: Book, charge: Charge, closing: Closing) -> None:
        account = book.accounts[charge.user_id or ""]
        book.give_back(account, charge, closing.refunded_credits, [], rules._reason(closing))
        codes = closing.slot_codes or ["abandoned"] * len(charge.image_ids)
        self._release(book, [image_id for image_id, code in zip(charge.image_ids, codes, strict=True) if code])

    def _close(self, book: Book, charge: Charge, closing: Closing) -> None:
        self.post(book)
        self.charges[charge.job_id] = charge._replace(status=closing.status)
        self.closings[charge.job_id] = closing

    def void(self, job_id: UUID, user_id: str | None) -> str:
        """Mirrors `Credits.void`."""
        charge = self.charges.get(job_id)
        now = self._world.now()
        if charge is None:
            if not self._world.broken("no tombstone"):
                self.charges[job_id] = Charge(job_id, "voided", user_id, None, 0, 0, 0, [], now)
            return "voided"
        if charge.status == "open":
            book = self._open(charge.user_id)
            closing = Closing(job_id, "voided", None, None, 0, charge.amount_credits, None, None, now)
            self._refund(book, charge, closing)
            self._close(book, charge, closing)
        return "settled" if charge.status == "settled" else "voided"

    def true_up(self, image_id: UUID, user_id: str, size_bytes: int) -> Literal["stored", "closed"]:
        """Mirrors `Storage._true_up_group`."""
        room = self.rooms.get(image_id)
        images: dict[UUID, Any] = {}
        if room:
            released = room.state == "released" and not self._world.broken("stores what was released")
            state = "released" if released else "stored" if room.state == "stored" else "reserved"
            images[image_id] = {"user_id": room.user_id, "state": state, "bytes": room.bytes}
        book, changed = self._open(user_id), dict[UUID, int]()
        answer = storage._true_up(book, images, Flow(), changed, storage.TrueUp(image_id, user_id, size_bytes))
        if isinstance(answer, Exception):
            raise answer
        if room and changed:
            self.rooms[image_id] = replace(room, state="stored", bytes=size_bytes)
            self.post(book)
        return answer

    def release(self, image_ids: list[UUID]) -> None:
        """Mirrors `Storage.release`."""
        for room in [self.rooms[image_id] for image_id in image_ids if image_id in self.rooms]:
            book = self._open(room.user_id)
            self._release(book, [room.image_id])
            self.post(book)

    def _release(self, book: Book, image_ids: list[UUID]) -> None:
        for room in [self.rooms[image_id] for image_id in image_ids]:
            if room.state == "released":
                continue
            was_stored = room.bytes if room.state == "stored" else 0
            account = book.accounts[room.user_id]
            book.occupy(account, was_reserved=room.bytes - was_stored, was_stored=was_stored)
            self.rooms[room.image_id] = replace(room, state="released")

    def released_of(self, job_id: UUID) -> set[UUID]:
        """Return the images of a job's receipt whose storage is released.

        Raises:
            ChargeNotFound: There is no such charge.
        """
        if job_id not in self.charges:
            raise ChargeNotFound
        return {room.image_id for room in self.rooms.values() if room.job_id == job_id and room.state == "released"}

    def open_charges(self) -> list[Charge]:
        """Return the charges that are open."""
        return [charge for charge in self.charges.values() if charge.status == "open"]


def boot(world: "World", process: Process) -> None:
    """Start a process of the ledger: it listens to terminal events, and answers calls."""
    outbox = Outbox(process, world.ledger.database)

    async def settle_job(event: JobSettled) -> None:
        def settle(_: Transaction) -> None:
            world.ledger.settle(event)

        await outbox.transaction(f"settles {short(event.job_id)}", settle)

    Worker(world, process, Subscription("ledger.settle_job", settle_job)).listen()


class Line:
    """A service's way to the ledger over HTTP: bounded in time, not retried, and perhaps executed all the same.

    Args:
        world: Where it is.
        refusals: The caller's own errors by code; `LedgerUnreached` where it knows the difference.
        unreached: What to raise if the ledger was certainly not reached.
    """

    def __init__(
        self, world: "World", refusals: dict[str, type[UserError]], unreached: Callable[[], PixorlyError]
    ) -> None:
        self._world = world
        self._refusals = refusals
        self._unreached = unreached

    async def call(self, what: str, work: Callable[[Ledger], _T]) -> _T:
        """Have the ledger do something in one transaction.

        Raises:
            OutageError: There was no answer.
            UserError: It refused.
        """
        world = self._world
        await world.step(f"asks the ledger to {what}")
        if not self._reachable():
            raise self._unreached()
        if world.happens("request_late"):
            world.clockwork.later(world.clockwork.random.uniform(0, 40), lambda: self._execute_late(what, work))
            await world.clockwork.sleep(_TIMEOUT_S)
            raise OutageError("ledger")
        answer = self._execute(work)
        await world.step("the ledger answers")
        if world.happens("answer_lost"):
            world.clockwork.tell("the answer is lost")
            raise OutageError("ledger")
        if isinstance(answer, UserError):
            raise self._refusals.get(answer.code, UserError)(answer.message)
        return answer

    def _reachable(self) -> bool:
        return any(process.alive for process in self._world.of("ledger")) and not self._world.away("ledger")

    def _execute(self, work: Callable[[Ledger], _T]) -> _T | UserError:
        ledger = self._world.ledger
        if ledger.database.away:
            raise OutageError("ledger")
        try:
            answer, _ = ledger.database.commit(lambda _: work(ledger))
        except UserError as error:
            return error
        self._world.touch()
        return answer

    def _execute_late(self, what: str, work: Callable[[Ledger], _T]) -> None:
        if self._reachable() and not self._world.ledger.database.away:
            self._execute(work)
            self._world.clockwork.tell_of("ledger", f"does late what was given up: {what}")
