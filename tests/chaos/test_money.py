"""Money under fire: clients that know only the HTTP API, a ledger that is killed again and again, sums that agree."""

import asyncio
import json
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest
from stack import Job, Stack, running

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

SECONDS: Final = 60
CLIENTS: Final = 64
KILLS: Final = 6
GRANTED: Final = {"rich": 1_000_000, "poor": 300}
"""The poor one runs out of credits, and is refused."""

GEMINI: Final = "google/gemini-3.1-flash-image"
SIZE: Final = {"model": "sandbox/aurora", "width": 64, "height": 64}
WISHES: Final[list[dict[str, Any]]] = [
    {**SIZE, "n": 1},
    {**SIZE, "n": 4},
    {**SIZE, "n": 2, "deadline_s": 1},
    {"model": GEMINI, "n": 1, "prompt": "[[fault:403moderation]]"},
    {"model": GEMINI, "n": 2, "prompt": "[[fault:422x1]]"},
    {"model": GEMINI, "n": 1, "prompt": "[[fault:503]]"},
    {"model": GEMINI, "n": 1, "prompt": "[[fault:badbase64]]"},
    {"model": GEMINI, "n": 3, "prompt": "[[fault:503x1]] a fox"},
]
"""What succeeds, fails through us, through the user, in part, late, or after retries."""


