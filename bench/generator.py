"""How many provider calls one generator holds at once, how soon, and what each that waits costs in memory.

    python bench/generator.py [--jobs 1000] [--latency 10] [--emulator] [--live] [--json FILE]

It starts a stack of its own in a folder that it removes, and makes so many jobs of one image of 64 by 64 pixels. The
generator is halted meanwhile (SIGSTOP) and then killed, so that all of them wait for the one that the stack starts in
its place, however slow the API is here; with `--live` it is left alone. It is looked at ten times a second:
its calls in flight, and its memory; the start itself is part of the time. The calls go to the sandbox, which waits on
this machine; with `--emulator` they go over HTTP, as a provider's do.
"""

import argparse
import asyncio
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil  # type: ignore[import-untyped]  # it has no types of its own
from http_load import Connection, post

PIXORLY = str(Path(sys.executable).with_name("pixorly"))
IN_FLIGHT = re.compile(r"^pixorly_provider_calls_in_flight\{[^}]*\} (\S+)$", re.MULTILINE)
SETTLED = {"completed", "failed", "canceled"}
CLIENTS = 32
ANY_SIZE = """
[[models]]
id = "emulator/any"
name = "Any"
description = "Any size."
provider = "openrouter"
credits = 1
parameters = ["n", "size"]
max_n = 10
"""


@dataclass
class Looks:
    """What was seen of the generator, second by second since it had something to do."""

    idle_mb: float
    peak_mb: float = 0
    peak_in_flight: int = 0
    peak_in_flight_s: float = 0
    waiting_mb: float = 0
    """Its memory when most calls were in flight."""
    seconds: list[tuple[float, int, float]] = field(default_factory=list)


@contextmanager
def stack(folder: Path, *words: str, **told: str) -> Iterator[dict[str, Any]]:
    environment = {**os.environ, **told, "PIXORLY_DIR": str(folder)}  # noqa: TID251 - as a shell would
    try:
        subprocess.run([PIXORLY, "up", "--detach", *words], env=environment, check=True)  # noqa: S603 - our own
        rows = subprocess.run(  # noqa: S603 - our own
            [PIXORLY, "ps", "--json"], env=environment, check=True, capture_output=True, text=True
        )
        dev = json.loads((folder / "dev.json").read_text())
        yield {**dev, "pids": {row["name"]: row["pid"] for row in json.loads(rows.stdout)}}
    finally:
        subprocess.run([PIXORLY, "down"], env=environment, check=False)  # noqa: S603 - our own


async def account(dev: dict[str, Any], http: httpx.AsyncClient) -> str:
    user = f"/admin/v1/users/bench-{uuid4().hex[:8]}"
    admin = {"Authorization": f"Bearer {dev['admin_key']}"}
    (await http.put(user, json={"plan": "enterprise", "allowance": False}, headers=admin)).raise_for_status()
    grant = {"grant_id": str(uuid4()), "amount_credits": 1_000_000, "reason": "bench"}
    (await http.post(f"{user}/grants", json=grant, headers=admin)).raise_for_status()
    key = (await http.post(f"{user}/keys", json={"name": "bench"}, headers=admin)).raise_for_status()
    return str(key.json()["key"])


async def make(url: str, key: str, jobs: int, body: dict[str, Any]) -> list[str]:
    ids: list[str] = []
    left = iter(range(jobs))

    async def client() -> None:
        connection = await Connection.open(url)
        for _ in left:
            request = post("/v1/generations", json.dumps(body).encode(), key, **{"idempotency-key": str(uuid4())})
            status, answer = await connection.send(request)
            while status in {409, 429, 503}:
                await asyncio.sleep(0.2)
                status, answer = await connection.send(request)
            assert status in {200, 202}, answer
            ids.append(json.loads(answer)["id"])
        connection.close()

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return ids


def cpu_s(dev: dict[str, Any]) -> dict[str, float]:
    """Return what each process of the stack, with its children, has used of the processors."""
    used = {}
    for name, pid in dev["pids"].items():
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            used[name] = sum(sum(each.cpu_times()[:2]) for each in [process, *process.children(recursive=True)])
    return {**used, "this client": sum(psutil.Process().cpu_times()[:2])}


async def queued(dev: dict[str, Any], jobs: int) -> None:
    """Wait until all jobs are in the generator's queue: what was not published at once the outbox publishes later."""
    url = f"{dev['rabbitmq_management_url']}/api/queues/pixorly/generator.generate_image"
    async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
        while (await http.get(url)).raise_for_status().json().get("messages", 0) < jobs:  # noqa: ASYNC110 - RabbitMQ's
            await asyncio.sleep(0.5)


async def replaced(process: psutil.Process) -> int:
    """Kill a process of the stack, and return the one that takes its place."""
    words, supervisor = process.cmdline(), process.parent()
    process.kill()
    while True:
        await asyncio.sleep(0.05)
        for child in supervisor.children(recursive=True):
            with suppress(psutil.Error):
                if child.pid != process.pid and child.cmdline() == words:
                    return int(child.pid)


