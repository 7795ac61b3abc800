"""The generator: leased calls around a table in memory; mirrors `pixorly_generator.calls`, `leases` and their store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID

from pixorly.delivery import Fail, Held
from pixorly.errors import InvalidImage, OutageError, PixorlyError, StorageUnavailable, TransientError
from pixorly.events import Event, JobCreated, JobSettled, JobStarted, PlannedCall
from pixorly.topology import LADDER_S
from pixorly_generator.leases import EARLY_S, MAX_ATTEMPTS, NOTICE
from pixorly_generator.results import results
from pixorly_generator.staging import StagedImage, staged_from_json
from simulator.bus import short
from simulator.clockwork import Process, Task, gather, insist
from simulator.database import Database, Outbox, Transaction
from simulator.delivery import Subscription, Worker
from simulator.provider import LEASE_S, RENEW_S, Key

if TYPE_CHECKING:
    from simulator.world import World

Owner = tuple[Process, int]
"""A process in one of its lives."""
_CONTESTED: Final = 0
"""Stands for the number of an attempt that is not made yet."""


@dataclass(frozen=True, slots=True)
class CallRow:
    """A row of `calls`."""

    state: Literal["open", "done", "failed", "closed"] = "open"
    attempts: int = 0
    owner: Owner | None = None
    leased_until_s: float = 0.0
    contested: bool = False
    retry_at_s: float | None = None
    images: tuple[dict[str, Any], ...] = ()
    failures: Mapping[str, str] = field(default_factory=dict)


class CallTables:
    """The generator's database."""

    def __init__(self, world: "World") -> None:
        self.calls: dict[Key, CallRow] = {}
        self.settled: dict[UUID, bool] = {}
        self.database = Database(world, "generator", calls=self.calls, settled=self.settled)


def boot(world: "World", process: Process) -> None:
    """Start a process of the generator."""
    calls = Calls(world, process)
    world.calls[process] = calls
    for subscription in (
        Subscription("generator.generate_image", calls.make_all, "generate", calls.give_up),
        Subscription("generator.close_job", calls.close),
    ):
        Worker(world, process, subscription).listen()
    world.clockwork.spawn(calls.outbox.relay(), process)
    world.clockwork.spawn(calls.renew(), process)


@dataclass(frozen=True, slots=True)
class _Attempt:
    event: JobCreated
    call: PlannedCall
    number: int

    @property
    def key(self) -> Key:
        return self.event.job_id, self.call.call_no

    def __str__(self) -> str:
        return f"{short(self.event.job_id)}, call {self.call.call_no}, attempt {self.number}"


