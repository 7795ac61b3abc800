"""Create, get and list with a long history, beside the same on an empty system.

Two Pixorlys take turns. One has a hundred thousand settled jobs and three times as many transfers (ten times that in
the full run), half of them one user's; the other has a few. Jobs asked for meanwhile wait at the provider.
"""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import asyncpg
from effort import Effort, progress
from figures import Found, percentile
from filling import Template, clone
from http_load import Connection, get
from ledger import FILL
from parts.backlog import DEADLINE_S, Side, asked
from systems import Pixorly
from world import World, world

USERS = 20
MOST = 1.3
REQUESTS = 150
"""Of each kind in a round."""
FILL_STEP = 50_000
WAITS = "[[latency:900]]"


def run(effort: Effort) -> Found:
    jobs = 1_000 if effort.quick else 1_000_000 if effort.full else 100_000
    with ExitStack() as ends:
        told = {"PIXORLY_PROVIDER_TIMEOUT_S": "1800", "PIXORLY_JOB_DEADLINE_S": str(DEADLINE_S)}
        empty, full = (ends.enter_context(world(**told)) for _ in range(2))
        return asyncio.run(measure(empty, full, jobs, effort))


@dataclass
class Reader:
    """One of the two, and how long its answers took."""

    system: Pixorly
    job_of: Callable[[], tuple[str, str]]
    """Some settled job and the key of its user."""
    took_s: dict[str, list[float]] = field(default_factory=lambda: {"create": [], "get": [], "list": []})

    async def round(self, requests: int) -> None:
        connection = await Connection.open(self.system.url)
        for _ in range(requests):
            job_id, key = self.job_of()
            await self._timed("get", connection, get(f"/v1/generations/{job_id}", key))
            await self._timed("list", connection, get("/v1/generations?limit=20", key))
            await self._timed("create", connection, self.system.request(key, f"one more {WAITS}", 64))
        connection.close()

    async def _timed(self, kind: str, connection: Connection, request: bytes) -> None:
        began = time.perf_counter()
        status, answer = await connection.send(request)
        self.took_s[kind].append(time.perf_counter() - began)
        assert status in {200, 202}, answer


async def measure(empty: World, full: World, jobs: int, effort: Effort) -> Found:
    found = Found()
    small, large = Pixorly(empty), Pixorly(full)
    names = ["hot", *(f"user-{number}" for number in range(1, USERS))]
    for system in (small, large):
        await system.open_accounts(names)
        await system.saturate(100, 64)
    await load(full, large, jobs)
    readers = [Reader(small, some_job(await own_jobs(empty, small))), Reader(large, some_copy(large, jobs))]
    for turn in range(effort.rounds + 1):
        for reader in readers if turn % 2 == 0 else readers[::-1]:
            await reader.round(20 if effort.quick else REQUESTS)
        if turn == 0:  # whoever is measured first would pay for what is not in memory yet
            for reader in readers:
                for each in reader.took_s.values():
                    each.clear()
        progress(f"round {turn} of {effort.rounds}")
    report(found, jobs, *readers)
    return found


def report(found: Found, jobs: int, small: Reader, large: Reader) -> None:
    for kind in ("create", "get", "list"):
        for share, name in ((0.5, "p50"), (0.99, "p99")):
            ours, theirs = (1000 * percentile(reader.took_s[kind], share) for reader in (large, small))
            aim = MOST if name == "p99" else None
            found.add(f"{kind} {name} with {jobs:,} jobs", ours, "ms", ("empty", theirs), at_most=aim)
    found.details[str(jobs)] = {
        kind: {
            side: {str(share): round(1000 * percentile(reader.took_s[kind], share), 2) for share in (0.5, 0.9, 0.99)}
            for side, reader in (("empty", small), ("full", large))
        }
        for kind in ("create", "get", "list")
    }


async def load(lent: World, system: Pixorly, jobs: int) -> None:
    """Copy a settled job in the api and the generator, and let the ledger have three transfers for each."""
    template = await settled(lent, system)
    body_hash = "jsonb_build_object('body_hash', '\\x' || encode(sha256(n::text::bytea), 'hex'))"
    api = {"jobs": body_hash, "slots": "", "images": "", "attempts": ""}
    await clone(lent.database_url("pixorly_api"), api, template, jobs)
    calls = {"calls": "", "settled_jobs": ""}
    await clone(lent.database_url("pixorly_generator"), calls, template, jobs)
    connection = await asyncpg.connect(lent.database_url("pixorly_ledger"))
    for first in range(1, jobs + 1, FILL_STEP):
        last = min(first + FILL_STEP - 1, jobs)
        await connection.execute(FILL.read_text(), first, last, USERS - 1, timeout=900)
        progress(f"{3 * last:,} of {3 * jobs:,} transfers")
    await connection.execute("vacuum analyze", timeout=1800)
    await connection.execute("checkpoint", timeout=900)
    await connection.close()


async def settled(lent: World, system: Pixorly) -> Template:
    """A settled job to copy, whose copies are as old as those that the ledger is filled with."""
    side = Side(lent, system, 0)
    template = await asked(side)
    while not await _is_settled(lent, template.job_id):  # noqa: ASYNC110 - in a database
        await asyncio.sleep(0.1)
    # The ledger's filling gives every second job to the first user and the others to the rest in turn.
    owners = [owner(number) for number in range(2 * (USERS - 1))]
    return Template(template.job_id, template.image_id, owners, "00000000-0000")


def owner(number: int) -> str:
    return "hot" if number % 2 == 0 else f"user-{number // 2 % (USERS - 1) + 1}"


async def _is_settled(lent: World, job_id: str) -> bool:
    connection = await asyncpg.connect(lent.database_url("pixorly_api"))
    settled_at = await connection.fetchval("select settled_at from jobs where job_id = $1", job_id)
    await connection.close()
    return settled_at is not None


async def own_jobs(lent: World, system: Pixorly) -> list[tuple[str, str]]:
    connection = await asyncpg.connect(lent.database_url("pixorly_api"))
    rows = await connection.fetch("select job_id, user_id from jobs where settled_at is not null")
    await connection.close()
    keys = dict(zip(system.users, system.keys, strict=True))
    return [(str(row["job_id"]), keys[row["user_id"]]) for row in rows]


def some_job(jobs: list[tuple[str, str]]) -> Callable[[], tuple[str, str]]:
    chance = random.Random(0)
    return lambda: chance.choice(jobs)


def some_copy(system: Pixorly, jobs: int) -> Callable[[], tuple[str, str]]:
    """Any of the copies: most are in nobody's memory."""
    chance, keys = random.Random(0), dict(zip(system.users, system.keys, strict=True))

    def some() -> tuple[str, str]:
        number = chance.randint(1, jobs)
        return f"00000000-0000-7000-8000-{number:012x}", keys[owner(number)]

    return some
