"""Create, get and list with a long history, beside the same on an empty system.

Two Pixorlys take turns at each request. One has a hundred thousand settled jobs and three times as many transfers (ten
times that in the full run), half of them one user's; the other has fifty jobs of each user, which fill its pages. The
same users ask both the same: for any of their jobs, for their newest jobs, for the page of jobs before the one that
they read, and for one job more, which then waits at the provider.
"""

import asyncio
import random
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from uuid import UUID

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
PAGE = 20
OWN = 50
"""The jobs that each user has in both: half of them to be read, which leaves more than a page before each."""
MOST = 1.3
REQUESTS = 150
"""Of each kind in a round."""
KINDS = {"create": "create", "get": "get", "list": "list", "older": "list of older jobs"}
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
    connection: Connection
    job_of: Callable[[int], tuple[str, str]]
    """The settled job that stands for a number, and the user whose it is."""
    took_s: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    async def ask(self, kind: str, number: int) -> int:
        """Ask for what is of this kind, note how long it took, and return how many bytes came."""
        job_id, user = self.job_of(number)
        key = self.system.keys[self.system.users.index(user)]
        path = f"/v1/generations?limit={PAGE}"
        requests = {
            "create": lambda: self.system.request(key, f"one more {WAITS}", 64),
            "get": lambda: get(f"/v1/generations/{job_id}", key),
            "list": lambda: get(path, key),
            "older": lambda: get(f"{path}&cursor={urlsafe_b64encode(UUID(job_id).bytes).decode().rstrip('=')}", key),
        }
        request, began = requests[kind](), time.perf_counter()
        status, answer = await self.connection.send(request)
        self.took_s[kind].append(time.perf_counter() - began)
        assert status in {200, 202}, answer
        return len(answer)


async def measure(empty: World, full: World, jobs: int, effort: Effort) -> Found:
    found = Found()
    small, large = Pixorly(empty), Pixorly(full)
    names = ["hot", *(f"user-{number}" for number in range(1, USERS))]
    for system in (small, large):
        await system.open_accounts(names)
        await system.saturate(OWN * USERS, 64)
    await load(full, large, jobs)
    await settle_down(empty, full)
    readers = [await reader(small, some_job(await own_jobs(empty))), await reader(large, some_copy)]
    chance = random.Random(0)
    for turn in range(effort.rounds + 1):
        await in_turn(readers, [chance.randint(1, jobs) for _ in range(20 if effort.quick else REQUESTS)])
        if turn == 0:  # whoever is measured first would pay for what is not in memory yet
            for each in readers:
                each.took_s = {kind: [] for kind in KINDS}
        progress(f"round {turn} of {effort.rounds}")
    report(found, jobs, *readers)
    return found


async def reader(system: Pixorly, job_of: Callable[[int], tuple[str, str]]) -> Reader:
    return Reader(system, await Connection.open(system.url), job_of)


async def in_turn(readers: Sequence[Reader], numbers: Sequence[int]) -> None:
    """Ask both the same, one after the other: what the machine does besides befalls both."""
    for place, number in enumerate(numbers):
        for kind in ("get", "list", "older", "create"):
            for each in readers if place % 2 == 0 else readers[::-1]:
                await each.ask(kind, number)


async def settle_down(*worlds: World) -> None:
    """Let both databases do what they would do by themselves some time after so much was written."""
    for lent in worlds:
        for name in ("pixorly_api", "pixorly_generator", "pixorly_ledger"):
            connection = await asyncpg.connect(lent.database_url(name))
            await connection.execute("vacuum analyze", timeout=1800)
            await connection.execute("checkpoint", timeout=900)
            await connection.close()


def report(found: Found, jobs: int, small: Reader, large: Reader) -> None:
    for kind, words in KINDS.items():
        for share, name in ((0.5, "p50"), (0.99, "p99")):
            ours, theirs = (1000 * percentile(reader.took_s[kind], share) for reader in (large, small))
            aim = MOST if name == "p99" else None
            found.add(f"{words} {name} with {jobs:,} jobs", ours, "ms", ("empty", theirs), at_most=aim)
    found.details[str(jobs)] = {
        kind: {
            side: {str(share): round(1000 * percentile(reader.took_s[kind], share), 2) for share in (0.5, 0.9, 0.99)}
            for side, reader in (("empty", small), ("full", large))
        }
        for kind in KINDS
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
        if last % (4 * FILL_STEP) == 0 or last == jobs:
            progress(f"{3 * last:,} of {3 * jobs:,} transfers")
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


async def own_jobs(lent: World) -> dict[str, list[str]]:
    """Each user's newest settled jobs."""
    connection = await asyncpg.connect(lent.database_url("pixorly_api"))
    rows = await connection.fetch("select job_id, user_id from jobs where settled_at is not null order by job_id desc")
    await connection.close()
    jobs: dict[str, list[str]] = {}
    for row in rows:
        jobs.setdefault(row["user_id"], []).append(str(row["job_id"]))
    return {user: ids[: OWN // 2] for user, ids in jobs.items()}


def some_job(jobs: Mapping[str, Sequence[str]]) -> Callable[[int], tuple[str, str]]:
    def some(number: int) -> tuple[str, str]:
        user = owner(number)
        return jobs[user][number % len(jobs[user])], user

    return some


def some_copy(number: int) -> tuple[str, str]:
    """Any of the copies: most are in nobody's memory."""
    return f"00000000-0000-7000-8000-{number:012x}", owner(number)