_NONE: Final = 0
"""Stands for the status of no answer."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    yield from running(
        tmp_path_factory.mktemp("money") / ".pixorly",
        "--emulator",
        PIXORLY_RETRY_DELAYS_S="1,2,3",
        PIXORLY_SANDBOX_LATENCY_S="0.3",
        PIXORLY_LEDGER_TIMEOUT_S="2",
    )


@dataclass
class Customer:
    """An account and the programs that use it, which note only what the API answered."""

    name: str
    http: httpx.AsyncClient
    jobs: dict[str, Job] = field(default_factory=dict)
    by_key: dict[str, str] = field(default_factory=dict)
    sent: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    answers: Counter[int] = field(default_factory=Counter)

    async def client(self, dice: random.Random, until: float) -> None:
        """Ask, repeat and cancel at random."""
        while time.monotonic() < until:
            move = dice.random()
            if move < 0.2 and self.sent:
                await self.ask(*dice.choice(self.sent))
            else:
                wish = dice.choice(WISHES)
                request = str(uuid4()), {"prompt": f"picture {dice.random()}", **wish}
                self.sent.append(request)
                job = await self.ask(*request)
                if job and move > 0.8:
                    await self.call("POST", f"/v1/generations/{job['id']}/cancel")
            await asyncio.sleep(dice.uniform(0.5, 2.5))

    async def ask(self, key: str, body: dict[str, Any]) -> Job | None:
        """Create a job, or find it under the same key; None where the answer is another or none."""
        answer = await self.call("POST", "/v1/generations", json=body, headers={"Idempotency-Key": key})
        if answer is None or answer.status_code not in {200, 202}:
            return None
        job: Job = answer.json()
        self.jobs[job["id"]] = job
        assert self.by_key.setdefault(key, job["id"]) == job["id"], "a repeat made another job"
        return job

    async def call(self, method: str, path: str, **more: Any) -> httpx.Response | None:
        """Call once, as an impatient program does."""
        try:
            answer = await self.http.request(method, path, timeout=5, **more)
        except httpx.TransportError:
            self.answers[_NONE] += 1
            return None
        self.answers[answer.status_code] += 1
        return answer

    async def all_of(self, path: str) -> list[dict[str, Any]]:
        """Return every line of a list."""
        rows, cursor = list[dict[str, Any]](), None
        while True:
            params = {"limit": 100, **({"cursor": cursor} if cursor else {})}
            answer = await self.http.get(path, params=params, timeout=30)
            if answer.status_code == 503:
                await asyncio.sleep(0.5)
                continue
            assert answer.status_code == 200, answer.text
            rows += answer.json()["data"]
            cursor = answer.json()["next_cursor"]
            if cursor is None:
                return rows


async def killed(stack: Stack, times: int, every_s: float) -> int:
    """Kill the ledger, see it start again, and return how many different processes died."""
    died = set()
    for _ in range(times):
        await asyncio.sleep(every_s)
        died.add((await asyncio.to_thread(stack.ps))["ledger"]["pid"])
        await asyncio.to_thread(stack.kill, "ledger", signal.SIGKILL)
    return len(died - {None})


async def audited(stack: Stack, within_s: float) -> dict[str, Any]:
    """Wait for quiet, and return what `pixorly audit --quiet --storage` says then; it may never find anything else."""
    deadline = time.monotonic() + within_s
    while True:
        done = await asyncio.to_thread(stack.run, "audit", "--quiet", "--storage", "--json")
        assert done.stdout, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        off = [check for check in report["checks"] if not check["ok"] and not check["quiet"]]
        assert off == [], off
        if report["clean"]:
            assert done.returncode == 0
            return report
        assert time.monotonic() < deadline, [check for check in report["checks"] if not check["ok"]]
        await asyncio.sleep(3)


async def statement_agrees(customer: Customer, granted: int) -> None:
    """Check every sum that the statement alone gives against every answer that the API gave."""
    lines = (await customer.all_of("/v1/transactions"))[::-1]
    balance = 0
    moved: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    for line in lines:
        balance += line["amount_credits"]
        assert line["balance_credits"] == balance, line
        if line["job_id"]:
            moved[line["job_id"]].append((line["kind"], line["amount_credits"]))
    assert sum(line["amount_credits"] for line in lines if line["kind"] not in {"charge", "refund"}) == granted
    assert len({line["id"] for line in lines}) == len(lines)

    account = (await customer.http.get("/v1/account")).json()
    assert (account["credits_remaining"], account["storage"]["reserved_bytes"]) == (balance, 0)

    jobs = {job["id"]: job for job in await customer.all_of("/v1/generations")}
    assert customer.jobs.keys() <= jobs.keys(), "a job that was promised is gone"
    for job_id, job in jobs.items():
        assert job["status"] in {"completed", "failed", "canceled"}, job
        back = job["credits_refunded"]
        expected = [("charge", -job["credits_used"]), *([("refund", back)] if back else [])]
        assert moved.pop(job_id) == expected, job
        refunded = sum(failure["fault"] == "server" for failure in job["failures"])
        assert back * job["n"] == refunded * job["credits_used"], job
        assert len(job["images"]) + len(job["failures"]) == job["n"], job
    # What was charged and never became a job came back whole.
    assert all(sum(amount for _, amount in moves) == 0 for moves in moved.values()), moved


async def test_sums_from_statements_agree_to_the_credit_though_the_ledger_was_killed(stack: Stack) -> None:
    people = {}
    for name, credits_ in GRANTED.items():
        _, people[name] = await stack.user(amount_credits=credits_)
    async with (
        stack.client(people["rich"]) as rich_client,
        stack.client(people["poor"]) as poor_client,
    ):
        rich, poor = Customer("rich", rich_client.http), Customer("poor", poor_client.http)
        until = time.monotonic() + SECONDS
        _, died = await asyncio.gather(
            asyncio.gather(
                *((poor if number % 8 == 0 else rich).client(random.Random(number), until) for number in range(CLIENTS))
            ),
            killed(stack, KILLS, SECONDS / (KILLS + 1)),
        )
        await stack.ready(within_s=300)
        await audited(stack, within_s=420)
        await statement_agrees(rich, GRANTED["rich"])
        await statement_agrees(poor, GRANTED["poor"])

        assert died >= KILLS - 1
        assert rich.answers[202] > SECONDS, rich.answers
        assert rich.answers[503] + rich.answers[_NONE] > 0, "nobody noticed that the ledger was away"
        assert 402 in poor.answers
        jobs = await rich.all_of("/v1/generations")
        codes = {failure["code"] for job in jobs for failure in job["failures"]}
        assert {"content_rejected", "provider_refused", "provider_unavailable", "invalid_image", "canceled"} <= codes
        assert len(jobs) >= SECONDS
