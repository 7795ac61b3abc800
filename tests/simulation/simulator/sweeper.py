"""What time alone brings about; mirrors `pixorly_api.sweeper.Sweeper` and the statements that it uses."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from pixorly.errors import PixorlyError, UserError
from pixorly_api import lifecycle
from pixorly_api.errors import LedgerUnreached
from pixorly_ledger.rows import Charge
from simulator.bus import short
from simulator.clockwork import Process
from simulator.creation import REFUSALS
from simulator.database import Transaction
from simulator.jobs import PACE, DeletionRow, JobRow, Jobs
from simulator.ledger import Ledger, Line

if TYPE_CHECKING:
    from simulator.world import World

_IDLE_S = 60.0


class Sweeper:
    """The sweeps of one api worker."""

    def __init__(self, world: "World", process: Process, jobs: Jobs) -> None:
        self._world = world
        self._process = process
        self._jobs = jobs
        self._tables = world.api
        self._line = Line(world, REFUSALS, lambda: LedgerUnreached("The ledger is away."))

    def start(self) -> None:
        """Sweep for ever."""
        if self._world.broken("nobody sweeps"):
            return
        for interval_s, sweeps in (
            (PACE.sweep_interval_s, (self.expire, self.abandon, self.void)),
            (PACE.reconcile_interval_s, (self.settle, self.nudge, self.delete_again)),
            (PACE.audit_interval_s, (self.audit_charges,)),
        ):
            self._world.clockwork.spawn(self._every(interval_s, *sweeps), self._process)

    async def _every(self, interval_s: float, *sweeps: Callable[[], Awaitable[None]]) -> None:
        while True:
            # Where nothing is open, the only thing that time brings about is a deletion, and that in an hour.
            await self._world.clockwork.sleep(interval_s if self._open() else max(interval_s, _IDLE_S))
            for sweep in sweeps:
                try:
                    await sweep()
                except PixorlyError as error:
                    self._world.clockwork.tell(f"a sweep waits: {error.code}")

    def _open(self) -> bool:
        return any(row.status in {"intent", *lifecycle.OPEN} for row in self._tables.jobs.values())

    def _found(self, wanted: Callable[[JobRow], bool]) -> list[UUID]:
        return [job_id for job_id, row in self._tables.jobs.items() if wanted(row)]

    @property
    def _now_s(self) -> float:
        return self._world.clockwork.now_s

    async def expire(self) -> None:
        """End the jobs whose deadline has passed."""

        def overdue(row: JobRow) -> bool:
            return row.status in lifecycle.OPEN and row.job is not None and row.job.deadline <= self._world.now()

        await self._jobs.change_found("ends what is overdue", lambda: self._found(overdue), lifecycle.expire)

    async def settle(self) -> None:
        """End the jobs whose slots are all terminal."""

        def unsettled(row: JobRow) -> bool:
            return row.status in lifecycle.OPEN and row.job is not None and all(slot.terminal for slot in row.job.slots)

        await self._jobs.change_found("settles what is terminal", lambda: self._found(unsettled), lifecycle.settle)

    async def abandon(self) -> None:
        """Give up intents that nobody drives on."""

        def stale(row: JobRow) -> bool:
            old = row.created_s < self._now_s - PACE.intent_ttl_s
            return row.status == "intent" and old and row.claimed_until_s <= self._now_s

        if not self._found(stale):
            return

        def abandon(_: Transaction) -> None:
            for job_id in self._found(stale):
                self._tables.jobs[job_id] = replace(self._tables.jobs[job_id], status="abandoned")

        await self._jobs.outbox.transaction("abandons intents", abandon)

    async def void(self) -> None:
        """Have the ledger give back, or refuse from now on, the charges of abandoned jobs."""
        for job_id in self._found(lambda row: row.status == "abandoned" and not row.voided):
            await self._void(job_id, self._tables.jobs[job_id].intent.user_id)

            def note(_: Transaction, job_id: UUID = job_id) -> None:
                self._tables.jobs[job_id] = replace(self._tables.jobs[job_id], voided=True)

            await self._jobs.outbox.transaction(f"notes {short(job_id)} as voided", note)

    async def _void(self, job_id: UUID, user_id: str) -> None:
        await self._line.call(f"void {short(job_id)}", lambda ledger: ledger.void(job_id, user_id))

    async def nudge(self) -> None:
        """Say again what the open slots of a job without news wait for."""

        def due(row: JobRow) -> bool:
            return row.status in lifecycle.OPEN and row.nudge_s <= self._now_s

        if not self._found(due):
            return

        def nudge(transaction: Transaction) -> None:
            for job_id in self._found(due):
                row = self._tables.jobs[job_id]
                if row.news_s > self._now_s - PACE.nudge_after_s:
                    self._tables.jobs[job_id] = replace(row, nudges=0, nudge_s=row.news_s + PACE.nudge_after_s)
                elif row.job:
                    nudge_s = self._now_s + PACE.nudge_after_s * 2 ** min(row.nudges + 1, 10)
                    self._tables.jobs[job_id] = replace(row, nudges=row.nudges + 1, nudge_s=nudge_s)
                    transaction.append(*lifecycle.awaited(row.job))
                    self._world.note("nudged")

        await self._jobs.outbox.transaction("looks for jobs without news", nudge)

    async def delete_again(self) -> None:
        """Say each deletion once more, and go on until the ledger has released the storage of its image."""
        if self._world.broken("deletes once"):
            return
        found: list[DeletionRow] = []

        def delete_again(transaction: Transaction) -> None:
            for image_id, row in list(self._tables.deletions.items()):
                if not row.confirmed and row.due_s <= self._now_s:
                    due_s = self._now_s + PACE.delete_again_after_s * 2 ** min(row.sends, 6)
                    again = replace(row, sends=row.sends + 1, due_s=due_s)
                    self._tables.deletions[image_id] = again
                    found.append(again)
                    transaction.append(
                        lifecycle.deleted_event(
                            row.event.job_id,
                            row.event.user_id,
                            row.index,
                            image_id,
                            keys=row.keys,
                            reason=row.event.reason,
                        )
                    )

        if any(not row.confirmed and row.due_s <= self._now_s for row in self._tables.deletions.values()):
            await self._jobs.outbox.transaction("says deletions again", delete_again)
        for row in found:
            await self._confirm(row)

    async def _confirm(self, row: DeletionRow) -> None:
        try:
            gone = await self._line.call("show a receipt", lambda ledger: ledger.released_of(row.event.job_id))
        except UserError:
            gone = {row.event.image_id}

        def confirm(_: Transaction) -> None:
            known = self._tables.deletions[row.event.image_id]
            if row.event.image_id in gone and known.sends > 1:
                self._tables.deletions[row.event.image_id] = replace(known, confirmed=True)

        await self._jobs.outbox.transaction("confirms deletions", confirm)

    async def audit_charges(self) -> None:
        """Go through the charges that the ledger holds open, and close those that should not be."""
        if not self._world.ledger.open_charges():
            return
        before = self._world.now(self._process) - timedelta(seconds=PACE.charge_overdue_s)

        def overdue(ledger: Ledger) -> list[Charge]:
            return [charge for charge in ledger.open_charges() if charge.created_at < before]

        users = {charge.job_id: charge.user_id or "" for charge in await self._line.call("list open charges", overdue)}
        rows = await self._jobs.outbox.transaction("compares open charges", lambda _: self._rows(list(users)))
        for job_id, user_id in users.items():
            row = rows.get(job_id)
            if row is None or row.status == "abandoned":
                self._world.note("a charge without a job")
                await self._void(job_id, user_id)
        if settled := [row.job for row in rows.values() if row.job and row.job.settled]:
            self._world.note("a terminal event said again")

            def say_again(transaction: Transaction) -> None:
                transaction.append(*(lifecycle.settlement(job) for job in settled))

            await self._jobs.outbox.transaction("says terminal events again", say_again)

    def _rows(self, job_ids: list[UUID]) -> dict[UUID, JobRow]:
        return {job_id: self._tables.jobs[job_id] for job_id in job_ids if job_id in self._tables.jobs}
