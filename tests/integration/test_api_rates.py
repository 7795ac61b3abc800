"""How many requests a key may make: one count, over all processes of the api."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
import pytest
from api_world import ADMIN_KEY, World, open_world

from pixorly.db import Database
from pixorly.errors import OutageError
from pixorly_api.rates import Rates


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with open_world(database_url, requests_per_minute=3) as opened:
        yield opened


async def early_in_the_minute(world: World) -> None:
    while (await world.sql("select extract(second from now())::int as second"))["second"] > 40:
        await asyncio.sleep(1)


async def ask(world: World, user_id: str = "demo") -> httpx.Response:
    return await world.call("GET", "/v1/models", user_id=user_id)


async def test_a_key_is_told_what_is_left_and_then_to_wait(world: World) -> None:
    await early_in_the_minute(world)
    answers = [await ask(world) for _ in range(5)]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert [answer.headers["ratelimit"].split(";")[1] for answer in answers] == ["r=2", "r=1", "r=0", "r=0", "r=0"]
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"requests";q=3;w=60'}
    assert answers[-1].json()["code"] == "rate_limited"
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
    assert f"t={answers[-1].headers['retry-after']}" in answers[-1].headers["ratelimit"]


async def test_what_is_refused_does_nothing(world: World) -> None:
    await early_in_the_minute(world)
    made = [await world.create() for _ in range(5)]

    assert [answer.status_code for answer in made] == [202, 202, 202, 429, 429]
    assert len(world.ledger.charges) == 3


async def test_each_key_has_its_own_count_and_the_operator_none(world: World) -> None:
    await early_in_the_minute(world)
    world.ledger.balances["ada"] = 1000
    for _ in range(4):
        await ask(world)

    assert (await ask(world, "ada")).status_code == 200
    assert (await ask(world)).status_code == 429
    operator = await world.http.get("/admin/v1/users/demo", headers={"Authorization": f"Bearer {ADMIN_KEY}"})
    assert operator.status_code == 200
    assert "ratelimit" not in operator.headers


async def test_the_next_window_begins_anew(world: World) -> None:
    for _ in range(4):
        await ask(world)
    await world.sql("update rates set window_at = window_at - interval '1 minute' returning caller")

    assert (await ask(world)).status_code == 200


async def test_requests_at_several_processes_at_once_are_counted_together(database_url: str) -> None:
    async with (
        open_world(database_url, requests_per_minute=10) as one,
        open_world(database_url, requests_per_minute=10) as other,
    ):
        await early_in_the_minute(one)
        headers = await one.headers()
        answers = await asyncio.gather(
            *(world.http.get("/v1/models", headers=headers) for _ in range(20) for world in (one, other))
        )

    assert sorted(answer.status_code for answer in answers) == [200] * 10 + [429] * 30


async def test_without_a_limit_nothing_is_told_and_nothing_counted(database_url: str) -> None:
    async with open_world(database_url) as world:
        assert "ratelimit" not in (await ask(world)).headers
        assert await world.sql("select 1 from rates") is None


async def test_what_can_not_be_counted_is_let_through() -> None:
    async def one(_user_id: str) -> int:
        return 1

    class Away:
        @asynccontextmanager
        async def connection(self) -> AsyncIterator[Any]:
            raise OutageError("postgres")
            yield

    assert await Rates(cast("Database", Away()), one).take("key/1", "demo") is None
