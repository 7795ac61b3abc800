"""PostgreSQL in memory: tables whose rows are replaced, transactions that are all or nothing, and the outbox.

A transaction is one atomic action here, so what PostgreSQL's locks put in order is in order; that the locks do so is
tried on a real server, in tests/integration.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID

from pixorly.errors import OutageError
from pixorly.events import Event
from simulator.bus import told
from simulator.clockwork import Bell, Process

if TYPE_CHECKING:
    from simulator.world import World

_T = TypeVar("_T")
_DUE_AFTER_S: Final = 2.0
_POLL_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """An event that is perhaps not published yet, and since when anybody may publish it."""

    event: Event
    due_s: float


class Database:
    """The database of one service.

    Args:
        world: Where it is.
        name: Whose it is.
        tables: Dicts of immutable rows by key.

    Attributes:
        outbox: The rows of the outbox by event id.
        version: Moves with each commit.
    """

    def __init__(self, world: "World", name: str, **tables: dict[Any, Any]) -> None:
        self.world = world
        self.name = name
        self.tables = tables
        self.outbox: dict[UUID, OutboxRow] = {}
        self.version = 0
        self.filled = Bell(world.clockwork)

    @property
    def away(self) -> bool:
        """Whether it can't be reached."""
        return self.world.away(f"postgres:{self.name}")

    def commit(self, work: Callable[["Transaction"], _T]) -> tuple[_T, list[Event]]:
        """Do `work` as one transaction: everything that it does, or nothing where it raises."""
        before = {name: dict(rows) for name, rows in self.tables.items()}
        transaction = Transaction()
        try:
            result = work(transaction)
        except Exception:
            self._restore(before)
            raise
        if not self.world.broken("no outbox"):
            for event in transaction.events:
                self.outbox.setdefault(event.event_id, OutboxRow(event, self.world.clockwork.now_s + _DUE_AFTER_S))
        self.version += 1
        if transaction.events:
            self.filled.ring()
        return result, transaction.events

    def attempt(self, work: Callable[["Transaction"], _T]) -> list[Event]:
        """Do `work`, take it all back, and return what it would have announced; only a broken variant needs it."""
        before = {name: dict(rows) for name, rows in self.tables.items()}
        transaction = Transaction()
        try:
            work(transaction)
        finally:
            self._restore(before)
        return transaction.events

    def _restore(self, before: dict[str, dict[Any, Any]]) -> None:
        for name, rows in before.items():
            self.tables[name].clear()
            self.tables[name].update(rows)


@dataclass(slots=True)
class Transaction:
    """What a transaction announces."""

    events: list[Event] = field(default_factory=list)

    def append(self, *events: Event) -> None:
        """Announce `events` if, and only if, the transaction commits."""
        self.events.extend(events)


class Outbox:
    """A process's way to its database; mirrors `pixorly.outbox.Outbox`."""

    def __init__(self, process: Process, database: Database) -> None:
        self._process = process
        self._database = database
        self._world = database.world

    async def transaction(self, what: str, work: Callable[[Transaction], _T]) -> _T:
        """Run a transaction; what it announces is published right after it commits.

        Raises:
            OutageError: PostgreSQL is away; where the commit itself failed, the change and its events may stand.
        """
        world, database = self._world, self._database
        await world.step(what)
        if database.away:
            await world.clockwork.sleep(0.5)
            raise OutageError("postgres")
        if world.broken("publish before commit"):
            for event in database.attempt(work):
                await world.bus.publish(event)
        result, events = database.commit(work)
        world.touch()
        if world.happens("commit_ambiguous"):
            world.clockwork.tell("commits, and is told that it did not")
            raise OutageError("postgres")
        if events:
            await world.step("has committed")
        for event in events:
            world.clockwork.spawn(self._publish(event), self._process)
        return result

    async def _publish(self, event: Event) -> None:
        try:
            await self._world.bus.publish(event)
        except OutageError:
            return  # the relay finds it
        await self._forget(event)

    async def _forget(self, event: Event) -> None:
        await self._world.step(f"forget {told(event)}")
        if not self._database.away:
            self._database.outbox.pop(event.event_id, None)
            self._world.touch()

    async def relay(self) -> None:
        """Publish what was left, for ever."""
        clockwork, database = self._world.clockwork, self._database
        while True:
            if not database.outbox:
                await database.filled.wait()
            await clockwork.sleep(_POLL_S)
            if self._world.broken("no relay") or database.away:
                continue
            due = [row for row in database.outbox.values() if row.due_s < clockwork.now_s]
            for row in due:
                await self._republish(row)

    async def _republish(self, row: OutboxRow) -> None:
        try:
            await self._world.bus.publish(row.event)
        except OutageError:
            if row.event.event_id in self._database.outbox:
                due_s = self._world.clockwork.now_s + _DUE_AFTER_S
                self._database.outbox[row.event.event_id] = OutboxRow(row.event, due_s)
        else:
            await self._forget(row.event)
