"""Streams of all jobs, the tokens that open them, pages from other origins, and the hints between processes."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import api_world as api
import pytest
from api_world import World, open_world
from proxies import tcp_proxy
from pydantic import SecretStr
from waiting import by_way_of, until

from pixorly.settings import AmqpSettings
from pixorly_api import lifecycle, store
from pixorly_api.hints import SPACING_S, Changed, Hints, read, written
from pixorly_api.jobs import Jobs


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with open_world(database_url) as opened:
        yield opened


def told(text: str) -> list[dict[str, Any]]:
    """Return a stream's events: name, id, and what was said of the job."""
    blocks = [block for block in text.strip().split("\n\n") if not block.startswith(":")]
    fields = [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]
    return [{"event": one["event"], "event_id": one["id"], **json.loads(one["data"])} for one in fields]


async def stream(world: World, work: Callable[[], Awaitable[object]], **more: Any) -> list[dict[str, Any]]:
    """Return what the stream of all jobs told while `work` was done; the server then ends it, as it stops."""
    watcher = world.app.state.parts.watcher
    watcher.stopping = False
    streaming = asyncio.create_task(world.call("GET", "/v1/events", **more))
    await asyncio.sleep(0.3)
    await work()
    await asyncio.sleep(1.6)
    watcher.stop()
    answer = await streaming
    assert answer.status_code == 200, answer.text
    return told(answer.text)


async def test_one_stream_tells_of_all_jobs_of_its_user_and_of_nobody_elses(world: World) -> None:
    open_before = await world.created(1)
    done_before = await world.created(1)
    await world.jobs.follow(api.uploaded(done_before))
    made: list[Any] = []

    async def work() -> None:
        made.append(await world.created(1))
        await world.created(1, user_id="other")
        await world.jobs.follow(api.uploaded(made[0]))
        await world.jobs.follow(api.started(open_before))

    events = await stream(world, work)

    def of(job: Any) -> list[tuple[str, str]]:
        return [(event["event"], event["status"]) for event in events if event["id"] == str(job.job_id)]

    assert of(open_before) == [("snapshot", "pending"), ("update", "processing")]
    assert of(done_before) == []
    assert of(made[0])[-1] == ("settled", "completed")
    assert {event["id"] for event in events} == {str(open_before.job_id), str(made[0].job_id)}
    assert all(event["event_id"].isdigit() for event in events)


async def test_who_comes_back_misses_no_end(world: World) -> None:
    job, other = await world.created(1), await world.created(1)

    async def nothing() -> None:
        return

    first = await stream(world, nothing)
    await world.jobs.follow(api.uploaded(job))
    again = await stream(world, nothing, headers={"Last-Event-ID": first[-1]["event_id"]})
    anew = await stream(world, nothing)

    assert {event["event"] for event in first} == {"snapshot"}
    assert sorted(event["event"] for event in again) == ["settled", "snapshot"]
    assert [event["event"] for event in anew] == ["snapshot"]
    assert other.job_id != job.job_id


async def test_a_token_opens_the_streams_of_its_user_and_nothing_else(world: World) -> None:
    job = await world.created(1)
    await world.jobs.follow(api.uploaded(job))
    made = await world.call("POST", "/v1/stream-tokens")
    assert made.status_code == 201
    token = made.json()["token"]

    path = f"/v1/generations/{job.job_id}/events"
    assert "event: settled" in (await world.http.get(f"{path}?token={token}")).text
    assert (await world.http.get(f"{path}?token=px_stream_wrong")).status_code == 401
    assert (await world.http.get(path)).status_code == 401
    bearer = {"Authorization": f"Bearer {token}"}
    assert (await world.http.get("/v1/account", headers=bearer)).status_code == 401
    assert (await world.http.get(f"/v1/account?token={token}")).status_code == 401
    theirs = (await world.call("POST", "/v1/stream-tokens", user_id="other")).json()["token"]
    assert (await world.http.get(f"{path}?token={theirs}")).status_code == 404
    await world.sql("update stream_tokens set expires_at = now() - interval '1 s'")
    assert (await world.http.get(f"{path}?token={token}")).status_code == 401
    assert await world.sweeper.purge() == 2


