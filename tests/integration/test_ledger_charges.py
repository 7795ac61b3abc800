"""Charges on a real PostgreSQL: exact under concurrency, idempotent, and without a trace when refused."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from ledger_world import PLANS, World, accepted, ledger_world, request

from pixorly.db import Database
from pixorly.errors import InsufficientCredits, InvalidRequest
from pixorly.ids import new_id
from pixorly_ledger.accounts import Terms
from pixorly_ledger.credits import (
    AccountNotFound,
    AccountSuspended,
    Charged,
    ChargeVoided,
    Credits,
    StorageQuotaExceeded,
)


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with ledger_world(database_url) as world:
        yield world


async def test_a_charge_takes_the_credits_and_keeps_the_room(world: World) -> None:
    await world.open("ada", 100)

    answer = await world.credits.charge(request("ada", 10, n=2, size_bytes=30))

    assert (answer.amount_credits, answer.balance_credits, answer.plan, answer.status) == (10, 90, "bare", "open")
    assert await world.balance("ada") == 90
    assert await world.stored("ada") == (0, 60)
    assert await world.moves("ada") == [("grant", 100), ("charge", -10)]


async def test_of_200_charges_at_once_on_a_balance_of_100_exactly_100_succeed(world: World) -> None:
    await world.open("ada", 100)

    answers = await asyncio.gather(
        *(world.credits.charge(request("ada", 1)) for _ in range(200)), return_exceptions=True
    )

    assert len(accepted(answers)) == 100
    assert sum(isinstance(answer, InsufficientCredits) for answer in answers) == 100
    assert [answer.balance_credits for answer in accepted(answers)] == list(range(99, -1, -1))
    assert await world.balance("ada") == 0
    assert await world.off() == {}


async def test_of_200_charges_from_several_processes_exactly_100_succeed(world: World) -> None:
    await world.open("ada", 100)
    processes = [world.credits, *(Credits(world.database, PLANS, clock=world.clock) for _ in range(3))]

    answers = await asyncio.gather(
        *(processes[i % 4].charge(request("ada", 1)) for i in range(200)), return_exceptions=True
    )

    assert len(accepted(answers)) == 100
    assert sorted(answer.balance_credits for answer in accepted(answers)) == list(range(100))
    assert await world.off() == {}


async def test_groups_of_several_processes_over_the_same_accounts_do_not_deadlock(world: World) -> None:
    users = [f"user-{i}" for i in range(8)]
    for user in users:
        await world.open(user, 100)
    processes = [Credits(world.database, PLANS, clock=world.clock) for _ in range(4)]

    answers = await asyncio.gather(
        *(processes[i % 4].charge(request(users[(i * 5 + i // 8) % 8], 1)) for i in range(400))
    )

    assert len(accepted(answers)) == 400
    assert await world.off() == {}


async def test_the_same_charge_50_times_at_once_is_taken_once(world: World) -> None:
    await world.open("ada", 100)
    wanted = request("ada", 10)

    answers = await asyncio.gather(*(world.credits.charge(wanted) for _ in range(50)))

    assert set(answers) == {Charged(wanted.job_id, 10, 90, "bare", "open")}
    assert await world.balance("ada") == 90
    assert await world.off() == {}


async def test_the_same_charge_at_once_from_several_processes_is_taken_once(world: World) -> None:
    await world.open("ada", 100)
    wanted = request("ada", 10)
    processes = [Credits(world.database, PLANS, clock=world.clock) for _ in range(5)]

    answers = await asyncio.gather(*(process.charge(wanted) for process in processes for _ in range(10)))

    assert set(answers) == {Charged(wanted.job_id, 10, 90, "bare", "open")}
    assert await world.balance("ada") == 90


async def test_a_repeat_answers_what_the_first_answered(world: World) -> None:
    await world.open("ada", 100)
    wanted = await world.charge("ada", 10)
    await world.charge("ada", 20)

    assert await world.credits.charge(wanted) == Charged(wanted.job_id, 10, 90, "bare", "open")


async def test_a_repeat_after_the_settlement_says_so(world: World) -> None:
    await world.open("ada", 100)
    wanted = await world.charge("ada", 10)
    await world.settle(wanted, "provider_timeout")

    assert await world.credits.charge(wanted) == Charged(wanted.job_id, 10, 90, "bare", "settled")
    assert await world.balance("ada") == 100


async def test_a_refusal_for_credits_says_what_was_needed_and_leaves_nothing(world: World) -> None:
    await world.open("ada", 9)
    wanted = request("ada", 10)

    with pytest.raises(InsufficientCredits) as refusal:
        await world.credits.charge(wanted)

    assert refusal.value.facts == {"needed_credits": 10, "available_credits": 9}
    assert await world.stored("ada") == (0, 0)
    await world.grant("ada", 1)
    assert (await world.credits.charge(wanted)).balance_credits == 0


async def test_a_refusal_for_room_says_how_much_there_is_and_costs_nothing(world: World) -> None:
    await world.accounts.put("ada", Terms(plan="free"))
    stored = await world.charge("ada", 1, size_bytes=300)
    await world.storage.true_up(stored.images[0][0], "ada", 310)
    await world.charge("ada", 1, size_bytes=600)

    with pytest.raises(StorageQuotaExceeded) as refusal:
        await world.charge("ada", 2, n=2, size_bytes=50)

    assert refusal.value.facts == {"used_bytes": 310, "reserved_bytes": 600, "quota_bytes": 1000, "needed_bytes": 100}
    assert await world.balance("ada") == 48
    await world.charge("ada", 1, size_bytes=90)
    assert await world.stored("ada") == (310, 690)


async def test_a_suspended_account_is_refused_until_it_is_active_again(world: World) -> None:
    await world.open("ada", 100)
    await world.accounts.put("ada", Terms(status="suspended"))

    with pytest.raises(AccountSuspended):
        await world.charge("ada", 1)

    await world.accounts.put("ada", Terms(status="active"))
    await world.charge("ada", 1)


async def test_an_account_that_there_is_not_is_refused(world: World) -> None:
    with pytest.raises(AccountNotFound):
        await world.charge("nobody", 1)


async def test_an_amount_that_is_not_the_same_for_each_image_is_refused(world: World) -> None:
    await world.open("ada", 100)

    with pytest.raises(InvalidRequest):
        await world.charge("ada", 10, n=3)


async def test_a_job_of_another_user_is_not_answered(world: World) -> None:
    await world.open("ada", 100)
    await world.open("bob", 100)
    wanted = await world.charge("ada", 10)

    with pytest.raises(InvalidRequest):
        await world.credits.charge(request("bob", 10, job_id=wanted.job_id))

    assert await world.balance("bob") == 100


async def test_two_users_with_one_job_id_at_once_harm_nobody_else(world: World) -> None:
    for user in ("ada", "bob", "eve"):
        await world.open(user, 100)
    job_id = new_id()

    answers = await asyncio.gather(
        Credits(world.database, PLANS).charge(request("ada", 10, job_id=job_id)),
        world.credits.charge(request("bob", 10, job_id=job_id)),
        world.credits.charge(request("eve", 10)),
        return_exceptions=True,
    )

    assert len(accepted(answers)) == 2
    assert isinstance(answers[2], Charged)
    assert await world.off() == {}


async def test_a_free_job_moves_nothing_but_room(world: World) -> None:
    await world.open("ada", 5)

    wanted = await world.charge("ada", 0, n=2)
    await world.settle(wanted, None, "no_image")

    assert await world.moves("ada") == [("grant", 5)]
    assert await world.stored("ada") == (10, 0)
    assert await world.off(quiet=True) == {}


async def test_a_void_gives_everything_back_once(world: World) -> None:
    await world.open("ada", 100)
    wanted = await world.charge("ada", 10, n=2)

    assert await asyncio.gather(*(world.credits.void(wanted.job_id) for _ in range(5))) == ["voided"] * 5

    assert await world.moves("ada") == [("grant", 100), ("charge", -10), ("refund", 10)]
    assert await world.stored("ada") == (0, 0)
    assert await world.off(quiet=True) == {}


async def test_a_void_before_the_charge_refuses_it(world: World) -> None:
    await world.open("ada", 100)
    wanted = request("ada", 10)

    assert await world.credits.void(wanted.job_id, "ada") == "voided"
    with pytest.raises(ChargeVoided):
        await world.credits.charge(wanted)

    assert await world.balance("ada") == 100
    assert await world.off(quiet=True) == {}


async def test_a_void_after_the_settlement_changes_nothing(world: World) -> None:
    await world.open("ada", 100)
    wanted = await world.charge("ada", 10)
    await world.settle(wanted, None)

    assert await world.credits.void(wanted.job_id) == "settled"
    assert await world.balance("ada") == 90


async def test_charges_and_voids_of_the_same_jobs_at_once_end_in_one_of_two_ways(world: World) -> None:
    await world.open("ada", 1000)
    jobs = [request("ada", 10) for _ in range(40)]

    await asyncio.gather(
        *(world.credits.charge(job) for job in jobs),
        *(Credits(world.database, PLANS).void(job.job_id, "ada") for job in jobs),
        return_exceptions=True,
    )

    assert await world.balance("ada") == 1000
    assert await world.off(quiet=True) == {}


@pytest.mark.parametrize(("left", "expected"), [(9, InsufficientCredits), (60, 50)])
async def test_a_charge_whose_account_changes_while_it_is_decided_is_decided_again(
    world: World, left: int, expected: int | type[Exception]
) -> None:
    await world.open("ada", 100)
    await world.open("bob", 100)
    other = Database(world.url)
    await other.open()
    async with other.transaction() as holder:
        await holder.execute("update accounts set balance_credits = $1 where user_id = 'ada'", left)
        charging = asyncio.gather(
            *(world.credits.charge(request(user, 10)) for user in ("ada", "bob")), return_exceptions=True
        )
        while not await holder.fetchval("select count(*) from pg_locks where not granted"):
            await asyncio.sleep(0.01)
    await other.close()
    ada, bob = await charging

    assert (ada.balance_credits if isinstance(ada, Charged) else type(ada)) == expected
    assert await world.balance("ada") == (left if expected is InsufficientCredits else expected)
    assert isinstance(bob, Charged)
    assert (bob.balance_credits, await world.balance("bob")) == (90, 90)


@pytest.mark.parametrize("change", ["update transfers set reason = 'x'", "delete from transfers", "truncate transfers"])
async def test_transfers_can_only_be_added(world: World, change: str) -> None:
    await world.open("ada", 100)

    async with world.database.connection() as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
            await connection.execute(change)


async def test_the_schema_itself_refuses_to_overdraw(world: World) -> None:
    await world.open("ada", 5)

    async with world.database.connection() as connection:
        with pytest.raises(asyncpg.CheckViolationError, match="accounts_not_overdrawn"):
            await connection.execute("update accounts set balance_credits = -1")


async def test_a_connection_that_is_cut_mid_charge_is_an_outage_and_a_repeat_is_exact(world: World) -> None:
    await world.open("ada", 100)
    wanted = request("ada", 10)
    other = Database(world.url)
    await other.open()
    async with other.transaction() as holder:
        await holder.execute("select 1 from accounts where user_id = 'ada' for update")
        charging = asyncio.create_task(world.credits.charge(wanted))
        while not await holder.fetchval("select count(*) from pg_locks where not granted"):
            await asyncio.sleep(0.01)
        await holder.execute(
            """select pg_terminate_backend(pid) from pg_stat_activity
               where wait_event_type = 'Lock' and pid <> pg_backend_pid()"""
        )
        with pytest.raises(Exception, match="PostgreSQL is away"):
            await charging
    await other.close()

    assert (await world.credits.charge(wanted)).balance_credits == 90
