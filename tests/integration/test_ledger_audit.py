"""The audit finds what is off: each fault is made by hand in the tables, and its check names it."""

from collections.abc import AsyncIterator

import pytest
from ledger_world import World, ledger_world

from pixorly_ledger.audit import Check, Report


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with ledger_world(database_url) as world:
        await world.open("ada", 100)
        await world.grant("ada", 100, grant_id="lot", days=3)
        await world.settle(await world.charge("ada", 120, n=4), None, None, "no_image", "content_rejected")
        await world.charge("ada", 10)
        yield world


async def test_a_ledger_in_use_is_clean_and_adds_up_to_zero(world: World) -> None:
    report = await world.audit.run()

    assert report.clean
    totals = report.totals
    assert [totals[f"{place}_credits"] for place in ("issued", "available", "escrow", "revenue")] == [-200, 100, 10, 90]
    assert (totals["transfers"], totals["open_charges"], totals["stored_images"]) == (6, 1, 2)


async def test_what_is_under_way_counts_only_when_the_system_is_said_to_be_quiet(world: World) -> None:
    assert await world.off() == {}

    report = await world.audit.run(quiet=True)

    assert not report.clean
    assert {check.name for check in report.checks if not check.ok} == {"open_charges", "reserved_images"}


FAULTS = {
    "balances": "update accounts set balance_credits = balance_credits + 1",
    "charges": "update charges set amount_credits = 9, lot_credits = 0 where status = 'open'",
    "settlements": "update charges set slot_refunded = '{f,f,f,f}' where status = 'settled'",
    "grants": "update grants set amount_credits = 99 where grant_id = 'lot'",
    "lots": "update accounts set expiring_credits = expiring_credits + 1",
    "lot_flows": "update lots set expired_credits = 1",
    "lot_draws": "update charges set lot_credits = lot_credits - 1 where status = 'settled'",
    "storage": "update accounts set used_bytes = used_bytes + 1",
    "images": "update images set state = 'released' where state = 'stored'; "
    "delete from images where image_id = (select image_ids[1] from charges where status = 'settled')",
    "storage_days": "update storage_days set stored_bytes = stored_bytes + 1",
    "usage": "update usage_days set jobs = jobs + 1",
    "usage_details": "update usage_failures set images = images + 1 where code = 'no_image'",
    "statements": "insert into transfers select gen_random_uuid(), user_id, 99, 'expiry', 'available', 'issued', 1, 0, "
    "null, 'x', null, now() from accounts",
    "totals": "update charges set amount_credits = 9, lot_credits = 0 where status = 'open'",
}


@pytest.mark.parametrize("check", FAULTS)
async def test_a_fault_is_found_and_named(world: World, check: str) -> None:
    async with world.database.connection() as connection:
        await connection.execute(FAULTS[check])

    found = await world.off()

    assert check in found
    assert found[check]


async def test_every_check_is_tried_here(world: World) -> None:
    report = await world.audit.run()

    assert {check.name for check in report.checks if not check.quiet} == set(FAULTS)


async def test_only_some_ids_are_shown_of_many(world: World) -> None:
    for _ in range(30):
        await world.charge("ada", 1)

    check = next(check for check in (await world.audit.run()).checks if check.name == "open_charges")

    assert (len(check.found), check.more) == (20, True)


async def test_each_check_comes_as_soon_as_it_is_done(world: World) -> None:
    steps = [step async for step in world.audit.steps()]

    assert all(isinstance(step, Check) for step in steps[:-1])
    assert isinstance(steps[-1], Report)
    assert steps[-1].checks == steps[:-1]
