"""How exactly a retry comes after 2, 4 and 8 seconds: at idle, and beside fifty jobs a second.

The provider fails every call of some jobs. What is measured is the time from each failure's answer to the next call,
less the delay that was meant.
"""

import asyncio
import random
import time
from uuid import uuid4

from effort import Effort, progress
from figures import Found, percentile
from http_load import Connection
from systems import Pixorly, pixorly
from world import MODELS, World, world

DELAYS_S = (2, 4, 8)
MOST_S = 0.2
RATE = 50
LONGEST_S = 60
"""What has not come by then counts as if it came then."""


def run(effort: Effort) -> Found:
    with world() as lent:
        return asyncio.run(measure(lent, effort))


async def measure(lent: World, effort: Effort) -> Found:
    found = Found()
    jobs = 10 if effort.quick else 40
    async with pixorly(lent) as system:
        await system.saturate(50, 64)
        await lent.calls()
        idle = await errors_s(lent, system, jobs)
        load = asyncio.create_task(steady(system, RATE))
        busy = await errors_s(lent, system, jobs)
        load.cancel()
        made = (await asyncio.gather(load, return_exceptions=True))[0]
        assert isinstance(made, asyncio.CancelledError), made
    for place, errors in (("at idle", idle), (f"beside {RATE} jobs/s", busy)):
        every = [error for each in errors.values() for error in each]
        aim = MOST_S if place == "at idle" else None
        found.add(f"retry delay error p99, {place}", percentile(map(abs, every), 0.99), "s", at_most=aim, of="value")
        found.add(f"retry delay error p50, {place}", percentile(map(abs, every), 0.5), "s")
        found.details[place] = {str(delay): [round(error, 3) for error in each] for delay, each in errors.items()}
    return found


async def errors_s(lent: World, system: Pixorly, jobs: int) -> dict[int, list[float]]:
    """Have so many jobs fail over a few seconds, and return by delay how late each retry was."""
    marks = [str(uuid4()) for _ in range(jobs)]
    connection = await Connection.open(system.url)
    for number, mark in enumerate(marks):
        # Four calls of four jobs fail of each model, which is not enough to open its breaker.
        system.model = MODELS[1 + number % 10]
        await system.ask(connection, f"{mark} [[fault:503]]", 64, system.next_key())
        await asyncio.sleep(5 / jobs)
    connection.close()
    system.model = MODELS[0]
    calls: dict[str, list[tuple[float, float]]] = {mark: [] for mark in marks}
    for _ in range(LONGEST_S):
        await asyncio.sleep(1)
        for prompt, arrived, answered in await lent.calls():
            if prompt.partition(" ")[0] in calls:
                calls[prompt.partition(" ")[0]].append((arrived, answered))
        if all(len(each) > len(DELAYS_S) for each in calls.values()):
            break
    missing = sum(len(each) <= len(DELAYS_S) for each in calls.values())
    if missing:
        progress(f"{missing} of {jobs} jobs were not called again three times within {LONGEST_S} s")
    errors: dict[int, list[float]] = {delay: [] for delay in DELAYS_S}
    now = time.monotonic()
    for came in calls.values():
        each = [*came, *[(now, now)] * (1 + len(DELAYS_S) - len(came))]
        for delay, (_, failed_at), (again_at, _) in zip(DELAYS_S, each, each[1:], strict=False):
            errors[delay].append(again_at - failed_at - delay)
    return errors


async def steady(system: Pixorly, rate: float) -> None:
    """Ask at random moments until canceled; what comes of it is not looked at."""
    chance, connections = random.Random(0), [await Connection.open(system.url) for _ in range(8)]
    turns = asyncio.Queue[Connection]()
    for connection in connections:
        turns.put_nowait(connection)

    async def one() -> None:
        connection = await turns.get()
        await system.ask(connection, "beside", 64, system.next_key())
        turns.put_nowait(connection)

    async with asyncio.TaskGroup() as group:
        while True:
            await asyncio.sleep(chance.expovariate(rate))
            group.create_task(one())
