"""A request that arrives after its own repeat, told from a second wish by who still waits for an answer."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
from api_world import World, open_world
from starlette.types import Message, Scope

ROUTES: Final = ("/v1/generations", "/openai/v1/images/generations")
BODY: Final = {"model": "sandbox/aurora", "prompt": "a lake"}


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with open_world(database_url) as opened:
        yield opened


async def send(world: World, path: str, count: str | None, hangs_up_after_s: float = 3600, **more: str) -> int:
    """Send a request as a server hands it on; return its status. What it asks for is answered at once."""
    headers = {**await world.headers(), "Content-Type": "application/json", "Prefer": "respond-async", **more}
    if count is not None:
        headers["x-stainless-retry-count"] = count
    scope: Scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("api.test", 80),
    }
    statuses: list[int] = []
    given = False

    async def receive() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": json.dumps(BODY).encode(), "more_body": False}
        await asyncio.sleep(hangs_up_after_s)
        return {"type": "http.disconnect"}

    async def answered(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await world.app(scope, receive, answered)
    return statuses[0]


def jobs(world: World) -> int:
    return len(world.ledger.charges)


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("hangs_up_after_s", [0, 0.01])
async def test_an_original_that_arrives_after_its_repeat_is_the_same_job(
    world: World, path: str, hangs_up_after_s: float
) -> None:
    assert await send(world, path, "1") == 202

    assert await send(world, path, "0", hangs_up_after_s) == 202

    assert jobs(world) == 1


@pytest.mark.parametrize("path", ROUTES)
async def test_a_second_wish_is_a_second_job(world: World, path: str) -> None:
    await send(world, path, "1")

    assert await send(world, path, "0") == 202

    assert jobs(world) == 2


async def test_an_original_whose_client_has_gone_makes_the_job_that_its_repeat_finds(world: World) -> None:
    await send(world, ROUTES[1], "0", 0)
    assert jobs(world) == 1

    await send(world, ROUTES[1], "1")

    assert jobs(world) == 1


@pytest.mark.parametrize("told", [{"count": None}, {"count": "0", "Idempotency-Key": "k"}])
async def test_who_says_nothing_of_repeats_or_sends_a_key_is_taken_at_their_word(
    world: World, told: dict[str, Any]
) -> None:
    await send(world, ROUTES[0], "1")

    await send(world, ROUTES[0], hangs_up_after_s=0, **told)

    assert jobs(world) == 2


async def test_an_original_and_its_repeats_that_arrive_together_are_one_job(world: World) -> None:
    await asyncio.gather(*(send(world, ROUTES[1], str(count), 3600 if count == 2 else 0) for count in (2, 1, 0)))

    assert jobs(world) == 1
