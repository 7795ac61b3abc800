"""Every process dies at every step of a job, once each, while jobs run."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from invariants import nothing_is_lost
from stack import Stack, running

pytestmark = [pytest.mark.long, pytest.mark.timeout(500)]

POINTS = (
    "api.intent.stored",
    "api.intent.charged",
    "api.committed",
    "api.published",
    "api-worker.follow_job.received",
    "api-worker.follow_job.handled",
    "api-worker.committed",
    "api-worker.published",
    "generator.generate_image.received",
    "generator.call.leased",
    "generator.call.answered",
    "generator.call.staged",
    "generator.call.recorded",
    "generator.committed",
    "generator.published",
    "generator.generate_image.handled",
    "uploader.store_image.received",
    "uploader.image.fetched",
    "uploader.image.counted",
    "uploader.image.stored",
    "uploader.store_image.handled",
    "uploader.store_image.published",
    "ledger.charge.decided",
    "ledger.charge.committed",
    "ledger.settle_job.received",
    "ledger.settle.in_transaction",
    "ledger.settle.committed",
    "ledger.settle_job.handled",
)


@pytest.fixture(scope="module")
def markers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("died")


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory, markers: Path) -> Iterator[Stack]:
    # The user demo, made at the start, must not meet the points: they are armed by the folder that they mark.
    armed = ",".join(f"{point}={markers / 'armed' / point}" for point in POINTS)
    yield from running(
        tmp_path_factory.mktemp("fragile") / ".pixorly",
        PIXORLY_FAILPOINTS=armed,
        PIXORLY_LEASE_S="3",
        PIXORLY_SANDBOX_LATENCY_S="0.1",
        PIXORLY_INTENT_TTL_S="5",
        PIXORLY_NUDGE_AFTER_S="10",
        PIXORLY_RECONCILE_INTERVAL_S="2",
    )


async def test_a_process_that_dies_at_any_step_loses_nothing(fragile: Stack, markers: Path) -> None:
    _, key = await fragile.user(amount_credits=10_000)
    (markers / "armed").mkdir()
    jobs = []
    async with fragile.client(key) as client, asyncio.timeout(300):
        while {path.name for path in (markers / "armed").iterdir()} != set(POINTS):
            jobs += await asyncio.gather(*(client.create(f"a fox {i}", n=1 + i) for i in range(2)))
            await asyncio.sleep(1.5)
    done = await nothing_is_lost(fragile, key, jobs, 10_000, within_s=240)

    assert {job["status"] for job in done} == {"completed"}
