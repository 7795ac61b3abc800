"""Named faults, fixed invariants: every process killed while jobs run."""

import asyncio
import signal
from collections.abc import Iterator

import pytest
from stack import Stack, running

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    yield from running(
        tmp_path_factory.mktemp("chaos") / ".pixorly", PIXORLY_SANDBOX_LATENCY_S="0.5", PIXORLY_LEASE_S="5"
    )


async def nothing_is_lost(stack: Stack, key: str, jobs: list[dict[str, object]], before: int) -> None:
    """Every job is settled, paid for what was delivered and nothing else, and no message is left."""
    async with stack.client(key) as client:
        done = await client.all_settled(jobs, within_s=150)
        owed = sum(5 * len(job["images"]) for job in done)
        async with asyncio.timeout(60):
            while await client.credits() != before - owed:
                await asyncio.sleep(0.2)
        assert {job["status"] for job in done} == {"completed"}
        assert all(len(job["images"]) == job["n"] for job in done)
    async with asyncio.timeout(60):
        while any((await stack.queues()).values()):
            await asyncio.sleep(0.5)
    assert await stack.audit() == []


@pytest.mark.parametrize(
    "victim", ["generator", "uploader", "ledger", "api-worker", "api", "rabbitmq", "postgres", "s3"]
)
async def test_a_killed_process_loses_nothing_and_charges_nobody(chaos: Stack, victim: str) -> None:
    await chaos.ready()
    _, key = await chaos.user(amount_credits=1000)
    async with chaos.client(key) as client:
        before = await client.credits()
        creating = [asyncio.create_task(client.create(f"{victim} {number}", n=1 + number % 2)) for number in range(20)]
        await asyncio.sleep(0.4)
        await asyncio.to_thread(chaos.kill, victim, signal.SIGKILL)
        jobs = await asyncio.gather(*creating)
    await nothing_is_lost(chaos, key, jobs, before)
