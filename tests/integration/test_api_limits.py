"""What the operator lets single users do, other than their plan and the settings say."""

from collections.abc import AsyncIterator
from typing import Any, Final

import httpx
import pytest
from api_world import ADMIN_KEY, World, open_world

from pixorly_api.limits import Limits
from pixorly_api.settings import ApiSettings

PLANS: Final = {"free": 2, "pro": 3}
OPERATOR: Final = {"Authorization": f"Bearer {ADMIN_KEY}"}


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with open_world(database_url, jobs_at_once=PLANS) as opened:
        await opened.headers()
        yield opened


async def put(world: World, body: Any, user_id: str = "demo") -> httpx.Response:
    return await world.http.put(f"/admin/v1/users/{user_id}/limits", headers=OPERATOR, json=body)


async def ask(world: World) -> httpx.Response:
    return await world.call("GET", "/v1/models")


def test_jobs_at_once_are_limited_as_shipped_and_requests_are_not() -> None:
    shipped = ApiSettings(api_database_url="postgresql://nowhere", _env_file=None)  # type: ignore[call-arg]

    assert shipped.jobs_at_once == {"free": 2, "pro": 20, "enterprise": 200}
    assert shipped.requests_per_minute == 0


async def test_limits_are_read_changed_one_by_one_and_taken_back(world: World) -> None:
    await world.create()
    path = "/admin/v1/users/demo/limits"
    as_planned = {
        "user_id": "demo",
        "plan": "pro",
        "jobs_at_once": 3,
        "jobs_under_way": 1,
        "requests_per_minute": 0,
        "overrides": {"jobs_at_once": None, "requests_per_minute": None},
    }
    assert (await world.http.get(path, headers=OPERATOR)).json() == as_planned

    both = {"jobs_at_once": 5, "requests_per_minute": 9}
    assert (await put(world, both)).json() == {**as_planned, **both, "overrides": both}
    one = await put(world, {"jobs_at_once": None})
    assert one.json() == {
        **as_planned,
        "requests_per_minute": 9,
        "overrides": {"jobs_at_once": None, "requests_per_minute": 9},
    }
    for _ in range(2):
        assert (await world.http.delete(path, headers=OPERATOR)).status_code == 204
    assert (await world.http.get(path, headers=OPERATOR)).json() == as_planned


@pytest.mark.parametrize(
    "body",
    [
        {"jobs_at_once": -1},
        {"jobs_at_once": 1.5},
        {"jobs_at_once": "3"},
        {"requests_per_minute": True},
        {"requests_per_minute": 10**12},
        {"jobs": 3},
        [],
    ],
)
async def test_what_is_no_limit_is_refused_and_named(world: World, body: Any) -> None:
    refused = await put(world, body)

    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    assert refused.json()["errors"][0]["field"] in {"jobs_at_once", "requests_per_minute", "jobs", "body"}


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_only_the_operator_limits_and_only_users_that_there_are(world: World, method: str) -> None:
    more: dict[str, Any] = {"json": {"jobs_at_once": 1}} if method == "PUT" else {}
    unknown = await world.http.request(method, "/admin/v1/users/nobody/limits", headers=OPERATOR, **more)
    by_a_user = await world.call(method, "/admin/v1/users/demo/limits", **more)

    assert (unknown.status_code, unknown.json()["code"]) == (404, "account_not_found")
    assert by_a_user.status_code == 403
    assert await world.sql("select 1 from limits") is None


@pytest.mark.parametrize(("said", "made"), [(1, 1), (4, 4), (0, 5)])
async def test_one_user_may_have_less_or_more_jobs_under_way_or_any_number(world: World, said: int, made: int) -> None:
    await put(world, {"jobs_at_once": said})

    answers = [(await world.create()).status_code for _ in range(5)]

    assert answers == [202] * made + [429] * (5 - made)


async def test_a_request_limit_for_one_user_is_told_and_kept(world: World) -> None:
    assert "ratelimit" not in (await ask(world)).headers
    await put(world, {"requests_per_minute": 2})

    # A new minute may begin among them, once.
    answers = [await ask(world) for _ in range(5)]

    refused = next(answer for answer in answers if answer.status_code == 429)
    assert answers[0].status_code == 200
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"requests";q=2;w=60'}
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    await put(world, {"requests_per_minute": 0})
    assert "ratelimit" not in (await ask(world)).headers


async def test_another_process_obeys_after_five_seconds(world: World) -> None:
    now = [0.0]
    elsewhere = Limits(
        world.database, world.ledger, jobs_at_once=PLANS, requests_per_minute=0, monotonic=lambda: now[0]
    )
    await elsewhere.requests_per_minute("demo")
    await put(world, {"requests_per_minute": 1})
    assert await elsewhere.requests_per_minute("demo") == 0

    now[0] = 5.1

    assert await elsewhere.requests_per_minute("demo") == 1
