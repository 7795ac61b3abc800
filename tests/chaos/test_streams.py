"""Two thousand clients who listen, on an api that is killed while they do: each hears how its job ended."""

import asyncio
from collections.abc import Iterator

import pytest
from listening import Listener, address_of
from stack import Stack, running

pytestmark = [pytest.mark.long, pytest.mark.timeout(500)]
LISTENERS = 2000
JOBS = 20


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    yield from running(tmp_path_factory.mktemp("streams") / ".pixorly", PIXORLY_SANDBOX_LATENCY_S="100")


async def until_all_listen(listeners: list[Listener]) -> None:
    async with asyncio.timeout(100):
        while not all(listener.told for listener in listeners):
            await asyncio.sleep(0.1)


async def test_two_thousand_listeners_miss_no_end_when_the_api_dies(stack: Stack) -> None:
    _, key = await stack.user(amount_credits=1000)
    async with stack.client(key) as client:
        jobs = [await client.create(f"job {number}") for number in range(JOBS)]
        ids = [jobs[number % JOBS]["id"] for number in range(LISTENERS)]
        listeners = [
            Listener(f"/v1/generations/{one}/events", {one}, key, address_of(stack.dev["api_url"])) for one in ids
        ]
        listening = [asyncio.create_task(listener.listen()) for listener in listeners]
        await until_all_listen(listeners)
        assert not any(listener.done for listener in listeners)

        stack.kill("api")
        async with asyncio.timeout(300):
            await asyncio.gather(*listening)
        done = {job["id"]: job for job in await client.all_settled(jobs)}

    assert all(listener.connections >= 2 for listener in listeners)
    for listener in listeners:
        for job_id in listener.wanted:
            assert listener.told[job_id]["status"] == "completed"
            assert listener.told[job_id]["settled_at"] == done[job_id]["settled_at"]


async def test_a_stream_of_all_jobs_that_broke_misses_no_end(stack: Stack) -> None:
    _, key = await stack.user(amount_credits=1000)
    async with stack.client(key) as client:
        jobs = [await client.create(f"job {number}") for number in range(5)]
        listener = Listener("/v1/events", {job["id"] for job in jobs}, key, address_of(stack.dev["api_url"]))
        listening = asyncio.create_task(listener.listen())
        await until_all_listen([listener])

        stack.kill("api")
        async with asyncio.timeout(300):
            await listening

    assert listener.connections >= 2
