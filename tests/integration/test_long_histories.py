"""Reads of one user beside a long history of everybody's: PostgreSQL counts the rows that each takes."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import ledger_world
import pytest
from ledger_world import World

from pixorly.db import Connection, Database, migrate
from pixorly.ids import first_id
from pixorly_api import store
from pixorly_api.store import Filters, ImageFilters
from pixorly_ledger import store as ledger_store

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
"""When the first of the jobs was made; one more was every minute."""
JOBS = 4_000
NOW = BEGAN + timedelta(minutes=JOBS)
PAGE = 20
FILL = f"""
    insert into jobs (job_id, user_id, status, model, prompt, params, n, image_ids, calls, credits_per_image, body_hash,
                      created_at, deadline, settled_at, plan, balance_credits)
    select id_floor(at), 'user-' || n % 20, 'completed', 'm', 'p', '{{"width": 1, "height": 1}}', 1,
           array[id_floor(at)], '[]', 1, 'x', at, at, at, 'pro', 1
    from (select n, timestamptz '2026-01-01Z' + n * interval '1 minute' as at
          from generate_series(0, {JOBS - 1}) as n) as made;
    insert into images (image_id, user_id, job_id, index, model, original_key, bytes, width, height, content_type,
                        sha256, thumbhash, created_at)
    select job_id, user_id, job_id, 0, 'm', 'k', 1, 1, 1, 'image/png', 's', 't', created_at from jobs;
"""  # noqa: S608 - a number
"""Twenty users took turns, and each job has an image with the job's id."""


async def rows_read(connection: Connection, read: Awaitable[Any]) -> tuple[Any, int]:
    """Return what this finds, and how many rows of tables were fetched for it, whatever became of them."""
    count = "select sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)) from pg_stat_xact_user_tables"
    async with connection.transaction():
        before = await connection.fetchval(count)
        found = await read
        return found, int(await connection.fetchval(count) - before)


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[Connection]:
    """A connection to a database of the api with many jobs of many users."""
    await migrate(database_url, "pixorly", "pixorly.partitions", "pixorly_api")
    database = Database(database_url)
    await database.open()
    async with database.connection() as connection:
        await connection.execute(FILL)
        await connection.execute("vacuum analyze")
        yield connection
    await database.close()


Read = Callable[[Connection, str], Awaitable[Any]]

PAGES: dict[str, Read] = {
    "jobs": lambda api, user: store.list_records(api, user, Filters(), None, PAGE),
    "older jobs": lambda api, user: store.list_records(api, user, Filters(), first_id(BEGAN + (NOW - BEGAN) / 2), PAGE),
    "completed jobs": lambda api, user: store.list_records(api, user, Filters(status="completed"), None, PAGE),
    "images": lambda api, user: store.list_images(api, user, ImageFilters(), None, PAGE),
    "news": lambda api, user: store.news_of(api, user, first_id(BEGAN), BEGAN, PAGE),
    "erasable images": lambda api, user: store.some_images_of(api, user, PAGE),
    "erasable jobs": lambda api, user: store.some_told_jobs_of(api, user, PAGE),
}


async def test_a_page_is_read_past_nobody_elses_rows(api: Connection) -> None:
    for name, page in PAGES.items():
        assert await rows_read(api, page(api, "newcomer")) == ([], 0), name
        found, rows = await rows_read(api, page(api, "user-7"))
        assert len(found) == PAGE, name
        assert rows <= 2 * PAGE, f"{name}: of each a row, or two where its image is read as well"


async def test_open_jobs_are_found_without_a_look_at_those_that_are_settled(api: Connection) -> None:
    filters = [Filters(status="pending"), Filters(status="processing"), Filters(status="uploading")]
    for each in filters:
        assert await rows_read(api, store.list_records(api, "user-7", each, None, PAGE)) == ([], 0)


async def test_the_images_of_a_job_are_found_by_the_job(api: Connection) -> None:
    job_id = first_id(BEGAN + timedelta(minutes=7))
    (image,), rows = await rows_read(api, store.list_images(api, "user-7", ImageFilters(job_id=job_id), None, PAGE))
    assert (image.job_id, rows) == (job_id, 1)


