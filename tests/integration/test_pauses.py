"""A model or a provider that is paused, on a real database."""

from collections.abc import AsyncIterator

import httpx
import pytest
from api_world import ADMIN_KEY, World, open_world
from fastapi import FastAPI
from pydantic import SecretStr

from pixorly import catalogue
from pixorly.db import Database, migrate
from pixorly.errors import OutageError
from pixorly.tokens import Tokens
from pixorly_generator.pauses import Pauses
from pixorly_generator.routes import routes

ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
PATH = "/admin/v1/pauses"
BODY = {"model": "sandbox/aurora", "prompt": "a fox", "width": 64, "height": 64}


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with open_world(database_url) as opened:
        yield opened


async def put(world: World, name: str, *, paused: bool = True) -> httpx.Response:
    return await world.http.put(PATH, headers=ADMIN, json={"name": name, "paused": paused, "reason": "too dear"})


@pytest.mark.parametrize("name", ["sandbox/aurora", "sandbox"])
async def test_nothing_new_is_taken_for_what_is_paused_until_it_goes_on(world: World, name: str) -> None:
    told = await put(world, name)
    assert [(row["name"], row["reason"]) for row in told.json()["data"]] == [(name, "too dear")]

    refused = await world.call("POST", "/v1/generations", json=BODY)

    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) > 0
    assert "sandbox/aurora is paused" in refused.json()["detail"]
    assert world.ledger.charges == {}
    assert (await put(world, name, paused=False)).json()["data"] == []
    assert (await world.call("POST", "/v1/generations", json=BODY)).status_code == 202
    assert world.provider_calls.told == [
        ("/internal/pauses", {"name": name, "paused": True}),
        ("/internal/pauses", {"name": name, "paused": False}),
    ]


async def test_a_repeat_of_what_was_taken_before_is_answered_while_its_model_is_paused(world: World) -> None:
    key = {"Idempotency-Key": "once"}
    first = await world.call("POST", "/v1/generations", json=BODY, headers=key)
    await put(world, "sandbox")

    again = await world.call("POST", "/v1/generations", json=BODY, headers=key)

    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])


async def test_what_is_not_there_is_not_paused(world: World) -> None:
    assert (await put(world, "sandbox/nothing")).status_code == 422
    assert world.provider_calls.told == []


async def test_the_generator_makes_no_call_while_its_model_is_paused(database_url: str) -> None:
    await migrate(database_url, "pixorly", "pixorly_generator")
    database, now = Database(database_url), [0.0]
    await database.open()
    pauses, model = Pauses(database, monotonic=lambda: now[0]), catalogue.load().find("sandbox/aurora")
    app = FastAPI()
    app.include_router(routes(database, Tokens(SecretStr("token"))))
    transport, token = httpx.ASGITransport(app), {"Authorization": "Bearer token"}
    async with httpx.AsyncClient(transport=transport, base_url="http://generator", headers=token) as http:
        await pauses.check(model)
        for name, paused in (("sandbox/aurora", True), ("sandbox/aurora", False), ("sandbox", True)):
            assert (await http.put("/internal/pauses", json={"name": name, "paused": paused})).status_code == 200
            now[0] += 3
            if paused:
                with pytest.raises(OutageError, match="is paused"):
                    await pauses.check(model)
            else:
                await pauses.check(model)
    await database.close()
