"""What no service can handle: it is kept with its reason, settled and refunded, and harms nobody else."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import aio_pika
import httpx
import pytest
from aio_pika.abc import AbstractChannel
from invariants import nothing_is_lost, quiet
from stack import Job, Stack, running

from pixorly.events import ImageParams, JobCreated, PlannedCall, utcnow
from pixorly.outcomes import OUTCOMES
from pixorly.topology import DEAD_EXCHANGE, EVENTS_EXCHANGE, QUEUES

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]

GENERATE = "generator.generate_image"
ONE = "google/gemini-3.1-flash-image"
RANDOM = os.urandom(1000)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    # Calls take a while, so that a job is still open when something is published about it by hand.
    yield from running(tmp_path_factory.mktemp("dead") / ".pixorly", "--emulator", PIXORLY_SANDBOX_LATENCY_S="4")


@asynccontextmanager
async def broker(stack: Stack) -> AsyncIterator[AbstractChannel]:
    """RabbitMQ as its administrator, who may publish anywhere."""
    async with await aio_pika.connect(stack.dev["amqp_url"]) as connection:
        yield await connection.channel(on_return_raises=True)


def dead(stack: Stack, *words: str) -> dict[str, Any]:
    done = stack.run("dead", *words, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


async def waiting(stack: Stack, counts: dict[str, int], within_s: float = 60) -> list[dict[str, Any]]:
    """Return the dead letters when there are exactly so many."""
    async with asyncio.timeout(within_s):
        while True:
            found = await asyncio.to_thread(dead, stack, "list", "--limit", "1000")
            if {row["queue"]: row["waiting"] for row in found["queues"] if row["waiting"]} == counts:
                data: list[dict[str, Any]] = found["data"]
                return data
            await asyncio.sleep(0.5)


def wrong_for(kind: str) -> bytes:
    return json.dumps({"event_id": 1, "job_id": str(uuid4()), "user_id": "ada", "type": kind}).encode()


def broken(job: Job, user_id: str) -> JobCreated:
    """A job.created of a real job that names fewer images than it has: a bug, wherever it came from."""
    return JobCreated.of(
        job_id=job["id"],
        user_id=user_id,
        model=job["model"],
        prompt="a fox whose images were mislaid",
        params=ImageParams(width=64, height=64),
        n=job["n"],
        plan="enterprise",
        deadline=utcnow().replace(year=2100),
        image_ids=(),
        calls=(PlannedCall(call_no=0, indexes=tuple(range(job["n"]))),),
    )


async def publish(channel: AbstractChannel, event: JobCreated, times: int = 1) -> None:
    exchange = await channel.get_exchange(EVENTS_EXCHANGE)
    for _ in range(times):
        message = aio_pika.Message(
            event.to_json(), message_id=str(event.event_id), type=event.type, correlation_id=str(event.job_id)
        )
        await exchange.publish(message, event.type, mandatory=True)


async def test_garbage_in_every_queue_is_kept_with_reasons_and_harms_nobody(stack: Stack) -> None:
    _, key = await stack.user()
    before = {name: row["pid"] for name, row in stack.ps().items()}
    async with broker(stack) as channel:
        for queue in QUEUES:
            kind = queue.events[0].type if queue.events else "job.created"
            for body, named in (
                (RANDOM, None),
                (b'{"job_id": ', kind),
                (b"[1, 2, 3]", kind),
                (wrong_for(kind), kind),
                (b"{}", "no.such.event"),
                (b"\xff" * 5_000_000, kind),
            ):
                await channel.default_exchange.publish(aio_pika.Message(body, type=named), queue.name, mandatory=True)
    # What dies where images are made or stored is also told to whoever settles the dead, who can't read it either.
    counts = {queue.name: 6 for queue in QUEUES} | {"api.settle_dead": 18}
    letters = await waiting(stack, counts, 120)
    async with stack.client(key) as client:
        jobs = [await client.create(f"number {number}") for number in range(3)]
    done = await nothing_is_lost(stack, key, jobs, 1000)

    assert {job["status"] for job in done} == {"completed"}
    assert {name: row["pid"] for name, row in stack.ps().items()} == before
    assert all(letter["reason"] not in {"", "unknown"} and letter["died_at"] for letter in letters)
    assert max(letter["size_bytes"] for letter in letters) == 5_000_000
    assert not any("body" in letter for letter in letters)
    large = next(letter for letter in letters if letter["size_bytes"] == 5_000_000)
    shown = await asyncio.to_thread(dead, stack, "show", large["id"])
    assert shown["data"][0]["truncated"]

    some = await asyncio.to_thread(dead, stack, "list", "--queue", GENERATE, "--reason", "no.such.event")
    assert [letter["queue"] for letter in some["data"]] == [GENERATE]
    refused = await asyncio.to_thread(stack.run, "dead", "discard", "--all")
    assert refused.returncode != 0
    assert len(await waiting(stack, counts)) == sum(counts.values())

    replayed = await asyncio.to_thread(dead, stack, "replay", "--queue", "ledger.settle_job", "--yes")
    assert {(letter["fate"], letter["why"]) for letter in replayed["data"]} == {("discarded", "unknown")}
    discarded = await asyncio.to_thread(dead, stack, "discard", "--all", "--yes")
    assert len(discarded["data"]) == sum(counts.values()) - 6
    await waiting(stack, {})


async def test_a_bug_fails_the_slots_gives_the_credits_back_and_a_replay_changes_nothing(stack: Stack) -> None:
    user_id, key = await stack.user()
    async with stack.client(key) as client, broker(stack) as channel:
        await asyncio.to_thread(stack.kill, "generator")
        job = await client.create("a fox", n=2)
        await withdrawn(channel, job)
        await publish(channel, broken(job, user_id))
        await stack.ready()
        (done,) = await client.all_settled([job])
        (letter,) = await waiting(stack, {GENERATE: 1})
        shown = await asyncio.to_thread(stack.run, "dead", "show", letter["id"])

        assert (done["status"], done["credits_refunded"]) == ("failed", done["credits_used"])
        assert {(one["code"], one["fault"]) for one in done["failures"]} == {("internal_error", "server")}
        assert (letter["job_id"], letter["user_id"], letter["type"]) == (job["id"], user_id, "job.created")
        assert "a fox whose images were mislaid" in shown.stdout

        replayed = await asyncio.to_thread(dead, stack, "replay", "--job", job["id"], "--yes")
        assert [(one["fate"], one["why"]) for one in replayed["data"]] == [("discarded", "settled")]
        await waiting(stack, {})
        assert await client.ok("GET", f"/v1/generations/{job['id']}") == done
    await nothing_is_lost(stack, key, [job], 1000)


async def withdrawn(channel: AbstractChannel, job: Job, within_s: float = 30) -> None:
    """Take the job's own job.created away, as if it had never come: what is published by hand comes in its place."""
    queue = await channel.get_queue(GENERATE)
    async with asyncio.timeout(within_s):
        while True:
            message = await queue.get(fail=False)
            if message and message.correlation_id == job["id"]:
                await message.ack()
                return
            if message:
                await message.nack(requeue=True)
            await asyncio.sleep(0.05)