async def look(dev: dict[str, Any], began: float, looks: Looks) -> None:
    process = psutil.Process(dev["pids"]["generator"])
    async with httpx.AsyncClient(base_url=dev["service_urls"]["generator"], trust_env=False, timeout=10) as http:
        while True:
            with suppress(httpx.HTTPError):
                told = IN_FLIGHT.findall((await http.get("/metrics")).text)
                note(looks, time.perf_counter() - began, int(sum(map(float, told))), process.memory_info().rss / 1e6)
            await asyncio.sleep(0.1)


def note(looks: Looks, now_s: float, in_flight: int, memory_mb: float) -> None:
    looks.peak_mb = max(looks.peak_mb, memory_mb)
    if in_flight > looks.peak_in_flight:
        looks.peak_in_flight, looks.peak_in_flight_s, looks.waiting_mb = in_flight, now_s, memory_mb
    if not looks.seconds or now_s - looks.seconds[-1][0] >= 1:
        looks.seconds.append((round(now_s, 1), in_flight, round(memory_mb, 1)))


async def all_settled(http: httpx.AsyncClient, ids: list[str]) -> dict[str, int]:
    ends: dict[str, int] = {}
    for job_id in ids:
        status = ""
        while status not in SETTLED:
            answer = await http.get(f"/v1/generations/{job_id}")
            if answer.status_code in {429, 503}:
                await asyncio.sleep(1)
                continue
            status = str(answer.raise_for_status().json()["status"])
            if status not in SETTLED:
                await asyncio.sleep(0.2)
        ends[status] = ends.get(status, 0) + 1
    return ends


async def measure(dev: dict[str, Any], jobs: int, body: dict[str, Any], *, live: bool) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=dev["api_url"], trust_env=False, timeout=60) as http:
        key = await account(dev, http)
        http.headers["Authorization"] = f"Bearer {key}"
        generator = psutil.Process(dev["pids"]["generator"])
        looks = Looks(idle_mb=generator.memory_info().rss / 1e6)
        began = asked = time.perf_counter()
        before = cpu_s(dev)
        if live:
            watch = asyncio.create_task(look(dev, began, looks))
            ids = await make(dev["api_url"], key, jobs, body)
        else:
            generator.suspend()
            ids = await make(dev["api_url"], key, jobs, body)
            await queued(dev, jobs)
            began = time.perf_counter()
            dev["pids"]["generator"] = await replaced(generator)
            watch = asyncio.create_task(look(dev, began, looks))
        asked_s = (time.perf_counter() if live else began) - asked
        used_s = {name: used - before.get(name, 0) for name, used in cpu_s(dev).items()}
        ends = await all_settled(http, ids)
        watch.cancel()
        return {
            **asdict(looks),
            "asked_s": asked_s,
            "asked_cpu_s": used_s,
            "settled_s": time.perf_counter() - began,
            "ends": ends,
        }


def show(found: dict[str, Any], jobs: int, latency_s: float) -> None:
    each_kb = (found["waiting_mb"] - found["idle_mb"]) * 1000 / max(found["peak_in_flight"], 1)
    print(f"{jobs} jobs of 64 px, {latency_s:g} s a call; Python {platform.python_version()}, {os.cpu_count()} cores")
    print(f"the API took them within  {found['asked_s']:8.1f} s")
    print(
        "  milliseconds of processor for each job:",
        *(f"{n} {s * 1000 / jobs:.1f}," for n, s in found["asked_cpu_s"].items()),
    )
    print(f"most calls in flight      {found['peak_in_flight']:8} after {found['peak_in_flight_s']:.1f} s")
    print(f"all settled within        {found['settled_s']:8.1f} s  {found['ends']}")
    print(f"the generator, idle       {found['idle_mb']:8.0f} MB")
    print(f"  with most in flight     {found['waiting_mb']:8.0f} MB, {each_kb:.0f} kB for each call that waits")
    print(f"  at its most             {found['peak_mb']:8.0f} MB")
    print("second, in flight, MB    ", *found["seconds"][:40])


def main() -> None:
    reads = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reads.add_argument("--jobs", type=int, default=1000)
    reads.add_argument("--latency", type=float, default=10, help="seconds of each call")
    reads.add_argument("--emulator", action="store_true", help="call the emulator over HTTP, not the sandbox")
    reads.add_argument("--live", action="store_true", help="do not halt the generator while the jobs are made")
    reads.add_argument("--json", type=Path)
    given = reads.parse_args()
    root = Path(tempfile.mkdtemp(prefix="pixorly-bench-"))
    (root / "models.toml").write_text(ANY_SIZE)
    body = {"model": "sandbox/mosaic", "prompt": "tiles", "width": 64, "height": 64}
    told = {"PIXORLY_SANDBOX_LATENCY_S": str(given.latency), "PIXORLY_AMQP_HEARTBEAT_S": "300"}
    if given.emulator:
        body |= {"model": "emulator/any", "prompt": f"tiles [[latency:{given.latency:g}]]"}
        told |= {"PIXORLY_MODELS_FILE": str(root / "models.toml")}
    try:
        with stack(root / ".pixorly", *(["--emulator"] if given.emulator else []), **told) as dev:
            found = asyncio.run(measure(dev, given.jobs, body, live=given.live))
    finally:
        shutil.rmtree(root, ignore_errors=True)
    show(found, given.jobs, given.latency)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
