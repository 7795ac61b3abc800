"""What time brings about, on a real database."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import api_world as api
import pytest
from api_world import World, open_world

from pixorly.errors import OutageError


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with open_world(database_url) as opened:
        yield opened


async def silent(world: World, seconds: int) -> None:
    """Let it be that long since anything happened."""
    await world.sql(
        """update jobs set news_at = news_at - make_interval(secs => $1),
                           nudge_at = nudge_at - make_interval(secs => $1)""",
        seconds,
    )


async def test_a_deadline_fails_what_is_open_and_keeps_what_is_there(world: World) -> None:
    job = await world.created(3)
    await world.jobs.follow(api.uploaded(job, 0))
    await world.jobs.follow(api.generated(job, 1))
    assert await world.sweeper.expire() == 0
    await world.sql("update jobs set deadline = now() - interval '1 s'")
    assert await world.sweeper.expire() == 1
    assert await world.sweeper.expire() == 0
    ended, *deletions = await world.published()
    assert ended.type == "job.completed"
    # Of the third, too: it may have been stored, and the news of it lost.
    assert {event.image_id for event in deletions} == set(job.image_ids[1:])
    read = await world.get(job.job_id)
    assert [failure["code"] for failure in read["failures"]] == ["deadline_exceeded"] * 2
    assert read["credits_refunded"] == 10


async def test_a_late_image_of_an_expired_job_is_deleted(world: World) -> None:
    job = await world.created(1)
    await world.sql("update jobs set deadline = now() - interval '1 s'")
    await world.sweeper.expire()
    await world.published()
    await world.jobs.follow(api.generated(job))
    await world.jobs.follow(api.uploaded(job))
    assert [event.type for event in await world.published()] == ["image.deleted", "image.deleted"]
    assert (await world.get(job.job_id))["status"] == "failed"


async def test_deadlines_and_last_news_at_once_settle_once(world: World) -> None:
    for _ in range(10):
        job = await world.created(1)
        await world.sql("update jobs set deadline = now() - interval '1 s'")
        await asyncio.gather(world.sweeper.expire(), world.jobs.follow(api.uploaded(job)))
        ended = [event for event in await world.published() if event.type.startswith("job.")]
        assert len(ended) == 1


async def test_several_sweepers_share_the_work(world: World) -> None:
    jobs = [await world.created(1) for _ in range(10)]
    await world.sql("update jobs set deadline = now() - interval '1 s'")
    found = await asyncio.gather(*(world.sweeper.expire() for _ in range(4)))
    assert sum(found) == 10
    assert len([event for event in await world.published() if event.type == "job.failed"]) == len(jobs)


async def test_a_job_that_was_left_unsettled_is_settled(world: World) -> None:
    job = await world.created(1)
    assert await world.sweeper.settle() == 0
    await world.sql(
        "update slots set state = 'failed', code = 'canceled', fault = 'server', stage = 'settle', ended_at = now()"
    )
    assert await world.sweeper.settle() == 1
    assert [event.type for event in await world.published()] == ["job.canceled"]
    assert (await world.get(job.job_id))["status"] == "canceled"


async def test_a_silent_job_is_told_of_again_with_the_same_id(world: World) -> None:
    job = await world.created(2)
    await world.jobs.follow(api.generated(job, 0))
    assert await world.sweeper.nudge() == 0
    await silent(world, 121)
    assert await world.sweeper.nudge() == 1
    created, made = await world.published()
    assert created == job
    assert made == api.generated(job, 0).model_copy(update={"occurred_at": made.occurred_at})


async def test_a_silent_upload_is_told_of_without_the_job(world: World) -> None:
    job = await world.created(2)
    await world.jobs.follow(api.generated(job, 0))
    await world.jobs.follow(api.uploaded(job, 1))
    await silent(world, 121)
    await world.sweeper.nudge()
    assert [event.type for event in await world.published()] == ["image.generated"]


async def test_each_nudge_comes_after_twice_as_long(world: World) -> None:
    await world.created(1)
    waits = []
    for _ in range(4):
        await silent(world, 20_000)
        await world.sweeper.nudge()
        row = await world.sql("select extract(epoch from nudge_at - now())::float8 as wait from jobs")
        waits.append(round(row["wait"]))
    assert waits == [240, 480, 960, 1920]


async def test_while_many_that_were_said_again_have_not_begun_no_others_are_said_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pixorly_api.sweeper._SAID_AGAIN", 2)
    for _ in range(2):
        await world.created(1)
    await silent(world, 121)
    assert await world.sweeper.nudge() == 2
    await world.published()
    behind, under_way = await world.created(1), await world.created(1)
    await world.jobs.follow(api.started(under_way))
    await silent(world, 300)
    await world.published()

    # What was said again is said a third time, and what has begun is no part of the queue.
    assert await world.sweeper.nudge() == 3
    assert behind.job_id not in {event.job_id for event in await world.published()}
    assert await world.sweeper.nudge() == 0
    await world.sql("update jobs set status = 'processing' where nudges > 0 and job_id <> $1", behind.job_id)
    assert await world.sweeper.nudge() == 1
    assert [event.job_id for event in await world.published()] == [behind.job_id]


async def test_news_puts_the_nudge_off(world: World) -> None:
    job = await world.created(1)
    await silent(world, 121)
    await world.jobs.follow(api.started(job))
    assert await world.sweeper.nudge() == 0
    row = await world.sql("select nudges, extract(epoch from nudge_at - now())::float8 as wait from jobs")
    assert (row["nudges"], row["wait"]) == (0, pytest.approx(120, abs=5))


async def test_a_settled_job_is_left_alone(world: World) -> None:
    job = await world.created(1)
    await world.jobs.follow(api.uploaded(job))
    await world.published()
    await silent(world, 100_000)
    assert await world.sweeper.nudge() == 0
    assert await world.published() == []


async def test_a_deletion_is_said_once_more_after_an_hour_and_then_confirmed(world: World) -> None:
    job = await world.created(1)
    await world.jobs.follow(api.uploaded(job))
    await world.call("DELETE", f"/v1/images/{job.image_ids[0]}")
    (_, first) = await world.published()
    assert await world.sweeper.delete_again() == 0
    await world.sql("update deletions set due_at = now()")
    assert await world.sweeper.delete_again() == 1
    (again,) = await world.published()
    assert again.model_copy(update={"occurred_at": first.occurred_at}) == first
    row = await world.sql("select confirmed_at, extract(epoch from due_at - now())::float8 as wait from deletions")
    assert (row["confirmed_at"], row["wait"]) == (None, pytest.approx(7200, abs=5))
    world.ledger.charges[job.job_id]["images"][0]["storage"]["state"] = "released"
    await world.sql("update deletions set due_at = now()")
    assert await world.sweeper.delete_again() == 1
    row = await world.sql("select confirmed_at from deletions")
    assert row["confirmed_at"] is not None
    await world.sql("update deletions set due_at = now()")
    assert await world.sweeper.delete_again() == 0


async def test_a_charge_left_open_after_its_job_is_closed_by_the_same_event(world: World) -> None:
    job = await world.created(1)
    await world.jobs.follow(api.failed(job))
    (ended,) = await world.published()
    assert await world.sweeper.audit_charges() == 1
    (again,) = await world.published()
    assert again == ended
    world.ledger.settle(again)
    assert await world.sweeper.audit_charges() == 0
    assert world.ledger.balances["demo"] == 1000


async def test_a_charge_of_an_open_job_is_left_alone(world: World) -> None:
    await world.created(1)
    assert await world.sweeper.audit_charges() == 0
    assert world.ledger.calls == ["charge"]


async def test_a_charge_without_a_job_is_voided(world: World) -> None:
    await world.created(1)
    await world.sql("delete from jobs")
    assert await world.sweeper.audit_charges() == 1
    assert world.ledger.balances["demo"] == 1000


async def test_old_keys_and_abandoned_jobs_are_purged(world: World) -> None:
    await world.create(headers={"Idempotency-Key": "k"})
    world.ledger.after.append(OutageError("ledger"))
    await world.create()
    await world.sql(
        "update jobs set created_at = now() - interval '8 days', claimed_until = now() where status = 'intent'"
    )
    await world.sweeper.abandon()
    assert await world.sweeper.purge() == 0
    await world.sweeper.void()
    await world.sql("update idempotency_keys set created_at = now() - interval '25 hours'")
    assert await world.sweeper.purge() == 2
    row = await world.sql("select count(*) as n from jobs")
    assert row["n"] == 1


async def test_a_part_that_is_away_stops_no_other_sweep(database_url: str) -> None:
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(
            open_world(database_url, sweep_interval_s=0.02, reconcile_interval_s=0.02, audit_interval_s=0.02)
        )
        job = await world.created(1)
        world.ledger.away = True
        await world.sql("update jobs set deadline = now()")
        sweeping = asyncio.create_task(world.sweeper.run())
        for _ in range(200):
            if (await world.get(job.job_id))["status"] == "failed":
                break
            await asyncio.sleep(0.02)
        assert not sweeping.done()
        sweeping.cancel()
        assert (await world.get(job.job_id))["status"] == "failed"
