"""Dispatch and finish at a steady rate: how soon the provider is called, and how soon the client knows of its answer.

Requests come at random moments, the same ones for everybody, and the provider answers at once, which is kindest to
workers that do one thing at a time. Pixorly's clients follow their job's stream of events; the rivals have none, so
theirs ask every 25 ms, which is more often than anybody would.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from uuid import uuid4

from effort import Effort, progress
from figures import Found, percentile
from http_load import Connection
from systems import HttpSystem, Pixorly, Rival, pixorly, rival
from world import World, world

LOADS = [(64, 5), (64, 20), (64, 50), (1024, 5)]
"""Pixels a side, and jobs a second."""
TARGETS_MS = {
    ("dispatch", 64, 20, 0.5): 25,
    ("dispatch", 64, 20, 0.99): 100,
    ("finish", 1024, 5, 0.5): 250,
    ("finish", 1024, 5, 0.99): 500,
}
FEWEST = 20
ALL_WITHIN_S = 90


@dataclass
class Times:
    """Seconds, of all jobs of all rounds."""

    dispatch: list[float] = field(default_factory=list)
    finish: list[float] = field(default_factory=list)
    lost: int = 0
    """Not finished within a minute and a half: the system could not keep up."""

    def ms(self, kind: str, share: float) -> float:
        return 1000 * percentile(getattr(self, kind), share)


def run(effort: Effort) -> Found:
    with world() as lent:
        return asyncio.run(measure(lent, effort))


async def measure(lent: World, effort: Effort) -> Found:
    found = Found()
    async with AsyncExitStack() as ends:
        systems: list[HttpSystem] = [
            await ends.enter_async_context(pixorly(lent)),
            await ends.enter_async_context(rival(lent, "celery")),
            await ends.enter_async_context(rival(lent, "dramatiq")),
        ]
        for system in systems:
            await system.round(20, 1024)
        await lent.calls()
        for side, rate in LOADS:
            times = {system.name: Times() for system in systems}
            for turn in range(effort.rounds):
                for system in [*systems[turn % 3 :], *systems[: turn % 3]]:
                    moments = arrivals(rate, max(effort.seconds, FEWEST / rate), turn)
                    await at_rate(lent, system, side, moments, times[system.name])
                progress(f"{side} px, {rate} jobs a second, round {turn + 1} of {effort.rounds}: {words(times)}")
            report(found, side, rate, times)
    return found


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Moments at which requests come, as from many clients who know nothing of each other."""
    chance, moments, at = random.Random(seed), list[float](), 0.0
    while (at := at + chance.expovariate(rate)) < seconds:
        moments.append(at)
    return moments


def words(times: dict[str, Times]) -> str:
    return ", ".join(
        f"{name} {each.ms('dispatch', 0.5):.0f}/{each.ms('finish', 0.5):.0f} ms" for name, each in times.items()
    )


async def at_rate(lent: World, system: HttpSystem, side: int, moments: Sequence[float], times: Times) -> None:
    """Send requests at these moments, and add what was measured."""
    began, sent, known = time.monotonic(), dict[str, float](), dict[str, float]()

    async def one(moment: float) -> None:
        prompt, key = f"steady {uuid4()}", system.next_key()
        # Connected before it counts: a client that stays has a connection.
        await asyncio.sleep(max(0.0, began + moment - 0.05 - time.monotonic()))
        connection = await Connection.open(system.url)
        await asyncio.sleep(began + moment - time.monotonic())
        sent[prompt] = time.monotonic()
        job_id = await system.ask(connection, prompt, side, key)
        await followed(system, connection, job_id, key)
        known[prompt] = time.monotonic()
        connection.close()

    tasks = [asyncio.create_task(one(moment)) for moment in moments]
    _, late = await asyncio.wait(tasks, timeout=ALL_WITHIN_S + (moments[-1] if moments else 0))
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    for task in set(tasks) - late:
        task.result()
    times.lost += len(late)
    for prompt, arrived, answered in await lent.calls():
        if prompt in known:
            times.dispatch.append(arrived - sent[prompt])
            times.finish.append(known[prompt] - answered)


async def followed(system: HttpSystem, connection: Connection, job_id: str, key: str) -> None:
    """Return when the client knows that the job is done."""
    if isinstance(system, Pixorly):
        await connection.until(f"/v1/generations/{job_id}/events", key, b"event: settled")
        return
    assert isinstance(system, Rival)
    while not await system.is_done(connection, job_id, key):  # noqa: ASYNC110 - as its clients do
        await asyncio.sleep(0.025)


def report(found: Found, side: int, rate: int, times: dict[str, Times]) -> None:
    for kind in ("dispatch", "finish"):
        for share, name in ((0.5, "p50"), (0.99, "p99")):
            ours = times["pixorly"].ms(kind, share)
            aim = TARGETS_MS.get((kind, side, rate, share))
            figure = f"{kind} {name}, {rate} jobs/s of {side} px"
            if aim:
                found.add(figure, ours, "ms", at_most=aim, of="value")
            for rival_ in ("celery", "dramatiq"):
                below = 1.0 if aim and kind == "dispatch" else None
                found.add(figure, ours, "ms", (rival_, times[rival_].ms(kind, share)), at_most=below)
    found.details.setdefault("times_ms", {})[f"{side}/{rate}"] = {
        name: {
            **{
                kind: {str(share): round(each.ms(kind, share), 1) for share in (0.5, 0.9, 0.99)}
                for kind in ("dispatch", "finish")
            },
            "jobs": len(each.dispatch),
            "lost": each.lost,
        }
        for name, each in times.items()
    }
