"""Reading single jobs: together where many ask at once, each for its own, and nobody for anybody else's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import api_world as api
import pytest
from api_world import World, open_world
from prometheus_client import REGISTRY
from typing_extensions import override

from pixorly.db import Connection, Database
from pixorly_api.errors import NotFound
from pixorly_api.live import Watcher
from pixorly_api.records import Records


class CountedDatabase(Database):
    """Counts how often a connection is lent."""

    lent = 0

    @override
    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        self.lent += 1
        async with super().connection() as connection:
            yield connection


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with open_world(database_url) as opened:
        yield opened


@pytest.fixture
async def database(database_url: str, world: World) -> AsyncIterator[CountedDatabase]:
    assert world  # which has made the tables
    database = CountedDatabase(database_url)
    await database.open()
    yield database
    await database.close()


async def test_those_who_ask_at_once_share_a_reading_and_get_each_their_own(
    world: World, database: CountedDatabase
) -> None:
    mine = [await world.created(n) for n in (1, 3, 2)]
    theirs = await world.created(1, user_id="other")
    for job in mine:
        await world.jobs.follow(api.uploaded(job))
    records = Records(database)

    wanted = [("demo", job.job_id) for job in [*mine, mine[0]]] + [("other", theirs.job_id)]
    found = await asyncio.gather(*(records.of(*key) for key in wanted))

    assert [(one.job.user_id, one.job.job_id) for one in found] == wanted
    assert [len(one.job.slots) for one in found] == [1, 3, 2, 1, 1]
    assert [[image.index for image in one.images] for one in found] == [[0], [0], [0], [0], []]
    assert database.lent == 1


async def test_who_asks_for_anothers_job_harms_nobody_who_asks_with_them(
    world: World, database: CountedDatabase
) -> None:
    mine, theirs = await world.created(1), await world.created(1, user_id="other")
    records = Records(database)

    wanted = [("demo", mine.job_id), ("demo", theirs.job_id), ("other", theirs.job_id)]
    found = await asyncio.gather(*(records.of(*key) for key in wanted), return_exceptions=True)

    assert [isinstance(one, NotFound) for one in found] == [False, True, False]


async def test_who_begins_to_watch_while_the_process_stops_is_told_to_look_at_once(database: CountedDatabase) -> None:
    watcher = Watcher(database, hinted=lambda: True)
    watcher.stop()

    with watcher.job(uuid4(), known=True) as watch:
        assert await watch.changed(1, timeout_s=1)

    await watcher.close()


async def test_a_stream_watches_for_as_long_as_it_lasts(world: World) -> None:
    job, watches = await world.created(1), "pixorly_watches"
    stream = asyncio.create_task(world.call("GET", f"/v1/generations/{job.job_id}/events"))
    while not REGISTRY.get_sample_value(watches):
        await asyncio.sleep(0.01)
    await world.jobs.follow(api.uploaded(job))
    assert "event: settled" in (await stream).text
    assert REGISTRY.get_sample_value(watches) == 0

    assert (await world.call("GET", f"/v1/generations/{job.job_id}/events", user_id="other")).status_code == 404
    assert REGISTRY.get_sample_value(watches) == 0
