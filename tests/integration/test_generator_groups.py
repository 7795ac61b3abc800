"""Transactions around provider calls that several calls share, on a real PostgreSQL: to each its own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from uuid import UUID, uuid4

import asyncpg
import pytest
from outboxes import UncertainOutbox
from typing_extensions import override
from waiting import until

from pixorly import telemetry
from pixorly.db import Database, migrate
from pixorly.delivery import Held
from pixorly.errors import OutageError
from pixorly.events import Event, ImageFailed, ImageParams, JobCreated, JobStarted, PlannedCall, utcnow
from pixorly.ids import new_id
from pixorly.outbox import Bus
from pixorly_generator.leases import Leases
from pixorly_generator.results import results
from pixorly_generator.store import Ending, Fate
from pixorly_generator.upstream import Attempt

CALL = PlannedCall(call_no=0, indexes=(0,))


@dataclass
class Recorder(Bus):
    """A bus that remembers events and their headers."""

    sent: list[tuple[Event, dict[str, str]]] = field(default_factory=list)

    @override
    async def publish(self, event: Event, headers: dict[str, str] | None = None) -> None:
        self.sent.append((event, headers or {}))

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event, _ in self.sent if isinstance(event, kind)]


@dataclass
class Process:
    """What one generator leases and writes down."""

    leases: Leases
    outbox: UncertainOutbox
    bus: Recorder

    async def lease(self, *jobs: JobCreated) -> list[Attempt | BaseException | None]:
        return await asyncio.gather(*(self.leases.lease(job, CALL) for job in jobs), return_exceptions=True)

    async def record(self, *attempts: Attempt) -> list[Fate | BaseException]:
        return await asyncio.gather(*(self.record_one(attempt) for attempt in attempts))

    async def record_one(self, attempt: Attempt, generation_id: str | None = None) -> Fate | BaseException:
        failures = {"0": "invalid_image"}
        ending = Ending(*attempt.key, attempt.number, "failed", "invalid_image", failures, generation_id=generation_id)
        events = results(attempt.event, attempt.event.model, [], failures)
        try:
            return await self.leases.record(ending, events)
        except (OutageError, asyncpg.PostgresError) as error:
            return error


Start = Callable[..., Awaitable[Process]]


@pytest.fixture
async def start(database_url: str) -> AsyncIterator[Start]:
    await migrate(database_url, "pixorly", "pixorly_generator")
    databases = []

    async def process(lease_s: float = 20) -> Process:
        database = Database(database_url, max_size=5)
        await database.open()
        databases.append(database)
        bus = Recorder()
        outbox = UncertainOutbox(database, bus)
        return Process(Leases(outbox, lambda _: "sandbox", lease_s=lease_s), outbox, bus)

    yield process
    for database in databases:
        await database.close()


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    made = await asyncpg.connect(database_url)
    yield made
    await made.close()


def a_job(**changes: object) -> JobCreated:
    event = JobCreated.of(
        new_id(),
        "ada",
        model="sandbox/aurora",
        prompt="a fox",
        params=ImageParams(width=64, height=64),
        n=1,
        plan="pro",
        deadline=utcnow() + timedelta(minutes=30),
        image_ids=(new_id(),),
        calls=(CALL,),
    )
    return event.model_copy(update=changes)


async def somebody_waits(connection: asyncpg.Connection) -> bool:
    # A transaction sees the activity as it first saw it, if it is not told to look again.
    await connection.execute("select pg_stat_clear_snapshot()")
    found = await connection.fetchval(
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    )
    return bool(found)


def jobs_of(attempts: Sequence[object]) -> set[UUID]:
    return {attempt.event.job_id for attempt in attempts if isinstance(attempt, Attempt)}


def begun(attempts: Sequence[object]) -> list[Attempt]:
    found = [attempt for attempt in attempts if isinstance(attempt, Attempt)]
    assert len(found) == len(attempts)
    return found


async def test_each_call_of_a_group_gets_its_own_answer(start: Start) -> None:
    ours, other = await start(), await start()
    fresh, again, held, settled, finished, old = (a_job() for _ in range(6))
    old = a_job(deadline=utcnow() - timedelta(seconds=1))
    await other.lease(held)
    await ours.leases.close(settled.job_id)
    [attempt, failed] = begun(await ours.lease(again, finished))
    await ours.leases.reopen(attempt, OutageError("provider:sandbox"))
    await ours.record(failed)
    await until(lambda: len(ours.bus.of(ImageFailed)) == 1)
    before = ours.outbox.commits

    answers = await ours.lease(held, finished, settled, again, old, fresh)

    assert ours.outbox.commits == before + 1
    assert [type(answer) for answer in answers] == [Held, type(None), type(None), Attempt, type(None), Attempt]
    assert [answer.event for answer in answers if isinstance(answer, Attempt)] == [again, fresh]
    # What was finished long ago is told once more, under the same id.
    await until(lambda: len(ours.bus.of(ImageFailed)) == 2)
    assert len({event.event_id for event in ours.bus.of(ImageFailed)}) == 1
    await until(lambda: len(ours.bus.of(JobStarted)) == 4)


async def test_what_comes_while_a_group_is_under_way_shares_the_next(start: Start) -> None:
    process = await start()
    attempts = begun(await process.lease(*(a_job() for _ in range(50))))
    leasing = process.outbox.commits
    fates = await process.record(*attempts)
    recording = process.outbox.commits - leasing
    await asyncio.gather(*(process.leases.close(attempt.event.job_id) for attempt in attempts))

    assert set(fates) == {Fate(finished=True, ended=True)}
    assert (leasing, recording) == (1, 1)
    assert process.outbox.commits == 3


async def test_a_bad_call_in_a_group_harms_no_other(start: Start) -> None:
    process = await start()
    bad, *good = a_job(user_id="a\0da"), a_job(), a_job()
    refused, *leased = await process.lease(bad, *good)
    assert isinstance(refused, asyncpg.PostgresError)
    attempts = begun(leased)

    fates = await asyncio.gather(process.record_one(attempts[0], "gen\0"), process.record_one(attempts[1], "gen"))
    assert isinstance(fates[0], asyncpg.PostgresError)
    assert fates[1] == Fate(finished=True, ended=True)


async def test_two_processes_that_take_the_same_calls_in_opposite_order_share_them_out(start: Start) -> None:
    one, other = await start(), await start()
    for _ in range(10):
        jobs = [a_job() for _ in range(30)]
        for _ in range(2):
            first, second = await asyncio.gather(one.lease(*jobs), other.lease(*reversed(jobs)))
            assert {type(answer) for answer in (*first, *second)} == {Attempt, Held}
            assert jobs_of(first) | jobs_of(second) == {job.job_id for job in jobs}
            assert not jobs_of(first) & jobs_of(second)
            for process, answers in ((one, first), (other, second)):
                await asyncio.gather(
                    process.leases.renew(),
                    *(
                        process.leases.reopen(attempt, OutageError("provider:sandbox"))
                        for attempt in answers
                        if isinstance(attempt, Attempt)
                    ),
                )


async def test_records_closings_and_renewals_of_the_same_calls_wait_for_each_other_in_one_order(start: Start) -> None:
    one, other = await start(), await start()
    for _ in range(3):
        # Backwards, one by one: so they lie in the table in another order than that of their keys.
        jobs = sorted((a_job() for _ in range(120)), key=lambda job: job.job_id, reverse=True)
        attempts = begun([(await one.lease(job))[0] for job in jobs])
        recording = asyncio.create_task(one.record(*attempts))
        await asyncio.gather(
            *(one.leases.renew() for _ in range(3)), *(other.leases.close(job.job_id) for job in reversed(jobs))
        )

        assert all(isinstance(fate, Fate) and fate.ended for fate in await recording)


async def test_a_commit_that_is_not_confirmed_is_repeated_harmlessly(
    start: Start, connection: asyncpg.Connection
) -> None:
    process = await start()
    jobs = [a_job() for _ in range(3)]
    process.outbox.uncertain = 1
    assert {type(answer) for answer in await process.lease(*jobs)} == {OutageError}
    attempts = begun(await process.lease(*jobs))
    assert {attempt.number for attempt in attempts} == {2}

    process.outbox.uncertain = 1
    assert {type(fate) for fate in await process.record(*attempts)} == {OutageError}
    assert set(await process.record(*attempts)) == {Fate(finished=False, ended=False)}
    await process.outbox.drain()
    assert await connection.fetchval("select count(*) from attempts where late") == 0
    assert await connection.fetchval("select count(*) from calls where state = 'failed'") == 3
    told = await connection.fetch("select distinct event_id from outbox where type = 'image.failed'")
    assert len({row["event_id"] for row in told} | {event.event_id for event in process.bus.of(ImageFailed)}) == 3

    process.outbox.uncertain = 1
    for expected in (OutageError, type(None)):
        closings = (process.leases.close(job.job_id) for job in jobs)
        assert {type(closed) for closed in await asyncio.gather(*closings, return_exceptions=True)} == {expected}
    assert await connection.fetchval("select count(*) from settled_jobs") == 3


@pytest.mark.parametrize("closed", [False, True])
async def test_a_record_that_waits_for_its_row_sees_what_became_of_it(
    start: Start, connection: asyncpg.Connection, *, closed: bool
) -> None:
    process = await start()
    attempts = begun(await process.lease(a_job(), a_job()))
    async with connection.transaction():
        sql = (
            "update calls set state = 'closed', owner = null, leased_until = null where job_id = $1"
            if closed
            else "update calls set leased_until = now(), contested = true where job_id = $1"
        )
        await connection.execute(sql, attempts[0].event.job_id)
        recording = asyncio.create_task(process.record(*attempts))

        await until(partial(somebody_waits, connection))
    fates = await recording

    assert fates == [Fate(finished=not closed, ended=True), Fate(finished=True, ended=True)]
    late = await connection.fetch("select job_id from attempts where late")
    assert [row["job_id"] for row in late] == ([attempts[0].event.job_id] if closed else [])


async def test_events_of_a_group_stay_each_in_their_own_trace(start: Start) -> None:
    process = await start()
    traces = {uuid4().hex: a_job() for _ in range(3)}

    async def lease(trace_id: str, job: JobCreated) -> None:
        with telemetry.continued({"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}):
            attempt = await process.leases.lease(job, CALL)
            assert attempt
            await process.record(attempt)

    await asyncio.gather(*(lease(trace_id, job) for trace_id, job in traces.items()))
    await until(lambda: len(process.bus.sent) == 6)
    assert {(headers["traceparent"].split("-")[1], event.job_id) for event, headers in process.bus.sent} == {
        (trace_id, job.job_id) for trace_id, job in traces.items()
    }


async def test_a_frozen_process_that_holds_a_row_keeps_only_those_waiting_that_came_with_it(
    start: Start, connection: asyncpg.Connection
) -> None:
    process = await start()
    stuck, free = a_job(), a_job()
    await process.leases.reopen(begun(await process.lease(stuck))[0], OutageError("provider:sandbox"))
    async with connection.transaction():
        await connection.execute("select from calls where job_id = $1 for update", stuck.job_id)
        waiting = asyncio.create_task(process.leases.lease(stuck, CALL))

        await until(partial(somebody_waits, connection))
        begun(await process.lease(free))
        assert not waiting.done()
    assert await waiting
