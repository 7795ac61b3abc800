"""What every part of the bench runs on: a Pixorly of its own, a provider that answers at once, and an S3 that counts.

All of it lives in a folder that is removed at the end, and listens on 127.0.0.1 only. The rivals use the same RabbitMQ
(a virtual host each), the same PostgreSQL (a database each) and the same S3 (a bucket of their own).
"""

import asyncio
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from dataclasses import replace as with_other
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx
from machine import Used

from pixorly.priority import give_way
from pixorly_stack.ports import Ports
from pixorly_stack.s3 import ObjectStore

HERE = Path(__file__).parent
PIXORLY = str(Path(sys.executable).with_name("pixorly"))
SERVERS = ("rabbitmq", "postgres", "s3")
SERVICES = ("api", "api-worker", "generator", "uploader", "ledger")
WITHIN_S = 60
USERS = 20
"""Who ask in turn. One hot account would be a different figure (the ledger's), and an unfair one for the rivals."""
MODEL = """
[[models]]
id = "{id}"
name = "Any"
description = "Any size."
provider = "openrouter"
credits = 1
parameters = ["n", "size"]
max_n = 10
"""
MODELS = ["emulator/any", *(f"emulator/any-{number}" for number in range(10))]
"""More than one, for a breaker stands before each, and would open where all calls of one fail."""
S3_REQUESTS = re.compile(r"^SeaweedFS_s3_request_total\{([^}]*)\} (\S+)$", re.MULTILINE)


class BenchError(Exception):
    """Something that the bench needs did not come about."""


@dataclass(frozen=True)
class World:
    folder: Path
    dev: dict[str, Any]
    pids: dict[str, int]
    provider_url: str
    s3_metrics_url: str

    def database_url(self, name: str) -> str:
        return str(self.dev["database_url"]).rpartition("/")[0] + f"/{name}"

    def amqp_url(self, vhost: str) -> str:
        return urlunsplit(urlsplit(self.dev["amqp_url"])._replace(path=f"/{vhost}"))

    def used(self, *names: str) -> Used:
        return Used.now({name: self.pids[name] for name in names})

    async def make_database(self, name: str, schema: str) -> str:
        admin = await asyncpg.connect(self.dev["database_url"])
        await admin.execute(f"drop database if exists {name} with (force)")
        await admin.execute(f"create database {name}")
        await admin.close()
        connection = await asyncpg.connect(self.database_url(name))
        await connection.execute(schema)
        await connection.close()
        return self.database_url(name)

    async def transactions(self, *databases: str) -> int:
        connection = await asyncpg.connect(self.dev["database_url"])
        found = await connection.fetchval(
            "select sum(xact_commit) from pg_stat_database where datname = any($1)", databases
        )
        await connection.close()
        return int(found)

    async def messages(self, vhost: str) -> int:
        """How many messages were published in a virtual host, as RabbitMQ tells within five seconds."""
        async with self.management() as http:
            found = (await http.get(f"/api/vhosts/{vhost}")).raise_for_status().json()
        return int(found.get("message_stats", {}).get("publish", 0))

    def management(self) -> httpx.AsyncClient:
        parts = urlsplit(self.dev["rabbitmq_management_url"])
        auth = (parts.username or "", parts.password or "")
        return httpx.AsyncClient(
            base_url=f"http://{parts.hostname}:{parts.port}", auth=auth, timeout=30, trust_env=False
        )

    async def object_calls(self) -> int:
        async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
            text = (await http.get(self.s3_metrics_url)).raise_for_status().text
        return int(sum(float(number) for _, number in S3_REQUESTS.findall(text)))

    async def calls(self) -> list[tuple[str, float, float]]:
        """What the provider saw since the last look: prompt, when it arrived, when it was answered."""
        async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
            return [tuple(call) for call in (await http.get(f"{self.provider_url}/log")).json()]


def start(
    words: Sequence[str], log: Path, environment: Mapping[str, str], cwd: Path, niceness: int = 0
) -> subprocess.Popen[bytes]:
    """Start a process of ours in a session of its own: Ctrl-C reaches it by way of us only."""
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - our own words
            words, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=dict(environment), cwd=cwd,
            start_new_session=True,
            preexec_fn=partial(give_way, niceness) if niceness else None,  # noqa: PLW1509 - where there is no thread yet
        )  # fmt: skip


