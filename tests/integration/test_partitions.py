"""Tables by month on a real PostgreSQL: made ahead, made late, split from what was there, and guarded as before."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import api_world
import asyncpg
import pytest
from ledger_world import World, ledger_world
from older import migrate_until

from pixorly.db import Connection, Database, migrate
from pixorly.ids import first_id, new_id, new_id_beside
from pixorly_api import store as api_store
from pixorly_ledger import store

MONTHS = ("jobs", "slots", "attempts", "images")
MARCH = datetime(2031, 3, 1, tzinfo=UTC)


def id_at(moment: datetime) -> UUID:
    """Return a fresh id as if it had been made then."""
    return new_id_beside(first_id(moment))


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with ledger_world(database_url) as world:
        await world.open("ada", 100)
        yield world


async def partitions(connection: Connection, table: str) -> list[str]:
    rows = await connection.fetch(
        "select inhrelid::regclass::text as name from pg_inherits where inhparent = $1::text::regclass order by 1",
        table,
    )
    return [row["name"] for row in rows]


async def add_grant(connection: Connection, transfer_id: UUID, seq: int) -> str:
    """Add a transfer with an id of one's choice, and return the partition that it went to."""
    place: str = await connection.fetchval(
        """insert into transfers (id, user_id, seq, kind, from_account, to_account, amount_credits, balance_credits,
                                  grant_id, created_at)
           values ($1, 'ada', $2, 'grant', 'issued', 'available', 1, 1, 'g', now())
           returning tableoid::regclass::text""",
        transfer_id,
        seq,
    )
    return place


async def test_months_are_made_ahead_and_made_once_whoever_asks(world: World) -> None:
    async def ask() -> int:
        async with world.database.connection() as connection:
            return await store.keep_partitions(connection, MARCH)

    made = await asyncio.gather(*(ask() for _ in range(5)))

    assert sum(made) == 4
    assert await ask() == 0
    async with world.database.connection() as connection:
        assert await partitions(connection, "transfers") == [
            "transfers_2031_03", "transfers_2031_04", "transfers_2031_05", "transfers_2031_06",
            "transfers_default", "transfers_history",
        ]  # fmt: skip


async def test_a_month_ends_with_its_last_millisecond_in_utc(world: World) -> None:
    async with world.database.connection() as connection:
        await connection.execute("set timezone = 'Pacific/Auckland'")
        await store.keep_partitions(connection, MARCH)

        assert await add_grant(connection, id_at(MARCH), 11) == "transfers_2031_03"
        assert await add_grant(connection, id_at(MARCH - timedelta(milliseconds=1)), 12) == "transfers_default"
        april = datetime(2031, 4, 1, tzinfo=UTC)
        assert await add_grant(connection, id_at(april - timedelta(milliseconds=1)), 13) == "transfers_2031_03"
        assert await add_grant(connection, id_at(april), 14) == "transfers_2031_04"


async def test_what_came_while_nobody_made_months_moves_to_its_month(world: World) -> None:
    """The sweeper was away for half a year: rows of two months lie in the net, one month had none."""
    late = [id_at(MARCH + timedelta(days=days)) for days in (0, 30, 70, 71)]
    async with world.database.connection() as connection:
        assert {await add_grant(connection, made, 10 + n) for n, made in enumerate(late)} == {"transfers_default"}
        stray = UUID("ffffffff-0000-4000-8000-000000000000")
        await add_grant(connection, stray, 99)

        assert await store.keep_partitions(connection, MARCH + timedelta(days=100)) == 2 + 4

        where = dict(await connection.fetch("select id, tableoid::regclass::text from transfers where seq >= 10"))
        assert [where[made] for made in late] == ["transfers_2031_03"] * 2 + ["transfers_2031_05"] * 2
        assert where[stray] == "transfers_default"
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
            await connection.execute("delete from transfers_default")


