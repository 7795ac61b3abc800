"""A thousand provider calls in flight in one generator (five thousand, too, in the full run): memory, and dispatch.

Jobs are made whose calls take minutes. When all of them wait, the generator's memory is compared with what it was
before, and more jobs are sent, ten a second, to see how soon theirs are dispatched beside so many.
"""

import asyncio
import re
import time
from statistics import median

import httpx
from effort import Effort, progress
from figures import Found, percentile
from machine import memory_mb
from parts.latency import Times, arrivals, at_rate
from systems import Pixorly, pixorly
from world import BenchError, World, world

IN_FLIGHT = re.compile(r"^pixorly_provider_calls_in_flight\{[^}]*\} (\S+)$", re.MULTILINE)
MOST_KB = 200
RATE = 10
REACHED_WITHIN_S = 600


def run(effort: Effort) -> Found:
    found = Found()
    for jobs in sizes(effort):
        # Calls wait until the last of them has begun, however slowly they are made here.
        long = {"PIXORLY_PROVIDER_TIMEOUT_S": "3600", "PIXORLY_JOB_DEADLINE_S": "7200"}
        with world(PIXORLY_GENERATOR_CONCURRENCY=str(jobs + 300), **long) as lent:
            asyncio.run(measure(lent, effort, jobs, found))
    return found


def sizes(effort: Effort) -> list[int]:
    if effort.quick:
        return [100]
    return [1000, 5000] if effort.full else [1000]


async def measure(lent: World, effort: Effort, jobs: int, found: Found) -> None:
    async with pixorly(lent) as system:
        # What every job leaves behind at first, such as open connections and imported modules, is not the wait's.
        await system.saturate(min(200, jobs), 64)
        await lent.calls()
        alone = await dispatched(lent, system, effort)
        idle_mb = await memory(lent)
        began = time.monotonic()
        making = asyncio.create_task(system.post_all(jobs, 64, f"[[latency:{jobs / 5 + 90:.0f}]]"))
        await reached(lent, jobs, making)
        reached_s = time.monotonic() - began
        waiting_mb = await memory(lent)
        beside = await dispatched(lent, system, effort)
        still = await in_flight(lent)
    if still < jobs:
        raise BenchError(f"only {still} of {jobs} calls were in flight at the end: this machine is too slow for it")
    each_kb = (waiting_mb - idle_mb) * 1000 / jobs
    progress(f"{jobs} in flight after {reached_s:.0f} s: {idle_mb:.0f} MB before, {waiting_mb:.0f} MB then")
    found.add(f"memory per job, {jobs} in flight", each_kb, "kB", at_most=MOST_KB, of="value")
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        quiet = 1000 * percentile(alone.dispatch, share)
        busy = 1000 * percentile(beside.dispatch, share)
        found.add(f"dispatch {name} beside {jobs} in flight, {RATE} jobs/s", busy, "ms", ("with none", quiet))
    found.details[str(jobs)] = {
        "idle_mb": round(idle_mb, 1),
        "waiting_mb": round(waiting_mb, 1),
        "reached_s": round(reached_s, 1),
    }


async def dispatched(lent: World, system: Pixorly, effort: Effort) -> Times:
    times = Times()
    for turn in range(effort.rounds):
        await at_rate(lent, system, 64, arrivals(RATE, effort.seconds, turn), times)
    return times


async def memory(lent: World) -> float:
    """The median of the generator's memory over two seconds, in MB."""
    looks = []
    for _ in range(20):
        looks.append(memory_mb(lent.pids["generator"]))
        await asyncio.sleep(0.1)
    return median(looks)


async def in_flight(lent: World) -> int:
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        text = (await http.get(f"{lent.dev['service_urls']['generator']}/metrics")).text
    return int(sum(map(float, IN_FLIGHT.findall(text))))


async def reached(lent: World, jobs: int, making: asyncio.Task[list[str]]) -> None:
    ends = time.monotonic() + REACHED_WITHIN_S
    while await in_flight(lent) < jobs:
        if making.done():
            making.result()
        if time.monotonic() > ends:
            raise BenchError(f"{jobs} calls were not in flight within {REACHED_WITHIN_S} s")
        await asyncio.sleep(0.5)
