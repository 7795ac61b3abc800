"""The user `demo` has credits, and keeps the key."""

import json
from collections.abc import Callable

import httpx
import pytest

from pixorly_stack.accounts import demo_key
from pixorly_stack.errors import StackError

ADMIN = "Bearer admin"


def answering(answer: Callable[[httpx.Request], httpx.Response]) -> tuple[httpx.MockTransport, list[httpx.Request]]:
    asked: list[httpx.Request] = []

    def remember(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return answer(request)

    return httpx.MockTransport(remember), asked


def as_the_api_does(request: httpx.Request) -> httpx.Response:
    if request.url.path == "/v1/account":
        return httpx.Response(200 if request.headers["Authorization"] == "Bearer px_live_old" else 401)
    return httpx.Response(200, json={"id": "1", "key": "px_live_new"})


async def test_a_key_that_works_is_kept() -> None:
    api, asked = answering(as_the_api_does)

    assert await demo_key("http://api", "admin", "px_live_old", api) == "px_live_old"
    assert [request.url.path for request in asked] == ["/v1/account"]


@pytest.mark.parametrize("known", [None, "px_live_revoked"])
async def test_without_one_the_account_is_made_and_given_credits_and_a_key(known: str | None) -> None:
    api, asked = answering(as_the_api_does)

    assert await demo_key("http://api", "admin", known, api) == "px_live_new"

    calls = [(request.method, request.url.path, json.loads(request.content)) for request in asked if request.content]
    assert [call[:2] for call in calls] == [
        ("PUT", "/admin/v1/users/demo"),
        ("POST", "/admin/v1/users/demo/grants"),
        ("POST", "/admin/v1/users/demo/keys"),
    ]
    assert calls[0][2] == {"plan": "enterprise", "allowance": False}
    assert calls[1][2]["amount_credits"] == 100_000
    assert all(request.headers["Authorization"] == ADMIN for request in asked if request.content)


async def test_the_credits_are_granted_under_the_same_id_each_time() -> None:
    api, asked = answering(as_the_api_does)

    await demo_key("http://api", "admin", None, api)
    await demo_key("http://api", "admin", None, api)

    grants = [json.loads(request.content) for request in asked if request.url.path.endswith("/grants")]
    assert grants[0] == grants[1]


async def test_a_refusal_is_said_with_the_apis_own_words() -> None:
    api, _ = answering(lambda _: httpx.Response(403, json={"code": "forbidden"}))

    with pytest.raises(StackError, match=r"403.*forbidden"):
        await demo_key("http://api", "admin", None, api)