async def test_one_event_published_100_times_changes_nothing_after_the_first(stack: Stack) -> None:
    _, key = await stack.user()
    async with stack.client(key) as client, broker(stack) as channel:
        ear = await channel.declare_queue(exclusive=True)
        for kind in ("job.created", "image.generated", "image.uploaded", "job.completed"):
            await ear.bind(EVENTS_EXCHANGE, kind)
        job = await client.create("a fox", n=2)
        (done,) = await client.all_settled([job])
        heard = await events_of(ear, 6)
        await ear.delete(if_empty=False)
        exchange = await channel.get_exchange(EVENTS_EXCHANGE)
        for message in heard:
            for _ in range(100):
                again = aio_pika.Message(message.body, **{name: getattr(message, name) for name in KEPT})
                await exchange.publish(again, message.routing_key or "", mandatory=True)
        await quiet(stack)
        # A settled job's money is put in order again by a replay, which changes nothing where it is.
        (ended,) = [message for message in heard if message.type == "job.completed"]
        letter = aio_pika.Message(ended.body, **{name: getattr(ended, name) for name in KEPT})
        await (await channel.get_exchange(DEAD_EXCHANGE)).publish(letter, "ledger.settle_job", mandatory=True)
        await waiting(stack, {"ledger.settle_job": 1})
        replayed = await asyncio.to_thread(dead, stack, "replay", "--queue", "ledger.settle_job", "--yes")

        assert [(one["job_id"], one["fate"]) for one in replayed["data"]] == [(job["id"], "replayed")]
        assert {message.type for message in heard} == {
            "job.created",
            "image.generated",
            "image.uploaded",
            "job.completed",
        }
        assert without_links(await client.ok("GET", f"/v1/generations/{job['id']}")) == without_links(done)
        assert len((await client.ok("GET", f"/v1/generations/{job['id']}/receipt"))["transfers"]) <= 3
    await nothing_is_lost(stack, key, [job], 1000)
    await waiting(stack, {})


