"""The trial: jobs come in for two minutes, and every few seconds a process of the stack dies of SIGKILL.

`make trial` runs it and shows what it does; a seed that fails is tried again with `make trial SEED=…`.
"""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import Any

import httpx
import pytest
from invariants import books_and_bucket_agree, nothing_is_lost, nothing_left
from stack import SETTLED, Client, Job, Stack, running

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]

VICTIMS = ("api", "api-worker", "generator", "uploader", "ledger", "rabbitmq", "postgres")
BETWEEN_BLOWS_S = (2, 6)
SETTLED_WITHIN_S = 600
GRANTED = 1_000_000
ONE, FOUR = "google/gemini-3.1-flash-image", "openai/gpt-image-2"
"""The first is asked once for each image, the second once for all four."""


@dataclass(frozen=True)
class Blow:
    """A process that was killed, and when."""

    victim: str
    at: float


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    yield from running(tmp_path_factory.mktemp("trial") / ".pixorly", "--emulator")


async def test_whoever_dies_every_job_is_settled_once_and_paid_once(stack: Stack, trial: Any) -> None:
    random = Random(trial.seed)
    say(f"seed {trial.seed}, {trial.jobs} jobs within {trial.seconds} s")
    await emulator(stack, "POST", "script", {"rules": [{"latency": "0.5-4"}]})
    _, key = await stack.user(amount_credits=GRANTED)
    async with stack.client(key) as client:
        killing = asyncio.create_task(strike(stack, random, trial.seconds))
        jobs = await order(client, random, trial.jobs, trial.seconds)
        blows = await killing
        began = time.monotonic()
        await stack.ready()
        await eventually_settled(client, jobs)
    say(f"all settled {time.monotonic() - began:.0f} s after the last blow")
    done = await nothing_is_lost(stack, key, jobs, GRANTED)

    assert {job["status"] for job in done} == {"completed"}
    assert all(len(job["images"]) == job["n"] for job in done)
    await nothing_left(stack)
    await books_and_bucket_agree(stack)
    deaths = [blow.at for blow in blows if blow.victim == "generator"]
    check_the_bill(await emulator(stack, "GET", "bill"), done, deaths)


def say(text: str) -> None:
    print(f"\ntrial: {text}", flush=True)  # noqa: T201 - `make trial` is watched


async def emulator(stack: Stack, method: str, path: str, body: Any = None) -> Any:
    async with httpx.AsyncClient(base_url=stack.dev["emulator_url"], trust_env=False, timeout=30) as http:
        return (await http.request(method, f"/_emulator/{path}", json=body)).raise_for_status().json()


async def order(client: Client, random: Random, count: int, within_s: float) -> list[Job]:
    """Ask for the jobs, spread over the time; a client repeats what was not answered."""
    wishes = [(random.uniform(0, within_s), 1 + number % 4, random.choice((ONE, FOUR))) for number in range(count)]

    async def one(number: int, at_s: float, n: int, model: str) -> Job:
        await asyncio.sleep(at_s)
        return await client.create(f"number {number}", n=n, model=model, size=1024)

    return await asyncio.gather(*(one(number, *wish) for number, wish in enumerate(wishes)))


async def strike(stack: Stack, random: Random, for_s: float) -> list[Blow]:
    """Kill a process every few seconds, and return who died when."""
    blows: list[Blow] = []
    began = time.monotonic()
    while True:
        await asyncio.sleep(random.uniform(*BETWEEN_BLOWS_S))
        if time.monotonic() - began > for_s:
            break
        victim = random.choice(VICTIMS)
        pid = stack.pids()[victim]
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            blows.append(Blow(victim, time.time()))
    say(f"killed {dict(sorted(Counter(blow.victim for blow in blows).items()))}")
    return blows


async def eventually_settled(client: Client, jobs: Sequence[Job]) -> None:
    """Wait for all jobs, looking at each every few seconds only: the stack has enough to do."""
    left = [job["id"] for job in jobs]
    deadline = time.monotonic() + SETTLED_WITHIN_S
    while left:
        assert time.monotonic() < deadline, f"not settled: {left}"
        looks = [await client.ok("GET", f"/v1/generations/{job_id}") for job_id in left]
        left = [look["id"] for look in looks if look["status"] not in SETTLED]
        await asyncio.sleep(2)


def check_the_bill(bill: Any, jobs: Sequence[Job], deaths: Sequence[float]) -> None:
    """No call is made again but those that were under way, or not recorded yet, when a generator died."""
    extra = in_flight = 0
    for job in jobs:
        planned = job["n"] if job["model"] == ONE else 1
        more = bill["sessions"][job["id"]]["calls"] - planned
        met = sum(1 for at in deaths if _seconds(job["created_at"]) <= at <= _seconds(job["settled_at"]))
        assert 0 <= more <= met * planned, (job["id"], more, met)
        extra, in_flight = extra + more, in_flight + met
    calls = bill["total"]["calls"]
    say(f"{calls} calls, {extra} of them extra; {in_flight} jobs in flight at {len(deaths)} kills of the generator")
    assert extra <= in_flight


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
