"""Images over HTTP: found, made public and taken back, deleted; the uploader is played by the test."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from api_world import World, generated, open_world, some_id, uploaded

from pixorly.events import ImageDeleted, ImageMoved, ImageMoving, ImageUploaded, ImageVacated, JobCreated


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with open_world(database_url) as opened:
        yield opened


async def stored(world: World, n: int = 1, **more: Any) -> JobCreated:
    """Make a job, all of whose images are stored."""
    job = await world.created(n, **more)
    for index in range(n):
        await world.jobs.follow(generated(job, index))
        await world.jobs.follow(uploaded(job, index))
    await world.published()
    return job


async def change(world: World, image_id: UUID, visibility: str) -> list[Any]:
    """Change who may read an image, and return what was published."""
    answer = await world.call("PATCH", f"/v1/images/{image_id}", json={"visibility": visibility})
    assert answer.status_code == 200, answer.text
    assert answer.json()["visibility"] == visibility
    return await world.published()


async def moved(world: World, event: ImageMoving) -> list[Any]:
    """Say that a move is made, and return what was published."""
    await world.app.state.parts.images.follow_move(
        ImageMoved.of(event.job_id, event.user_id, image_id=event.image_id, move=event.move)
    )
    return await world.published()


async def url(world: World, image_id: UUID) -> str:
    shown = (await world.call("GET", f"/v1/images/{image_id}")).json()
    return str(shown["url"]).removeprefix("https://cdn.test/")


async def test_an_image_is_private_unless_it_is_asked_to_be_public(world: World) -> None:
    job = await world.created()
    assert job.visibility == "private"
    assert (await world.get(job.job_id))["visibility"] == "private"
    public = await world.created(visibility="public")
    assert public.visibility == "public"
    assert (await world.create(visibility="friends")).status_code == 422


async def test_a_public_image_is_moved_there_and_back_under_new_names(world: World) -> None:
    job = await stored(world)
    image_id = job.image_ids[0]
    prefix = f"users/demo/{job.job_id}/0-{image_id}"

    (there,) = await change(world, image_id, "public")
    assert isinstance(there, ImageMoving)
    assert await change(world, image_id, "public") == []
    assert await url(world, image_id) == f"{prefix}.png"
    (left,) = await moved(world, there)
    assert isinstance(left, ImageVacated)
    assert set(left.keys) == {f"{prefix}.png", f"{prefix}_256.webp"}
    assert await url(world, image_id) == f"public/{prefix}-1.png"

    (back,) = await change(world, image_id, "private")
    (left,) = await moved(world, back)
    assert set(left.keys) == {f"public/{prefix}-1.png", f"public/{prefix}-1_256.webp"}
    assert await url(world, image_id) == f"{prefix}-2.png"
    assert await moved(world, back) == []
    (again,) = await moved(world, there)
    assert set(again.keys) == set(there.target.all()), "a copy that an old event made must go"


async def test_who_takes_a_change_back_before_the_move_leaves_the_image_where_it_is(world: World) -> None:
    job = await stored(world)
    image_id = job.image_ids[0]
    (there,) = await change(world, image_id, "public")

    (left,) = await change(world, image_id, "private")

    assert set(left.keys) == set(there.target.all())
    assert (await moved(world, there))[0].keys == left.keys
    shown = (await world.call("GET", f"/v1/images/{image_id}")).json()
    assert (shown["visibility"], shown["moving"]) == ("private", False)
    (next_time,) = await change(world, image_id, "public")
    assert next_time.move == 2


async def test_changes_at_once_end_in_one_move(world: World) -> None:
    job = await stored(world)
    image_id = job.image_ids[0]

    answers = await asyncio.gather(
        *(world.call("PATCH", f"/v1/images/{image_id}", json={"visibility": "public"}) for _ in range(8))
    )

    assert {answer.status_code for answer in answers} == {200}
    assert [type(event) for event in await world.published()] == [ImageMoving]


async def test_a_move_of_an_image_that_was_deleted_meanwhile_ends_in_its_deletion(world: World) -> None:
    job = await stored(world)
    image_id = job.image_ids[0]
    (there,) = await change(world, image_id, "public")
    await world.call("DELETE", f"/v1/images/{image_id}")
    await world.published()

    for _ in range(2):
        (event,) = await moved(world, there)
        assert isinstance(event, ImageDeleted)
        assert set(event.keys) == set(there.target.all())


async def test_an_upload_that_comes_again_after_a_move_is_cleared_up(world: World) -> None:
    job = await stored(world)
    image_id = job.image_ids[0]
    (there,) = await change(world, image_id, "public")
    await world.jobs.follow(uploaded(job))
    assert await world.published() == [], "it lies there still"
    await moved(world, there)

    again = uploaded(job)
    assert isinstance(again, ImageUploaded)
    await world.jobs.follow(again)

    (left,) = await world.published()
    assert isinstance(left, ImageVacated)
    assert set(left.keys) == set(again.keys.all())
    assert await url(world, image_id) == there.target.original


async def test_what_gets_lost_of_a_move_is_said_again(database_url: str) -> None:
    async with open_world(database_url, nudge_after_s=0.01, delete_again_after_s=0.01) as world:
        job = await stored(world)
        image_id = job.image_ids[0]
        (there,) = await change(world, image_id, "public")
        await asyncio.sleep(0.05)
        assert await world.sweeper.move_again() == 1
        (again,) = await world.published()
        assert again.model_copy(update={"occurred_at": there.occurred_at}) == there

        (left,) = await moved(world, there)
        await asyncio.sleep(0.05)
        assert await world.sweeper.move_again() == 1
        assert [event.keys for event in await world.published()] == [left.keys]
        await asyncio.sleep(0.05)
        assert await world.sweeper.move_again() == 0


async def test_nobody_changes_anothers_image_or_one_that_is_gone(world: World) -> None:
    job = await stored(world)
    path, body = f"/v1/images/{job.image_ids[0]}", {"visibility": "public"}
    assert (await world.call("PATCH", path, user_id="stranger", json=body)).status_code == 404
    assert (await world.call("PATCH", f"/v1/images/{some_id()}", json=body)).status_code == 404
    await world.call("DELETE", path)
    assert (await world.call("PATCH", path, json=body)).status_code == 404
    assert (await world.call("PATCH", path, json={"visibility": "friends"})).status_code == 422


async def test_images_can_be_found_by_job_model_date_and_visibility(world: World) -> None:
    first, second = await stored(world, 2), await stored(world, 1, model="sandbox/mosaic")
    await change(world, first.image_ids[0], "public")

    async def found(**query: Any) -> list[str]:
        return [image["id"] for image in (await world.call("GET", "/v1/images", params=query)).json()["data"]]

    assert await found(generation_id=str(first.job_id)) == [str(first.image_ids[1]), str(first.image_ids[0])]
    assert await found(model="sandbox/mosaic") == [str(second.image_ids[0])]
    assert await found(visibility="public") == [str(first.image_ids[0])]
    assert len(await found(created_after="2020-01-01T00:00:00Z")) == 3
    assert await found(created_before="2020-01-01T00:00:00Z") == []
    assert await found(created_after="2100-01-01T00:00:00Z") == []


async def test_many_images_are_deleted_at_once_and_a_repeat_answers_the_same(world: World) -> None:
    job, kept, foreign = await stored(world, 3), await stored(world), await stored(world, user_id="stranger")
    unknown = some_id()
    body = {"ids": [str(each) for each in (*job.image_ids, job.image_ids[0], unknown, foreign.image_ids[0])]}

    for published in (3, 0):
        answer = await world.call("POST", "/v1/images/delete", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json() == {
            "deleted": [str(each) for each in job.image_ids],
            "not_found": [str(unknown), str(foreign.image_ids[0])],
        }
        assert [type(event) for event in await world.published()] == [ImageDeleted] * published

    assert [image["id"] for image in (await world.call("GET", "/v1/images")).json()["data"]] == [str(kept.image_ids[0])]


@pytest.mark.parametrize("ids", [[], [str(UUID(int=number)) for number in range(101)], ["no id"], "all"])
async def test_none_and_more_than_a_hundred_are_refused(world: World, ids: Any) -> None:
    assert (await world.call("POST", "/v1/images/delete", json={"ids": ids})).status_code == 422


async def test_deletions_and_changes_of_the_same_images_at_once_do_not_block_each_other(world: World) -> None:
    job = await stored(world, 4)
    ids = [str(each) for each in job.image_ids]
    calls = [world.call("POST", "/v1/images/delete", json={"ids": order}) for order in (ids, ids[::-1])]
    calls += [world.call("PATCH", f"/v1/images/{each}", json={"visibility": "public"}) for each in ids]

    answers = await asyncio.gather(*calls, *(world.jobs.follow(uploaded(job, index)) for index in range(4)))

    assert {answer.status_code for answer in answers[:2]} == {200}
    assert {answer.status_code for answer in answers[2:6]} <= {200, 404}


@pytest.mark.parametrize("query", [{"expires_in": 59}, {"expires_in": 604_801}, {"ip": "nowhere"}, {"ip": "::1"}])
async def test_terms_of_a_link_that_can_not_be_are_refused(world: World, query: dict[str, Any]) -> None:
    job = await stored(world)
    for path in ("/v1/images", f"/v1/images/{job.image_ids[0]}"):
        assert (await world.call("GET", path, params=query)).status_code == 422
