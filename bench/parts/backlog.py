"""Throughput with many jobs queued, beside the same with a hundred.

Two Pixorlys take turns: while one works all services of the other are halted, so that each goes on from where it was,
with as much in every queue. Both are fed by clients who ask for one more whenever one is done, so that as many stay
queued. The jobs that lie in the queue from the start are copies of one that was asked for: their rows and their
messages.
"""

import asyncio
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median

import asyncpg
import httpx
import psutil  # type: ignore[import-untyped]  # it has no types of its own
from effort import Effort, progress
from figures import Found, percentile, ratio_of_rounds
from filling import Template, clone, heard, publish_copies
from http_load import Connection
from systems import CLIENTS, Pixorly
from world import SERVICES, BenchError, World, world

FEW = 100
LEAST = 0.9
WARM_S = 2
"""Until calls are under way again after the halt."""
LONGER = 2
"""A turn is so many times as long as elsewhere: what is made in it must also be stored and settled in it."""
FIRST = 2
"""And the first one, which does not count, so many times as long as the others: until every queue is as full as it
gets."""
OPEN = "select count(*) from jobs where status in ('pending', 'processing', 'uploading')"
DEADLINE_S = 6 * 3600
"""What is queued must not end before it is its turn."""


def run(effort: Effort) -> Found:
    found = Found()
    for queued in (1000,) if effort.quick else (10_000, 100_000) if effort.full else (10_000,):
        # While a side is halted it sends no heartbeats, renews no leases and hears no confirms.
        told = {
            "PIXORLY_AMQP_HEARTBEAT_S": "600",
            "PIXORLY_LEASE_S": "120",
            "PIXORLY_PUBLISH_TIMEOUT_S": "60",
            "PIXORLY_JOB_DEADLINE_S": str(DEADLINE_S),
            # It is halted for half of the time, in which these go on: as they are they would come twice as often.
            "PIXORLY_RECONCILE_INTERVAL_S": "60",
            "PIXORLY_AUDIT_INTERVAL_S": "120",
            "PIXORLY_NUDGE_AFTER_S": "240",
        }
        with ExitStack() as ends:
            few, many = (ends.enter_context(world(**told)) for _ in range(2))
            asyncio.run(measure(few, many, queued, effort, found))
    return found


