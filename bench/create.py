"""How quickly a job is taken while the whole system works: creates at a steady rate, with the stack on this machine.

    python bench/create.py [--rate 50] [--seconds 60] [--json FILE] [--dir FOLDER]

Jobs are of one image of 64 px by the sandbox. Requests are sent when their time has come, whether or not those before
were answered, and their time counts from then on: a server that stalls is charged with everybody who waits. It starts a
stack of its own in a folder that it removes, or uses the one that runs in --dir.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
import uvloop
from http_load import Connection, post

PIXORLY = str(Path(sys.executable).with_name("pixorly"))
TARGET_P99_MS = 150
CAUGHT_UP_WITHIN_S = 600
WARM_UP_S = 5
KEPT_S = 3
LOOK_EVERY_S = 1
TICKS = os.sysconf("SC_CLK_TCK")


def of_stack(folder: Path) -> dict[str, str]:
    return {**os.environ, "PIXORLY_DIR": str(folder)}  # noqa: TID251 - as a shell would


@contextmanager
def stack(folder: Path | None) -> Iterator[Path]:
    if folder:
        yield folder
        return
    place = Path(tempfile.mkdtemp(prefix="pixorly-create-"))
    environment = of_stack(place / ".pixorly")
    try:
        subprocess.run([PIXORLY, "up", "--detach"], env=environment, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - ours
        yield place / ".pixorly"
    finally:
        subprocess.run([PIXORLY, "down"], env=environment, check=False, stdout=subprocess.DEVNULL)  # noqa: S603 - ours
        shutil.rmtree(place, ignore_errors=True)


def processes(folder: Path) -> dict[str, int]:
    words = [PIXORLY, "ps", "--json"]
    listed = subprocess.run(words, env=of_stack(folder), check=True, capture_output=True)  # noqa: S603 - ours
    return {row["name"]: row["pid"] for row in json.loads(listed.stdout) if row["pid"]}


def cpu_s(pids: dict[str, int]) -> dict[str, float]:
    """Return the processor time of each process with its children."""
    times, parents = dict[int, float](), dict[int, int]()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(") ")[2].split()
                parents[int(entry.name)] = int(fields[1])
                # Its own, and that of children that ended.
                times[int(entry.name)] = sum(int(field) for field in fields[11:15]) / TICKS

    def of_tree(pid: int) -> float:
        return times.get(pid, 0.0) + sum(of_tree(child) for child, parent in parents.items() if parent == pid)

    return {name: of_tree(pid) for name, pid in pids.items()}


@dataclass
class Load:
    """Creates at a steady rate, each over a connection that is free."""

    url: str
    key: str
    model: str
    took_s: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    idle: list[tuple[Connection, float]] = field(default_factory=list)

    async def run(self, rate: float, seconds: float) -> None:
        self.took_s.clear()
        began, sent = time.perf_counter(), list[asyncio.Task[None]]()
        for number in range(round(rate * seconds)):
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            sent.append(asyncio.create_task(self._create(number, due)))
        await asyncio.gather(*sent)

    async def _create(self, number: int, due: float) -> None:
        body = {"model": self.model, "prompt": f"a lighthouse, number {number}", "width": 64, "height": 64}
        connection = await self._connection()
        status, answer = await connection.send(post("/v1/generations", orjson.dumps(body), self.key))
        self.took_s.append(time.perf_counter() - due)
        self.idle.append((connection, time.perf_counter()))
        if status not in {200, 201, 202}:
            self.errors.append(f"{status} {answer[:200]!r}")

    async def _connection(self) -> Connection:
        """Return one that was used a moment ago: the server closes what is idle for five seconds."""
        if self.idle:
            connection, used = self.idle.pop()
            if used > time.perf_counter() - KEPT_S:
                return connection
            self.close()
        return await Connection.open(self.url)

    def close(self) -> None:
        for connection, _ in self.idle:
            connection.close()
        self.idle.clear()


async def settled(url: str, key: str) -> float:
    """Return how many seconds it took until no job was open."""
    began = time.perf_counter()
    async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as http:
        while time.perf_counter() < began + CAUGHT_UP_WITHIN_S:
            pages = [
                (await http.get("/v1/generations", params={"status": status, "limit": 1})).raise_for_status().json()
                for status in ("pending", "processing", "uploading")
            ]
            if not any(page["data"] for page in pages):
                return time.perf_counter() - began
            await asyncio.sleep(LOOK_EVERY_S)
    raise TimeoutError("some jobs never ended")


async def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    dev = json.loads((folder / "dev.json").read_text())
    load = Load(dev["api_url"], dev["api_key"], options.model)
    # The first calls of a new process find nothing connected and nothing prepared.
    await load.run(10, WARM_UP_S)
    await settled(load.url, load.key)
    pids = processes(folder)
    before = cpu_s(pids)
    await load.run(options.rate, options.seconds)
    lag_s = await settled(load.url, load.key)
    spent = {name: after - before[name] for name, after in cpu_s(pids).items()}
    load.close()
    cuts = statistics.quantiles(load.took_s, n=1000)
    return {
        "rate": options.rate,
        "seconds": options.seconds,
        "jobs": len(load.took_s),
        "errors": load.errors[:5],
        "error_count": len(load.errors),
        "ms": {
            name: round(cuts[place - 1] * 1000, 1)
            for name, place in {"p50": 500, "p90": 900, "p99": 990, "p999": 999}.items()
        },
        "caught_up_after_s": round(lag_s, 1),
        "cpu_ms_per_job": {name: round(seconds * 1000 / len(load.took_s), 1) for name, seconds in spent.items()},
        "load": [round(load, 1) for load in os.getloadavg()],
    }


def show(found: dict[str, Any]) -> None:
    ms, cpu = found["ms"], found["cpu_ms_per_job"]
    print(f"{found['jobs']} creates at {found['rate']} a second, {found['error_count']} errors", *found["errors"])
    print("answered in ms: " + ", ".join(f"{name} {value}" for name, value in ms.items()))
    print(f"aim: p99 under {TARGET_P99_MS} ms, no error: {'met' if met(found) else 'not met'}")
    print(f"the last job was done {found['caught_up_after_s']} s after the last create")
    shares = ", ".join(f"{name} {value}" for name, value in sorted(cpu.items(), key=lambda item: -item[1]))
    print(f"CPU ms per job: {sum(cpu.values()):.1f} ({shares})")
    print(f"load of the machine: {found['load']}")


def met(found: dict[str, Any]) -> bool:
    return bool(found["ms"]["p99"] < TARGET_P99_MS and not found["error_count"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=50, help="creates a second")
    parser.add_argument("--seconds", type=float, default=60, help="for how long")
    parser.add_argument("--model", default="sandbox/mosaic", help="what draws")
    parser.add_argument("--dir", type=Path, help="the folder of a stack that runs")
    parser.add_argument("--json", type=Path, help="write the results there, too")
    options = parser.parse_args()
    with stack(options.dir) as folder:
        found = uvloop.run(measure(folder, options))
    show(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
