"""What is compared: Pixorly, the same shop with Celery and with Dramatiq, and the bare work without a broker."""

import asyncio
import json
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import cycle
from uuid import uuid4

import asyncpg
import boto3
import httpx
from http_load import Connection, get, post
from machine import Used
from world import HERE, MODELS, SERVERS, SERVICES, USERS, BenchError, World, start, stop, tail, until_answers

from pixorly_stack.management import Management
from pixorly_stack.ports import Ports

CLIENTS = 32
"""How many connections ask at once where the system is to have more than it can do."""
STALLED_S = 120
TAIL_S = 1.0
"""What follows the last row: the ledger's settlement, acknowledgements, statistics."""
IDLE_S = 5.0
RIVALS = HERE / "rivals"
BUCKET = "shop"


@dataclass(frozen=True)
class Round:
    """Jobs done, from the first request to the last row that says done."""

    jobs: int
    took_s: float
    used: Used
    """Without what the processes take when nothing is to be done."""

    @property
    def per_s(self) -> float:
        return self.jobs / self.took_s

    @property
    def cpu_ms(self) -> float:
        """Of all processes, for each job."""
        return 1000 * sum(self.used.cpu_s.values()) / self.jobs

    def cpu_s(self, process: str) -> float:
        """Of a process, for a thousand jobs."""
        return 1000 * self.used.cpu_s[process] / self.jobs

    def written_kb(self, process: str) -> float:
        """By a process, for each job."""
        return self.used.written[process] / 1000 / self.jobs


class System(ABC):
    """Something that makes images for credits."""

    name: str
    databases: tuple[str, ...]
    vhost: str | None

    def __init__(self, world: World) -> None:
        self.world = world
        self._idle_s: dict[str, float] = {}

    @abstractmethod
    def pids(self) -> dict[str, int]:
        """Its own processes by name."""

    @abstractmethod
    async def saturate(self, jobs: int, side: int) -> float:
        """Do so many jobs as fast as can be, and return the seconds."""

    def used(self) -> Used:
        return Used.now({**self.pids(), **{name: self.world.pids[name] for name in SERVERS}})

    async def round(self, jobs: int, side: int) -> Round:
        """Do so many jobs, and wait until nothing is left to be done behind them."""
        before, began = self.used(), time.monotonic()
        took_s = await self.saturate(jobs, side)
        await asyncio.sleep(TAIL_S)
        used, window_s = self.used().since(before), time.monotonic() - began
        if not self._idle_s:
            self._idle_s = await self._idle()
        cpu_s = {name: max(0.0, value - window_s * self._idle_s.get(name, 0)) for name, value in used.cpu_s.items()}
        return Round(jobs, took_s, Used(cpu_s, used.written))

    async def _idle(self) -> dict[str, float]:
        """Seconds of processor that each process takes in a second without a job."""
        await asyncio.sleep(TAIL_S)
        before, began = self.used(), time.monotonic()
        await asyncio.sleep(IDLE_S)
        window_s = time.monotonic() - began
        return {name: value / window_s for name, value in self.used().since(before).cpu_s.items()}


class HttpSystem(System):
    """One that is asked over HTTP, and says in a table what is done."""

    url: str
    done_sql: str
    keys: list[str]
    _numbers: Iterator[int] = iter(range(10**9))
    polls: int = 0

    @abstractmethod
    def request(self, key: str, prompt: str, side: int) -> bytes:
        """The request for one image."""

    def next_key(self) -> str:
        """The key of the user whose turn it is."""
        return next(self._keys)

    async def ask(self, connection: Connection, prompt: str, side: int, key: str) -> str:
        """Ask for one image, and return the job's id."""
        request = self.request(key, prompt, side)
        status, answer = await connection.send(request)
        while status in {429, 503}:
            await asyncio.sleep(0.1)
            status, answer = await connection.send(request)
        if status not in {200, 202}:
            raise BenchError(f"{self.name} answered {status}: {answer[:500].decode(errors='replace')}")
        return str(json.loads(answer)["id"])

    async def post_all(self, jobs: int, side: int, words: str = "", clients: int = CLIENTS) -> list[str]:
        left, ids = iter(range(jobs)), list[str]()

        async def client() -> None:
            connection = await Connection.open(self.url)
            for _ in left:
                ids.append(await self.ask(connection, f"tiles {next(self._numbers)} {words}", side, self.next_key()))
            connection.close()

        await asyncio.gather(*(client() for _ in range(min(clients, jobs))))
        return ids

    async def saturate(self, jobs: int, side: int) -> float:
        began = time.time()
        posting = asyncio.create_task(self.post_all(jobs, side))
        try:
            ended = await self.until_done(began, jobs, posting)
        finally:
            posting.cancel()
        return ended - began

    async def until_done(self, since: float, jobs: int, posting: asyncio.Task[list[str]] | None = None) -> float:
        """Wait until so many jobs are done since then, and return when the last was."""
        connection = await asyncpg.connect(self.world.database_url(self.databases[0]))
        try:
            done, moved = -1, time.time()
            while True:
                if posting and posting.done():
                    posting.result()
                count, failed, last = await connection.fetchrow(self.done_sql, since)
                self.polls += 1
                if failed:
                    raise BenchError(f"{failed} jobs of {self.name} failed")
                if count >= jobs:
                    return float(last)
                if count != done:
                    done, moved = count, time.time()
                if time.time() - moved > STALLED_S:
                    raise BenchError(f"{self.name} did nothing for {STALLED_S} s, with {count} of {jobs} jobs done")
                await asyncio.sleep(0.1)
        finally:
            await connection.close()

    def use_keys(self, keys: list[str]) -> None:
        self.keys, self._keys = keys, cycle(keys)