@pytest.mark.parametrize("change", ["update {} set reason = 'x'", "delete from {}", "truncate {}"])
async def test_transfers_can_only_be_added_in_every_partition(world: World, change: str) -> None:
    async with world.database.connection() as connection:
        await store.keep_partitions(connection, MARCH)
        tables = await partitions(connection, "transfers")
        assert len(tables) == 6

        for table in ("transfers", *tables):
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
                await connection.execute(change.format(table))


async def test_a_job_is_charged_captured_and_refunded_once_whenever_that_is(world: World) -> None:
    """Its transfers carry its time, so they lie in one partition, which can tell."""
    wanted = await world.charge("ada", 10)
    late = (
        """insert into transfers (id, user_id, seq, kind, from_account, to_account, amount_credits, balance_credits,
                                  job_id, created_at)
           values ($1, 'ada', 9, 'charge', 'available', 'escrow', 10, 80, $2, now() + interval '2 years')""",
        new_id_beside(wanted.job_id),
        wanted.job_id,
    )

    async with world.database.connection() as connection:
        ids = await connection.fetch("select id from transfers where job_id is not null")
        assert {row["id"].int >> 80 for row in ids} == {wanted.job_id.int >> 80}
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.execute(*late)


async def test_a_line_of_a_statement_is_there_once_in_a_month_and_the_audit_sees_the_rest(world: World) -> None:
    async with world.database.connection() as connection:
        await add_grant(connection, id_at(MARCH), 7)
        with pytest.raises(asyncpg.UniqueViolationError):
            await add_grant(connection, id_at(MARCH), 7)
        await store.keep_partitions(connection, MARCH)
        await add_grant(connection, id_at(datetime(2031, 5, 1, tzinfo=UTC)), 7)

    assert "ada 7" in (await world.off())["statements"]


def _touched(plan: str) -> set[str]:
    return {found for found in re.findall(r" on (\w+)", plan) if re.search(r"_(\d{4}_\d\d|history|default)$", found)}


LOOKUPS = (
    "select * from jobs where job_id = $1",
    "select * from slots where job_id = $1",
    "select * from attempts where job_id = $1",
    "select * from images where image_id = $1",
    "update jobs set version = 1 where job_id = $1",
)


@pytest.mark.parametrize("lookup", LOOKUPS)
async def test_a_lookup_by_id_touches_one_partition(database_url: str, lookup: str) -> None:
    await migrate(database_url, "pixorly", "pixorly.partitions", "pixorly_api")
    connection = await asyncpg.connect(database_url)
    try:
        assert await api_store.keep_partitions(connection, MARCH) == 4 * len(MONTHS)
        for mode in ("force_custom_plan", "force_generic_plan"):
            await connection.execute(f"set plan_cache_mode = {mode}")
            await connection.execute(f"prepare lookup (uuid) as {lookup}")
            rows = await connection.fetch(f"explain (analyze) execute lookup ('{id_at(MARCH)}')")
            await connection.execute("deallocate lookup")
            plan = "\n".join(row[0] for row in rows if "never executed" not in row[0] and "Update on" not in row[0])

            assert {name.split("_", 1)[1] for name in _touched(plan)} == {"2031_03"}, plan
    finally:
        await connection.close()


async def test_a_ledger_that_was_in_use_is_split_without_a_copy_while_it_is_in_use(database_url: str) -> None:
    await migrate_until(database_url, "pixorly_ledger", "0003")
    database = Database(database_url)
    await database.open()
    world = World(database_url, database)
    try:
        await world.open("ada", 1000)
        await world.settle(await world.charge("ada", 40, n=4), None, "provider_timeout", "content_rejected", None)
        under_way = await world.charge("ada", 20, n=2)
        async with database.connection() as connection:
            before = await connection.fetch("select * from transfers order by id")
            file = await connection.fetchval("select pg_relation_filenode('transfers')")

        splitting = asyncio.create_task(migrate(database_url, "pixorly.partitions", "pixorly_ledger"))
        meanwhile = 0
        while not splitting.done() or meanwhile < 3:
            await world.charge("ada", 1)
            meanwhile += 1
        applied = await splitting

        assert [name.rpartition("/")[2][:4] for name in applied] == ["0001", "0004", "0005", "0006"]
        assert await world.settle(under_way, None, "provider_timeout") == "settled"
        async with database.connection() as connection:
            assert await connection.fetch("select * from transfers where id = any($1) order by id",
                                          [row["id"] for row in before]) == before  # fmt: skip
            assert await connection.fetchval("select pg_relation_filenode('transfers_history')") == file
            assert await connection.fetchval("select count(*) from transfers_default") == 0
        assert await world.balance("ada") == 1000 - 30 - 10 - meanwhile
        assert await world.off() == {}
        assert await world.off(quiet=True) != {}
    finally:
        await database.close()


