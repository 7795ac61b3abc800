"""The pool and the migrations on a real PostgreSQL: every wait is bounded, and an outage is told from a bug."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from proxies import tcp_proxy
from waiting import by_way_of, until

from pixorly.db import Connection, Database, migrate
from pixorly.errors import OutageError
from pixorly_stack.errors import PartMissingError
from pixorly_stack.keeper import Keeper
from pixorly_stack.ports import Ports
from pixorly_stack.postgres import Postgres


@asynccontextmanager
async def opened(url: str, **settings: float) -> AsyncIterator[Database]:
    database = Database(url, **settings)  # type: ignore[arg-type]
    await database.open()
    try:
        yield database
    finally:
        await database.close()


class Package:
    """A package with migrations, as a service is one."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self._migrations = folder / "migrations"
        self._migrations.mkdir(parents=True)
        (folder / "__init__.py").touch()

    def write(self, name: str, sql: str) -> None:
        (self._migrations / name).write_text(sql)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    monkeypatch.syspath_prepend(str(tmp_path))
    made = Package(tmp_path / f"toy_{uuid4().hex}")
    yield made
    sys.modules.pop(made.name, None)


async def read(url: str, question: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


async def test_migrations_are_applied_in_order_once(database_url: str, package: Package) -> None:
    package.write("0002_more.sql", "insert into things values (1); insert into things values (2);")
    package.write("0001_first.sql", "create table things (id int);")
    package.write("notes.txt", "no migration")

    first = await migrate(database_url, package.name)
    second = await migrate(database_url, package.name)

    assert first == [f"{package.name}/0001_first.sql", f"{package.name}/0002_more.sql"]
    assert second == []
    assert await read(database_url, "select count(*) from things") == 2


async def test_a_later_file_is_applied_to_what_is_there(database_url: str, package: Package) -> None:
    package.write("0001_first.sql", "create table things (id int);")
    await migrate(database_url, package.name)
    package.write("0002_more.sql", "alter table things add name text;")

    assert await migrate(database_url, package.name) == [f"{package.name}/0002_more.sql"]


async def test_eight_processes_at_once_apply_each_file_once(database_url: str, package: Package) -> None:
    package.write("0001_first.sql", "create table things (id int);")
    package.write("0002_slow.sql", "select pg_sleep(0.3); insert into things values (1);")

    applied = await asyncio.gather(*(migrate(database_url, package.name) for _ in range(8)))

    assert sorted(len(names) for names in applied) == [0] * 7 + [2]
    assert await read(database_url, "select count(*) from things") == 1


async def test_whoever_waits_for_a_migration_finds_it_done(database_url: str, package: Package) -> None:
    package.write("0001_slow.sql", "select pg_sleep(0.5); create table things (id int);")
    working = asyncio.create_task(migrate(database_url, package.name))
    await asyncio.sleep(0.2)

    await migrate(database_url, package.name)

    assert await read(database_url, "select count(*) from things") == 0
    await working


async def test_a_file_that_was_changed_after_it_was_applied_is_refused(database_url: str, package: Package) -> None:
    package.write("0001_first.sql", "create table things (id int);")
    await migrate(database_url, package.name)
    package.write("0001_first.sql", "create table things (id bigint);")
    package.write("0002_more.sql", "create table others (id int);")

    with pytest.raises(RuntimeError, match=r"0001_first\.sql was changed"):
        await migrate(database_url, package.name)

    assert await read(database_url, "select to_regclass('others') is null") is True


async def test_a_file_that_fails_leaves_nothing_of_itself_and_is_tried_again(
    database_url: str, package: Package
) -> None:
    package.write("0001_first.sql", "create table things (id int);")
    package.write("0002_broken.sql", "create table others (id int); insert into nowhere values (1);")

    with pytest.raises(asyncpg.UndefinedTableError):
        await migrate(database_url, package.name)
    assert await read(database_url, "select to_regclass('others') is null") is True
    assert await read(database_url, "select count(*) from things") == 0

    package.write("0002_broken.sql", "create table others (id int);")
    assert await migrate(database_url, package.name) == [f"{package.name}/0002_broken.sql"]


async def test_a_migration_lets_others_pass_while_a_table_that_it_changes_is_held(
    database_url: str, package: Package
) -> None:
    package.write("0001_first.sql", "create table things (id int);")
    await migrate(database_url, package.name)
    package.write("0002_more.sql", "alter table things add name text;")
    async with opened(database_url) as database, database.connection() as other:
        async with database.transaction() as holder:
            await holder.fetch("select id from things")
            waiting = asyncio.create_task(migrate(database_url, package.name, lock_timeout_s=0.1))
            await asyncio.sleep(0.3)
            await asyncio.wait_for(other.fetch("select id from things"), 30)
            assert not waiting.done()
        assert await waiting == [f"{package.name}/0002_more.sql"]


async def test_a_file_may_run_outside_a_transaction(database_url: str, package: Package) -> None:
    package.write("0001_first.sql", "create table things (id int);")
    package.write("0002_index.sql", "-- no-transaction\ncreate index concurrently things_by_id on things (id);")

    applied = await asyncio.gather(*(migrate(database_url, package.name) for _ in range(4)))

    assert sorted(len(names) for names in applied) == [0, 0, 0, 2]
    assert await read(database_url, "select indisvalid from pg_index where indexrelid = 'things_by_id'::regclass")


async def test_two_packages_share_a_database(database_url: str, package: Package) -> None:
    package.write("0001_outbox.sql", "create table things (id int);")

    assert await migrate(database_url, "pixorly", package.name) == [
        "pixorly/0001_outbox.sql",
        f"{package.name}/0001_outbox.sql",
    ]


async def test_json_comes_and_goes_as_values(database_url: str) -> None:
    async with opened(database_url) as database, database.connection() as connection:
        value = {"text": "\N{SNOWFLAKE}", "list": [1, 2.5, None, True]}
        assert await connection.fetchval("select $1::jsonb", value) == value
        assert await connection.fetchval("select $1::json", [value]) == [value]


async def test_a_transaction_that_fails_is_undone_and_the_connection_is_fit_for_the_next(database_url: str) -> None:
    async with opened(database_url, max_size=1) as database:

        async def fail() -> None:
            async with database.transaction() as connection:
                await connection.execute("create table things (id int)")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        async with database.transaction() as connection:
            assert await connection.fetchval("select to_regclass('things') is null") is True


async def _uses(database: Database, use: Callable[[Connection], Awaitable[object]]) -> None:
    async with database.connection() as connection:
        await use(connection)


async def test_a_statement_that_takes_too_long_is_an_outage_and_gives_its_connection_back(database_url: str) -> None:
    async with opened(database_url, max_size=1, command_timeout_s=0.3) as database:
        before = time.monotonic()
        with pytest.raises(OutageError) as away:
            await _uses(database, lambda connection: connection.execute("select pg_sleep(30)"))

        assert away.value.part == "postgres"
        assert time.monotonic() - before < 5
        await database.ping()


async def test_a_pool_that_is_exhausted_is_an_outage_after_its_time(database_url: str) -> None:
    async with (
        opened(database_url, max_size=1, acquire_timeout_s=0.3) as database,
        database.connection() as connection,
    ):
        before = time.monotonic()
        with pytest.raises(OutageError):
            await database.ping()

        assert 0.2 < time.monotonic() - before < 5
        assert await connection.fetchval("select 1") == 1


async def test_a_link_that_stalls_is_an_outage_for_each_who_waits(database_url: str) -> None:
    async with (
        tcp_proxy(database_url) as proxy,
        opened(by_way_of(proxy, database_url), max_size=2, command_timeout_s=0.5, acquire_timeout_s=0.5) as database,
    ):
        await database.ping()
        proxy.mode = "stall"
        before = time.monotonic()
        pings = [_uses(database, lambda connection: connection.fetchval("select 1")) for _ in range(6)]
        ended = await asyncio.gather(*pings, return_exceptions=True)

        assert [type(end) for end in ended] == [OutageError] * 6
        assert time.monotonic() - before < 15
        proxy.mode = "pass"
        await until(lambda: _answers(database))


async def _answers(database: Database) -> bool:
    try:
        await database.ping()
    except OutageError:
        return False
    return True


async def test_a_link_that_is_cut_is_an_outage_and_the_next_call_has_a_new_one(database_url: str) -> None:
    async with tcp_proxy(database_url) as proxy, opened(by_way_of(proxy, database_url)) as database:
        working = asyncio.create_task(_uses(database, lambda connection: connection.execute("select pg_sleep(30)")))
        await asyncio.sleep(0.3)
        proxy.cut()

        with pytest.raises(OutageError):
            await working
        await until(lambda: _answers(database))


async def test_a_transaction_whose_link_is_cut_is_an_outage(database_url: str) -> None:
    async with tcp_proxy(database_url) as proxy, opened(by_way_of(proxy, database_url)) as database:

        async def work() -> None:
            async with database.transaction() as connection:
                await connection.execute("select 1")
                proxy.cut()
                await asyncio.sleep(0.1)

        with pytest.raises(OutageError):
            await work()


async def test_a_postgresql_that_is_not_there_is_an_outage_at_once(database_url: str) -> None:
    async with tcp_proxy(database_url) as proxy:
        gone = by_way_of(proxy, database_url)
    for work in (Database(gone).open(), migrate(gone, "pixorly"), Database(gone).ping()):
        with pytest.raises(OutageError):
            await work


@pytest.mark.parametrize(
    ("statement", "values", "error"),
    [
        ("select nonsense", (), asyncpg.UndefinedColumnError),
        ("select $1::int", ("seven",), asyncpg.DataError),
        ("select $1::text", ("\ud800",), asyncpg.DataError),
        ("select $1::text", ("\0",), asyncpg.CharacterNotInRepertoireError),
        ("select 1 / $1::int", (0,), asyncpg.DivisionByZeroError),
    ],
)
async def test_a_bug_is_no_outage(
    database_url: str, statement: str, values: tuple[object, ...], error: type[Exception]
) -> None:
    """Else a message that can never be handled would wait for ever, and a client would be told to try again."""
    async with opened(database_url, max_size=1) as database:
        with pytest.raises(error):
            await _uses(database, lambda connection: connection.fetchval(statement, *values))
        await database.ping()


@pytest.fixture
async def own_postgres(tmp_path: Path) -> AsyncIterator[tuple[Keeper, str]]:
    """A PostgreSQL of this test's own, which it may stop."""
    server = Postgres(tmp_path / "postgres", Ports(tmp_path / "ports.json").port("postgres"), "pixorly", durable=False)
    try:
        unit = await server.prepare()
    except PartMissingError as missing:
        pytest.skip(str(missing))
    keeper = Keeper(unit, tmp_path / "logs")
    await keeper.start(60)
    yield keeper, server.url
    await keeper.stop()


async def test_a_postgresql_that_is_restarted_is_an_outage_for_as_long_as_it_is_away(
    own_postgres: tuple[Keeper, str],
) -> None:
    keeper, url = own_postgres
    async with opened(url, max_size=2) as database:
        await asyncio.gather(database.ping(), database.ping())
        working = asyncio.create_task(_uses(database, lambda connection: connection.execute("select pg_sleep(60)")))
        await asyncio.sleep(0.3)

        await keeper.stop()

        with pytest.raises(OutageError):
            await working
        with pytest.raises(OutageError):
            await database.ping()
        await keeper.start(60)
        await until(lambda: _answers(database))
        async with database.transaction() as connection:
            assert await connection.fetchval("select 1") == 1


async def test_closing_a_pool_that_is_in_use_does_not_hang(database_url: str) -> None:
    database = Database(database_url)
    await database.open()
    working = asyncio.create_task(_uses(database, lambda connection: connection.execute("select pg_sleep(60)")))
    await asyncio.sleep(0.2)
    before = time.monotonic()

    await database.close()

    assert time.monotonic() - before < 8
    with pytest.raises(OutageError):
        await working
