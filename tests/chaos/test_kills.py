"""Named faults, fixed invariants: every process killed with SIGKILL while jobs run."""

import asyncio
import signal
from collections.abc import Iterator

import pytest
from invariants import nothing_is_lost
from stack import Stack, running

pytestmark = [pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    yield from running(
        tmp_path_factory.mktemp("chaos") / ".pixorly", PIXORLY_SANDBOX_LATENCY_S="0.5", PIXORLY_LEASE_S="5"
    )


IN_SHORT = ("generator", "ledger", "rabbitmq")
REST = ("uploader", "api-worker", "api", "postgres", "s3")


@pytest.mark.parametrize("victim", [*IN_SHORT, *(pytest.param(name, marks=pytest.mark.long) for name in REST)])
async def test_a_killed_process_loses_nothing_and_charges_nobody(chaos: Stack, victim: str) -> None:
    await chaos.ready()
    _, key = await chaos.user(amount_credits=1000)
    async with chaos.client(key) as client:
        creating = [asyncio.create_task(client.create(f"{victim} {number}", n=1 + number % 2)) for number in range(20)]
        await asyncio.sleep(0.4)
        await asyncio.to_thread(chaos.kill, victim, signal.SIGKILL)
        jobs = await asyncio.gather(*creating)
    done = await nothing_is_lost(chaos, key, jobs, 1000)

    assert {job["status"] for job in done} == {"completed"}
    assert all(len(job["images"]) == job["n"] for job in done)