async def test_what_is_outside_of_a_span_of_time_is_not_read(api: Connection) -> None:
    for after, before in (
        (NOW + timedelta(days=8), None),
        (None, BEGAN - timedelta(days=1)),
        (BEGAN - timedelta(days=9), BEGAN - timedelta(days=8)),
    ):
        jobs = store.list_records(api, "user-7", Filters(created_after=after, created_before=before), None, PAGE)
        assert await rows_read(api, jobs) == ([], 0)
        images = store.list_images(api, "user-7", ImageFilters(created_after=after, created_before=before), None, PAGE)
        assert await rows_read(api, images) == ([], 0)


async def test_a_span_of_time_begins_and_ends_where_it_says(api: Connection) -> None:
    """Each user has a job and an image every twenty minutes, the first at the minute of the user's number."""
    first, last = BEGAN + timedelta(days=1, minutes=7), BEGAN + timedelta(days=1, hours=1, minutes=7)
    expected = [first + timedelta(minutes=minutes) for minutes in (40, 20)]

    jobs = await store.list_records(api, "user-7", Filters(created_after=first, created_before=last), None, PAGE)
    images = await store.list_images(api, "user-7", ImageFilters(created_after=first, created_before=last), None, PAGE)

    assert [record.job.created_at for record in jobs] == expected
    assert [image.created_at for image in images] == expected


LINES = 3200


@pytest.fixture
async def ledger(database_url: str) -> AsyncIterator[World]:
    """A ledger in which one user has a long statement and images, and others have images."""
    async with ledger_world.ledger_world(database_url) as world:
        await world.open("ada", 0)
        async with world.database.connection() as connection:
            await connection.execute(
                f"""insert into transfers (id, user_id, seq, kind, from_account, to_account, amount_credits,
                                           balance_credits, grant_id, created_at)
                    select gen_random_uuid(), 'ada', n, 'grant', 'issued', 'available', 1, n, n::text,
                           timestamptz '2026-01-01Z' + n * interval '1 minute' from generate_series(1, {LINES}) as n;
                    update accounts set transfer_count = {LINES}, balance_credits = {LINES};
                    insert into images (image_id, user_id, job_id, state, bytes)
                    select id_floor(timestamptz '2026-01-01Z' + n * interval '1 minute'), 'user-' || n % 20,
                           gen_random_uuid(), case n % 40 when 7 then 'released' else 'stored' end, 1
                    from generate_series(1, {LINES}) as n"""  # noqa: S608 - numbers
            )
            await connection.execute("vacuum analyze")
        yield world


async def test_a_statement_of_some_hours_is_found_by_halving(ledger: World) -> None:
    since, until = BEGAN + timedelta(minutes=2000), BEGAN + timedelta(minutes=2010)
    lines, more = await ledger.statements.statement("ada", since=since, until=until)
    assert [line["created_at"] for line in lines] == [
        since + timedelta(minutes=minutes) for minutes in range(9, -1, -1)
    ]
    assert more is None
    async with ledger.database.connection() as connection:
        place = ledger_store.last_place_before(connection, "ada", since)
        # Its account, and a line for each halving.
        assert (await rows_read(connection, place))[1] <= 1 + LINES.bit_length()


async def test_the_place_of_a_moment_on_a_statement(ledger: World) -> None:
    places = {
        BEGAN: 0,
        BEGAN + timedelta(minutes=1): 0,
        BEGAN + timedelta(minutes=1, seconds=1): 1,
        BEGAN + timedelta(minutes=777): 776,
        BEGAN + timedelta(minutes=LINES): LINES - 1,
        BEGAN + timedelta(days=99): LINES,
    }
    async with ledger.database.connection() as connection:
        for moment, place in places.items():
            assert await ledger_store.last_place_before(connection, "ada", moment) == place


async def test_a_statement_without_lines_has_no_place_for_a_moment_to_be_after(ledger: World) -> None:
    await ledger.open("bob", 0)
    async with ledger.database.connection() as connection:
        assert await ledger_store.last_place_before(connection, "bob", NOW) == 0
        assert await ledger_store.last_place_before(connection, "nobody", NOW) is None
    assert await ledger.statements.statement("bob", since=BEGAN, until=NOW) == ([], None)


async def test_stored_images_are_listed_past_nobody_elses(ledger: World) -> None:
    async with ledger.database.connection() as connection:
        for user_id, images in (("newcomer", 0), ("user-7", PAGE)):
            listed = ledger_store.list_images(connection, user_id, "stored", UUID(int=0), PAGE)
            found, rows = await rows_read(connection, listed)
            assert len(found) == rows == images

    assert len(await ledger.storage.images("user-7", "released", UUID(int=0), 1000)) == LINES / 40
