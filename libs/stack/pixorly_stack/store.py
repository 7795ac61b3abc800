"""The SQL of the local stack: databases and roles, each role confined to its own database."""

import asyncpg

Connection = asyncpg.Connection


async def make_role(connection: Connection, name: str, password: str) -> None:
    """Make a role that may log in and nothing else, or give it this password; the connected role becomes a member."""
    there = await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", name)
    verb = "ALTER" if there else "CREATE"
    await _run(connection, verb + " ROLE %I LOGIN NOCREATEDB NOCREATEROLE PASSWORD %L", name, password)
    await _run(connection, "GRANT %I TO CURRENT_USER", name)


async def make_database(connection: Connection, name: str, owner: str) -> None:
    """Make an empty database unless it is there, which only its owner can reach."""
    if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
        await _run(connection, "CREATE DATABASE %I OWNER %I TEMPLATE template0", name, owner)
    await close_database(connection, name)


async def drop_database(connection: Connection, name: str) -> None:
    """Drop a database, and whoever is connected to it."""
    await _run(connection, "DROP DATABASE IF EXISTS %I WITH (FORCE)", name)


async def export_snapshot(connection: Connection) -> str:
    """Return the name by which others can see what this transaction sees, as long as it lasts."""
    name: str = await connection.fetchval("SELECT pg_export_snapshot()")
    return name


async def close_database(connection: Connection, name: str) -> None:
    """Take away what a server lets every role do with a database."""
    await _run(connection, "REVOKE ALL ON DATABASE %I FROM PUBLIC", name)


async def _run(connection: Connection, template: str, *words: str) -> None:
    """Run a statement that takes no parameters; the server itself quotes the names and strings in it."""
    places = ", ".join(f"${number}::text" for number in range(2, len(words) + 2))
    await connection.execute(await connection.fetchval(f"SELECT format($1, {places})", template, *words))
