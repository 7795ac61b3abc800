"""How many jobs a user may have under way at once: by plan, over all processes of the api."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any
from uuid import uuid4

import api_world as api
import pytest
from api_world import World, open_world

from pixorly_api.ledger import Params
from pixorly_api.limits import Limits

THREE: Mapping[str, int] = {"pro": 3}


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with open_world(database_url, jobs_at_once=THREE) as opened:
        yield opened


async def test_one_job_too_many_is_refused_stored_nowhere_and_not_charged(world: World) -> None:
    made = [await world.create() for _ in range(4)]

    assert [answer.status_code for answer in made] == [202, 202, 202, 429]
    problem = made[-1].json()
    assert (problem["code"], problem["limit"]) == ("too_many_jobs", 3)
    assert made[-1].headers["retry-after"] == "2"
    assert len(world.ledger.charges) == 3
    assert (await world.sql("select count(*) as jobs from jobs"))["jobs"] == 3


async def test_a_job_that_ends_makes_room(world: World) -> None:
    jobs = [await world.created() for _ in range(3)]
    assert (await world.create()).status_code == 429

    await world.jobs.follow(api.failed(jobs[0]))

    assert (await world.create()).status_code == 202


async def test_a_repeat_gets_its_job_though_there_is_no_room_and_a_refused_key_can_be_used_again(world: World) -> None:
    keys = [{"Idempotency-Key": str(uuid4())} for _ in range(4)]
    made = [await world.create(headers=key) for key in keys]
    again = await world.create(headers=keys[0])
    assert (again.status_code, again.json()["id"]) == (202, made[0].json()["id"])
    assert made[3].status_code == 429

    assert (await world.call("POST", f"/v1/generations/{made[0].json()['id']}/cancel")).status_code == 200

    assert (await world.create(headers=keys[3])).status_code == 202


async def test_others_have_their_own_room(world: World) -> None:
    world.ledger.balances["ada"] = 1000
    for _ in range(4):
        await world.create()

    assert (await world.create(user_id="ada")).status_code == 202


async def test_requests_at_several_processes_at_once_are_counted_together(database_url: str) -> None:
    async with (
        open_world(database_url, jobs_at_once=THREE) as one,
        open_world(database_url, jobs_at_once=THREE) as other,
    ):
        other.ledger.balances |= {"demo": 1000}
        headers, body = await one.headers(), {"model": "sandbox/aurora", "prompt": "a lake"}
        made = await asyncio.gather(
            *(
                world.http.post("/v1/generations", headers=headers, json=body)
                for _ in range(8)
                for world in (one, other)
            )
        )

    assert sorted(answer.status_code for answer in made) == [202] * 3 + [429] * 13


async def test_a_plan_that_is_not_named_is_not_limited(database_url: str) -> None:
    async with open_world(database_url, jobs_at_once={"free": 1, "pro": 0}) as world:
        assert [(await world.create()).status_code for _ in range(4)] == [202] * 4


async def test_a_plan_is_asked_for_once_in_half_a_minute(world: World) -> None:
    class Asked:
        paths: list[str] = []  # noqa: RUF012 - this class is made for one test

        async def get(self, path: str, params: Params | None = None) -> dict[str, Any]:
            self.paths.append(path)
            return {"plan": "pro"}

    ledger, now = Asked(), [0.0]
    limits = Limits(
        world.database,
        ledger,  # type: ignore[arg-type]  # it asks for accounts only
        jobs_at_once=THREE,
        requests_per_minute=0,
        monotonic=lambda: now[0],
    )
    assert [await limits.jobs_at_once("a/b") for _ in range(3)] == [3] * 3
    assert ledger.paths == ["/internal/accounts/a%2Fb"]

    now[0] = 31
    await limits.jobs_at_once("a/b")
    assert len(ledger.paths) == 2
