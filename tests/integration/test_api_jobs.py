"""Jobs on a real database: from the request to the end, in every order and in spite of everything."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import api_world as api
import pytest
from api_world import World, open_world

from pixorly import telemetry
from pixorly_api.jobs import Jobs


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with open_world(database_url) as opened:
        yield opened


async def test_a_job_goes_from_request_to_links(world: World) -> None:
    answer = await world.create(2, width=512, height=512)
    assert answer.status_code == 202
    body = answer.json()
    assert answer.headers["location"] == f"/v1/generations/{body['id']}"
    assert (body["status"], body["credits_used"], body["credits_remaining"]) == ("pending", 10, 990)
    (job,) = await world.published()
    assert job.type == "job.created"
    await world.jobs.follow(api.started(job))
    assert (await world.get(job.job_id))["status"] == "processing"
    for index in (0, 1):
        await world.jobs.follow(api.generated(job, index))
    assert (await world.get(job.job_id))["status"] == "uploading"
    for index in (0, 1):
        await world.jobs.follow(api.uploaded(job, index))
    (ended,) = await world.published()
    assert ended.type == "job.completed"
    read = await world.get(job.job_id)
    assert read["status"] == "completed"
    assert [image["index"] for image in read["images"]] == [0, 1]
    assert read["images"][0]["url"].startswith("https://cdn.test/users/demo/")
    assert read["images"][0]["thumbnails"].keys() == {"256"}
    assert read["processing_time_ms"] >= 0
    assert "credits_remaining" not in read


async def test_a_job_keeps_its_fallbacks_and_says_which_model_made_which_image(world: World) -> None:
    job = await world.created(3, fallback_models=["sandbox/mosaic"])
    assert job.fallback_models == ("sandbox/mosaic",)
    assert [call.indexes for call in job.calls] == [(0,), (1,), (2,)]
    assert (await world.get(job.job_id))["fallback_models"] == ["sandbox/mosaic"]

    made = {index: api.generated(job, index).model_copy(update={"model": "sandbox/mosaic"}) for index in (0, 1)}
    await world.jobs.follow(made[0])
    await world.jobs.follow(api.uploaded(job, 0))
    await world.jobs.follow(api.uploaded(job, 1).model_copy(update={"model": "sandbox/mosaic"}))
    await world.jobs.follow(made[1])
    await world.jobs.follow(api.uploaded(job, 2))

    read = await world.get(job.job_id)
    assert [image["model"] for image in read["images"]] == ["sandbox/mosaic", "sandbox/mosaic", "sandbox/aurora"]
    assert (read["model"], read["credits_used"]) == ("sandbox/aurora", 15)
    assert read["models_used"] == ["sandbox/aurora", "sandbox/mosaic"]
    told = (await world.call("GET", f"/v1/generations/{job.job_id}/timeline")).json()["data"]
    assert [one["model"] for one in told if one["what"] == "image.generated"] == ["sandbox/mosaic"]


@pytest.mark.parametrize("order", [1, -1], ids=["in order", "the later first"])
async def test_an_attempt_that_goes_on_to_a_fallback_is_known_by_the_model_that_it_asked_last(
    world: World, order: int
) -> None:
    job = await world.created(fallback_models=["sandbox/mosaic"])
    first = api.started(job).model_copy(update={"model": "sandbox/aurora"})
    later = api.started(job).model_copy(
        update={"model": "sandbox/mosaic", "occurred_at": first.occurred_at + timedelta(seconds=1)}
    )
    for event in (first, later)[::order]:
        await world.jobs.follow(event)
    await asyncio.gather(world.jobs.follow(first), world.jobs.follow(later))

    told = (await world.call("GET", f"/v1/generations/{job.job_id}/timeline")).json()["data"]
    assert [one["model"] for one in told if one["what"] == "job.started"] == ["sandbox/mosaic"]


async def test_a_job_that_is_announced_again_is_announced_with_its_fallbacks(world: World) -> None:
    job = await world.created(1, fallback_models=["sandbox/mosaic"])
    await world.sql("update jobs set news_at = now() - interval '1 hour', nudge_at = now()")
    assert await world.sweeper.nudge() == 1
    assert await world.published() == [job]


async def test_one_failure_of_two_is_a_completed_job_with_half_the_credits_back(world: World) -> None:
    job = await world.created(2)
    await world.jobs.follow(api.uploaded(job, 0))
    await world.jobs.follow(api.failed(job, 1))
    (ended,) = await world.published()
    world.ledger.settle(ended)
    read = await world.get(job.job_id)
    assert (read["status"], read["credits_used"], read["credits_refunded"]) == ("completed", 10, 5)
    (failure,) = read["failures"]
    assert (failure["index"], failure["code"], failure["fault"], failure["stage"]) == (
        1,
        "provider_unavailable",
        "server",
        "generate",
    )
    assert world.ledger.balances["demo"] == 995


async def test_a_rejected_prompt_gives_nothing_back(world: World) -> None:
    job = await world.created(1)
    await world.jobs.follow(api.failed(job, 0, "content_rejected"))
    read = await world.get(job.job_id)
    assert (read["status"], read["credits_refunded"], read["failures"][0]["fault"]) == ("failed", 0, "user")


async def test_a_code_that_never_ends_a_slot_is_our_fault(world: World) -> None:
    job = await world.created(1)
    await world.jobs.follow(api.failed(job, 0, "service_unavailable"))
    (ended,) = await world.published()
    assert ended.slots[0].code == "internal_error"
    assert (await world.get(job.job_id))["credits_refunded"] == 5


async def test_events_backwards_and_twice_end_in_the_same_job(world: World) -> None:
    job = await world.created(1)
    for event in (api.uploaded(job), api.generated(job), api.started(job), api.uploaded(job), api.started(job)):
        await world.jobs.follow(event)
    assert [event.type for event in await world.published()] == ["job.completed"]
    read = await world.get(job.job_id)
    assert (read["status"], len(read["images"])) == ("completed", 1)


async def test_all_news_at_once_settles_once(world: World) -> None:
    job = await world.created(10)
    news = [make(job, index) for index in range(10) for make in (api.generated, api.uploaded)]
    await asyncio.gather(*(world.jobs.follow(event) for event in [*news, *reversed(news)]))
    assert [event.type for event in await world.published()] == ["job.completed"]


async def test_two_workers_that_bring_the_last_two_slots_settle_once(world: World) -> None:
    others = [Jobs(world.outbox) for _ in range(4)]
    for _ in range(10):
        job = await world.created(4)
        await asyncio.gather(*(other.follow(api.uploaded(job, index)) for index, other in enumerate(others)))
        assert [event.type for event in await world.published()] == ["job.completed"]


async def test_a_retry_counts_once_however_often_it_is_told(world: World) -> None:
    job = await world.created(1)
    await asyncio.gather(*(world.jobs.follow(api.retrying(job, 1)) for _ in range(3)))
    await world.jobs.follow(api.retrying(job, 1))
    await world.jobs.follow(api.retrying(job, 2))
    read = await world.get(job.job_id)
    assert (read["status"], read["retry_count"]) == ("processing", 2)


async def test_an_upload_of_a_failed_slot_is_deleted_each_time(world: World) -> None:
    job = await world.created(1)
    await world.jobs.follow(api.failed(job))
    await world.published()
    for _ in range(2):
        await world.jobs.follow(api.uploaded(job))
        (deletion,) = await world.published()
        assert deletion.type == "image.deleted"
        assert deletion.prefix == f"users/demo/{job.job_id}/0-{job.image_ids[0]}"
        assert set(deletion.keys) == set(api.uploaded(job).keys.all())
    assert (await world.get(job.job_id))["images"] == []


async def test_a_slot_that_fails_after_it_was_made_is_deleted(world: World) -> None:
    job = await world.created(1)
    await world.jobs.follow(api.generated(job))
    await world.jobs.follow(api.failed(job))
    assert [event.type for event in await world.published()] == ["job.failed", "image.deleted"]


async def test_an_upload_that_is_told_again_changes_nothing(world: World) -> None:
    job = await world.created(1)
    await world.jobs.follow(api.uploaded(job))
    await world.published()
    await world.jobs.follow(api.uploaded(job))
    assert await world.published() == []


async def test_a_deleted_image_that_is_uploaded_again_is_deleted_again(world: World) -> None:
    job = await world.created(1)
    await world.jobs.follow(api.uploaded(job))
    await world.published()
    path = f"/v1/images/{job.image_ids[0]}"
    for _ in range(2):
        assert (await world.call("DELETE", path)).status_code == 204
    assert [event.reason for event in await world.published()] == ["user"]
    assert (await world.call("GET", path)).status_code == 404
    assert (await world.call("GET", "/v1/images")).json()["data"] == []
    assert (await world.get(job.job_id))["images"] == []
    await world.jobs.follow(api.uploaded(job))
    assert [event.type for event in await world.published()] == ["image.deleted"]


async def test_a_pending_job_can_be_canceled_and_stays_so(world: World) -> None:
    job = await world.created(2)
    for _ in range(2):
        answer = await world.call("POST", f"/v1/generations/{job.job_id}/cancel")
        assert answer.status_code == 200
        assert (answer.json()["status"], answer.json()["credits_refunded"]) == ("canceled", 10)
    # What a worker may have stored without our having heard of it is deleted.
    ended, *deleted = sorted(await world.published(), key=lambda event: event.type, reverse=True)
    assert [event.type for event in (ended, *deleted)] == ["job.canceled", "image.deleted", "image.deleted"]
    assert {slot.code for slot in ended.slots} == {"canceled"}
    await world.jobs.follow(api.started(job))
    assert (await world.get(job.job_id))["status"] == "canceled"


async def test_a_started_job_runs_on(world: World) -> None:
    job = await world.created(1)
    await world.jobs.follow(api.started(job))
    answer = await world.call("POST", f"/v1/generations/{job.job_id}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "already_started")
    await world.jobs.follow(api.uploaded(job))
    assert (await world.call("POST", f"/v1/generations/{job.job_id}/cancel")).status_code == 409
    assert (await world.get(job.job_id))["status"] == "completed"


async def test_cancel_and_start_at_once_have_one_winner(world: World) -> None:
    for _ in range(10):
        job = await world.created(1)
        canceled, _ = await asyncio.gather(
            world.call("POST", f"/v1/generations/{job.job_id}/cancel"), world.jobs.follow(api.started(job))
        )
        status = (await world.get(job.job_id))["status"]
        assert (canceled.status_code, status) in {(200, "canceled"), (409, "processing")}


async def test_a_dead_job_created_fails_what_was_not_made(world: World) -> None:
    job = await world.created(2)
    await world.jobs.follow(api.generated(job, 0))
    await world.jobs.bury(job)
    read = await world.get(job.job_id)
    assert [slot["state"] for slot in read["slots"]] == ["generated", "failed"]
    await world.jobs.follow(api.uploaded(job, 0))
    read = await world.get(job.job_id)
    assert (read["status"], read["credits_refunded"]) == ("completed", 5)
    assert read["failures"][0]["code"] == "internal_error"


async def test_a_dead_image_generated_fails_its_slot_unless_it_is_terminal(world: World) -> None:
    job = await world.created(2)
    for index in (0, 1):
        await world.jobs.follow(api.generated(job, index))
    await world.jobs.follow(api.uploaded(job, 1))
    for index in (0, 1):
        await world.jobs.bury(api.generated(job, index))
    read = await world.get(job.job_id)
    assert [slot["state"] for slot in read["slots"]] == ["failed", "uploaded"]
    assert (read["status"], read["failures"][0]["stage"]) == ("completed", "upload")


async def test_news_of_no_job_changes_nothing(world: World) -> None:
    job = await world.created(1)
    stray = job.model_copy(update={"job_id": api.some_id()})
    assert await world.jobs.follow(api.uploaded(stray)) is None
    assert await world.jobs.follow(api.retrying(stray)) is None
    other = job.model_copy(update={"image_ids": (api.some_id(),)})
    await world.jobs.follow(api.uploaded(other))
    assert (await world.get(job.job_id))["status"] == "pending"
    assert await world.published() == []


async def test_news_of_many_jobs_shares_transactions_and_mixes_nothing_up(world: World) -> None:
    jobs = [await world.created(2) for _ in range(8)]
    news = [make(job, index) for job in jobs for index in (0, 1) for make in (api.generated, api.uploaded)]
    await asyncio.gather(*(world.jobs.follow(event) for event in news))
    ended = await world.published()
    assert sorted(event.job_id for event in ended) == sorted(job.job_id for job in jobs)
    for job in jobs:
        read = await world.get(job.job_id)
        assert [image["id"] for image in read["images"]] == [str(image_id) for image_id in job.image_ids]


async def test_the_timeline_tells_what_happened(world: World) -> None:
    job = await world.created(1)
    await world.jobs.follow(api.started(job))
    await world.jobs.follow(api.retrying(job))
    await world.jobs.follow(api.started(job, 2))
    await world.jobs.follow(api.generated(job))
    await world.jobs.follow(api.uploaded(job))
    told = (await world.call("GET", f"/v1/generations/{job.job_id}/timeline")).json()
    assert [entry["what"] for entry in told["data"]] == [
        "job.created",
        "job.started",
        "job.retrying",
        "job.started",
        "image.generated",
        "image.uploaded",
        "job.completed",
    ]


async def test_what_shares_a_transaction_goes_on_in_the_trace_that_it_came_from(world: World) -> None:
    jobs = [await world.created(1) for _ in range(6)]

    async def follow(number: int) -> None:
        with telemetry.continued({"traceparent": f"00-{number + 1:032x}-{1:016x}-01"}):
            await world.jobs.follow(api.uploaded(jobs[number]))

    await asyncio.gather(*(follow(number) for number in range(6)))

    traces = {event.job_id: world.bus.traces[event.event_id] for event in await world.published()}
    assert [int(traces[job.job_id].split("-")[1], 16) for job in jobs] == [1, 2, 3, 4, 5, 6]
