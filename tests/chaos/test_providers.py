"""Named faults of the provider, through the whole system: outcome, refund and retries are those of the table."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import httpx
import pytest
from invariants import nothing_is_lost
from stack import Job, Stack, running

pytestmark = [pytest.mark.timeout(400)]

ONE = "google/gemini-3.1-flash-image"
FOUR = "openai/gpt-image-2"


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    yield from running(tmp_path_factory.mktemp("emulated") / ".pixorly", "--emulator")


@dataclass(frozen=True)
class Case:
    """A fault, and what must come of it."""

    fault: str
    calls: int
    code: str | None = None
    fault_is: str | None = None
    n: int = 1
    images: int = 1
    billed: int | None = None
    model: str = ONE


CASES = [
    Case("", calls=1),
    Case("[[fault:503x3]]", calls=4),
    Case("[[fault:503]]", calls=4, images=0, code="provider_unavailable", fault_is="server"),
    Case("[[fault:502x1]]", calls=2),
    Case("[[fault:500x2]]", calls=3),
    Case("[[fault:429x1]]", calls=2),
    Case("[[fault:402inflightx1]]", calls=2),
    Case("[[fault:403moderation]]", calls=1, images=0, code="content_rejected", fault_is="user"),
    Case("[[fault:400policy]]", calls=1, images=0, code="content_rejected", fault_is="user"),
    Case("[[fault:400]]", calls=1, images=0, code="provider_refused", fault_is="server"),
    Case("[[fault:404model]]", calls=1, images=0, code="model_unavailable", fault_is="server"),
    Case("[[fault:missing:2]]", calls=1, n=4, images=2, code="missing_image", fault_is="server", model=FOUR),
]


async def test_a_fallback_makes_what_the_first_model_can_not(emulated: Stack) -> None:
    """The first answers that it is gone; what the second makes costs the first's price and bears the second's name."""
    direct = "openai-direct/gpt-image-2"
    _, key = await emulated.user(amount_credits=1000)
    rule = {"fault": "404model", "model": FOUR, "prompt": "gone"}
    async with httpx.AsyncClient(base_url=emulated.dev["emulator_url"], trust_env=False) as http:
        (await http.post("/_emulator/script", json={"rules": [rule]})).raise_for_status()
    async with emulated.client(key) as client:
        jobs = [
            await client.create("gone", n=2, model=FOUR, size=1024, fallback_models=[ONE]),
            await client.create("gone", n=2, model=FOUR, size=1024, fallback_models=[direct, ONE]),
            await client.create("there", model=FOUR, size=1024, fallback_models=[ONE]),
        ]
    done = await nothing_is_lost(emulated, key, jobs, 1000)

    assert [job["status"] for job in done] == ["completed"] * 3
    assert [job["fallback_models"] for job in done] == [[ONE], [direct, ONE], [ONE]]
    assert [[image["model"] for image in job["images"]] for job in done] == [[ONE] * 2, [direct] * 2, [FOUR]]
    assert [job["credits_used"] for job in done] == [24, 24, 12]
    bills = [await bill_of(emulated, job) for job in done]
    assert [(bill["calls"], bill["images"]) for bill in bills] == [(4, 2), (4, 2), (1, 1)]


async def bill_of(stack: Stack, job: Job) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=stack.dev["emulator_url"], trust_env=False) as http:
        bill = (await http.get("/_emulator/bill", params={"session_id": job["id"]})).raise_for_status().json()
    found: dict[str, Any] = bill["sessions"][job["id"]] if "sessions" in bill else bill
    return found


async def test_each_fault_ends_as_the_table_of_outcomes_says(emulated: Stack) -> None:
    """All at once: the ladder takes its time, and the faults of one job are none of the others' business."""
    _, key = await emulated.user(amount_credits=10_000)
    async with emulated.client(key) as client:
        jobs = await asyncio.gather(
            *(client.create(f"a fox {case.fault}", n=case.n, model=case.model, size=1024) for case in CASES)
        )
    done = await nothing_is_lost(emulated, key, jobs, 10_000)

    for case, job in zip(CASES, done, strict=True):
        said = (case.fault, job["status"], [failure["code"] for failure in job["failures"]])
        assert job["status"] == ("completed" if case.images else "failed"), said
        assert len(job["images"]) == case.images, said
        assert {failure["code"] for failure in job["failures"]} == ({case.code} if case.code else set()), said
        assert {failure["fault"] for failure in job["failures"]} == ({case.fault_is} if case.fault_is else set()), said
        per_image = job["credits_used"] // job["n"]
        assert job["credits_refunded"] == (per_image * (case.n - case.images) if case.fault_is == "server" else 0), said
        assert job["retry_count"] == case.calls - 1, said
        bill = await bill_of(emulated, job)
        assert bill["calls"] == case.calls, (said, bill)
        assert bill["billed_calls"] == (1 if case.images else 0), (said, bill)

    await check_the_pace(emulated, done[[case.fault for case in CASES].index("[[fault:503x3]]")])


async def check_the_pace(stack: Stack, job: Job) -> None:
    """A call that fails three times is made at about 0, 2, 6 and 14 s."""
    async with httpx.AsyncClient(base_url=stack.dev["emulator_url"], trust_env=False) as http:
        calls = (await http.get("/_emulator/calls", params={"session_id": job["id"]})).raise_for_status().json()["data"]
    delays = [later["began_at"] - call["began_at"] for call, later in pairwise(calls)]
    for delay_s, step_s in zip(delays, (2, 4, 8), strict=True):
        assert step_s - 0.1 < delay_s < step_s + 2, delays
