"""Parts of ours that are away: whoever needs them waits, clients get an answer, and nothing is lost."""

import asyncio
import signal
import time
from collections.abc import Iterator

import pytest
from invariants import nothing_is_lost
from proxies import S3Mode, S3Proxy, TcpProxy, in_background, s3_proxy, tcp_proxy
from stack import Client, Stack, running

from pixorly_stack.access import Access

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def s3(servers: Access) -> Iterator[S3Proxy]:
    assert servers.s3.endpoint_url
    with in_background(s3_proxy(servers.s3.endpoint_url)) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def postgres(servers: Access) -> Iterator[TcpProxy]:
    with in_background(tcp_proxy(servers.database_url)) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def amqp(servers: Access) -> Iterator[TcpProxy]:
    with in_background(tcp_proxy(servers.amqp_url)) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, s3: S3Proxy, servers: Access) -> Iterator[Stack]:
    environment = {**servers.s3.environment(), "PIXORLY_S3_ENDPOINT_URL": s3.url, "PIXORLY_S3_TIMEOUT_S": "3"}
    yield from running(tmp_path_factory.mktemp("outages") / ".pixorly", **environment, PIXORLY_LEDGER_TIMEOUT_S="2")


async def some_jobs(client: Client, count: int = 6) -> list[dict[str, object]]:
    return await asyncio.gather(*(client.create(f"number {number}", n=1 + number % 2) for number in range(count)))


@pytest.mark.parametrize("mode", ["500", "503", "slow", "never", "cut"])
async def test_an_object_store_that_fails_for_a_while_loses_no_image(stack: Stack, s3: S3Proxy, mode: S3Mode) -> None:
    _, key = await stack.user()
    s3.mode = mode
    try:
        async with stack.client(key) as client:
            jobs = await some_jobs(client)
            await asyncio.sleep(8)
            parts = [(await stack.parts(service))["s3"] for service in ("generator", "uploader")]
    finally:
        s3.mode = "pass"
    done = await nothing_is_lost(stack, key, jobs, 1000)

    assert {job["status"] for job in done} == {"completed"}
    assert mode == "slow" or "ok" not in parts


async def test_staged_bytes_that_the_store_forgets_are_refunded(stack: Stack, s3: S3Proxy) -> None:
    _, key = await stack.user()
    s3.mode, s3.only = "forget", "/staging/"
    try:
        async with stack.client(key) as client:
            jobs = await some_jobs(client, 2)
            await client.all_settled(jobs)
    finally:
        s3.mode, s3.only = "pass", ""
    done = await nothing_is_lost(stack, key, jobs, 1000)

    assert {failure["code"] for job in done for failure in job["failures"]} == {"staged_bytes_missing"}


async def test_without_rabbitmq_the_api_still_takes_jobs(stack: Stack) -> None:
    _, key = await stack.user()
    pid_stopped = stack.pids()["rabbitmq"]
    assert pid_stopped
    await asyncio.to_thread(stack.kill, "rabbitmq", signal.SIGSTOP)
    try:
        async with stack.client(key) as client:
            started = time.monotonic()
            jobs = await some_jobs(client)
            assert time.monotonic() - started < 10
            assert {job["status"] for job in jobs} == {"pending"}
            await asyncio.sleep(6)
            assert stack.pids()["rabbitmq"] == pid_stopped
            for service in ("api", "api-worker", "generator", "uploader", "ledger"):
                assert (await stack.parts(service))["rabbitmq"] != "ok", service
    finally:
        await asyncio.to_thread(stack.kill, "rabbitmq", signal.SIGCONT)
    done = await nothing_is_lost(stack, key, jobs, 1000)

    assert {job["status"] for job in done} == {"completed"}


async def test_without_the_ledger_a_request_gets_503_and_leaves_nothing(stack: Stack) -> None:
    _, key = await stack.user()
    await asyncio.to_thread(stack.kill, "ledger", signal.SIGSTOP)
    try:
        async with stack.client(key) as client:
            body = {"model": "sandbox/aurora", "prompt": "a fox", "width": 64, "height": 64}
            answer = await client.http.post("/v1/generations", json=body)
            assert (answer.status_code, answer.json()["code"]) == (503, "service_unavailable")
            assert int(answer.headers["retry-after"]) > 0
            parts = await stack.parts("api")
            assert parts["ledger"] != "ok"
            assert parts["postgres"] == "ok"
    finally:
        await asyncio.to_thread(stack.kill, "ledger", signal.SIGCONT)
    async with stack.client(key) as client:
        assert (await client.ok("GET", "/v1/generations"))["data"] == []
        # The charge may have gone through after all; the sweeper voids it within a minute.
        async with asyncio.timeout(120):
            while await client.credits() != 1000:
                await asyncio.sleep(0.5)
    assert await stack.audit() == []


async def test_who_pauses_a_model_learns_soon_that_the_generator_says_nothing(stack: Stack) -> None:
    await asyncio.to_thread(stack.kill, "generator", signal.SIGSTOP)
    try:
        began = time.monotonic()
        told = await asyncio.to_thread(stack.run, "pause", "sandbox")
        took_s = time.monotonic() - began
    finally:
        await asyncio.to_thread(stack.kill, "generator", signal.SIGCONT)
    await stack.ready()

    assert told.returncode != 0
    assert "say it again" in told.stdout + told.stderr
    # Five seconds, and the command's own start on a machine that is busy.
    assert took_s < 30
    assert stack.run("resume", "sandbox").returncode == 0
    assert "Nothing is paused" in stack.run("pause").stdout