class Pixorly(HttpSystem):
    name = "pixorly"
    databases = ("pixorly_api", "pixorly_ledger", "pixorly_generator")
    vhost = "pixorly"
    users: list[str]
    model = MODELS[0]
    done_sql = """
        select count(*) filter (where status = 'completed'), count(*) filter (where status <> 'completed'),
               extract(epoch from max(settled_at))
        from jobs where settled_at >= to_timestamp($1)"""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.url = world.dev["api_url"]

    def pids(self) -> dict[str, int]:
        return {name: self.world.pids[name] for name in SERVICES}

    def request(self, key: str, prompt: str, side: int) -> bytes:
        body = {"model": self.model, "prompt": prompt, "width": side, "height": side}
        return post("/v1/generations", json.dumps(body).encode(), key, **{"idempotency-key": str(uuid4())})

    async def open_accounts(self, users: Sequence[str] = ()) -> None:
        self.users = list(users) or [f"bench-{number}" for number in range(USERS)]
        headers = {"Authorization": f"Bearer {self.world.dev['admin_key']}"}
        async with httpx.AsyncClient(base_url=self.url, headers=headers, timeout=60, trust_env=False) as http:
            self.use_keys([await self._account(http, user_id) for user_id in self.users])

    async def _account(self, http: httpx.AsyncClient, user_id: str) -> str:
        user = f"/admin/v1/users/{user_id}"
        (await http.put(user, json={"plan": "enterprise", "allowance": False})).raise_for_status()
        grant = {"grant_id": str(uuid4()), "amount_credits": 10_000_000, "reason": "bench"}
        (await http.post(f"{user}/grants", json=grant)).raise_for_status()
        made = (await http.post(f"{user}/keys", json={"name": "bench"})).raise_for_status()
        return str(made.json()["key"])


def shop_environment(world: World, name: str, s3_client: str = "boto3") -> dict[str, str]:
    names = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(RIVALS), "PYTHONUNBUFFERED": "1", "HOME": str(world.folder)}
    s3 = world.dev["s3"]
    return {
        **names,
        "DATABASE_URL": world.database_url(f"shop_{name}"),
        "AMQP_URL": world.amqp_url(f"shop-{name}"),
        "PROVIDER_URL": world.provider_url,
        "S3_CLIENT": s3_client,
        "S3_ENDPOINT_URL": s3["PIXORLY_S3_ENDPOINT_URL"],
        **{key: s3[key] for key in ("AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")},
        "BUCKET": BUCKET,
    }


async def open_shop(world: World, name: str) -> list[str]:
    """Make the database and the virtual host of a shop, and the bucket; return its users' keys."""
    url = await world.make_database(f"shop_{name}", (RIVALS / "schema.sql").read_text())
    keys = [f"key-of-user-{number}" for number in range(USERS)]
    rows = [(f"user-{number}", sha256(key.encode()).digest(), 10_000_000) for number, key in enumerate(keys)]
    connection = await asyncpg.connect(url)
    await connection.executemany("insert into accounts values ($1, $2, $3)", rows)
    await connection.close()
    async with Management(world.dev["rabbitmq_management_url"]) as rabbitmq:
        user = world.dev["amqp_url"].partition("://")[2].partition(":")[0]
        await rabbitmq.make_vhost(f"shop-{name}")
        await rabbitmq.permit(user, f"shop-{name}", {"configure": ".*", "write": ".*", "read": ".*"})
    make_bucket(world.dev["s3"])
    return keys


def make_bucket(s3: Mapping[str, str]) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=s3["PIXORLY_S3_ENDPOINT_URL"],
        region_name=s3["AWS_REGION"],
        aws_access_key_id=s3["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=s3["AWS_SECRET_ACCESS_KEY"],
    )
    if BUCKET not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
        client.create_bucket(Bucket=BUCKET)


@dataclass(frozen=True)
class Crew:
    """How many workers a rival has: processes, and threads in each where it uses threads."""

    processes: int = 2
    threads: int = 1

    def __str__(self) -> str:
        return (
            f"{self.processes} processes, {self.threads} threads" if self.threads > 1 else f"{self.processes} processes"
        )


CREW = {"celery": Crew(3), "dramatiq": Crew(2, 8)}
"""Where it is not measured which serves them best."""