async def test_a_last_event_id_that_is_none_is_refused(world: World) -> None:
    for wrong in ("abc", "-1", "1" * 17):
        answer = await world.call("GET", "/v1/events", headers={"Last-Event-ID": wrong})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_pages_of_listed_origins_may_call_and_others_may_not(database_url: str) -> None:
    async with open_world(database_url, cors_origins=("https://app.example",)) as world:
        asks = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
        asks["Access-Control-Request-Headers"] = "authorization, idempotency-key"
        preflight = await world.http.request("OPTIONS", "/v1/generations", headers=asks)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://app.example"
        created = await world.create(headers={"Origin": "https://app.example"})
        assert created.headers["access-control-allow-origin"] == "https://app.example"
        assert "Retry-After" in created.headers["access-control-expose-headers"]
        stranger = await world.create(headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in stranger.headers
        assert "access-control-allow-credentials" not in created.headers
        refused = await world.http.get("/v1/account", headers={"Origin": "https://app.example"})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://app.example")


async def test_no_page_may_call_where_no_origin_is_listed(world: World) -> None:
    answer = await world.create(headers={"Origin": "https://app.example"})
    assert "access-control-allow-origin" not in answer.headers


# Hints between processes.


@asynccontextmanager
async def hints(amqp_url: str, heard: list[Changed] | None = None) -> AsyncIterator[Hints]:
    end = Hints(AmqpSettings(amqp_url=SecretStr(amqp_url)))
    await end.start(heard.extend if heard is not None else None)
    try:
        yield end
    finally:
        await end.close()


async def test_a_change_is_heard_by_every_process(amqp_url: str) -> None:
    one: list[Changed] = []
    two: list[Changed] = []
    async with hints(amqp_url, one) as first, hints(amqp_url, two) as second, hints(amqp_url) as worker:
        await until(lambda: first.come() and second.come())
        assert not worker.come()
        changes = [Changed(api.some_id(), f"user {number}") for number in range(1200)]
        # The one that only announces has no heartbeat by which to see that it is connected.
        while not one:
            worker.announce(changes[:1])
            await asyncio.sleep(0.05)
        worker.announce(changes)
        await until(lambda: set(one) >= set(changes) <= set(two))


async def test_hints_come_again_after_the_link_was_cut(amqp_url: str) -> None:
    heard: list[Changed] = []
    async with tcp_proxy(amqp_url) as proxy, hints(by_way_of(proxy, amqp_url), heard) as end:
        await until(end.come)
        proxy.mode = "refuse"
        proxy.cut()
        await until(lambda: not end.come())
        proxy.mode = "pass"
        await until(end.come, within_s=60)
        change = Changed(api.some_id(), "ada")
        end.announce([change])
        await until(lambda: change in heard)


async def test_changes_that_come_one_upon_another_share_messages(amqp_url: str) -> None:
    messages: list[int] = []
    changes = [Changed(api.some_id(), "ada") for _ in range(40)]
    heard: list[Changed] = []

    def hear(changes: Iterable[Changed]) -> None:
        before = len(heard)
        heard.extend(changes)
        messages.append(len(heard) - before)

    end = Hints(AmqpSettings(amqp_url=SecretStr(amqp_url)))
    await end.start(hear)
    try:
        await until(end.come)
        began = time.monotonic()
        for change in changes:
            end.announce([change])
            await asyncio.sleep(0.001)
        await until(lambda: len(heard) == len(changes))
        took_s = time.monotonic() - began
    finally:
        await end.close()

    assert heard == changes
    # The beats are empty.
    assert len([size for size in messages if size]) <= took_s / SPACING_S + 1


async def test_what_the_rules_announce_can_be_written_down(world: World) -> None:
    told: list[Changed] = []
    jobs = Jobs(world.outbox, announce=told.extend)
    job = await world.created(2)
    await jobs.follow(api.uploaded(job, 0))
    await world.sql("update jobs set deadline = now() - interval '1 s'")
    assert await jobs.change_found(store.overdue, lifecycle.expire, 10) == 1

    assert read(written(told)) == [Changed(job.job_id, "demo")] * 2


async def test_without_rabbitmq_nobody_hears_and_nothing_fails() -> None:
    async with hints("amqp://guest:guest@127.0.0.1:1/", []) as alone:
        alone.announce([Changed(api.some_id(), "ada")])
        await asyncio.sleep(0.2)
        assert not alone.come()


def test_what_is_no_hint_says_nothing() -> None:
    changes = [Changed(api.some_id(), "ada")]
    assert read(written(changes)) == changes
    for body in (b"", b"[1]", b"{}", b'[["x", "y"]]', b"null", b"\xff", b'[["a"]]'):
        assert read(body) == []