async def _rows(connection: Connection) -> dict[str, list[asyncpg.Record]]:
    return {table: await connection.fetch(f"select * from {table} t order by t::text") for table in MONTHS}  # noqa: S608 - constants


async def test_jobs_that_were_there_are_the_same_after_the_split(database_url: str) -> None:
    await migrate(database_url, "pixorly")
    await migrate_until(database_url, "pixorly_api", "0006")
    connection = await asyncpg.connect(database_url)
    try:
        for n in range(3):
            job_id, image_id = new_id(), new_id()
            await connection.execute(
                """insert into jobs (job_id, user_id, status, model, prompt, params, n, image_ids, calls,
                                     credits_per_image, body_hash, deadline, plan, balance_credits)
                   values ($1, 'ada', 'pending', 'm', 'p', '{}', 1, array[$2::uuid], '[]', 1, 'x', now(), 'pro', $3)""",
                job_id, image_id, n,
            )  # fmt: skip
            await connection.execute(
                "insert into slots (job_id, index, user_id, image_id) values ($1, 0, 'ada', $2)", job_id, image_id
            )
            await connection.execute(
                """insert into images (image_id, user_id, job_id, index, model, original_key, bytes, width, height,
                                       content_type, sha256, thumbhash)
                   values ($1, 'ada', $2, 0, 'm', 'k', 1, 1, 1, 'image/png', 's', 't')""",
                image_id, job_id,
            )  # fmt: skip
        before = await _rows(connection)

        await migrate(database_url, "pixorly.partitions", "pixorly_api")

        assert await _rows(connection) == before
        for table in MONTHS:
            assert await partitions(connection, table) == [f"{table}_default", f"{table}_history"]
            assert await connection.fetchval(f"select count(*) from {table}_default") == 0  # noqa: S608 - constants
    finally:
        await connection.close()


async def test_a_new_month_has_the_indexes_the_storage_and_the_rights_of_the_others(database_url: str) -> None:
    shape = """select indisunique, regexp_replace(pg_get_indexdef(indexrelid), '^.*USING ', '') as def
               from pg_index where indrelid = $1::text::regclass order by 2"""
    async with api_world.open_world(database_url):
        connection = await asyncpg.connect(database_url)
        try:
            await api_store.keep_partitions(connection, MARCH)
            for table in MONTHS:
                expected = await connection.fetch(shape, f"{table}_history")
                assert await connection.fetch(shape, f"{table}_2031_03") == expected
                assert await connection.fetch(shape, table) == expected
            storage = "select reloptions from pg_class where relname = $1"
            assert await connection.fetchval(storage, "jobs_2031_03") == ["fillfactor=70"]
        finally:
            await connection.close()


async def test_a_month_waits_for_nobody_and_is_made_the_next_time(world: World) -> None:
    async with world.database.connection() as busy, world.database.connection() as connection:
        transaction = busy.transaction()
        await transaction.start()
        await busy.execute("lock table transfers in access share mode; lock table transfers_default in row share mode")

        assert await store.keep_partitions(connection, MARCH) == 0
        await transaction.rollback()
        assert await store.keep_partitions(connection, MARCH) == 4
