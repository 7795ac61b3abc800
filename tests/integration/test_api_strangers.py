"""Another user's ids are as unknown as ids of nothing, on every route that takes one and in every other place."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import UUID, uuid4

import api_world as api
import httpx
import pytest
from api_world import World, make_settings, open_world

from pixorly.events import JobCreated
from pixorly_api.app import make_app
from pixorly_api.parts import write_cursor

BODIES: Final[dict[tuple[str, str], Any]] = {("PATCH", "/v1/images/{image_id}"): {"visibility": "public"}}
STRANGER: Final = "eve"


def operations() -> list[tuple[str, str]]:
    """Return every call of users that has an id in its address."""
    paths = make_app(make_settings()).openapi()["paths"]
    return [
        (method.upper(), path)
        for path, calls in paths.items()
        if not path.startswith("/admin/") and ("{generation_id}" in path or "{image_id}" in path)
        for method in calls
    ]


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with open_world(database_url) as opened:
        await opened.headers("demo")
        await opened.headers(STRANGER)
        yield opened


@pytest.fixture
async def job(world: World) -> JobCreated:
    """A job of the user demo whose image is there."""
    made = await world.created()
    await world.jobs.follow(api.uploaded(made))
    return made


async def ask(world: World, method: str, path: str, job_id: UUID, image_id: UUID) -> httpx.Response:
    """Call as the stranger, with these ids in the address."""
    address = path.format(generation_id=job_id, image_id=image_id)
    return await world.call(method, address, user_id=STRANGER, json=BODIES.get((method, path)))


async def state(world: World, job: JobCreated) -> list[Any]:
    """Return all that a stranger could change of a job."""
    read = await world.get(job.job_id)
    image = await world.call("GET", f"/v1/images/{job.image_ids[0]}")
    return [read, image.json(), dict(world.ledger.balances), len(world.ledger.charges)]


async def test_on_every_route_they_answer_as_ids_of_nothing_do_and_change_nothing(
    world: World, job: JobCreated
) -> None:
    before = await state(world, job)
    for method, path in operations():
        theirs = await ask(world, method, path, job.job_id, job.image_ids[0])
        nobodys = await ask(world, method, path, uuid4(), uuid4())

        assert theirs.status_code == nobodys.status_code == 404, (method, path)
        assert theirs.json() | {"request_id": ""} == nobodys.json() | {"request_id": ""}

    assert await state(world, job) == before


async def test_in_lists_bodies_cursors_and_keys_they_tell_and_open_nothing(world: World, job: JobCreated) -> None:
    before = await state(world, job)
    cursor = write_cursor(UUID(int=job.job_id.int + 1))
    lists = (
        f"/v1/generations?cursor={cursor}",
        f"/v1/images?generation_id={job.job_id}",
        f"/v1/images?cursor={write_cursor(UUID(int=job.image_ids[0].int + 1))}",
    )
    for path in lists:
        answer = await world.call("GET", path, user_id=STRANGER)
        assert answer.json() == {"data": [], "next_cursor": None}, path

    deleted = await world.call("POST", "/v1/images/delete", user_id=STRANGER, json={"ids": [str(job.image_ids[0])]})
    assert str(job.image_ids[0]) not in str(deleted.json().get("deleted", []))

    order = {"model": "sandbox/aurora", "prompt": "a lake"}
    quote = (await world.call("POST", "/v1/quotes", json=order)).json()["quote_id"]
    at_their_price = await world.call("POST", "/v1/generations", user_id=STRANGER, json={**order, "quote_id": quote})
    assert at_their_price.json()["code"] == "quote_expired"

    assert await state(world, job) == before


async def test_a_key_or_a_repeat_of_one_user_is_none_of_anothers(world: World) -> None:
    told = ({"Idempotency-Key": "k"}, {"x-stainless-retry-count": "1"})
    for headers in told:
        prompt = str(headers)
        mine = await world.create(headers=headers, prompt=prompt)
        theirs = await world.create(headers=headers, prompt=prompt, user_id=STRANGER)

        assert (mine.status_code, theirs.status_code) == (202, 202)
        assert mine.json()["id"] != theirs.json()["id"]
        assert "idempotent-replayed" not in theirs.headers


async def test_a_stream_of_the_stranger_tells_nothing_of_it(world: World, job: JobCreated) -> None:
    token = (await world.call("POST", "/v1/stream-tokens", user_id=STRANGER)).json()["token"]
    async with asyncio.timeout(20):
        by_token = await world.http.get(f"/v1/generations/{job.job_id}/events", params={"token": token})
    assert by_token.status_code == 404
