"""Every service is told to stop and started again while clients are at work."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import uuid4

import httpx
import psutil  # type: ignore[import-untyped]  # it has no types of its own
import pytest
from invariants import books_and_bucket_agree, nothing_is_lost, nothing_left
from stack import SERVICES, Job, Stack, running

pytestmark = [pytest.mark.long, pytest.mark.timeout(500)]

BODY = {"model": "sandbox/aurora", "prompt": "a fox", "n": 2, "width": 64, "height": 64}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    yield from running(tmp_path_factory.mktemp("deploys") / ".pixorly", PIXORLY_SANDBOX_LATENCY_S="2")


@dataclass
class Load:
    """Clients that ask for a job four times a second, each over a connection of its own.

    Attributes:
        refused: How many connections were refused.
        failed: Every other way in which a call went wrong.
    """

    stack: Stack
    key: str
    jobs: list[Job] = field(default_factory=list)
    refused: int = 0
    failed: list[str] = field(default_factory=list)

    async def run(self, told_to_stop: asyncio.Event) -> None:
        calls: set[asyncio.Task[None]] = set()
        while not told_to_stop.is_set():
            calls.add(asyncio.create_task(self._create()))
            await asyncio.sleep(0.25)
        await asyncio.gather(*calls)

    async def _create(self) -> None:
        headers = {"Authorization": f"Bearer {self.key}", "Idempotency-Key": str(uuid4())}
        while True:
            try:
                async with httpx.AsyncClient(base_url=self.stack.dev["api_url"], timeout=60, trust_env=False) as http:
                    answer = await http.post("/v1/generations", json=BODY, headers=headers)
            except httpx.ConnectError:
                self.refused += 1
                await asyncio.sleep(0.5)
                continue
            except httpx.TransportError as error:
                self.failed.append(repr(error))
                return
            if answer.status_code == httpx.codes.ACCEPTED:
                self.jobs.append(answer.json())
            else:
                self.failed.append(f"{answer.status_code} {answer.text[:200]}")
            return


async def test_a_rolling_restart_under_load_fails_no_call(stack: Stack) -> None:
    _, key = await stack.user(amount_credits=100_000)
    load, told_to_stop = Load(stack, key), asyncio.Event()
    loading = asyncio.create_task(load.run(told_to_stop))
    refused_by: dict[str, int] = {}
    await asyncio.sleep(2)
    for name in SERVICES:
        before = load.refused
        took_s = await restarted(stack, name)
        await stack.ready()
        refused_by[name] = load.refused - before
        assert took_s < 60, name
    told_to_stop.set()
    await loading
    done = await nothing_is_lost(stack, key, load.jobs, 100_000)

    assert load.failed == []
    assert {name for name, refused in refused_by.items() if refused} <= {"api"}
    assert {job["status"] for job in done} == {"completed"}
    assert {job["retry_count"] for job in done} == {0}
    await nothing_left(stack)
    await books_and_bucket_agree(stack)


async def restarted(stack: Stack, name: str) -> float:
    """Tell a service to stop, and return how long it took to end when it runs again; it must have exited with 0."""
    pid = stack.pids()[name]
    assert pid is not None
    process = psutil.Process(pid)
    began = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    with suppress(psutil.NoSuchProcess):
        await asyncio.to_thread(process.wait, 90)
    took_s = time.monotonic() - began
    async with asyncio.timeout(60):
        while stack.pids()[name] in {pid, None}:
            await asyncio.sleep(0.1)
    assert f"{name} ended (exit status 0) and is started again" in stack.logs("supervisor")
    return took_s


async def test_clients_that_wait_do_not_hold_up_an_api_that_is_told_to_stop(stack: Stack) -> None:
    """Who follows a job gets the end of the stream, and who prefers to wait the job as it is."""
    _, key = await stack.user(amount_credits=1000)
    await asyncio.to_thread(stack.kill, "generator", signal.SIGSTOP)
    try:
        async with stack.client(key) as client:
            job = await client.create()
            follows = [
                asyncio.create_task(client.http.get(path, timeout=60))
                for path in (f"/v1/generations/{job['id']}/events", "/v1/events")
            ]
            waits = asyncio.create_task(
                client.http.post("/v1/generations", json=BODY, headers={"Prefer": "wait=25"}, timeout=60)
            )
            await asyncio.sleep(2)
            took_s = await restarted(stack, "api")
            streams, answer = await asyncio.gather(*follows), await waits
    finally:
        await asyncio.to_thread(stack.kill, "generator", signal.SIGCONT)
    await stack.ready()
    done = await nothing_is_lost(stack, key, [job, answer.json()], 1000)

    assert took_s < 10
    for stream in streams:
        assert "event: snapshot" in stream.text
        assert "event: settled" not in stream.text
    assert (answer.status_code, answer.json()["status"]) == (202, "pending")
    assert {job["status"] for job in done} == {"completed"}


async def test_services_that_are_told_to_stop_while_rabbitmq_says_nothing_end_all_the_same(stack: Stack) -> None:
    """A closing handshake with a server that is cut off has no time-out of its own."""
    await stack.ready()
    _, key = await stack.user(amount_credits=1000)
    await asyncio.to_thread(stack.kill, "rabbitmq", signal.SIGSTOP)
    try:
        async with stack.client(key) as client:
            jobs = [await client.create(f"number {number}") for number in range(4)]
        took_s = await asyncio.gather(*(restarted(stack, name) for name in SERVICES))
    finally:
        await asyncio.to_thread(stack.kill, "rabbitmq", signal.SIGCONT)
    await stack.ready()
    done = await nothing_is_lost(stack, key, jobs, 1000)

    assert max(took_s) < 35, took_s
    assert {job["status"] for job in done} == {"completed"}
