"""With no trace in the share, those of jobs that fail are sent all the same, and whole."""

import asyncio
from collections.abc import Iterator

import httpx
import pytest
from stack import SERVICES, Stack, running

pytestmark = pytest.mark.long

MODEL = "google/gemini-3.1-flash-image"
LAST = {"process ledger.settle_job", "process generator.close_job", "outbox job.completed"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("sampled") / ".pixorly"
    yield from running(folder, "--observe", "--emulator", PIXORLY_TRACE_SAMPLE_RATIO="0")


async def test_only_what_failed_is_sent_and_that_from_its_beginning_to_its_end(stack: Stack) -> None:
    async with stack.client() as client:
        fine = await client.create("a fox", model=MODEL, size=1024)
        retried = await client.create("a fox [[fault:503x1]]", model=MODEL, size=1024)
        settled = await client.all_settled([fine, retried])
    assert [job["status"] for job in settled] == ["completed", "completed"]

    async with asyncio.timeout(60), httpx.AsyncClient(base_url=stack.dev["observe_url"], trust_env=False) as http:
        while True:
            answer = await http.get(f"/api/jobs/{retried['id']}")
            found = answer.json()
            if answer.is_success and {span["name"] for span in found["spans"]} >= LAST and not found["orphans"]:
                break
            await asyncio.sleep(0.3)
        listed = (await http.get("/api/traces?jobs=0")).json()["data"]

    assert [span["name"] for span in found["spans"] if span["parent_id"] is None] == ["POST /v1/generations"]
    assert {span["service"] for span in found["spans"]} == {f"pixorly-{name}" for name in SERVICES}
    assert [one["job_id"] for one in listed] == [retried["id"]]