class Calls:
    """The provider calls of one process; mirrors `pixorly_generator.calls.Calls`."""

    def __init__(self, world: "World", process: Process) -> None:
        self._world = world
        self._process = process
        self._owner = (process, process.life)
        self._tables = world.generator
        self.outbox = Outbox(process, world.generator.database)
        self.running: dict[Key, Task] = {}

    async def make_all(self, event: JobCreated) -> None:
        """See to it that every call of the job is made and recorded."""
        tasks = [self.running.get((event.job_id, call.call_no)) or self._start(event, call) for call in event.calls]
        errors = await gather(self._world.clockwork, tasks)
        for kind in (TransientError, OutageError, Held, PixorlyError):
            for error in errors:
                if isinstance(error, kind):
                    raise error

    def _start(self, event: JobCreated, call: PlannedCall) -> Task:
        key = event.job_id, call.call_no
        task = self.running[key] = self._world.clockwork.spawn(self._lease_and_run(event, call), self._process)
        return task

    async def _lease_and_run(self, event: JobCreated, call: PlannedCall) -> None:
        try:
            number = await self._lease(event, call)
            if number is not None:
                await self._run(_Attempt(event, call, number))
        finally:
            self.running.pop((event.job_id, call.call_no), None)

    async def _lease(self, event: JobCreated, call: PlannedCall) -> int | None:
        what = f"leases {short(event.job_id)}, call {call.call_no}"
        number = await self.outbox.transaction(what, partial(self._lease_in, event, call))
        if number == _CONTESTED:
            raise Held
        return number

    def _lease_in(self, event: JobCreated, call: PlannedCall, transaction: Transaction) -> int | None:
        """Mirrors what a group of `Leases` decides on one call, and what it asks of the store."""
        key, now_s = (event.job_id, call.call_no), self._world.clockwork.now_s
        if event.job_id in self._tables.settled:
            return None
        row = self._tables.calls.setdefault(key, CallRow())
        theirs = row.owner is not None and row.owner != self._owner and not self._world.broken("leases ignored")
        if row.state == "open" and ((theirs and row.leased_until_s > now_s) or (row.retry_at_s or 0) > now_s):
            raise Held
        again = row.state != "open" and not self._world.broken("buys again")
        if again or event.deadline <= self._world.now(self._process):
            transaction.append(*results(event, event.model, staged_from_json(row.images), row.failures))
            return None
        if row.attempts >= MAX_ATTEMPTS:
            transaction.append(*self._give_up(event, call, "internal_error"))
            return None
        if theirs and not row.contested:
            self._tables.calls[key] = replace(row, leased_until_s=now_s + LEASE_S * NOTICE, contested=True)
            return _CONTESTED
        if theirs and row.owner:
            self._world.provider.note_takeover(row.owner, key)
        number = row.attempts + 1
        self._tables.calls[key] = replace(
            row,
            owner=self._owner,
            leased_until_s=now_s + LEASE_S,
            contested=False,
            attempts=number,
            retry_at_s=None,
        )
        started = JobStarted.of(
            event.job_id,
            event.user_id,
            occurred_at=self._world.now(),
            call_no=call.call_no,
            attempt=number,
            provider="sandbox",
            model=event.model,
        )
        transaction.append(started)
        return number

    async def _run(self, attempt: _Attempt) -> None:
        world = self._world
        try:
            answer = await world.provider.generate(self._process, attempt.event, attempt.call)
        except (TransientError, OutageError) as error:
            await self._insist(lambda error=error: self._reopen(attempt, error))
            raise
        except PixorlyError as error:
            failures = dict.fromkeys(map(str, attempt.call.indexes), error.code)
            await self._insist(lambda: self._record(attempt, "failed", [], failures))
            return
        images, failures = await self._stage(attempt, answer)
        await self._insist(lambda: self._record(attempt, "done", images, failures))

    async def _stage(self, attempt: _Attempt, answer: list[bytes]) -> tuple[list[StagedImage], dict[str, str]]:
        """Mirrors `Calls._stage`, one image after the other."""
        event, indexes = attempt.event, attempt.call.indexes
        images: list[StagedImage] = []
        failures = {str(index): "missing_image" for index in indexes[len(answer) :]}
        for index, data in zip(indexes, answer, strict=False):
            if data.startswith(b"garbage"):
                failures[str(index)] = InvalidImage.code
                continue
            sha256 = data.decode().rstrip(".")
            key = f"staging/{event.job_id}/{index}-{sha256}"
            await self._insist(partial(self._world.bucket.put, key, data, content_type="image/png"))
            images.append(StagedImage(index, event.image_ids[index], key, "image/png", sha256, len(data)))
        return images, failures

    async def _record(
        self, attempt: _Attempt, state: Literal["done", "failed"], images: list[StagedImage], failures: dict[str, str]
    ) -> None:
        def record(transaction: Transaction) -> None:
            self._world.provider.note_recorded(self._process, attempt.key)
            if self._finish(attempt.key, state, images, failures):
                transaction.append(*results(attempt.event, attempt.event.model, images, failures))

        await self.outbox.transaction(f"records {attempt}: {len(images)} images {failures or ''}", record)

    def _finish(
        self, key: Key, state: Literal["done", "failed"], images: Sequence[StagedImage], failures: Mapping[str, str]
    ) -> bool:
        """Mirrors `store.finish`."""
        row = self._tables.calls[key]
        if row.state != "open":
            self._world.note("a result came too late")
        if row.state != "open" and not self._world.broken("records unconditionally"):
            return False
        self._tables.calls[key] = CallRow(
            state, row.attempts, images=tuple(image.as_json() for image in images), failures=dict(failures)
        )
        return True

    async def _reopen(self, attempt: _Attempt, error: TransientError | OutageError) -> None:
        outage = isinstance(error, OutageError)
        step_s = LADDER_S[min(attempt.number, len(LADDER_S)) - 1]

        def reopen(_: Transaction) -> None:
            row = self._tables.calls[attempt.key]
            if row.state == "open" and row.owner == self._owner:
                self._tables.calls[attempt.key] = replace(
                    row,
                    owner=None,
                    attempts=row.attempts - outage,
                    retry_at_s=None if outage else self._world.clockwork.now_s + step_s - EARLY_S,
                )

        await self.outbox.transaction(f"gives back {attempt}: {error.code}", reopen)

    async def give_up(self, event: JobCreated, failure: Fail) -> None:
        """Fail every call of the job that is still open: its retries are used up."""

        def give_up(transaction: Transaction) -> None:
            for call in event.calls:
                row = self._tables.calls.setdefault((event.job_id, call.call_no), CallRow())
                held = row.owner not in {None, self._owner} and row.leased_until_s > self._world.clockwork.now_s
                if row.state == "open" and not held:
                    transaction.append(*self._give_up(event, call, failure.code))

        await self.outbox.transaction(f"gives {short(event.job_id)} up: {failure.code}", give_up)

    def _give_up(self, event: JobCreated, call: PlannedCall, code: str) -> list[Event]:
        failures = dict.fromkeys(map(str, call.indexes), code)
        finished = self._finish((event.job_id, call.call_no), "failed", [], failures)
        return results(event, event.model, [], failures) if finished else []

    async def close(self, event: JobSettled) -> None:
        """Close what is left of a settled job."""

        def close(_: Transaction) -> None:
            self._tables.settled[event.job_id] = True
            for key, row in list(self._tables.calls.items()):
                if key[0] == event.job_id and row.state == "open":
                    self._tables.calls[key] = CallRow("closed", row.attempts)

        await self.outbox.transaction(f"closes {short(event.job_id)}", close)

    async def renew(self) -> None:
        """Renew the leases of this process, for ever; mirrors `store.renew_leases`."""
        while True:
            await self._world.clockwork.sleep(RENEW_S)
            if not self.running or self._tables.database.away:
                continue
            until_s = self._world.clockwork.now_s + LEASE_S
            for key, row in list(self._tables.calls.items()):
                if row.owner == self._owner and row.state == "open":
                    self._tables.calls[key] = replace(row, leased_until_s=until_s, contested=False)

    async def _insist(self, action: Any) -> Any:
        async def pause() -> None:
            await self._world.clockwork.sleep(self._world.clockwork.random.uniform(0.2, 5.0))

        return await insist(action, pause, OutageError, StorageUnavailable)
