"""Accounts, grants, allowances and expiry on a real PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from ledger_world import PLANS, World, ledger_world

from pixorly.errors import InsufficientCredits, InvalidRequest
from pixorly_ledger.accounts import Accounts, Terms
from pixorly_ledger.credits import AccountNotFound, StorageQuotaExceeded
from pixorly_ledger.rows import GrantRequest


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with ledger_world(database_url) as world:
        yield world


async def test_a_new_account_gets_the_allowance_of_its_plan_for_the_month(world: World) -> None:
    account = await world.accounts.put("ada", Terms(plan="free"))

    assert account["credits_remaining"] == 50
    assert account["expiring"] == [
        {"grant_id": "allowance/2026-05/50", "credits": 50, "expires_at": datetime(2026, 6, 1, tzinfo=UTC)}
    ]


async def test_an_account_is_opened_once_and_keeps_what_a_change_does_not_name(world: World) -> None:
    await asyncio.gather(*(world.accounts.put("ada", Terms(plan="free")) for _ in range(10)))
    await world.accounts.put("ada", Terms(status="suspended"))

    account = await world.accounts.get("ada")
    assert (account["plan"], account["status"], account["credits_remaining"]) == ("free", "suspended", 50)


async def test_an_account_without_allowance_has_exactly_what_it_is_granted(world: World) -> None:
    await world.accounts.put("demo", Terms(plan="pro", allowance=False))
    await world.grant("demo", 100_000)

    await world.accounts.give_allowances()

    assert await world.balance("demo") == 100_000


async def test_a_plan_that_there_is_not_is_refused(world: World) -> None:
    with pytest.raises(InvalidRequest):
        await world.accounts.put("ada", Terms(plan="gold"))
    with pytest.raises(AccountNotFound):
        await world.accounts.get("ada")


async def test_a_grant_that_comes_again_gives_once_and_answers_as_the_first_did(world: World) -> None:
    await world.open("ada")

    balances = await asyncio.gather(*(world.grant("ada", 10, grant_id="welcome") for _ in range(20)))
    await world.grant("ada", 5)

    assert set(balances) == {10}
    assert await world.grant("ada", 99, grant_id="welcome") == 10
    assert await world.balance("ada") == 15
    assert await world.off() == {}


async def test_a_grant_to_nobody_or_from_the_past_is_refused(world: World) -> None:
    await world.open("ada")
    with pytest.raises(AccountNotFound):
        await world.grant("nobody", 1)
    with pytest.raises(InvalidRequest):
        await world.accounts.grant("ada", GrantRequest("late", 1, None, world.clock.now))


async def test_an_allowance_comes_once_a_month_and_ends_with_it(world: World) -> None:
    await world.accounts.put("ada", Terms(plan="free"))
    await world.charge("ada", 20)
    for _ in range(3):
        await world.accounts.give_allowances()

    world.clock.now = datetime(2026, 6, 1, 0, 0, 1, tzinfo=UTC)
    await asyncio.gather(*(Accounts(world.database, PLANS, clock=world.clock).give_allowances() for _ in range(4)))
    await world.accounts.expire_lots()

    assert await world.moves("ada") == [("allowance", 50), ("charge", -20), ("allowance", 50), ("expiry", -30)]
    assert await world.off() == {}


async def test_after_a_downtime_of_months_only_the_current_month_is_given(world: World) -> None:
    await world.accounts.put("ada", Terms(plan="free"))

    world.clock.now = datetime(2026, 9, 17, tzinfo=UTC)
    assert await world.accounts.expire_lots() == 1
    assert await world.accounts.give_allowances() == 1

    assert await world.moves("ada") == [("allowance", 50), ("expiry", -50), ("allowance", 50)]


async def test_an_upgrade_gives_the_difference_at_once_and_a_downgrade_counts_from_the_next_month(world: World) -> None:
    await world.accounts.put("ada", Terms(plan="free"))

    for plan in ("pro", "free", "pro"):
        await world.accounts.put("ada", Terms(plan=plan))
    assert await world.moves("ada") == [("allowance", 50), ("allowance", 150)]

    await world.accounts.put("ada", Terms(plan="free"))
    world.clock.now = datetime(2026, 6, 2, tzinfo=UTC)
    await world.accounts.expire_lots()
    await world.accounts.give_allowances()
    assert await world.balance("ada") == 50
    assert await world.off() == {}


async def test_a_suspended_account_gets_its_allowance_when_it_is_active_again(world: World) -> None:
    await world.accounts.put("ada", Terms(plan="free", status="suspended"))
    assert await world.accounts.give_allowances() == 0
    assert await world.balance("ada") == 0

    await world.accounts.put("ada", Terms(status="active"))
    assert await world.balance("ada") == 50


async def test_what_expired_can_not_be_spent_even_before_the_upkeep_takes_it(world: World) -> None:
    await world.open("ada", 5)
    await world.grant("ada", 10, days=1)
    world.clock.advance(days=1)

    with pytest.raises(InsufficientCredits) as refusal:
        await world.charge("ada", 6)

    assert refusal.value.facts["available_credits"] == 5
    assert await world.moves("ada") == [("grant", 5), ("grant", 10), ("expiry", -10)]


async def test_expiry_takes_back_what_is_left_once(world: World) -> None:
    await world.open("ada", 5)
    await world.grant("ada", 10, days=1)
    await world.grant("ada", 20, days=3)
    await world.charge("ada", 4)
    world.clock.advance(days=2)

    await asyncio.gather(*(Accounts(world.database, PLANS, clock=world.clock).expire_lots() for _ in range(4)))

    assert await world.balance("ada") == 25
    assert await world.off() == {}


async def test_many_accounts_are_kept_up_in_batches(world: World) -> None:
    async with world.database.connection() as connection:
        await connection.execute(
            "insert into accounts (user_id, plan) select 'user-' || i, 'free' from generate_series(1, 450) i"
        )

    assert await world.accounts.give_allowances() == 450
    world.clock.advance(days=30)
    assert await world.accounts.expire_lots() == 450
    assert await world.off() == {}


async def test_a_plan_that_is_not_offered_any_more_gives_nothing_and_harms_nobody_else(world: World) -> None:
    await world.accounts.put("ada", Terms(plan="free"))
    async with world.database.connection() as connection:
        await connection.execute("update accounts set plan = 'vintage', allowance_month = '2026-04-01'")
    await world.accounts.put("bob", Terms(plan="free"))
    world.clock.advance(days=30)

    assert await world.accounts.give_allowances() == 2

    assert (await world.accounts.get("ada"))["storage"]["quota_bytes"] == 0
    with pytest.raises(StorageQuotaExceeded):
        await world.charge("ada", 1)
    assert await world.balance("bob") == 100


async def test_the_upkeep_goes_on_by_itself(world: World) -> None:
    await world.open("ada", 5)
    await world.grant("ada", 10, days=1)
    world.clock.advance(days=2)

    keeping = asyncio.create_task(world.accounts.keep_up(0.01))
    async with asyncio.timeout(10):
        while await world.balance("ada") != 5:
            await asyncio.sleep(0.01)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_accounts_are_listed_by_user(world: World) -> None:
    for user in ("eve", "ada", "bob"):
        await world.open(user)

    assert [account["user_id"] for account in await world.accounts.list("ada", 10)] == ["bob", "eve"]


async def test_a_statement_is_read_page_by_page_and_adds_up_to_the_balance(world: World) -> None:
    await world.open("ada", 100)
    for _ in range(7):
        await world.charge("ada", 3)
        world.clock.advance(hours=1)

    lines: list[dict[str, Any]] = []
    place: int | None = 2**62
    while place:
        page, place = await world.statements.statement("ada", before=place, limit=3)
        lines += page

    assert [line["balance_credits"] for line in lines] == [79, 82, 85, 88, 91, 94, 97, 100]
    assert sum(line["amount_credits"] for line in lines) == await world.balance("ada")
    since = world.clock.now - timedelta(hours=2)
    assert len((await world.statements.statement("ada", since=since))[0]) == 2
    assert len((await world.statements.statement("ada", until=since))[0]) == 6
