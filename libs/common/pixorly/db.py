"""PostgreSQL: a pool whose every wait is bounded, and migrations.

A part of PostgreSQL that is away is an `OutageError("postgres")` to everyone above; what a broken constraint means is
for the `store.py` that knows the constraint.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime, timedelta
from functools import lru_cache
from importlib.resources import files
from typing import Any, Final

import asyncpg
import orjson
from asyncpg.connection import LoggedQuery
from asyncpg.pool import PoolConnectionProxy

from pixorly import metrics, telemetry
from pixorly.errors import OutageError
from pixorly.ids import first_id

Connection = asyncpg.Connection | PoolConnectionProxy
"""What store functions take."""

_AWAY: Final = (
    OSError,  # refused, reset, and TimeoutError
    asyncpg.InterfaceError,  # the pool or the connection was closed under us
    asyncpg.PostgresConnectionError,  # 08: lost
    asyncpg.OperatorInterventionError,  # 57: shutting down, starting up, cancelled
    asyncpg.InsufficientResourcesError,  # 53: out of connections, memory or disk
    asyncpg.ReadOnlySQLTransactionError,  # 25006: we were sent to a standby
    asyncpg.TransactionRollbackError,  # 40: deadlock or serialization, worth another try as it is
    asyncpg.InternalClientError,  # the protocol was cut in mid-message
)
_MIGRATION_LOCK: Final = 0x7069786F
_LOCK_TRIES: Final = 100

CONNECTIONS = metrics.gauge("pixorly_database_connections", "Connections to PostgreSQL.", "state")


@contextmanager
def translated() -> Iterator[None]:
    """Turn what asyncpg raises when PostgreSQL is away into an `OutageError`."""
    try:
        yield
    except _AWAY as error:
        raise OutageError("postgres", f"PostgreSQL is away: {type(error).__name__}.") from error


_PLANNING: Final = "set plan_cache_mode = force_generic_plan; set enable_seqscan = off; set jit = off"
"""A statement is planned once, whatever its arguments: to plan those with arrays each time was a fifth of what a job
took of PostgreSQL. The plan is kept for as long as its connection; one that was made while a table was small would read
the whole of it each time until the table is next analyzed, which slowed a young system to half its speed. A condition
that not everybody asks for is therefore left out of the statement (`where`), not made true by a null."""


async def _prepare(connection: asyncpg.Connection) -> None:
    if telemetry.on():
        connection.add_query_logger(_note_statement)
    await connection.execute(_PLANNING)
    for name in ("json", "jsonb"):
        await connection.set_type_codec(
            name, schema="pg_catalog", encoder=lambda value: orjson.dumps(value).decode(), decoder=orjson.loads
        )


async def _leave(_: asyncpg.Connection) -> None:
    """Leave a connection as it is when it goes back to the pool.

    asyncpg ends a transaction that is open; what else it would reset by one more round trip (session settings,
    listeners, session locks) nobody here changes.
    """


def where(*conditions: tuple[str, Any]) -> tuple[str, list[Any]]:
    """Return the conditions that were asked for, joined by `and`, and their arguments in order.

    Each is a text with `{}` for its argument's place, and the argument; one whose argument is None is left out.
    """
    asked = [(text, argument) for text, argument in conditions if argument is not None]
    texts = [text.format(f"${number}") for number, (text, _) in enumerate(asked, 1)]
    return " and ".join(texts) or "true", [argument for _, argument in asked]


OF_USER: Final = "user_id = any(array[{}::text])"
"""One user's rows, for `order by user_id, …` with a limit, which an index that begins with the user then serves.