def stop(process: subprocess.Popen[bytes], within_s: float = 20) -> None:
    """End a process and, if it does not end, its whole session."""
    process.terminate()
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def until_answers(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until something answers HTTP there."""
    ends = time.monotonic() + WITHIN_S
    while time.monotonic() < ends and process.poll() is None:
        with suppress(httpx.TransportError):
            httpx.get(url, trust_env=False, timeout=2)
            return
        time.sleep(0.1)
    raise BenchError(f"{url} did not come up; it wrote:\n{tail(log)}")


def tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


@contextmanager
def world(**told: str) -> Iterator[World]:
    """Lend everything, and leave nothing behind."""
    with ExitStack() as ends:
        root = Path(tempfile.mkdtemp(prefix="pixorly-bench-"))
        ends.callback(shutil.rmtree, root, ignore_errors=True)
        ports = Ports(root / "ports.json")
        provider_url, provider = _provider(ends, root, ports)
        s3, s3_pid, metrics_url = _s3(ends, root, ports)
        (root / "models.toml").write_text("".join(MODEL.format(id=model) for model in MODELS))
        environment = {
            **os.environ,  # noqa: TID251 - as a shell would
            **s3,
            "PIXORLY_DIR": str(root / "stack"),
            "PIXORLY_MODELS_FILE": str(root / "models.toml"),
            "OPENROUTER_API_KEY": "bench",
            "OPENROUTER_BASE_URL": provider_url,
            **told,
        }
        ends.callback(_pixorly, environment, "down")
        # It ends first: a generator that is told to stop would wait for calls that take minutes.
        ends.callback(stop, provider)
        _pixorly(environment, "up", "--detach")
        dev = json.loads((root / "stack" / "dev.json").read_text())
        rows = json.loads(_pixorly(environment, "ps", "--json"))
        pids = {row["name"]: row["pid"] for row in rows if row["pid"]}
        yield World(root, dev, {**pids, "s3": s3_pid, "provider": provider.pid}, provider_url, metrics_url)


def _pixorly(environment: Mapping[str, str], *words: str) -> str:
    done = subprocess.run(  # noqa: S603 - our own
        [PIXORLY, *words], env=environment, check=False, capture_output=True, text=True, start_new_session=True
    )
    if done.returncode:
        raise BenchError(f"`pixorly {' '.join(words)}` failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def _provider(ends: ExitStack, root: Path, ports: Ports) -> tuple[str, subprocess.Popen[bytes]]:
    port, log = ports.port("provider"), root / "provider.log"
    words = [sys.executable, str(HERE / "provider.py"), str(port)]
    process = start(words, log, os.environ, root)  # noqa: TID251 - as a shell would
    ends.callback(stop, process)
    until_answers(f"http://127.0.0.1:{port}/livez", process, log)
    return f"http://127.0.0.1:{port}", process


def _s3(ends: ExitStack, root: Path, ports: Ports) -> tuple[dict[str, str], int, str]:
    """Start the stack's own object store, as the stack does, told to count its requests."""
    store = ObjectStore(root / "s3", ports, "pixorly", secrets.token_hex(16))
    unit = asyncio.run(store.prepare())
    metrics, log = ports.port("s3-metrics"), root / "s3.log"
    command = with_other(unit.command, argv=(*unit.command.argv, f"-metricsPort={metrics}"))
    process = start(command.argv, log, command.env, command.cwd, command.niceness)
    ends.callback(unit.after_stop)
    ends.callback(stop, process)
    deadline = time.monotonic() + WITHIN_S
    while not asyncio.run(_ready(unit)):
        if time.monotonic() > deadline or process.poll() is not None:
            raise BenchError(f"the object store did not come up; it wrote:\n{tail(log)}")
        time.sleep(0.1)
    return store.access.environment(), process.pid, f"http://127.0.0.1:{metrics}/metrics"


async def _ready(unit: Any) -> bool:
    return bool(await unit.is_ready())