@dataclass
class Side:
    """One of the two that take turns."""

    world: World
    system: Pixorly
    queued: int
    open: int = 0
    """Jobs that were not settled at the last look, and those that were asked for since."""
    asking: int = 0
    per_s: list[float] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)
    """How long the api took for each request."""

    def halt(self) -> None:
        for process in self._services():
            process.suspend()

    def resume(self) -> None:
        for process in self._services():
            process.resume()

    def _services(self) -> list[psutil.Process]:
        return [psutil.Process(self.world.pids[name]) for name in SERVICES]

    async def turn(self, seconds: float) -> None:
        """Let it work, and note how many jobs a second were done."""
        self.resume()
        feeders = [asyncio.create_task(self._feed()) for _ in range(CLIENTS)]
        watch = asyncio.create_task(self._watch())
        await asyncio.sleep(WARM_S)
        before, began = await self._settled(), time.monotonic()
        await asyncio.sleep(seconds)
        done, took_s = await self._settled() - before, time.monotonic() - began
        self.per_s.append(done / took_s)
        self.halt()
        for task in [watch, *feeders]:
            task.cancel()
        for result in await asyncio.gather(watch, *feeders, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    async def _settled(self) -> int:
        return int(await self._ask("select count(*) from jobs where settled_at is not null"))

    async def _ask(self, query: str) -> object:
        connection = await asyncpg.connect(self.world.database_url("pixorly_api"))
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    async def _watch(self) -> None:
        """Look every second: a look at a hundred thousand rows costs something, too."""
        while True:
            self.open = int(await self._ask(OPEN)) + self.asking
            await asyncio.sleep(1)

    async def _feed(self) -> None:
        while True:
            if self.open >= self.queued:
                await asyncio.sleep(0.02)
                continue
            self.open += 1
            self.asking += 1
            try:
                # One that waited for its turn would be closed by the api.
                connection = await Connection.open(self.system.url)
                began = time.monotonic()
                await self.system.ask(connection, "one more", 64, self.system.next_key())
                self.took_s.append(time.monotonic() - began)
                connection.close()
            finally:
                self.asking -= 1


async def measure(few: World, many: World, queued: int, effort: Effort, found: Found) -> None:
    sides = [await opened(few, FEW), await opened(many, queued)]
    await load(sides[1], queued)
    try:
        await in_turn(sides, effort)
    finally:
        # Who is halted does not hear that it is to end.
        for side in sides:
            side.resume()
    small, large = sides
    if not min(small.per_s):
        raise BenchError("this machine is too busy: in one round nothing was done")
    found.add(
        f"throughput with {queued:,} queued, 64 px",
        median(large.per_s),
        "jobs/s",
        (f"with {FEW} queued", median(small.per_s)),
        ratio=ratio_of_rounds(large.per_s, small.per_s),
        at_least=LEAST,
    )
    if large.took_s and small.took_s:
        create = f"create p99 with {queued:,} queued", 1000 * percentile(large.took_s, 0.99), "ms"
        found.add(*create, (f"with {FEW} queued", 1000 * percentile(small.took_s, 0.99)))
    found.add(f"wait of a new job behind {queued:,}", queued / median(large.per_s), "s")
    found.details[str(queued)] = {"many": large.per_s, "few": small.per_s}


async def in_turn(sides: list[Side], effort: Effort) -> None:
    seconds = effort.seconds * LONGER
    for side in sides:
        side.halt()
    for side in sides:
        await side.turn(seconds * FIRST)
        progress(f"{side.queued:,} queued, before it counts: {side.per_s.pop():.1f} jobs/s")
        side.took_s.clear()
    for turn in range(effort.rounds):
        for side in sides if turn % 2 == 0 else sides[::-1]:
            await side.turn(seconds)
        reached = ", ".join(f"{side.queued:,} queued: {side.per_s[-1]:.1f} jobs/s" for side in sides)
        progress(f"round {turn + 1} of {effort.rounds}, {reached}")


async def opened(lent: World, queued: int) -> Side:
    system = Pixorly(lent)
    await system.open_accounts()
    await system.saturate(50, 64)
    return Side(lent, system, queued)


async def load(side: Side, count: int) -> None:
    """Queue copies of a job while the generator is halted."""
    generator = psutil.Process(side.world.pids["generator"])
    generator.suspend()
    try:
        async with heard(side.world, "job.created") as message:
            template = await asked(side)
            copied = await asyncio.wait_for(message, 30)
        api, ledger = side.world.database_url("pixorly_api"), side.world.database_url("pixorly_ledger")
        await clone(api, {"jobs": "", "slots": ""}, template, count)
        await clone(ledger, {"charges": "", "images": ""}, template, count)
        await reserve(ledger)
        await publish_copies(side.world, copied, template, count)
    finally:
        generator.resume()


async def asked(side: Side) -> Template:
    """Ask for the job to copy."""
    headers = {"Authorization": f"Bearer {side.system.keys[0]}"}
    body = {"model": side.system.model, "prompt": "to copy", "width": 64, "height": 64, "deadline_s": DEADLINE_S}
    async with httpx.AsyncClient(base_url=side.system.url, headers=headers, trust_env=False, timeout=30) as http:
        made = (await http.post("/v1/generations", json=body)).raise_for_status().json()
    connection = await asyncpg.connect(side.world.database_url("pixorly_api"))
    image_id = await connection.fetchval("select image_id from slots where job_id = $1", made["id"])
    await connection.close()
    return Template(made["id"], str(image_id), side.system.users, made["id"][:13])


async def reserve(url: str) -> None:
    """Have accounts know of the storage that the copies reserved."""
    connection = await asyncpg.connect(url)
    await connection.execute(
        """
        update accounts a set reserved_bytes = i.bytes
        from (select user_id, sum(bytes) as bytes from images where state = 'reserved' group by user_id) i
        where i.user_id = a.user_id"""
    )
    await connection.close()