KEPT = ("message_id", "type", "correlation_id", "headers", "content_type")


async def events_of(ear: aio_pika.abc.AbstractQueue, count: int) -> list[aio_pika.abc.AbstractIncomingMessage]:
    found: list[aio_pika.abc.AbstractIncomingMessage] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            if message := await ear.get(fail=False):
                found.append(message)
            else:
                await asyncio.sleep(0.1)
    return found


def without_links(job: Job) -> Job:
    images = [{name: image[name] for name in ("id", "index", "sha256", "bytes")} for image in job["images"]]
    return job | {"images": images}


async def test_the_timeline_shows_each_attempt_with_its_error(stack: Stack) -> None:
    _, key = await stack.user()
    async with stack.client(key) as client:
        job = await client.create("a fox [[fault:503x2]]", model=ONE, size=1024)
        (done,) = await client.all_settled([job])
        timeline = (await client.ok("GET", f"/v1/generations/{job['id']}/timeline"))["data"]

    retries = [entry for entry in timeline if entry["what"] == "job.retrying"]
    assert (done["status"], done["retry_count"]) == ("completed", 2)
    assert [(one["stage"], one["attempt"], one["code"], one["delay_s"]) for one in retries] == [
        ("generate", 1, "provider_unavailable", 2),
        ("generate", 2, "provider_unavailable", 4),
    ]
    assert [entry["attempt"] for entry in timeline if entry["what"] == "job.started"] == [1, 2, 3]


async def test_the_table_of_outcomes_is_served(stack: Stack) -> None:
    async with stack.client() as client:
        table = {row["code"]: row for row in (await client.ok("GET", "/v1/outcomes"))["data"]}

    assert set(table) == set(OUTCOMES)
    for code, row in OUTCOMES.items():
        said = {name: table[code][name] for name in ("status", "fault", "retries", "refunded", "message")}
        assert said == {
            "status": row.status,
            "fault": row.fault,
            "retries": row.retries,
            "refunded": row.refunded,
            "message": row.message,
        }


async def test_the_gauge_of_dead_letters_is_there(stack: Stack) -> None:
    async with broker(stack) as channel:
        await channel.default_exchange.publish(aio_pika.Message(b"\xff"), "ledger.settle_job", mandatory=True)
        await waiting(stack, {"ledger.settle_job": 1})
    line, text = 'pixorly_dead_letters_waiting{queue="ledger.settle_job"} 1.0', ""
    url = f"{stack.dev['service_urls']['api-worker']}/metrics"
    async with httpx.AsyncClient(timeout=10, trust_env=False) as http, asyncio.timeout(60):
        while line not in text:
            await asyncio.sleep(1)
            text = (await http.get(url)).text
    await asyncio.to_thread(dead, stack, "discard", "--all", "--yes")
