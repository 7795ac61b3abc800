"""Settlements on a real PostgreSQL: image by image, once, and back to where the credits came from."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from ledger_world import World, ledger_world, request, settlement

from pixorly.outcomes import OUTCOMES
from pixorly_ledger.credits import SETTLEMENTS


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with ledger_world(database_url) as world:
        yield world


async def test_delivered_images_are_paid_and_failed_ones_come_back(world: World) -> None:
    await world.open("ada", 100)
    wanted = await world.charge("ada", 40, n=4)

    assert await world.settle(wanted, None, "provider_timeout", "content_rejected", None) == "settled"

    assert await world.moves("ada") == [("grant", 100), ("charge", -40), ("refund", 10)]
    receipt = await world.statements.receipt(wanted.job_id)
    assert (receipt["captured_credits"], receipt["refunded_credits"], receipt["outcome"]) == (30, 10, "completed")
    assert [(image["code"], image["paid_by"]) for image in receipt["images"]] == [
        (None, "user"),
        ("provider_timeout", "pixorly"),
        ("content_rejected", "user"),
        (None, "user"),
    ]
    assert [(move["kind"], move["amount_credits"]) for move in receipt["transfers"]] == [
        ("charge", 40),
        ("refund", 10),
        ("capture", 30),
    ]
    assert await world.off(quiet=True) == {}


@pytest.mark.parametrize("outcome", [outcome for outcome in OUTCOMES.values() if outcome.fault], ids=lambda o: o.code)
async def test_the_table_of_outcomes_says_who_pays(world: World, outcome: object) -> None:
    await world.open("ada", 100)
    wanted = await world.charge("ada", 10)

    await world.settle(wanted, outcome.code)  # type: ignore[attr-defined]

    assert await world.balance("ada") == (100 if outcome.refunded else 90)  # type: ignore[attr-defined]


async def test_a_code_that_nobody_knows_and_a_slot_that_is_left_out_are_refunded(world: World) -> None:
    await world.open("ada", 100)
    wanted = await world.charge("ada", 30, n=3)

    await world.credits.settle(settlement(wanted, ["gremlins"], world.clock.now))

    assert await world.balance("ada") == 100
    refund = (await world.statements.statement("ada"))[0][0]
    assert (refund["job_id"], refund["reason"]) == (wanted.job_id, "gremlins, internal_error")


async def test_a_settlement_that_comes_20_times_moves_once(world: World) -> None:
    await world.open("ada", 100)
    wanted = await world.charge("ada", 10, n=2)
    await world.storage.true_up(wanted.images[0][0], "ada", 10)
    ended = settlement(wanted, [None, "no_image"], world.clock.now)

    results = await asyncio.gather(*(world.credits.settle(ended) for _ in range(20)))

    assert sorted(results) == ["repeated"] * 19 + ["settled"]
    assert await world.balance("ada") == 95
    assert await world.off(quiet=True) == {}


async def test_many_settlements_share_a_transaction(world: World) -> None:
    for user in ("ada", "bob"):
        await world.open(user, 1000)
    jobs = [await world.charge(("ada", "bob")[i % 2], 10, n=2) for i in range(40)]
    for job in jobs:
        await world.storage.true_up(job.images[0][0], job.user_id, 7)

    results = await asyncio.gather(
        *(world.credits.settle(settlement(job, [None, "no_image"], world.clock.now)) for job in jobs)
    )

    assert results == ["settled"] * 40
    assert await world.balance("ada") == await world.balance("bob") == 900
    assert await world.stored("ada") == (140, 0)
    assert await world.off(quiet=True) == {}


async def test_a_settlement_after_a_void_changes_nothing(world: World) -> None:
    await world.open("ada", 100)
    wanted = await world.charge("ada", 10)
    await world.credits.void(wanted.job_id)

    assert await world.credits.settle(settlement(wanted, [None], world.clock.now)) == "voided"

    assert await world.balance("ada") == 100
    assert await world.off(quiet=True) == {}


async def test_a_settlement_and_a_void_at_once_end_in_one_of_the_two(world: World) -> None:
    await world.open("ada", 1000)
    jobs = [await world.charge("ada", 10) for _ in range(30)]

    ends = await asyncio.gather(
        *(world.credits.settle(settlement(job, ["content_rejected"], world.clock.now)) for job in jobs),
        *(world.credits.void(job.job_id) for job in jobs),
    )

    settled, voided = ends[:30], ends[30:]
    for settling, voiding in zip(settled, voided, strict=True):
        assert (settling, voiding) in {("settled", "settled"), ("voided", "voided")}
    assert await world.balance("ada") == 1000 - 10 * settled.count("settled")
    assert await world.off(quiet=True) == {}


async def test_a_settlement_without_a_charge_is_an_alarm(world: World) -> None:
    await world.open("ada", 100)
    before = SETTLEMENTS.labels("missing")._value.get()

    result = await world.credits.settle(settlement(request("ada", 10), [None], world.clock.now))

    assert result == "missing"
    assert SETTLEMENTS.labels("missing")._value.get() == before + 1
    assert await world.balance("ada") == 100


async def test_a_settlement_under_another_users_name_moves_nothing(world: World) -> None:
    await world.open("ada", 100)
    await world.open("bob", 100)
    wanted = await world.charge("ada", 10)
    forged = settlement(request("bob", 10, job_id=wanted.job_id), ["no_image"], world.clock.now)

    assert await world.credits.settle(forged) == "missing"
    assert (await world.balance("ada"), await world.balance("bob")) == (90, 100)


async def test_credits_that_expire_soonest_are_burned_first(world: World) -> None:
    await world.open("ada", 10)
    await world.grant("ada", 10, grant_id="late", days=20)
    await world.grant("ada", 10, grant_id="soon", days=5)

    await world.charge("ada", 15)

    assert await _expiring(world) == {"late": 5}
    assert await world.balance("ada") == 15


async def test_a_refund_goes_back_to_the_lots_it_came_from_and_leaves_those_of_what_was_kept(world: World) -> None:
    await world.open("ada", 10)
    await world.grant("ada", 10, grant_id="late", days=20)
    await world.grant("ada", 10, grant_id="soon", days=5)
    wanted = await world.charge("ada", 24, n=3)

    await world.settle(wanted, None, "no_image", "no_image")

    # As if one image of 8 had been charged: all of it from what expires soonest.
    assert await _expiring(world) == {"soon": 2, "late": 10}
    assert await world.balance("ada") == 22
    assert await world.off(quiet=True) == {}


async def test_a_lot_that_expired_meanwhile_lives_a_day_more_but_what_was_left_of_it_does_not(world: World) -> None:
    await world.open("ada")
    await world.grant("ada", 10, grant_id="soon", days=1)
    wanted = await world.charge("ada", 6)
    world.clock.advance(days=2)

    await world.settle(wanted, "provider_timeout")

    assert await world.moves("ada") == [("grant", 10), ("charge", -6), ("expiry", -4), ("refund", 6)]
    assert (await world.accounts.get("ada"))["expiring"] == [
        {"grant_id": "soon", "credits": 6, "expires_at": world.clock.now + timedelta(hours=24)}
    ]
    world.clock.advance(hours=23)
    await world.charge("ada", 1)
    world.clock.advance(hours=2)
    await world.accounts.expire_lots()
    assert await world.balance("ada") == 0
    assert await world.off() == {}


async def test_charges_and_settlements_of_one_account_at_once_add_up(world: World) -> None:
    await world.open("ada", 50)
    await world.grant("ada", 500, days=3)

    async def job(i: int) -> None:
        wanted = await world.charge("ada", 4, n=2)
        await world.settle(wanted, *([None, "no_image"] if i % 2 else ["canceled", "canceled"]))

    await asyncio.gather(*(job(i) for i in range(100)))

    assert await world.balance("ada") == 550 - 50 * 2
    assert await world.off(quiet=True) == {}


async def _expiring(world: World) -> dict[str, int]:
    return {lot["grant_id"]: lot["credits"] for lot in (await world.accounts.get("ada"))["expiring"]}
