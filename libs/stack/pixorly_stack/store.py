"""The SQL of the local stack: databases and roles, each role confined to its own database."""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager

import asyncpg

Connection = asyncpg.Connection


async def make_role(connection: Connection, name: str, password: str) -> None:
    """Make a role that may log in and nothing else, or give it this password; the connected role becomes a member."""
    there = await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", name)
    verb = "ALTER" if there else "CREATE"
    await _run(connection, verb + " ROLE %I LOGIN NOCREATEDB NOCREATEROLE PASSWORD %L", name, password)
    await _run(connection, "GRANT %I TO CURRENT_USER", name)


async def make_stand_in(connection: Connection, name: str, owner: str, password: str) -> None:
    """Make a role that acts as `owner` from its login on, and makes what belongs to it; or give it this password."""
    await make_role(connection, name, password)
    await _run(connection, "GRANT %I TO %I", owner, name)
    await _run(connection, "ALTER ROLE %I SET ROLE = %L", name, owner)


async def make_database(connection: Connection, name: str, owner: str) -> None:
    """Make an empty database unless it is there, which only its owner can reach."""
    if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
        await _run(connection, "CREATE DATABASE %I OWNER %I TEMPLATE template0", name, owner)
    await close_database(connection, name)


async def drop_databases(admin_url: str, names: Iterable[str]) -> None:
    """Drop databases, and whoever is connected to them."""
    connection = await asyncpg.connect(admin_url, timeout=10)
    try:
        for name in names:
            await _run(connection, "DROP DATABASE IF EXISTS %I WITH (FORCE)", name)
    finally:
        await connection.close(timeout=10)


@asynccontextmanager
async def moments(urls: Mapping[str, str]) -> AsyncIterator[dict[str, str]]:
    """Hold databases as they are now, all within a few milliseconds, and yield by name what to call the snapshots."""
    connections = {name: await asyncpg.connect(url, timeout=10) for name, url in urls.items()}
    try:
        held = {}
        for name, connection in connections.items():
            await connection.transaction(isolation="repeatable_read", readonly=True).start()
            held[name] = await connection.fetchval("SELECT pg_export_snapshot()")
        yield held
    finally:
        for connection in connections.values():
            await connection.close(timeout=10)


async def close_database(connection: Connection, name: str) -> None:
    """Take away what a server lets every role do with a database."""
    await _run(connection, "REVOKE ALL ON DATABASE %I FROM PUBLIC", name)


async def _run(connection: Connection, template: str, *words: str) -> None:
    """Run a statement that takes no parameters; the server itself quotes the names and strings in it."""
    places = ", ".join(f"${number}::text" for number in range(2, len(words) + 2))
    await connection.execute(await connection.fetchval(f"SELECT format($1, {places})", template, *words))
