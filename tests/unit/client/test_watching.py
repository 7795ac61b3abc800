"""Waiting for a job: by its live news, and by looking where there are none."""

import httpx
import pytest
from fake_api import FakeApi, image, job, news, ok, problem, stream

from pixorly_client import ConnectionTrouble, Generation, JobFailed, NotFound, NotSettledYet, UnreadableAnswer

DONE = job("completed", images=[image()])


def no_stream(_: httpx.Request) -> httpx.Response:
    return problem(406, "not_acceptable")


def test_generate_creates_listens_and_returns_the_images(api: FakeApi) -> None:
    live = stream(
        news("snapshot", job()), b": keep-alive\n\n", news("update", job("processing")), news("settled", DONE)
    )
    api.will(ok(job(credits_remaining=995), 202), live)
    told: list[str] = []

    done = api.client().generate("x", on_progress=lambda now: told.append(now.status))

    assert api.asked == ["POST /v1/generations", f"GET /v1/generations/{done.id}/events"]
    assert api.requests[1].headers["Accept"] == "text/event-stream"
    assert told == ["pending", "pending", "processing", "completed"]
    assert [found.id for found in done.images] == ["img-0"]
    assert done.credits_remaining == 995
    assert live.is_closed


def test_a_job_that_is_settled_at_once_is_not_waited_for(api: FakeApi) -> None:
    api.will(ok(DONE))

    assert api.client().generate("x").settled


def test_generate_raises_what_became_of_a_failed_job(api: FakeApi) -> None:
    failure = {"index": 0, "code": "content_rejected", "message": "Refused.", "fault": "user"}
    api.will(ok(job(), 202), stream(news("settled", job("failed", failures=[failure]))))

    with pytest.raises(JobFailed, match=r"is failed: Refused. \(content_rejected\)") as caught:
        api.client().generate("x")

    assert caught.value.job.failures[0].fault == "user"


def test_wait_returns_a_failed_job(api: FakeApi) -> None:
    api.will(stream(news("snapshot", job("failed"))))

    assert api.client().wait("abc").status == "failed"


def test_without_live_news_it_looks_ever_more_slowly(api: FakeApi) -> None:
    api.will(no_stream, *(ok(job("processing")) for _ in range(8)), ok(DONE))
    told: list[Generation] = []

    done = api.client().wait("abc", on_progress=told.append)

    assert done.settled
    assert api.pauses_s[:4] == pytest.approx([0.1, 0.15, 0.225, 0.3375])
    assert max(api.pauses_s) == 1.0
    assert [now.status for now in told] == ["processing", "completed"], "a look without news is not told of"


def test_a_stream_that_breaks_is_taken_up_where_it_was(api: FakeApi) -> None:
    api.will(
        stream(news("snapshot", job(), "v1"), ends=httpx.ReadError("cut")),
        httpx.ConnectError("refused"),
        problem(503, "service_unavailable"),
        stream(news("update", job("uploading"), "v5")),
        stream(b"id: v6\nda", ends=httpx.RemoteProtocolError("half an answer")),
        stream(news("settled", DONE)),
    )
    told: list[str] = []

    done = api.client().wait("abc", on_progress=lambda now: told.append(now.status))

    assert done.settled
    ids = [request.headers.get("Last-Event-ID") for request in api.requests]
    assert ids == [None, "v1", "v1", "v1", "v5", "v6"]
    assert told == ["pending", "uploading", "completed"]


def test_streams_that_never_come_about_give_way_to_looking(api: FakeApi) -> None:
    api.will(*(httpx.ConnectError("refused") for _ in range(6)), ok(DONE))

    assert api.client(tries=2).wait("abc").settled
    assert api.asked[-1] == "GET /v1/generations/abc"


def test_news_arrive_in_any_chunks(api: FakeApi) -> None:
    prompt = "two\u2028lines and \x85 and \u00e4"
    whole = news("snapshot", job("processing", prompt=prompt)) + news("settled", job("completed", prompt=prompt))
    api.will(stream(*(whole[place : place + 1] for place in range(len(whole)))))

    assert api.client().wait("abc").prompt == prompt


def test_news_with_other_names_are_passed_over(api: FakeApi) -> None:
    api.will(stream(b"event: weather\ndata: sunny\n\n", news("settled", DONE)))

    assert api.client().wait("abc").settled


def test_news_that_cannot_be_read_are_not_hidden(api: FakeApi) -> None:
    api.will(stream(b"event: update\ndata: {}\n\n"))

    with pytest.raises(UnreadableAnswer):
        api.client().wait("abc")


def test_a_job_that_is_not_there_is_not_waited_for(api: FakeApi) -> None:
    api.will(problem(404, "not_found"), problem(404, "not_found"))

    with pytest.raises(NotFound):
        api.client().wait("abc")


def test_time_runs_out_while_looking(api: FakeApi) -> None:
    api.will(no_stream, *(ok(job("processing")) for _ in range(8)))

    with pytest.raises(NotSettledYet, match="is not settled after 3 s; it goes on") as caught:
        api.client().wait("abc", timeout_s=3)

    assert caught.value.job_id == "abc"
    assert api.now == pytest.approx(3.0)


def test_silence_never_outlasts_the_callers_time(api: FakeApi) -> None:
    def silent(request: httpx.Request) -> httpx.Response:
        api.now += request.extensions["timeout"]["read"]
        raise httpx.ReadTimeout("silence", request=request)

    api.will(*[silent] * 4)

    with pytest.raises(ConnectionTrouble, match="silence"):
        api.client(first_pause_s=0).wait("abc", timeout_s=16)

    assert [request.extensions["timeout"]["read"] for request in api.requests] == [8, 4, 2, 2]
    assert api.now == 16


def test_a_short_wait_only_looks(api: FakeApi) -> None:
    api.will(ok(DONE))

    assert api.client().wait("abc", timeout_s=1).settled
    assert api.asked == ["GET /v1/generations/abc"]


def test_an_api_that_is_away_ends_a_wait_at_its_time(api: FakeApi) -> None:
    api.will(*(httpx.ConnectError("refused") for _ in range(3)))

    with pytest.raises(Exception, match="refused"):
        api.client().wait("abc", timeout_s=1)

    assert api.now <= 1


@pytest.mark.parametrize("fallback", [False, True])
async def test_the_asynchronous_client_does_the_same(api: FakeApi, *, fallback: bool) -> None:
    live = stream(news("snapshot", job("processing")), news("settled", DONE))
    api.will(problem(503, "service_unavailable"), ok(job(credits_remaining=7), 202))
    api.will(*([no_stream, ok(job("processing")), ok(DONE)] if fallback else [live]))
    told: list[str] = []

    async def tell(now: Generation) -> None:
        told.append(now.status)

    async with api.aclient() as client:
        done = await client.generate("x", on_progress=tell)

    assert (done.status, done.credits_remaining) == ("completed", 7)
    assert told == ["pending", "processing", "completed"]
