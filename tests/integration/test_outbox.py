"""The outbox on a real PostgreSQL: both or neither, and every event gets out."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

import asyncpg
import pytest
from proxies import tcp_proxy
from waiting import by_way_of, until

from pixorly import telemetry
from pixorly.db import Database, migrate
from pixorly.errors import OutageError
from pixorly.events import Event, ImageGenerated
from pixorly.ids import new_id
from pixorly.outbox import Bus, Outbox

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def image_generated(index: int = 0, job_id: UUID | None = None) -> ImageGenerated:
    return ImageGenerated.of(
        job_id or new_id(),
        "ada",
        index=index,
        image_id=new_id(),
        staged_key="staging/x",
        content_type="image/png",
        sha256="0" * 64,
        bytes=1,
    )


@dataclass
class Street(Bus):
    """A bus that remembers what it carried.

    Attributes:
        away: It takes nothing.
        refuses: What it never takes, as RabbitMQ refuses what no queue is bound to.
        takes_s: How long each event takes it.
        closes: A refusal closes its channel, as RabbitMQ's does: what else is under way fails with it.
        under_way: The events that it is carrying now.
    """

    away: bool = False
    refuses: set[UUID] = field(default_factory=set)
    closes: bool = False
    takes_s: float = 0
    carried: list[tuple[UUID, dict[str, str]]] = field(default_factory=list)
    tried: list[UUID] = field(default_factory=list)
    under_way: Counter[UUID] = field(default_factory=Counter)
    most_at_once: int = 0
    channel: int = 0

    async def publish(self, event: Event, headers: dict[str, str] | None = None) -> None:
        self.tried.append(event.event_id)
        channel = self.channel
        if self.closes and event.event_id in self.refuses:
            self.channel += 1
        self.under_way[event.event_id] += 1
        self.most_at_once = max(self.most_at_once, self.under_way[event.event_id])
        try:
            await asyncio.sleep(self.takes_s)
        finally:
            self.under_way[event.event_id] -= 1
        if self.away or event.event_id in self.refuses or channel != self.channel:
            raise OutageError("rabbitmq")
        self.carried.append((event.event_id, {**telemetry.carried(), **(headers or {})}))

    @property
    def ids(self) -> list[UUID]:
        return [event_id for event_id, _ in self.carried]


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    await migrate(database_url, "pixorly")
    async with opened(database_url) as database, database.connection() as connection:
        await connection.execute("create table things (id int primary key)")
        yield database


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    database = Database(url)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


async def left(database: Database) -> int:
    async with database.connection() as connection:
        return int(await connection.fetchval("select count(*) from outbox"))


async def things(database: Database) -> int:
    async with database.connection() as connection:
        return int(await connection.fetchval("select count(*) from things"))


async def none_left(database: Database) -> bool:
    return await left(database) == 0


async def only_left(database: Database, rows: int) -> bool:
    return await left(database) == rows


async def make_due(database: Database) -> None:
    """Let the time pass in which a row belongs to the process that wrote it."""
    async with database.connection() as connection:
        await connection.execute("update outbox set due_at = now() - interval '1 second'")


@asynccontextmanager
async def relaying(*outboxes: Outbox) -> AsyncIterator[None]:
    relays = [asyncio.create_task(outbox.relay()) for outbox in outboxes]
    try:
        yield
    finally:
        for relay in relays:
            relay.cancel()
        ended = await asyncio.gather(*relays, return_exceptions=True)
        assert [type(end) for end in ended] == [asyncio.CancelledError] * len(relays)


async def append(outbox: Outbox, *events: Event) -> None:
    async with outbox.transaction() as transaction:
        transaction.append(*events)


async def test_a_commit_publishes_right_away_and_leaves_nothing(database: Database) -> None:
    street = Street()
    outbox = Outbox(database, street)
    event = image_generated()

    async with outbox.transaction() as transaction:
        await transaction.connection.execute("insert into things values (1)")
        transaction.append(event)
        assert street.carried == []
    await outbox.drain()

    assert street.ids == [event.event_id]
    assert await things(database) == 1
    assert await left(database) == 0


async def test_a_rollback_publishes_nothing_and_keeps_nothing(database: Database) -> None:
    street = Street()
    outbox = Outbox(database, street)

    async def fail() -> None:
        async with outbox.transaction() as transaction:
            await transaction.connection.execute("insert into things values (1)")
            transaction.append(image_generated())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    await outbox.drain()

    assert street.tried == []
    assert await things(database) == 0
    assert await left(database) == 0


async def test_a_change_that_breaks_a_constraint_announces_nothing(database: Database) -> None:
    street = Street()
    outbox = Outbox(database, street)

    async def insert_again() -> None:
        async with outbox.transaction() as transaction:
            transaction.append(image_generated())
            await transaction.connection.execute("insert into things values (1)")
            await transaction.connection.execute("insert into things values (1)")

    with pytest.raises(asyncpg.UniqueViolationError):
        await insert_again()

    assert await left(database) == 0
    assert street.tried == []


async def test_a_caller_that_is_cancelled_before_the_commit_changes_and_announces_nothing(database: Database) -> None:
    street = Street()
    outbox = Outbox(database, street)
    begun = asyncio.Event()

    async def work() -> None:
        async with outbox.transaction() as transaction:
            await transaction.connection.execute("insert into things values (1)")
            transaction.append(image_generated())
            begun.set()
            await asyncio.sleep(60)

    working = asyncio.create_task(work())
    await begun.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working

    assert await things(database) == 0
    assert await left(database) == 0
    assert street.tried == []


async def test_a_bus_that_is_away_leaves_the_row_and_the_relay_sends_it_later(database: Database) -> None:
    street = Street(away=True)
    outbox = Outbox(database, street, poll_s=0.05)
    event = image_generated()

    await append(outbox, event)
    await outbox.drain()
    assert street.tried == [event.event_id]
    assert await left(database) == 1

    street.away = False
    async with relaying(outbox):
        await until(lambda: none_left(database))

    assert street.ids == [event.event_id]


async def test_the_relay_leaves_a_fresh_row_to_the_process_that_wrote_it(database: Database) -> None:
    street = Street(takes_s=0.1)
    outbox = Outbox(database, street, poll_s=0.02)

    async with relaying(outbox):
        await append(outbox, image_generated())
        await outbox.drain()

    assert len(street.tried) == 1


async def test_an_event_of_a_process_that_died_right_after_its_commit_gets_out(database: Database) -> None:
    """The row is all that is left of it."""
    dead, street = Street(away=True), Street()
    died = Outbox(database, dead)
    events = [image_generated(index) for index in range(3)]
    await append(died, *events)
    await died.drain()

    async with relaying(Outbox(database, street, poll_s=0.05)):
        await until(lambda: none_left(database))

    assert sorted(street.ids) == sorted(event.event_id for event in events)


async def test_two_relays_at_once_publish_each_row_and_none_twice_at_the_same_time(database_url: str) -> None:
    await migrate(database_url, "pixorly")
    street = Street(away=True)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(opened(database_url))
        second = await stack.enter_async_context(opened(database_url))
        events = [image_generated(index) for index in range(500)]
        writer = Outbox(first, street)
        await append(writer, *events)
        await writer.drain()
        street.away, street.takes_s, street.most_at_once = False, 0.2, 0
        await make_due(first)

        async with relaying(Outbox(first, street, poll_s=0.05), Outbox(second, street, poll_s=0.05)):
            await until(lambda: none_left(first))

    assert sorted(street.ids) == sorted(event.event_id for event in events)
    assert street.most_at_once == 1


async def test_what_the_bus_never_takes_starves_nobody(database: Database) -> None:
    """More of it than a relay reads at once, and all of it older than the one that matters."""
    street = Street(away=True)
    outbox = Outbox(database, street, poll_s=0.05)
    stuck = [image_generated(index) for index in range(450)]
    wanted = image_generated()
    await append(outbox, *stuck)
    await append(outbox, wanted)
    await outbox.drain()
    street.away, street.refuses = False, {event.event_id for event in stuck}
    await make_due(database)

    async with relaying(outbox):
        await until(lambda: only_left(database, len(stuck)))

    assert street.ids == [wanted.event_id]


async def test_an_event_whose_refusal_closes_the_channel_holds_up_nobody_for_long(database: Database) -> None:
    street = Street(away=True, takes_s=0.02)
    outbox = Outbox(database, street, poll_s=0.05)
    events = [image_generated(index) for index in range(30)]
    await append(outbox, *events)
    await outbox.drain()
    street.away, street.closes, street.refuses = False, True, {event.event_id for event in events[::6]}
    await make_due(database)

    async with relaying(outbox):
        await until(lambda: only_left(database, 5))

    assert set(street.ids) == {event.event_id for event in events} - street.refuses


async def test_what_the_bus_never_takes_is_tried_again_after_a_pause_and_not_in_a_hot_loop(database: Database) -> None:
    street = Street(away=True)
    outbox = Outbox(database, street, poll_s=0.02)
    await append(outbox, image_generated())
    await outbox.drain()
    await make_due(database)
    street.tried.clear()

    async with relaying(outbox):
        await until(lambda: len(street.tried) > 0)
        await asyncio.sleep(3)
        soon = len(street.tried)
        await until(lambda: len(street.tried) > soon)

    # With the others and then alone, every one to three seconds.
    assert 2 <= soon <= 8


async def test_the_trace_is_kept_from_the_transaction_to_the_bus_at_once_and_later(database: Database) -> None:
    street = Street()
    outbox = Outbox(database, street, poll_s=0.05)
    with telemetry.continued({"traceparent": TRACEPARENT}):
        await append(outbox, image_generated(0))
    await outbox.drain()
    street.away = True
    with telemetry.continued({"traceparent": TRACEPARENT}):
        await append(outbox, image_generated(1))
    await outbox.drain()
    street.away = False
    await make_due(database)

    async with relaying(Outbox(database, street, poll_s=0.05)):
        await until(lambda: none_left(database))

    assert [headers["traceparent"] for _, headers in street.carried] == [TRACEPARENT] * 2


async def test_the_same_event_twice_is_one_row_and_both_transactions_stand(database: Database) -> None:
    street = Street(away=True)
    outbox = Outbox(database, street)
    event = image_generated()

    await append(outbox, event)
    async with outbox.transaction() as transaction:
        await transaction.connection.execute("insert into things values (1)")
        transaction.append(event)
    await outbox.drain()

    assert await left(database) == 1
    assert await things(database) == 1


async def test_an_event_that_was_published_can_be_announced_again(database: Database) -> None:
    """The reconciler does; its readers know the id."""
    street = Street()
    outbox = Outbox(database, street)
    event = image_generated()

    for _ in range(2):
        await append(outbox, event)
        await outbox.drain()

    assert street.ids == [event.event_id] * 2
    assert await left(database) == 0


async def test_a_transaction_without_events_writes_no_row(database: Database) -> None:
    street = Street()
    outbox = Outbox(database, street)

    async with outbox.transaction() as transaction:
        await transaction.connection.execute("insert into things values (1)")
    await outbox.drain()

    assert await things(database) == 1
    assert street.tried == []


async def test_many_commits_at_once_leave_nothing_behind(database: Database) -> None:
    street = Street(takes_s=0.01)
    outbox = Outbox(database, street)
    events = [image_generated(index) for index in range(200)]

    await asyncio.gather(*(append(outbox, event) for event in events))
    await outbox.drain()

    assert sorted(street.ids) == sorted(event.event_id for event in events)
    assert await left(database) == 0


async def test_an_event_that_cannot_be_read_any_more_stops_nobody(database: Database) -> None:
    """A newer version wrote it, perhaps, before it was rolled back."""
    street = Street(away=True)
    outbox = Outbox(database, street, poll_s=0.05)
    wanted = image_generated()
    async with database.connection() as connection:
        for kind, body in (("job.invented", b"{}"), ("image.generated", b'{"event_id": 1}')):
            await connection.execute(
                "insert into outbox (event_id, type, job_id, body) values ($1, $2, $3, $4)",
                new_id(),
                kind,
                new_id(),
                body,
            )
    await append(outbox, wanted)
    await outbox.drain()
    street.away = False
    await make_due(database)

    async with relaying(outbox):
        await until(lambda: only_left(database, 2), within_s=5)

    assert street.ids == [wanted.event_id]


async def test_the_relay_outlives_an_outage_of_postgresql(database_url: str) -> None:
    await migrate(database_url, "pixorly")
    street = Street(away=True)
    event = image_generated()
    async with tcp_proxy(database_url) as proxy, opened(by_way_of(proxy, database_url)) as database:
        outbox = Outbox(database, street, poll_s=0.05)
        await append(outbox, event)
        await outbox.drain()
        await make_due(database)

        async with relaying(outbox):
            proxy.mode = "refuse"
            proxy.cut()
            await asyncio.sleep(0.3)
            street.away = False
            proxy.mode = "pass"
            await until(lambda: event.event_id in street.ids)
