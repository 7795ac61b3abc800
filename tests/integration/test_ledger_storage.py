"""The room that images take, on a real PostgreSQL: forward only, and always the sum of the images."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from ledger_world import World, ledger_world

from pixorly.ids import new_id
from pixorly_ledger.credits import StorageQuotaExceeded
from pixorly_ledger.storage import ImageNotFound


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with ledger_world(database_url) as world:
        await world.open("ada", 1000, plan="free")
        yield world


async def test_a_true_up_replaces_the_estimate(world: World) -> None:
    wanted = await world.charge("ada", 1, size_bytes=100)

    assert await world.storage.true_up(wanted.images[0][0], "ada", 70) == "stored"

    assert await world.stored("ada") == (70, 0)


async def test_a_true_up_may_pass_the_quota_and_the_next_job_is_refused(world: World) -> None:
    wanted = await world.charge("ada", 1, size_bytes=100)

    assert await world.storage.true_up(wanted.images[0][0], "ada", 5000) == "stored"

    with pytest.raises(StorageQuotaExceeded):
        await world.charge("ada", 1, size_bytes=1)


async def test_a_true_up_that_comes_again_changes_nothing_and_one_with_other_bytes_counts_those(world: World) -> None:
    wanted = await world.charge("ada", 1, size_bytes=100)
    image_id = wanted.images[0][0]

    await asyncio.gather(*(world.storage.true_up(image_id, "ada", 70) for _ in range(10)))
    assert await world.stored("ada") == (70, 0)

    await world.storage.true_up(image_id, "ada", 60)
    assert await world.stored("ada") == (60, 0)
    assert await world.off() == {}


async def test_a_true_up_after_the_release_is_closed(world: World) -> None:
    wanted = await world.charge("ada", 1, size_bytes=100)
    image_id = wanted.images[0][0]
    await world.storage.release([image_id])

    assert await world.storage.true_up(image_id, "ada", 70) == "closed"

    assert await world.stored("ada") == (0, 0)


async def test_a_true_up_after_the_slot_failed_is_closed(world: World) -> None:
    wanted = await world.charge("ada", 1, size_bytes=100)
    await world.settle(wanted, "deadline_exceeded")

    assert await world.storage.true_up(wanted.images[0][0], "ada", 70) == "closed"


async def test_a_true_up_of_an_image_that_there_is_not_or_is_anothers_is_refused(world: World) -> None:
    wanted = await world.charge("ada", 1)
    await world.open("bob")

    for image_id, user in ((new_id(), "ada"), (wanted.images[0][0], "bob"), (wanted.images[0][0], "nobody")):
        with pytest.raises(ImageNotFound):
            await world.storage.true_up(image_id, user, 70)


async def test_a_release_frees_once_and_leaves_out_what_there_never_was(world: World) -> None:
    wanted = await world.charge("ada", 2, n=2, size_bytes=100)
    first, second = (image_id for image_id, _ in wanted.images)
    await world.storage.true_up(first, "ada", 70)

    for _ in range(2):
        assert await world.storage.release([first, new_id()]) == [first]
    assert await world.stored("ada") == (0, 100)

    assert set(await world.storage.release([first, second])) == {first, second}
    assert await world.stored("ada") == (0, 0)
    assert await world.storage.release([]) == []


async def test_true_ups_and_releases_of_many_users_at_once_add_up(world: World) -> None:
    users = ["ada", "bob", "eve"]
    for user in users[1:]:
        await world.open(user, 1000)
    jobs = [await world.charge(users[i % 3], 2, n=2) for i in range(30)]
    images = [(image_id, job.user_id) for job in jobs for image_id, _ in job.images]

    await asyncio.gather(
        *(world.storage.true_up(image_id, user, 33) for image_id, user in images),
        *(world.storage.release([image_id for image_id, _ in images[i::5]]) for i in range(4)),
    )

    left = sum([(await world.stored(user))[0] for user in users])
    assert left == 33 * 12
    assert await world.off() == {}


async def test_the_schema_itself_refuses_to_go_back(world: World) -> None:
    wanted = await world.charge("ada", 1)
    await world.storage.release([wanted.images[0][0]])

    async with world.database.connection() as connection:
        with pytest.raises(asyncpg.CheckViolationError, match="forward only"):
            await connection.execute("update images set state = 'stored'")


async def test_images_are_listed_by_state_to_compare_with_the_bucket(world: World) -> None:
    wanted = await world.charge("ada", 3, n=3)
    ids = sorted(image_id for image_id, _ in wanted.images)
    for image_id in ids:
        await world.storage.true_up(image_id, "ada", 5)

    page = await world.storage.images("ada", "stored", ids[0], 10)

    assert [row["image_id"] for row in page] == ids[1:]
    assert {row["bytes"] for row in page} == {5}
    assert await world.storage.images("bob", "stored", ids[0], 10) == []
