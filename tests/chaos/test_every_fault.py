"""Every fault that the emulator knows, through the whole system: each ends as the table of outcomes says."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from invariants import nothing_is_lost
from stack import Job, Stack, running

from pixorly.outcomes import outcome_of
from pixorly_emulator.errors import ERRORS
from pixorly_emulator.faults import BODY_FAULTS, CONTENT_FAULTS, WIRE_FAULTS

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

MODEL = """
[[models]]
id = "{id}"
name = "Any"
description = "Any size."
provider = "openrouter"
route = "{route}"
credits = 1
parameters = ["n", "size"]
max_n = 10
"""


@dataclass(frozen=True)
class Case:
    """A fault, and what must come of it."""

    fault: str
    code: str | None = None
    route: str = "images"
    n: int = 1
    images: int = 0
    cost: bool = True
    """Whether a call of it is billed."""

    @property
    def model(self) -> str:
        """A model of its own, so that no fault opens the breaker of another one's."""
        return "faults/" + re.sub("[^a-z0-9]+", "-", self.fault)

    @property
    def retries(self) -> int:
        # Of several images, those that came are not asked for again.
        return outcome_of(self.code).retries if self.code and not self.images else 0


def good(fault: str, **more: Any) -> Case:
    return Case(fault, images=more.get("n", 1), **more)


def free(fault: str, code: str, **more: Any) -> Case:
    return Case(fault, code, cost=False, **more)


UNAVAILABLE, TIMEOUT, LIMITED = "provider_unavailable", "provider_timeout", "provider_rate_limited"
REJECTED, REFUSED, GONE, INVALID = "content_rejected", "provider_refused", "model_unavailable", "invalid_image"
CASES = [
    *(free(fault, REFUSED) for fault in ("400", "413", "422", "403guardrail")),
    *(free(fault, REJECTED) for fault in ("400policy", "400refusal", "400prompt", "403moderation")),
    *(free(fault, GONE) for fault in ("404", "404model", "404modality", "503region")),
    *(free(fault, LIMITED) for fault in ("402inflight", "429")),
    *(free(fault, UNAVAILABLE) for fault in ("500", "502", "503", "529", "200error", "html", "nothing")),
    *(free(fault, TIMEOUT) for fault in ("408", "504", "524", "timeout")),
    *(free(fault, UNAVAILABLE) for fault in ("404busy", "503capacity", "codestring", "cut")),
    free("redirect:http://127.0.0.1:9/", UNAVAILABLE),
    free("200error:403moderation", REJECTED),
    free("codestring:429", LIMITED),
    free("200choice", UNAVAILABLE, route="chat"),
    free("200finish", UNAVAILABLE, route="chat"),
    free("filtered", REJECTED, route="chat"),
    *(free(fault, "no_image") for fault in ("empty", "text", "notjson", "deep")),
    *(free(fault, INVALID) for fault in ("endless", "gzip")),
    *(Case(fault, INVALID) for fault in ("badbase64", "garbage", "truncated", "svg", "huge")),
    *(Case(fault, UNAVAILABLE, route="chat") for fault in ("cut:after", "cut:body")),
    Case("drip", TIMEOUT),
    Case("headers", UNAVAILABLE),
    Case("missing:2", "missing_image", n=4, images=2),
    *(good(fault) for fault in ("jpeg", "mediatype", "nomediatype", "dataurl", "wrongsize", "heavy:5")),
    *(good(fault) for fault in ("nousage", "badusage", "noid")),
    good("more", n=2),
]
ACCOUNT = ("401", "402", "402key", "403budget", "403workspace", "403key")
"""What holds every call until a person has seen to it: jobs wait, and end by their deadline."""
ELSEWHERE = {"url"}
"""Tried where addresses are guarded."""


