"""Making jobs on a real database: idempotency, refusals, and a ledger that fails at the worst moment."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest
from api_world import World, open_world

from pixorly.errors import InsufficientCredits, OutageError
from pixorly_api.errors import LedgerUnreached


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with open_world(database_url) as opened:
        yield opened


def key(name: str = "k1") -> dict[str, str]:
    return {"Idempotency-Key": name}


async def count(world: World, table: str) -> int:
    row = await world.sql(f"select count(*) as n from {table}")  # noqa: S608 - the table is the test's
    return int(row["n"])


async def test_the_same_key_and_body_are_the_same_job(world: World) -> None:
    first = await world.create(headers=key())
    again = await world.create(headers=key('"k1"'))
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert [event.type for event in await world.published()] == ["job.created"]
    assert world.ledger.balances["demo"] == 995


async def test_the_order_of_fields_does_not_make_another_body(world: World) -> None:
    bodies = ['{"model":"sandbox/aurora","prompt":"x"}', '{ "prompt": "x", "model": "sandbox/aurora" }']
    answers = [
        await world.call("POST", "/v1/generations", headers={**key(), "Content-Type": "application/json"}, content=body)
        for body in bodies
    ]
    assert answers[0].json()["id"] == answers[1].json()["id"]


async def test_the_same_key_with_another_body_is_refused(world: World) -> None:
    await world.create(headers=key())
    other = await world.create(2, headers=key())
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert world.ledger.balances["demo"] == 995


async def test_a_request_that_is_taken_up_again_keeps_its_fallbacks(world: World) -> None:
    world.ledger.after.append(OutageError("ledger"))
    asked = ["sandbox/mosaic"]
    assert (await world.create(headers=key(), fallback_models=asked)).status_code == 503
    again = await world.create(headers=key(), fallback_models=asked)
    assert again.json()["fallback_models"] == ["sandbox/mosaic"]
    (job,) = await world.published()
    assert job.fallback_models == ("sandbox/mosaic",)


async def test_two_users_may_use_the_same_key(world: World) -> None:
    mine = await world.create(headers=key())
    theirs = await world.create(headers=key(), user_id="other")
    assert mine.json()["id"] != theirs.json()["id"]


async def test_many_at_once_with_one_key_make_one_job(world: World) -> None:
    answers = await asyncio.gather(*(world.create(headers=key()) for _ in range(12)))
    made = {answer.json()["id"] for answer in answers if answer.status_code == 202}
    assert len(made) == 1
    assert {answer.status_code for answer in answers} <= {202, 409}
    for answer in answers:
        if answer.status_code == 409:
            assert answer.json()["code"] == "idempotency_in_progress"
            assert int(answer.headers["retry-after"]) >= 1
    assert world.ledger.balances["demo"] == 995
    assert await count(world, "jobs") == 1


async def test_a_key_is_free_again_after_a_day(world: World) -> None:
    first = await world.create(headers=key())
    await world.sql("update idempotency_keys set created_at = now() - interval '25 hours'")
    second = await world.create(headers=key())
    assert first.json()["id"] != second.json()["id"]


async def test_too_few_credits_store_nothing_and_free_the_key(world: World) -> None:
    await world.headers()
    world.ledger.balances["demo"] = 4
    answer = await world.create(headers=key())
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (402, "insufficient_credits")
    assert (problem["needed_credits"], problem["available_credits"]) == (5, 4)
    assert [await count(world, table) for table in ("jobs", "slots", "outbox", "idempotency_keys")] == [0, 0, 0, 0]
    world.ledger.balances["demo"] = 5
    assert (await world.create(headers=key())).status_code == 202


async def test_a_lost_answer_of_the_ledger_is_taken_up_by_the_repeat(world: World) -> None:
    world.ledger.after.append(OutageError("ledger"))
    first = await world.create(headers=key())
    assert (first.status_code, first.json()["code"]) == (503, "service_unavailable")
    assert int(first.headers["retry-after"]) >= 1
    assert await world.published() == []
    again = await world.create(headers=key())
    assert again.status_code == 202
    assert "idempotent-replayed" not in again.headers
    assert world.ledger.balances["demo"] == 995
    assert await count(world, "jobs") == 1


async def test_a_ledger_that_never_heard_of_it_leaves_nothing(world: World) -> None:
    world.ledger.before.append(LedgerUnreached("away"))
    assert (await world.create(headers=key())).status_code == 503
    assert await count(world, "jobs") == 0
    assert await count(world, "idempotency_keys") == 0


async def test_a_charge_whose_repeat_does_not_reach_the_ledger_is_not_forgotten(world: World) -> None:
    world.ledger.after.append(OutageError("ledger"))
    assert (await world.create(headers=key())).status_code == 503
    world.ledger.before.append(LedgerUnreached("away"))
    assert (await world.create(headers=key())).status_code == 503
    assert (await world.create(headers=key())).status_code == 202
    assert world.ledger.balances["demo"] == 995
    assert await count(world, "jobs") == 1


async def test_a_refusal_after_a_lost_answer_has_the_charge_voided_and_frees_the_key(world: World) -> None:
    world.ledger.after.append(OutageError("ledger"))
    assert (await world.create(headers=key())).status_code == 503
    world.ledger.before.append(InsufficientCredits(needed_credits=5, available_credits=0))
    assert (await world.create(headers=key())).status_code == 402
    assert (await world.sql("select status from jobs"))["status"] == "abandoned"
    assert (await world.create(headers=key())).status_code == 202
    assert await world.sweeper.void() == 1
    assert world.ledger.balances["demo"] == 995


async def test_an_intent_is_nobodys_job(world: World) -> None:
    world.ledger.after.append(OutageError("ledger"))
    await world.create()
    row = await world.sql("select job_id, status from jobs")
    assert row["status"] == "intent"
    for path in ("", "/timeline", "/receipt", "/events"):
        assert (await world.call("GET", f"/v1/generations/{row['job_id']}{path}")).status_code == 404
    assert (await world.call("POST", f"/v1/generations/{row['job_id']}/cancel")).status_code == 404
    assert (await world.call("GET", "/v1/generations")).json()["data"] == []


async def age(world: World, seconds: int) -> None:
    await world.sql(
        "update jobs set created_at = created_at - make_interval(secs => $1), claimed_until = now() - interval '1 s'",
        seconds,
    )


async def test_an_old_intent_is_abandoned_and_its_charge_voided(world: World) -> None:
    world.ledger.after.append(OutageError("ledger"))
    await world.create(headers=key())
    assert world.ledger.balances["demo"] == 995
    assert await world.sweeper.abandon() == 0
    await age(world, 61)
    assert await world.sweeper.abandon() == 1
    assert await world.sweeper.void() == 1
    assert await world.sweeper.void() == 0
    assert world.ledger.balances["demo"] == 1000
    assert await world.published() == []
    again = await world.create(headers=key())
    assert again.status_code == 202
    assert world.ledger.balances["demo"] == 995


async def test_a_void_that_fails_is_made_later(world: World) -> None:
    world.ledger.after.append(OutageError("ledger"))
    await world.create()
    await age(world, 61)
    await world.sweeper.abandon()
    world.ledger.away = True
    with pytest.raises(OutageError):
        await world.sweeper.void()
    world.ledger.away = False
    assert await world.sweeper.void() == 1


async def sweep_away(world: World) -> None:
    """Do what the sweeper does with an intent a minute later."""
    await age(world, 61)
    await world.sweeper.abandon()
    await world.sweeper.void()


async def test_a_request_that_the_sweeper_overtakes_charges_nothing(world: World) -> None:
    """Between its charge and its promise, the intent is given up."""
    world.ledger.meanwhile_after = partial(sweep_away, world)
    answer = await world.create(headers=key())
    assert answer.status_code == 503
    assert world.ledger.balances["demo"] == 1000
    assert await world.published() == []
    world.ledger.meanwhile_after = None
    assert (await world.create(headers=key())).status_code == 202
    assert world.ledger.balances["demo"] == 995


async def test_a_charge_that_comes_after_the_void_is_refused(world: World) -> None:
    world.ledger.meanwhile_before = partial(sweep_away, world)
    assert (await world.create()).status_code == 503
    assert world.ledger.balances["demo"] == 1000


async def test_a_repeat_that_an_openai_client_announces_is_the_same_job(world: World) -> None:
    first = await world.create(headers={"x-stainless-retry-count": "0"})
    again = await world.create(headers={"x-stainless-retry-count": "1"})
    other = await world.create(prompt="another", headers={"x-stainless-retry-count": "1"})
    assert first.json()["id"] == again.json()["id"] != other.json()["id"]
    assert again.headers["idempotent-replayed"] == "true"
    assert (await world.create()).json()["id"] != first.json()["id"]


async def test_several_such_repeats_at_once_make_one_job(world: World) -> None:
    await world.headers()
    answers = await asyncio.gather(*(world.create(headers={"x-stainless-retry-count": str(n)}) for n in range(1, 6)))
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 202}) == 1
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert world.ledger.balances["demo"] == 995


async def test_such_a_repeat_comes_too_late_after_ten_minutes(world: World) -> None:
    first = await world.create(headers={"x-stainless-retry-count": "0"})
    await age(world, 601)
    again = await world.create(headers={"x-stainless-retry-count": "1"})
    assert first.json()["id"] != again.json()["id"]


async def test_with_rabbitmq_away_jobs_are_taken_and_told_of_later(world: World) -> None:
    world.bus.away = True
    assert (await world.create()).status_code == 202
    assert await world.published() == []
    world.bus.away = False
    await world.sql("update outbox set due_at = now() - interval '1 s'")
    await world.outbox._relay_once()
    assert [event.type for event in await world.published()] == ["job.created"]


async def test_a_job_carries_all_that_the_generator_needs(world: World) -> None:
    job = await world.created(3, quality="high", output_format="webp", seed=7, width=640, height=480, deadline_s=60)
    assert (job.model, job.prompt, job.n, job.plan) == ("sandbox/aurora", "a lake", 3, "pro")
    assert job.params.model_dump(exclude_none=True) == {
        "width": 640,
        "height": 480,
        "quality": "high",
        "output_format": "webp",
        "seed": 7,
    }
    assert [call.indexes for call in job.calls] == [(0, 1, 2)]
    assert 55 < (job.deadline - job.occurred_at).total_seconds() < 65
    assert (await world.get(job.job_id))["credits_used"] == 24
