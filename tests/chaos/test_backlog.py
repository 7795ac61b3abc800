"""Images that are made and not stored: while too many wait for an uploader, no more are bought."""

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from stack import Stack

pytestmark = [pytest.mark.timeout(300), pytest.mark.long]

MOST = 8
PREFETCH = 2
JOBS = 40


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A stack whose generator buys little ahead."""
    told = {"PIXORLY_GENERATOR_IMAGES_TO_STORE": str(MOST), "PIXORLY_PREFETCH": str(PREFETCH)}
    stack = Stack(tmp_path, told)
    stack.up()
    yield stack
    stack.down()


async def test_while_no_uploader_stores_no_more_is_bought_and_all_goes_on_when_it_is_back(stack: Stack) -> None:
    _, key = await stack.user(amount_credits=5 * JOBS)
    stack.kill("uploader", signal.SIGSTOP)
    try:
        async with stack.client(key) as client:
            jobs = await asyncio.gather(*(client.create(f"number {number}") for number in range(JOBS)))
            bought = await _stands_still(stack)
            # What a look allows is begun before the next look sees it: at most as much again.
            assert MOST <= bought <= 2 * MOST + PREFETCH
            before = stack.pids()["generator"]
            stack.kill("generator", signal.SIGTERM)  # who waits hands back its message, and no call is cut off
            async with asyncio.timeout(60):
                while stack.pids()["generator"] in {before, None}:
                    await asyncio.sleep(0.2)
            again = await _stands_still(stack)
            assert again <= MOST
            stack.kill("uploader", signal.SIGCONT)
            done = await client.all_settled(jobs)
            assert {(job["status"], len(job["images"])) for job in done} == {("completed", 1)}
            assert bought + await _bought(stack) == JOBS
            assert await client.credits() == 0
    finally:
        stack.kill("uploader", signal.SIGCONT)
    assert await stack.audit() == []


async def _stands_still(stack: Stack) -> int:
    """Wait until calls are held back and none was made for three seconds, and return how many were."""
    async with asyncio.timeout(90):
        while True:
            before = await _bought(stack)
            await asyncio.sleep(3)
            if await _metric(stack, "pixorly_generator_calls_held_back") and await _bought(stack) == before:
                return before


async def _bought(stack: Stack) -> int:
    return int(await _metric(stack, "pixorly_provider_calls_total"))


async def _metric(stack: Stack, name: str) -> float:
    """The sum of a metric of the generator; 0 while it is away."""
    async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
        try:
            text = (await http.get(f"{stack.dev['service_urls']['generator']}/metrics")).text
        except httpx.TransportError:
            return 0
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))