With `user_id = …` PostgreSQL knows the user to be of no matter for the order, and may go through the primary key, past
everybody's rows, until there are enough of this user's: where a user has few among a million, that took 13 seconds.
"""

_SKEW: Final = timedelta(hours=1)
"""More than lies between the time in an id, which a service gave, and `created_at`, which PostgreSQL did."""


def created_between(
    id_column: str, after: datetime | None, before: datetime | None, *, late: timedelta = _SKEW
) -> tuple[tuple[str, Any], ...]:
    """Return the conditions of a span of time, for `where` and a list in the order of ids.

    Ids hold a time, too, so that what lies outside of the span is passed over by them.

    Args:
        id_column: The id's column.
        after: The span's beginning, if it has one.
        before: The span's end, if it has one.
        late: More than a row's `created_at` comes after the time in its id.
    """
    return (
        ("created_at > {}", after),
        (f"{id_column} >= {{}}", first_id(after - late) if after else None),
        ("created_at < {}", before),
        (f"{id_column} < {{}}", first_id(before + _SKEW) if before else None),
    )


_WRITES: Final = re.compile(
    r"\b(insert\s+into|(?<!for )(?<!key )(?<!do )update|delete\s+from)\s+(?:only\s+)?([a-z_]+)", re.IGNORECASE
)
_READS: Final = re.compile(r"\bfrom\s+([a-z_]+)\b(?!\s*\()", re.IGNORECASE)
_CATALOGUE: Final = "pg_"


@lru_cache(maxsize=1024)
def summary_of(query: str) -> tuple[str, str] | None:
    """Return what a statement does and to which table; None for one that is not worth a span."""
    ending = query.strip("; \n").upper()
    if ending in {"COMMIT", "ROLLBACK"}:
        return ending, ""
    if found := _WRITES.search(query):
        return found[1].split()[0].upper(), found[2].lower()
    found = _READS.search(query)
    return ("SELECT", found[1].lower()) if found and not found[1].startswith(_CATALOGUE) else None


def _note_statement(statement: LoggedQuery) -> None:
    """Make a span of a statement that has ended; its arguments are in none."""
    summary = summary_of(statement.query)
    if summary is None:
        return
    verb, table = summary
    host, port = statement.conn_addr if isinstance(statement.conn_addr, tuple) else (statement.conn_addr, 0)
    attributes: dict[str, str | int] = {
        "db.system.name": "postgresql",
        "db.namespace": statement.conn_params.database or "",
        "db.operation.name": verb,
        "db.query.summary": f"{verb} {table}".strip(),
        "server.address": str(host),
        "server.port": int(port),
    }
    if table:
        attributes["db.collection.name"] = table
    telemetry.past(f"{verb} {table}".strip(), "client", statement.elapsed, attributes, statement.exception)


class Database:
    """A pool of connections to one database.

    Args:
        url: `postgresql://…`.
        max_size: The most connections.
        acquire_timeout_s: How long to wait for a free connection.
        command_timeout_s: How long one statement may take.
    """

    def __init__(
        self, url: str, *, max_size: int = 10, acquire_timeout_s: float = 5, command_timeout_s: float = 15
    ) -> None:
        self._url = url
        self._max_size = max_size
        self._acquire_timeout_s = acquire_timeout_s
        self._command_timeout_s = command_timeout_s
        self._pool: asyncpg.Pool | None = None

    async def open(self) -> None:
        """Connect.

        Raises:
            OutageError: PostgreSQL is away.
        """
        with translated():
            self._pool = await asyncpg.create_pool(
                self._url,
                min_size=1,
                max_size=self._max_size,
                command_timeout=self._command_timeout_s,
                timeout=5,
                init=_prepare,
                reset=_leave,
            )
        pool = self._pool
        CONNECTIONS.labels("idle").set_function(pool.get_idle_size)
        CONNECTIONS.labels("busy").set_function(lambda: pool.get_size() - pool.get_idle_size())

    async def close(self) -> None:
        """Close what is idle and, after a moment, what is not."""
        if self._pool is None:
            return
        try:
            async with asyncio.timeout(3):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection, for reads and single statements.

        Raises:
            OutageError: PostgreSQL is away, or no connection was free in time.
        """
        if self._pool is None:
            raise OutageError("postgres", "The pool is not open.")
        with translated():
            connection = await self._pool.acquire(timeout=self._acquire_timeout_s)
            try:
                yield connection
            finally:
                await self._pool.release(connection, timeout=2)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Lend a connection in a transaction.

        Raises:
            OutageError: As `connection`. Where it comes from the commit itself, the change may have been made all the
                same, so that every change must bear being made again.
        """
        async with self.connection() as connection, connection.transaction():
            yield connection

    async def ping(self) -> None:
        """Ask for nothing.

        Raises:
            OutageError: PostgreSQL is away.
        """
        async with self.connection() as connection:
            await connection.fetchval("select 1", timeout=2)


async def migrate(url: str, *packages: str, lock_timeout_s: float = 2) -> list[str]:
    """Apply the `migrations/*.sql` of each package that were not applied yet, and return their names.

    Several processes may do this at once: one works, the others wait. They poll for the lock, since a session that
    blocks on it holds a snapshot, which a `create index concurrently` would wait for. A file whose first line is
    `-- no-transaction` runs outside a transaction. Any other waits `lock_timeout_s` for the lock of a table, and begins
    anew a little later where it does not get it: whoever comes after someone who waits for a lock, waits, too.

    Raises:
        OutageError: PostgreSQL is away, or somebody else's transaction held a table all the time.
        RuntimeError: A file was changed after it was applied.
    """
    with translated():
        connection = await asyncpg.connect(url, timeout=5)
        try:
            while not await connection.fetchval("select pg_try_advisory_lock($1)", _MIGRATION_LOCK):  # noqa: ASYNC110 - the lock is PostgreSQL's
                await asyncio.sleep(0.1)
            return [
                name for package in packages for name in await _migrate_package(connection, package, lock_timeout_s)
            ]
        finally:
            await connection.close(timeout=5)


async def _migrate_package(connection: asyncpg.Connection, package: str, lock_timeout_s: float) -> list[str]:
    await connection.execute(
        """create table if not exists schema_migrations (
               name text primary key, sha256 text not null, applied_at timestamptz not null default now())"""
    )
    done = {row["name"]: row["sha256"] for row in await connection.fetch("select name, sha256 from schema_migrations")}
    applied = []
    folder = files(package) / "migrations"
    for file in sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name):
        name, sql = f"{package}/{file.name}", file.read_text(encoding="utf-8")
        sha256 = hashlib.sha256(sql.encode()).hexdigest()
        if name in done:
            if done[name] != sha256:
                raise RuntimeError(f"{name} was changed after it was applied; write a new migration instead")
            continue
        await _apply(connection, name, sql, sha256, lock_timeout_s)
        applied.append(name)
    return applied


async def _apply(connection: asyncpg.Connection, name: str, sql: str, sha256: str, lock_timeout_s: float) -> None:
    record = "insert into schema_migrations (name, sha256) values ($1, $2)"
    if sql.startswith("-- no-transaction"):
        await connection.execute(sql, timeout=None)
        await connection.execute(record, name, sha256)
        return
    for _ in range(_LOCK_TRIES):
        with suppress(asyncpg.LockNotAvailableError):
            async with connection.transaction():
                await connection.execute(f"set local lock_timeout = {int(lock_timeout_s * 1000)}")
                await connection.execute(sql, timeout=None)
                await connection.execute(record, name, sha256)
            return
        await asyncio.sleep(lock_timeout_s / 2)
    raise OutageError("postgres", f"A table that {name} changes is held by another transaction.")
