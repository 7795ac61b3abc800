"""Users of an identity provider, and requests without a valid key, on the api with a real database."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from api_world import ADMIN_KEY, World, open_world

from pixorly_api.auth import Auth, Members
from pixorly_api.errors import Unauthorized
from pixorly_api.oidc import Identity

ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}


class Tokens:
    """An identity provider that gives `a.USER.PLAN` to its users."""

    async def identify(self, token: str) -> Identity:
        _, user_id, plan = token.split(".")
        if user_id == "nobody":
            raise Unauthorized
        return Identity(user_id, plan or None)


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with open_world(database_url) as opened:
        yield opened


def with_members(world: World, failures_per_minute: int = 0) -> Auth:
    oidc: Any = Tokens()
    return Auth(
        world.database,
        world.settings.admin_key,
        members=Members(oidc, world.ledger),
        failures_per_minute=failures_per_minute,
    )


def bearing(token: str) -> str:
    return f"Bearer {token}"


async def test_an_account_is_opened_on_the_first_call_and_left_alone_after(world: World) -> None:
    auth = with_members(world)
    for _ in range(2):
        caller = await auth.caller(bearing("a.ada.pro"), "generate")
        assert (caller.user_id, caller.key_id) == ("ada", None)

    await with_members(world).caller(bearing("a.ada.enterprise"), "read")
    assert world.ledger.calls == ["put {'plan': 'pro'}"]


async def test_a_users_token_opens_no_admin_call_and_keys_go_on_to_work(world: World) -> None:
    world.app.state.parts = world.app.state.parts.__class__(
        **{name: getattr(world.app.state.parts, name) for name in world.app.state.parts.__slots__ if name != "auth"},
        auth=with_members(world),
    )
    theirs = {"Authorization": bearing("a.ada.")}
    assert (await world.http.get("/admin/v1/users/ada/keys", headers=theirs)).status_code == 403
    assert (await world.http.get("/admin/v1/users/demo/keys", headers=ADMIN)).status_code == 200
    assert (await world.http.get("/v1/account", headers=theirs)).status_code == 200
    assert (await world.http.get("/v1/account", headers={"Authorization": bearing("a.nobody.")})).status_code == 401
    assert (await world.call("GET", "/v1/account")).status_code == 200


async def test_too_many_failures_from_one_address_are_told_to_wait_and_valid_keys_never(database_url: str) -> None:
    async with open_world(database_url, failed_auth_per_minute=3) as world:
        wrong = {"Authorization": "Bearer px_live_wrong"}
        answers = [await world.http.get("/v1/account", headers=wrong) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [401, 401, 401, 429, 429]
        assert answers[-1].json()["code"] == "rate_limited"
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
        assert (await world.call("GET", "/v1/account")).status_code == 200
