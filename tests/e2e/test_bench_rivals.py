"""What the bench compares with does the work: credits taken, rows done, objects there, messages safe."""

import asyncio
import importlib.util
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from PIL import Image

from pixorly.blobs import S3Blobs
from pixorly.settings import StorageSettings

BENCH = Path(__file__).parents[2] / "bench"
sys.path.append(str(BENCH))
MISSING = [name for name in ("celery", "dramatiq", "psycopg_pool") if importlib.util.find_spec(name) is None]
JOBS = 6

World = Rival = Bare = System = Any
"""Of the bench, which can be imported where its packages are."""

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    if MISSING:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("`make bench-packages` brings what is compared with")
    with importlib.import_module("world").world() as lent:
        yield lent


@pytest.fixture(params=["celery", "dramatiq"])
async def rival(world: World, request: pytest.FixtureRequest) -> AsyncIterator[Rival]:
    async with importlib.import_module("systems").rival(world, request.param) as system:
        yield system


@pytest.fixture
async def bare(world: World) -> AsyncIterator[Bare]:
    async with importlib.import_module("systems").bare(world) as system:
        yield system


async def rows(world: World, system: System) -> tuple[list[Any], int]:
    """Every order of a system, and the credits that its users have left."""
    connection = await asyncpg.connect(world.database_url(system.databases[0]))
    found = await connection.fetch("select * from orders")
    left = await connection.fetchval("select sum(credits) from accounts")
    await connection.close()
    return found, int(left)


async def assert_stored(world: World, orders: list[Any]) -> None:
    """Each order is done, and its original and its thumbnails can be opened."""
    names = {name.lower().removeprefix("pixorly_"): value for name, value in world.dev["s3"].items()}
    blobs = S3Blobs(StorageSettings.model_validate({**names, "aws_s3_bucket": "shop"}))
    for order in orders:
        assert order["status"] == "done"
        assert order["thumbhash"]
        images = [Image.open(BytesIO(await blobs.get(key))) for key in order["keys"]]
        assert [image.format for image in images] == ["PNG", "WEBP", "WEBP"]
        assert [image.width for image in images] == [1024, 768, 256]


async def test_a_rival_takes_credits_and_stores_every_image(world: World, rival: Rival) -> None:
    before, left_before = await rows(world, rival)

    await rival.saturate(JOBS, 1024)

    orders, left = await rows(world, rival)
    new = [order for order in orders if order["id"] not in {each["id"] for each in before}]
    assert len(new) == JOBS
    assert left_before - left == JOBS
    await assert_stored(world, new)


async def test_a_rival_calls_the_provider_once_for_each_order(world: World, rival: Rival) -> None:
    await world.calls()

    await rival.saturate(JOBS, 64)

    assert len(await world.calls()) == JOBS


async def test_a_rivals_messages_survive_and_are_acknowledged_late(world: World, rival: Rival) -> None:
    async with asyncio.timeout(60), world.management() as http:
        queue: dict[str, Any] = {}
        while not queue.get("consumer_details"):  # RabbitMQ tells of consumers every few seconds
            await asyncio.sleep(0.5)
            queue = (await http.get(f"/api/queues/{rival.vhost}/images")).raise_for_status().json()

    assert queue["durable"]
    assert all(consumer["ack_required"] for consumer in queue["consumer_details"])


async def test_a_rival_refuses_who_has_no_credits(world: World, rival: Rival) -> None:
    async with asyncpg.create_pool(world.database_url(rival.databases[0])) as pool:
        await pool.execute("update accounts set credits = 0 where user_id = 'user-0'")
    connection = await importlib.import_module("http_load").Connection.open(rival.url)
    status, body = await connection.send(rival.request("key-of-user-0", "a fox", 64))
    connection.close()

    assert status == 402
    assert "id" not in json.loads(body)


async def test_the_bare_program_does_the_same_work(world: World, bare: Bare) -> None:
    _, left_before = await rows(world, bare)

    await bare.saturate(JOBS, 1024)

    orders, left = await rows(world, bare)
    assert len(orders) == JOBS
    assert left_before - left == JOBS
    await assert_stored(world, orders)
