"""What time alone brings about: deadlines, intents that nobody drives on, and what should have happened by now.

PostgreSQL is the only truth: whatever got lost on the way can be said again from it, and repeats are harmless. Each
sweep takes what it handles with locks that others skip, so any number of workers may sweep.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import structlog

from pixorly import metrics, telemetry
from pixorly.db import Database
from pixorly.errors import OutageError, PixorlyError, UserError
from pixorly.events import ImageDeleted, utcnow
from pixorly.outbox import Outbox
from pixorly_api import images, lifecycle, store
from pixorly_api.jobs import Jobs
from pixorly_api.ledger import Ledger, moment

_log = structlog.get_logger()
_BATCH: Final = 100
_CHARGES: Final = 1000
"""Where a hundred thousand jobs are queued as many charges are open, and are gone through each minute."""
_SAID_AGAIN: Final = 500
"""So many jobs, or a tenth of those that have not begun if that is more, show whether it is the queue that is long."""
_ABANDONED_TTL_S: Final = 7 * 86_400.0
_MONTHS_EVERY_S: Final = 3600.0

SWEPT = metrics.counter("pixorly_swept", "What sweeps found to do.", "sweep")


@dataclass(frozen=True, slots=True)
class Pace:
    """How often to look, and how old a thing must be, in seconds."""

    sweep_interval_s: float = 2
    reconcile_interval_s: float = 30
    audit_interval_s: float = 60
    intent_ttl_s: float = 60
    idempotency_ttl_s: float = 86_400
    nudge_after_s: float = 120
    charge_overdue_s: float = 120
    delete_again_after_s: float = 3600


class Sweeper:
    """The sweeps of one api worker.

    Args:
        database: Where jobs are.
        outbox: Opens transactions that carry events.
        jobs: Applies the rules.
        ledger: Voids charges, and says which are open.
        pace: How often and how old.
        clock: Tells the time that the ledger is asked with.
    """

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        jobs: Jobs,
        ledger: Ledger,
        pace: Pace,
        *,
        clock: Callable[[], datetime] = utcnow,
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._jobs = jobs
        self._ledger = ledger
        self._pace = pace
        self._clock = clock

    async def run(self) -> None:
        """Sweep for ever; a part that is away only delays it."""
        await asyncio.gather(
            every(self._pace.sweep_interval_s, self.expire, self.abandon, self.void),
            every(self._pace.reconcile_interval_s, self.settle, self.nudge, self.delete_again, self.move_again),
            every(self._pace.reconcile_interval_s, self.purge),
            every(self._pace.audit_interval_s, self.audit_charges, batch=None),
            every(_MONTHS_EVERY_S, self.keep_partitions, batch=None),
        )

    async def expire(self) -> int:
        """End the jobs whose deadline has passed."""
        return await self._jobs.change_found(store.overdue, lifecycle.expire, _BATCH)

    async def settle(self) -> int:
        """End the jobs whose slots are all terminal."""
        return await self._jobs.change_found(store.unsettled, lifecycle.settle, _BATCH)

    async def abandon(self) -> int:
        """Give up intents that nobody drives on."""
        async with self._database.connection() as connection:
            found = await store.abandon_intents(connection, self._pace.intent_ttl_s, _BATCH)
        return len(found)

    async def void(self) -> int:
        """Have the ledger give back, or refuse from now on, the charges of abandoned jobs."""
        async with self._database.connection() as connection:
            found = await store.unvoided(connection, _BATCH)
        for job_id, user_id in found:
            await self._ledger.void(job_id, user_id)
            async with self._database.connection() as connection:
                await store.note_voided(connection, job_id)
        return len(found)

    async def nudge(self) -> int:
        """Say again what the open slots of a job without news wait for, after 2, 4, 8 … minutes.

        Jobs in a long queue have no news either, and all that is said again stands behind them. So while some hundreds
        that were said again have not begun, it is the queue that is long, and others are left to wait for their turn:
        had their messages been lost, those said again would begin at once.
        """
        async with self._outbox.transaction() as transaction:
            connection = transaction.connection
            await store.postpone_nudges(connection, self._pace.nudge_after_s)
            more = not await store.has_said_again(connection, _SAID_AGAIN)
            found = await store.quiet(connection, self._pace.nudge_after_s, _BATCH, more_pending=more)
            for job in (await store.lock_jobs(connection, found)).values():
                transaction.append(*lifecycle.awaited(job), trace_context=telemetry.there(job.place))
        for job_id in found:
            _log.warning("a job without news", job_id=str(job_id))
        return len(found)

    async def delete_again(self) -> int:
        """Say each deletion once more, and go on until the ledger has released the storage of its image.

        The uploader releases only after it has deleted, and a slot that failed was released by its settlement: in
        both cases the second deletion is the last that is needed.
        """
        async with self._outbox.transaction() as transaction:
            found = await store.due_deletions(transaction.connection, self._pace.delete_again_after_s, _BATCH)
            transaction.append(*(_deletion(row) for row in found))
        for job_id in {row["job_id"] for row in found}:
            gone = await self._released(job_id)
            mine = [row["image_id"] for row in found if row["job_id"] == job_id]
            async with self._database.connection() as connection:
                await store.confirm_deletions(
                    connection, [image_id for image_id in mine if gone is None or image_id in gone]
                )
        return len(found)

    async def move_again(self) -> int:
        """Ask again for moves without news, and once more for what a move left behind to be cleared up."""
        async with self._outbox.transaction() as transaction:
            found = await store.due_moves(transaction.connection, self._pace.nudge_after_s, _BATCH)
            transaction.append(*(images.said_again(move) for move in found))
        return len(found)

    async def _released(self, job_id: UUID) -> set[UUID] | None:
        """Return the images of a job whose storage is released; None if the ledger does not know the job."""
        try:
            charge = await self._ledger.get_charge(job_id)
        except UserError:
            return None
        return {UUID(image["image_id"]) for image in charge["images"] if image["storage"]["state"] == "released"}

    async def audit_charges(self) -> int:
        """Go through the charges that the ledger holds open, and close those that should not be.

        An open job's charge is left alone. A settled job's terminal event is said again. A charge of a job that was
        abandoned, or that there is none of, is voided.
        """
        closed, after = 0, None
        before = moment(self._clock() - timedelta(seconds=self._pace.charge_overdue_s))
        while True:
            page = await self._ledger.get(
                "/internal/charges", {"status": "open", "created_before": before, "after": after, "limit": _CHARGES}
            )
            users = {UUID(row["job_id"]): row["user_id"] for row in page["data"]}
            closed += await self._close_charges(users)
            after = page.get("next_cursor")
            if not after:
                return closed

    async def _close_charges(self, users: dict[UUID, str]) -> int:
        async with self._database.connection() as connection:
            statuses = await store.statuses(connection, list(users))
        settled = [job_id for job_id, status in statuses.items() if status in lifecycle.SETTLED]
        if settled:
            async with self._outbox.transaction() as transaction:
                for job in (await store.lock_jobs(transaction.connection, settled)).values():
                    transaction.append(lifecycle.settlement(job), trace_context=telemetry.there(job.place))
        orphans = [job_id for job_id in users if statuses.get(job_id) in {None, "abandoned"}]
        for job_id in orphans:
            _log.warning("a charge without a job", job_id=str(job_id))
            await self._ledger.void(job_id, users[job_id])
        return len(settled) + len(orphans)

    async def keep_partitions(self) -> int:
        """Make the partitions of the months to come."""
        async with self._database.connection() as connection:
            return await store.keep_partitions(connection, self._clock())

    async def purge(self) -> int:
        """Delete idempotency keys, stream tokens, quotes and abandoned jobs that nobody can ask for any more."""
        async with self._database.connection() as connection:
            keys = await store.purge_idempotency_keys(connection, self._pace.idempotency_ttl_s, _BATCH)
            tokens = await store.purge_stream_tokens(connection, _BATCH)
            quotes = await store.purge_quotes(connection, _BATCH)
            return keys + tokens + quotes + await store.purge_abandoned(connection, _ABANDONED_TTL_S, _BATCH)


def _deletion(row: dict[str, Any]) -> ImageDeleted:
    return lifecycle.deleted_event(
        row["job_id"], row["user_id"], row["index"], row["image_id"], keys=tuple(row["keys"]), reason=row["reason"]
    )


async def every(interval_s: float, *sweeps: Callable[[], Awaitable[int]], batch: int | None = _BATCH) -> None:
    """Run sweeps over and over, each again at once while it finds full batches."""
    while True:
        for sweep in sweeps:
            while (await _sweep(sweep)) == batch:
                continue
        await asyncio.sleep(interval_s)


async def _sweep(sweep: Callable[[], Awaitable[int]]) -> int:
    """Run one sweep; what goes wrong waits for the next time, and stops no other sweep."""
    name = getattr(sweep, "__name__", "sweep")
    try:
        found = await sweep()
    except OutageError as error:
        _log.warning("a sweep waits", sweep=name, part=error.part)
        return 0
    except PixorlyError as error:
        _log.error("a sweep failed", sweep=name, code=error.code, reason=error.message)
        return 0
    SWEPT.labels(name).inc(found)
    return found
