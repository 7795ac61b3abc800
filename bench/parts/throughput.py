"""Jobs a second, saturated, and what each job costs: Pixorly, Celery, Dramatiq and the bare work in turn."""

import asyncio
from contextlib import AsyncExitStack
from statistics import median

from effort import Effort, progress
from figures import Found, ratio_of_rounds
from systems import Crew, HttpSystem, Rival, Round, System, bare, pixorly, rival
from world import World, world

SIDES = (64, 1024)
CREWS = {
    "celery": [Crew(processes) for processes in (1, 2, 3, 4)],
    "dramatiq": [Crew(1, 8), Crew(2, 8), Crew(3, 4), Crew(4, 2)],
}
"""Which the rivals may choose from: a process of Celery works on one job, one of Dramatiq has threads, mostly eight."""
TARGETS = {
    64: {"celery": 2.0, "dramatiq": 1.0, "bare": 0.4},
    1024: {"celery": 1.2, "dramatiq": 1.0, "bare": 0.8},
}
CPU_TARGET = 1.2
LONGER = 2
"""A round takes twice as long as elsewhere: the way into a system and out of it is to weigh little."""
COUNTED_JOBS = 100
COUNTS_WITHIN_S = 12
"""RabbitMQ counts every five seconds, an idle connection of PostgreSQL after ten."""


def run(effort: Effort) -> Found:
    with world() as lent:
        return asyncio.run(measure(lent, effort))


async def measure(lent: World, effort: Effort) -> Found:
    found = Found()
    async with AsyncExitStack() as ends:
        ours = await ends.enter_async_context(pixorly(lent))
        rivals = [await ends.enter_async_context(rival(lent, kind, s3_client=s3)) for kind, s3 in shops(effort)]
        limit = await ends.enter_async_context(bare(lent))
        systems: list[System] = [ours, *rivals, limit]
        for system in systems:
            await system.round(20, 64)
        found.details["crews"] = {}
        for side in SIDES:
            crews = {each.name: await best_crew(each, side, effort) for each in rivals}
            found.details["crews"][str(side)] = crews
            rates = {system.name: await system.round(effort.some(side), side) for system in systems}
            rounds = await in_turn(systems, side, effort, {name: round_.per_s for name, round_ in rates.items()})
            report(found, side, rounds)
        found.details["counts"] = await counts(lent, systems)
    report_counts(found)
    return found


def shops(effort: Effort) -> list[tuple[str, str]]:
    """The rivals, and in the full run the same with the object store's client that Pixorly has."""
    return [
        (kind, s3) for s3 in (("boto3", "obstore") if effort.full else ("boto3",)) for kind in ("celery", "dramatiq")
    ]


async def best_crew(system: Rival, side: int, effort: Effort) -> dict[str, float]:
    """Let it work with several numbers of processes and go on with the best; return what each reached."""
    reached: dict[Crew, float] = {}
    for crew in CREWS[system.kind]:
        await system.hire(crew)
        reached[crew] = (await system.round(effort.some(side), side)).per_s
        progress(f"{side} px, {system.name} with {crew}: {reached[crew]:.1f} jobs/s")
    best = max(reached, key=lambda crew: reached[crew])
    await system.hire(best)
    return {str(crew): round(reached[crew], 1) for crew in sorted(reached, key=lambda crew: -reached[crew])}


async def in_turn(systems: list[System], side: int, effort: Effort, rates: dict[str, float]) -> dict[str, list[Round]]:
    """Measure them in rounds that take turns, each of about as long."""
    rounds: dict[str, list[Round]] = {system.name: [] for system in systems}
    for turn in range(effort.rounds):
        shift = turn % len(systems)
        for system in [*systems[shift:], *systems[:shift]]:
            jobs = max(effort.some(side), round(rates[system.name] * LONGER * effort.seconds))
            done = await system.round(jobs, side)
            rounds[system.name].append(done)
            progress(f"{side} px, round {turn + 1} of {effort.rounds}, {system.name}: {done.per_s:.1f} jobs/s")
    return rounds


def report(found: Found, side: int, rounds: dict[str, list[Round]]) -> None:
    rates = {name: [round_.per_s for round_ in each] for name, each in rounds.items()}
    others = [name for name in rates if name != "pixorly"]
    for name in others:
        found.add(
            f"throughput, {side} px",
            median(rates["pixorly"]),
            "jobs/s",
            (name, median(rates[name])),
            ratio=ratio_of_rounds(rates["pixorly"], rates[name]),
            at_least=TARGETS[side].get(name),
        )
    cpu = {name: [round_.cpu_ms for round_ in each] for name, each in rounds.items()}
    for name in others:
        aim = CPU_TARGET if (side, name) == (1024, "dramatiq") else None
        found.add(
            f"processor for each job, {side} px",
            median(cpu["pixorly"]),
            "ms",
            (name, median(cpu[name])),
            ratio=ratio_of_rounds(cpu["pixorly"], cpu[name]),
            at_most=aim,
        )
    found.details.setdefault("rates", {})[str(side)] = rates
    found.details.setdefault("cpu_s_per_1000", {})[str(side)] = {
        name: {process: median(round_.cpu_s(process) for round_ in each) for process in each[0].used.cpu_s}
        for name, each in rounds.items()
    }
    found.details.setdefault("written_kb", {})[str(side)] = {
        name: {process: median(round_.written_kb(process) for round_ in each) for process in each[0].used.written}
        for name, each in rounds.items()
    }


async def counts(lent: World, systems: list[System]) -> dict[str, dict[str, float]]:
    """What a job takes of others, by system: messages, transactions, calls of the object store."""
    taken = {}
    await asyncio.sleep(COUNTS_WITHIN_S)
    for system in systems:
        before = await _counted(lent, system)
        await system.saturate(COUNTED_JOBS, 64)
        await asyncio.sleep(COUNTS_WITHIN_S)
        after = await _counted(lent, system)
        taken[system.name] = {name: (after[name] - before[name]) / COUNTED_JOBS for name in after}
        progress(f"for each job, {system.name}: {taken[system.name]}")
    return taken


async def _counted(lent: World, system: System) -> dict[str, int]:
    polls = system.polls if isinstance(system, HttpSystem) else 0
    return {
        "messages": await lent.messages(system.vhost) if system.vhost else 0,
        "transactions": await lent.transactions(*system.databases) - polls,
        "object calls": await lent.object_calls(),
    }


def report_counts(found: Found) -> None:
    counted = found.details["counts"]
    for name in ("messages", "transactions", "object calls"):
        for other in ("celery", "dramatiq", "bare"):
            found.add(f"{name} for each job", counted["pixorly"][name], "", (other, counted[other][name]))
    for side in SIDES:
        written = {name: sum(each.values()) for name, each in found.details["written_kb"][str(side)].items()}
        for other in ("celery", "dramatiq", "bare"):
            found.add(f"written to disk for each job, {side} px", written["pixorly"], "kB", (other, written[other]))