@pytest.fixture(scope="module")
def emulator_url() -> Iterator[str]:
    words = [sys.executable, "-m", "pixorly_emulator", "--port", "0", "--any-model"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as emulator:
        assert emulator.stdout
        yield emulator.stdout.readline().split()[-1]
        emulator.terminate()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, emulator_url: str) -> Iterator[Stack]:
    folder: Path = tmp_path_factory.mktemp("faults")
    models = [MODEL.format(id=case.model, route=case.route) for case in CASES]
    models += [MODEL.format(id=name, route="images") for name in ("faults/account", "faults/none")]
    (folder / "models.toml").write_text("".join(models))
    yield from running(
        folder / ".pixorly",
        OPENROUTER_API_KEY="any",
        OPENROUTER_BASE_URL=emulator_url,
        PIXORLY_MODELS_FILE=str(folder / "models.toml"),
        PIXORLY_RETRY_DELAYS_S="1,2,3",
        PIXORLY_PROVIDER_TIMEOUT_S="12",
    )


async def told(emulator_url: str, path: str, **params: str) -> Any:
    async with httpx.AsyncClient(base_url=emulator_url, trust_env=False, timeout=30) as http:
        return (await http.get(f"/_emulator/{path}", params=params)).raise_for_status().json()


def test_every_fault_is_tried() -> None:
    tried = {case.fault.partition(":")[0] for case in CASES} | set(ACCOUNT) | ELSEWHERE
    assert {*ERRORS, *CONTENT_FAULTS, *BODY_FAULTS, *WIRE_FAULTS} == tried


async def test_every_fault_ends_as_the_table_of_outcomes_says(stack: Stack, emulator_url: str) -> None:
    _, key = await stack.user(amount_credits=1000)
    async with stack.client(key) as client:
        jobs = [await client.create(f"a fox [[fault:{case.fault}]]", n=case.n, model=case.model) for case in CASES]
    done = await nothing_is_lost(stack, key, jobs, 1000)

    wrong = [await difference(emulator_url, case, job) for case, job in zip(CASES, done, strict=True)]
    assert [problem for problem in wrong if problem] == []


async def difference(emulator_url: str, case: Case, job: Job) -> dict[str, Any]:
    """Return what is otherwise than the table says, and how."""
    bill = await told(emulator_url, "bill", session_id=job["id"])
    outcome = outcome_of(case.code) if case.code else None
    lost = case.n - case.images
    expected = {
        "images": case.images,
        "failures": {(case.code, outcome.fault)} if outcome else set(),
        "refunded": lost if outcome and outcome.refunded else 0,
        "retries": case.retries,
        "calls": case.retries + 1,
        "billed": (case.retries + 1) * case.cost,
    }
    found = {
        "images": len(job["images"]),
        "failures": {(failure["code"], failure["fault"]) for failure in job["failures"]},
        "refunded": job["credits_refunded"],
        "retries": job["retry_count"],
        "calls": bill["calls"],
        "billed": bill["billed_calls"],
    }
    wrong = {name: (found[name], expected[name]) for name in expected if found[name] != expected[name]}
    return {"fault": case.fault, **wrong} if wrong else {}


async def test_what_is_wrong_with_our_account_holds_every_job_and_uses_up_no_retry(stack: Stack) -> None:
    _, key = await stack.user(amount_credits=100)
    async with stack.client(key) as client:
        jobs = await asyncio.gather(
            *(client.create(f"a fox [[fault:{fault}x1]]", model="faults/account", deadline_s=4) for fault in ACCOUNT)
        )
        after = await client.create("a fox", model="faults/none")
        done = await nothing_is_lost(stack, key, [*jobs, after], 100)

    for job in done[:-1]:
        codes = {failure["code"] for failure in job["failures"]}
        # The one whose turn it was to be the probe may have met a provider that was back.
        assert codes <= {"deadline_exceeded"}, codes
        assert (job["retry_count"], job["credits_refunded"]) == (0, len(job["failures"]))
    assert any(job["failures"] for job in done)
    assert done[-1]["status"] == "completed"