class Rival(HttpSystem):
    done_sql = """
        select count(*) filter (where status = 'done'), 0, extract(epoch from max(done_at))
        from orders where done_at >= to_timestamp($1)"""

    def __init__(self, world: World, kind: str, port: int, s3_client: str = "boto3") -> None:
        super().__init__(world)
        self.kind = kind
        self.name = kind if s3_client == "boto3" else f"{kind}_{s3_client}"
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.vhost = f"shop-{self.name}"
        self.databases = (f"shop_{self.name}",)
        self._environment = shop_environment(world, self.name, s3_client)
        self._log = world.folder / f"{self.name}.log"
        self._web: subprocess.Popen[bytes] | None = None
        self._workers: subprocess.Popen[bytes] | None = None

    def pids(self) -> dict[str, int]:
        assert self._web, "it was started"
        assert self._workers, "it was started"
        return {"web": self._web.pid, "workers": self._workers.pid}

    def request(self, key: str, prompt: str, side: int) -> bytes:
        return post("/orders", json.dumps({"prompt": prompt, "side": side}).encode(), key)

    async def is_done(self, connection: Connection, order_id: str, key: str) -> bool:
        status, answer = await connection.send(get(f"/orders/{order_id}", key))
        if status != 200:
            raise BenchError(f"{self.name} answered {status}: {answer[:500].decode(errors='replace')}")
        return bool(json.loads(answer)["status"] == "done")

    async def open(self) -> None:
        self.use_keys(await open_shop(self.world, self.name))
        words = [sys.executable, str(RIVALS / "web.py"), self.kind, str(self.port)]
        self._web = start(words, self._log, self._environment, self.world.folder)
        await asyncio.to_thread(until_answers, self.url, self._web, self._log)

    async def hire(self, crew: Crew) -> None:
        """Let so many workers work, in place of those there are, and see that they do."""
        self.dismiss()
        self._workers = start(self._words(crew), self._log, self._environment, self.world.folder)
        try:
            await asyncio.wait_for(self.saturate(2 * crew.processes, 64), 60)
        except TimeoutError as error:
            raise BenchError(f"the workers of {self.name} do not work; they wrote:\n{tail(self._log)}") from error

    def _words(self, crew: Crew) -> list[str]:
        if self.kind == "dramatiq":
            return [
                *(sys.executable, "-m", "dramatiq", "dramatiq_tasks", "--processes", str(crew.processes)),
                *("--threads", str(crew.threads)),
            ]
        quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING")
        words = (sys.executable, "-m", "celery", "-A", "celery_tasks", "worker", *quiet)
        return [*words, "--pool", "prefork", "--concurrency", str(crew.processes)]

    def dismiss(self) -> None:
        if self._workers:
            stop(self._workers)
            self._workers = None

    def close(self) -> None:
        self.dismiss()
        if self._web:
            stop(self._web)


class Bare(System):
    name = "bare"
    databases = ("shop_bare",)
    vhost = None
    AT_ONCE = 32

    _process: asyncio.subprocess.Process | None = None

    def pids(self) -> dict[str, int]:
        assert self._process, "it was started"
        return {"program": self._process.pid}

    async def open(self) -> None:
        await open_shop(self.world, "bare")
        with (self.world.folder / "bare.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                str(RIVALS / "bare.py"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=shop_environment(self.world, "bare"),
                start_new_session=True,
            )
        await self._line()

    async def saturate(self, jobs: int, side: int) -> float:
        assert self._process, "it was started"
        assert self._process.stdin, "it is a pipe"
        self._process.stdin.write(f"{jobs} {side} {self.AT_ONCE}\n".encode())
        told = json.loads(await self._line())
        return float(told["ended"] - told["began"])

    async def _line(self) -> bytes:
        assert self._process, "it was started"
        assert self._process.stdout, "it is a pipe"
        line = await asyncio.wait_for(self._process.stdout.readline(), STALLED_S)
        if not line:
            raise BenchError(f"the bare program ended; it wrote:\n{tail(self.world.folder / 'bare.log')}")
        return line

    async def close(self) -> None:
        if self._process:
            if self._process.returncode is None:
                self._process.terminate()
            await self._process.wait()


@asynccontextmanager
async def pixorly(world: World) -> AsyncIterator[Pixorly]:
    system = Pixorly(world)
    await system.open_accounts()
    yield system


@asynccontextmanager
async def rival(world: World, kind: str, crew: Crew | None = None, s3_client: str = "boto3") -> AsyncIterator[Rival]:
    system = Rival(world, kind, Ports(world.folder / f"{kind}-{s3_client}-ports.json").port("web"), s3_client)
    try:
        await system.open()
        await system.hire(crew or CREW[kind])
        yield system
    finally:
        system.close()


@asynccontextmanager
async def bare(world: World) -> AsyncIterator[Bare]:
    system = Bare(world)
    try:
        await system.open()
        yield system
    finally:
        await system.close()
