"""How the api makes a job: intent, charge, promise; mirrors `pixorly_api.creation.Creation` and its store."""

from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, Literal
from uuid import UUID

from pixorly.catalogue import Model
from pixorly.errors import InsufficientCredits, OutageError, UserError
from pixorly.events import ImageParams
from pixorly_api import errors, lifecycle
from pixorly_api.creation import Windows, estimated_bytes
from pixorly_api.errors import ChargeVoided, IdempotencyInProgress, LedgerUnreached
from pixorly_api.lifecycle import Job, Slot
from pixorly_api.store import Intent
from pixorly_ledger.credits import Charged, ChargeRequest
from simulator.bus import short
from simulator.clockwork import Process
from simulator.database import Outbox, Transaction
from simulator.jobs import JobRow
from simulator.ledger import Line

if TYPE_CHECKING:
    from simulator.world import World

REFUSALS: Final[dict[str, type[UserError]]] = {
    refusal.code: refusal
    for refusal in (
        InsufficientCredits,
        errors.StorageQuotaExceeded,
        errors.AccountNotFound,
        errors.ChargeVoided,
        errors.NotFound,
    )
}
_WINDOWS: Final = Windows()


@dataclass(frozen=True, slots=True)
class Order:
    """What a client asks for; the parts of `pixorly_api.creation.Order` that matter here."""

    user_id: str
    model: Model
    params: ImageParams
    n: int
    deadline_s: int
    key: str | None

    def __str__(self) -> str:
        return f"{self.n} x {self.model.id} for {self.user_id}, key {self.key}"


class Creation:
    """Makes jobs, in one process of the api."""

    def __init__(self, world: "World", process: Process) -> None:
        self._world = world
        self._tables = world.api
        self._outbox = Outbox(process, world.api.database)
        self._line = Line(world, REFUSALS, lambda: LedgerUnreached("The ledger is away."))

    async def create(self, order: Order) -> UUID:
        """Return the id of a promised job for an order: a new one, or that of the request which this one repeats.

        Raises:
            IdempotencyInProgress: The first request with this key is still under way.
            OutageError: PostgreSQL or the ledger is away.
            UserError: The ledger refused.
        """
        claimed = await self._outbox.transaction(f"claims an intent: {order}", partial(self._claim, order))
        return claimed if isinstance(claimed, UUID) else await self._drive(claimed)

    def _claim(self, order: Order, _: Transaction) -> Intent | UUID:
        """Mirrors `Creation._claim`, `_earlier` and `_take_up`."""
        key = (order.user_id, order.key or "")
        known = self._tables.keys.get(key) if order.key else None
        if known:
            row = self._tables.jobs.get(known[0])
            if row is None or row.status == "abandoned":
                del self._tables.keys[key]
            else:
                return self._take_up(row)
        intent = self._intent(order)
        now_s = self._world.clockwork.now_s
        if order.key:
            self._tables.keys[key] = (intent.job_id, intent.body_hash)
        self._tables.jobs[intent.job_id] = JobRow(
            intent, "intent", now_s, now_s + order.deadline_s, now_s + _WINDOWS.claim_s
        )
        return intent

    def _take_up(self, row: JobRow) -> Intent | UUID:
        now_s = self._world.clockwork.now_s
        if row.status != "intent":
            return row.intent.job_id
        if row.claimed_until_s > now_s:
            raise IdempotencyInProgress
        self._tables.jobs[row.intent.job_id] = replace(row, claimed_until_s=now_s + _WINDOWS.claim_s)
        return replace(row.intent, tried=True)

    def _intent(self, order: Order) -> Intent:
        return Intent(
            job_id=self._world.new_id(),
            user_id=order.user_id,
            model=order.model.id,
            prompt="",
            params=order.params,
            image_ids=tuple(self._world.new_id() for _ in range(order.n)),
            calls=order.model.calls(order.n),
            credits_per_image=order.model.credits_per_image(order.params.quality),
            metadata={},
            body_hash=b"",
        )

    async def _drive(self, intent: Intent) -> UUID:
        """Mirrors `Creation._drive`."""
        images = tuple((image_id, estimated_bytes(intent.params)) for image_id in intent.image_ids)
        request = ChargeRequest(intent.job_id, intent.user_id, intent.amount_credits, images)
        try:
            charged = await self._line.call(f"charge {short(intent.job_id)}", lambda ledger: ledger.charge(request))
            return await self._promise(intent, charged)
        except LedgerUnreached:
            await self._put_down(intent, "release" if intent.tried else "forget")
            raise
        except (ChargeVoided, OutageError) as error:
            await self._put_down(intent, "release")
            raise OutageError("api") from error
        except UserError:
            await self._put_down(intent, "abandon" if intent.tried else "forget")
            raise

    async def _promise(self, intent: Intent, charged: Charged) -> UUID:
        def promise(transaction: Transaction) -> bool:
            row = self._tables.jobs.get(intent.job_id)
            if row is None or (row.status != "intent" and not self._world.broken("promises what was given up")):
                return False
            job = self._promised(row, charged.plan)
            now_s = self._world.clockwork.now_s
            self._tables.jobs[intent.job_id] = replace(
                row, status="pending", job=job, news_s=now_s, nudge_s=now_s + _WINDOWS.nudge_after_s
            )
            transaction.append(lifecycle.creation(job))
            return True

        if await self._outbox.transaction(f"promises {short(intent.job_id)}", promise):
            return intent.job_id
        status = await self._outbox.transaction("looks again", lambda _: self._status(intent.job_id))
        if status in {None, "abandoned"}:
            raise ChargeVoided
        return intent.job_id

    def _status(self, job_id: UUID) -> str | None:
        row = self._tables.jobs.get(job_id)
        return row.status if row else None

    def _promised(self, row: JobRow, plan: str) -> Job:
        """Mirrors `store.promise`."""
        intent, now = row.intent, self._world.now()
        created_at = now - timedelta(seconds=self._world.clockwork.now_s - row.created_s)
        return Job(
            job_id=intent.job_id,
            user_id=intent.user_id,
            status="pending",
            model=intent.model,
            prompt="",
            params=intent.params,
            n=len(intent.image_ids),
            plan=plan,
            calls=intent.calls,
            credits_per_image=intent.credits_per_image,
            created_at=created_at,
            deadline=now + timedelta(seconds=row.deadline_s - row.created_s),
            started_at=None,
            settled_at=None,
            retry_count=0,
            slots=tuple(Slot(index, image_id) for index, image_id in enumerate(intent.image_ids)),
        )

    async def _put_down(self, intent: Intent, how: Literal["release", "abandon", "forget"]) -> None:
        """Mirrors `store.release_intent`, `abandon_intent` and `forget_intent`; if it can't, the sweeper will."""

        def put_down(_: Transaction) -> None:
            row = self._tables.jobs.get(intent.job_id)
            if row is None or row.status != "intent":
                return
            if how == "release":
                self._tables.jobs[intent.job_id] = replace(row, claimed_until_s=self._world.clockwork.now_s)
                return
            if how == "abandon":
                self._tables.jobs[intent.job_id] = replace(row, status="abandoned")
                return
            del self._tables.jobs[intent.job_id]
            for key, (job_id, _hash) in list(self._tables.keys.items()):
                if job_id == intent.job_id:
                    del self._tables.keys[key]

        try:
            await self._outbox.transaction(f"{how}s {short(intent.job_id)}", put_down)
        except OutageError:
            return
