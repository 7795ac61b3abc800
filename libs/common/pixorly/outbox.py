"""Both or neither: an event is written in the transaction of the change that it announces.

Right after the commit the process publishes what it wrote; a relay reads again what was left, by this process or one
that died. An event may therefore be published twice, always with the same id.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, Protocol
from uuid import UUID

import structlog
from opentelemetry.trace import Span
from pydantic import ValidationError

from pixorly import metrics, telemetry
from pixorly.db import Connection, Database
from pixorly.errors import OutageError
from pixorly.events import EVENTS, Event
from pixorly.failpoints import failpoint
from pixorly.grouping import Grouper

_log = structlog.get_logger()
_BATCH: Final = 200
_AGAIN_AFTER_S: Final = 2.0
_ONE_BY_ONE_S: Final = 5.0
_CHANNEL_REOPENS_S: Final = 0.1
_FORGET_S: Final = 0.15
"""How often what is published is deleted, or up to three times as seldom: before the relay would publish it again."""

PUBLISHED = metrics.counter("pixorly_outbox_published", "Events published from the outbox.", "type", "path")
LAG = metrics.gauge("pixorly_outbox_lag_seconds", "Age of the oldest event that is not published.")


class Bus(Protocol):
    """What carries events."""

    async def publish(self, event: Event, headers: dict[str, str] | None = None) -> None:
        """Publish one event; it returns when the event is safe.

        Raises:
            OutageError: The bus is away.
        """


@dataclass(frozen=True, slots=True)
class _Row:
    event: Event
    headers: dict[str, str]


@dataclass(slots=True)
class Transaction:
    """A transaction and the events that will be written with it.

    Attributes:
        connection: What store functions take.
    """

    connection: Connection
    _rows: list[_Row] = field(default_factory=list)

    def append(self, *events: Event, trace_context: dict[str, str] | None = None) -> None:
        """Announce `events` if, and only if, the transaction commits.

        Args:
            events: What to announce.
            trace_context: Of the trace that they belong to, where it is not the current one.
        """
        headers = telemetry.carried() if trace_context is None else trace_context
        self._rows.extend(_Row(event, headers) for event in events)


class Outbox:
    """The outbox of one database.

    Args:
        database: Where the `outbox` table is.
        bus: Where events go.
        poll_s: How often the relay looks for what was left.
    """

    def __init__(self, database: Database, bus: Bus, *, poll_s: float = 1.0) -> None:
        self._database = database
        self._bus = bus
        self._poll_s = poll_s
        self._publishing: set[asyncio.Task[None]] = set()
        self._forget = Grouper(self._forget_group, max_group=500, spacing_s=_FORGET_S, name="outbox.forget")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Open a transaction that carries events; they are published right after it commits.

        Raises:
            OutageError: PostgreSQL is away; where the commit itself failed, the change and its events may stand.
        """
        async with self._database.transaction() as connection:
            transaction = Transaction(connection)
            yield transaction
            await _insert(connection, transaction._rows)  # noqa: SLF001 - the two are one thing
        if transaction._rows:  # noqa: SLF001
            failpoint("committed")
        for row in transaction._rows:  # noqa: SLF001
            task = asyncio.create_task(self._publish(row, "commit"))
            self._publishing.add(task)
            task.add_done_callback(self._publishing.discard)

    async def _publish(self, row: _Row, path: str) -> None:
        try:
            with telemetry.continued(row.headers), _span(row.event, path):
                await self._bus.publish(row.event, row.headers)
                failpoint("published")
                await self._forget(row.event.event_id)
        except OutageError:
            return  # the relay finds it
        PUBLISHED.labels(row.event.type, path).inc()

    async def _forget_group(self, event_ids: Sequence[UUID]) -> Sequence[None]:
        async with self._database.connection() as connection:
            await _delete(connection, event_ids)
        return [None] * len(event_ids)

    async def relay(self) -> None:
        """Publish what was left, for ever."""
        while True:
            try:
                found = await self._relay_once()
            except OutageError as error:
                _log.warning("outbox waits", part=error.part)
                found = 0
            if found < _BATCH:
                await asyncio.sleep(self._poll_s)

    async def _relay_once(self) -> int:
        async with self._database.transaction() as connection:
            LAG.set(await _oldest_age_s(connection))
            left = await _claim_left(connection)
            done = await asyncio.gather(*(self._republish(row) for _, row in left))
            if not all(done):
                await self._one_by_one([row for _, row in left], done)
            await _delete(connection, [event_id for (event_id, _), sent in zip(left, done, strict=True) if sent])
            await _postpone(connection, [event_id for (event_id, _), sent in zip(left, done, strict=True) if not sent])
        return len(left)

    async def _one_by_one(self, rows: Sequence[_Row | None], done: list[bool]) -> None:
        """Try what failed again, alone: an event that RabbitMQ refuses closes the channel under all the others."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_ONE_BY_ONE_S):
                for number in [number for number, sent in enumerate(done) if not sent]:
                    done[number] = await self._republish(rows[number])
                    if not done[number]:
                        await asyncio.sleep(_CHANNEL_REOPENS_S)

    async def _republish(self, row: _Row | None) -> bool:
        if row is None:
            return False
        try:
            with telemetry.continued(row.headers), _span(row.event, "relay"):
                await self._bus.publish(row.event, row.headers)
        except OutageError:
            return False
        PUBLISHED.labels(row.event.type, "relay").inc()
        return True

    async def drain(self) -> None:
        """Wait for the publications that are under way."""
        if self._publishing:
            await asyncio.wait(self._publishing)


def _span(event: Event, path: str) -> AbstractContextManager[Span]:
    return telemetry.span(
        f"outbox {event.type}", attributes={"pixorly.outbox.path": path, "pixorly.job_id": str(event.job_id)}
    )


async def _insert(connection: Connection, rows: Sequence[_Row]) -> None:
    if not rows:
        return
    await connection.executemany(
        """insert into outbox (event_id, type, job_id, body, headers) values ($1, $2, $3, $4, $5)
           on conflict (event_id) do nothing""",
        [(row.event.event_id, row.event.type, row.event.job_id, row.event.to_json(), row.headers) for row in rows],
    )


async def _delete(connection: Connection, event_ids: Sequence[UUID]) -> None:
    if event_ids:
        await connection.execute("delete from outbox where event_id = any($1::uuid[])", list(event_ids))


async def _postpone(connection: Connection, event_ids: Sequence[UUID]) -> None:
    if event_ids:
        await connection.execute(
            # Spread, so that what can never be sent does not stay at the front of the order.
            """update outbox set due_at = now() + make_interval(secs => $2 * (0.5 + random()))
               where event_id = any($1::uuid[])""",
            list(event_ids),
            _AGAIN_AFTER_S,
        )


async def _claim_left(connection: Connection) -> list[tuple[UUID, _Row | None]]:
    rows = await connection.fetch(
        """select event_id, type, body, headers from outbox
           where due_at < now() order by due_at limit $1 for update skip locked""",
        _BATCH,
    )
    return [(row["event_id"], _read(**dict(row))) for row in rows]


def _read(event_id: UUID, type: str, body: bytes, headers: dict[str, str]) -> _Row | None:  # noqa: A002 - the column
    """Return a row; None where this version can't read it, as when a newer one wrote it and was rolled back."""
    try:
        return _Row(EVENTS[type].model_validate_json(body), headers)
    except (KeyError, ValidationError) as error:
        _log.error("an event in the outbox can't be read", event_id=str(event_id), type=type, error=str(error)[:200])
        return None


async def _oldest_age_s(connection: Connection) -> float:
    age = await connection.fetchval("select extract(epoch from now() - min(created_at))::float8 from outbox")
    return age or 0.0
