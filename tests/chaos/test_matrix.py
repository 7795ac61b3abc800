"""Named faults of what is between the services, one after the other: messages, links, alarms, clocks, queues."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
import pytest
from control import delete_queues, purge_queues, rabbitmqctl, unbind_queues
from invariants import nothing_is_lost, nothing_left
from mangling import mangled
from proxies import TcpProxy, in_background, tcp_proxy
from stack import SERVICES, Client, Job, Stack, running
from twins import clock_of, need_clocks, twin
from waiting import by_way_of

from pixorly_stack.access import Access

pytestmark = [pytest.mark.long, pytest.mark.timeout(500)]

ONE, FOUR = "google/gemini-3.1-flash-image", "openai/gpt-image-2"
"""The first is asked once for each image, the second once for all."""


@dataclass(frozen=True)
class Rig:
    """A stack, and what stands between it and PostgreSQL.

    Attributes:
        database_url: PostgreSQL, not by way of the proxy.
    """

    stack: Stack
    postgres: TcpProxy
    database_url: str

    @property
    def amqp_url(self) -> str:
        """RabbitMQ, as someone who may do everything."""
        return str(self.stack.dev["amqp_url"])

    async def control(self, *words: str) -> None:
        """Run `rabbitmqctl`."""
        pid = self.stack.pids()["rabbitmq"]
        assert pid is not None
        await rabbitmqctl(pid, *words)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, servers: Access) -> Iterator[Rig]:
    with in_background(tcp_proxy(servers.database_url)) as postgres:
        environment = {
            "PIXORLY_DATABASE_URL": by_way_of(postgres, servers.database_url),
            "PIXORLY_NUDGE_AFTER_S": "8",
            "PIXORLY_RECONCILE_INTERVAL_S": "2",
            "PIXORLY_AUDIT_INTERVAL_S": "5",
            "PIXORLY_CHARGE_OVERDUE_S": "61",
        }
        for stack in running(tmp_path_factory.mktemp("matrix") / ".pixorly", "--emulator", **environment):
            yield Rig(stack, postgres, servers.database_url)


Fault = Callable[[Rig], AbstractAsyncContextManager[Any]]


def messages(*, copies: int = 1, late_s: float = 0.0) -> Fault:
    @asynccontextmanager
    async def fault(rig: Rig) -> AsyncIterator[None]:
        async with mangled(rig.amqp_url, copies=copies, late_s=late_s) as mangler:
            yield
            await asyncio.sleep(5)
        assert mangler.passed >= copies * 20

    return fault


def alarm(on: tuple[str, ...], off: tuple[str, ...]) -> Fault:
    @asynccontextmanager
    async def fault(rig: Rig) -> AsyncIterator[None]:
        await rig.control(*on)
        try:
            yield
            await asyncio.sleep(8)
            parts = await rig.stack.parts("generator")
            assert parts["rabbitmq"] != "ok", parts
            assert parts["postgres"] == "ok", parts
        finally:
            await rig.control(*off)

    return fault


@asynccontextmanager
async def links_cut(rig: Rig) -> AsyncIterator[None]:
    """Have RabbitMQ close every connection, over and over."""

    async def close() -> None:
        url = f"{rig.stack.dev['rabbitmq_management_url']}/api/connections"
        async with httpx.AsyncClient(timeout=10, trust_env=False) as http:
            while True:
                for connection in (await http.get(url)).raise_for_status().json():
                    await http.delete(f"{url}/{connection['name']}")
                await asyncio.sleep(3)

    closing = asyncio.create_task(close())
    yield
    await asyncio.sleep(15)
    closing.cancel()


def postgres_link(mode: str, for_s: float) -> Fault:
    @asynccontextmanager
    async def fault(rig: Rig) -> AsyncIterator[None]:
        async def strike() -> None:
            await asyncio.sleep(1)
            rig.postgres.mode = mode  # type: ignore[assignment]  # one of the proxy's modes
            if mode == "refuse":
                rig.postgres.cut()
            await asyncio.sleep(for_s)
            rig.postgres.mode = "pass"

        striking = asyncio.create_task(strike())
        try:
            yield
            await striking
        finally:
            rig.postgres.mode = "pass"

    return fault


@asynccontextmanager
async def read_only(rig: Rig) -> AsyncIterator[None]:
    """PostgreSQL takes no writes, as a standby or one whose disk is full."""

    async def set_all(value: str) -> None:
        admin = await asyncpg.connect(rig.database_url)
        for name in ("api", "generator", "ledger"):
            await admin.execute(f"ALTER DATABASE pixorly_{name} SET default_transaction_read_only = {value}")
        await admin.close()
        rig.postgres.cut()

    async def strike() -> None:
        await asyncio.sleep(1)
        await set_all("on")
        await asyncio.sleep(8)
        await set_all("off")

    striking = asyncio.create_task(strike())
    yield
    await striking


def queues(strike: Callable[[str], Any]) -> Fault:
    @asynccontextmanager
    async def fault(rig: Rig) -> AsyncIterator[None]:
        async def again() -> None:
            for _ in range(12):
                await strike(rig.amqp_url)
                await asyncio.sleep(0.5)

        striking = asyncio.create_task(again())
        yield
        await striking

    return fault


FAULTS: dict[str, Fault] = {
    "every message twice": messages(copies=2),
    "every message ten times, out of order": messages(copies=10, late_s=2),
    "messages late and out of order": messages(late_s=4),
    "memory alarm": alarm(("set_vm_memory_high_watermark", "0.00001"), ("set_vm_memory_high_watermark", "0.4")),
    "disk alarm": alarm(("set_disk_free_limit", "1000000GB"), ("set_disk_free_limit", "64MB")),
    "RabbitMQ closes every connection": links_cut,
    "PostgreSQL restarts": postgres_link("refuse", 5),
    "PostgreSQL stalls": postgres_link("stall", 20),
    "PostgreSQL takes no writes": read_only,
    "queues are purged": queues(purge_queues),
    "queues are deleted": queues(delete_queues),
    "queues are unbound": queues(unbind_queues),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_nothing_is_lost_and_nothing_paid_for_twice(rig: Rig, fault: str) -> None:
    await rig.stack.ready()
    await emulator(rig.stack, "POST", "script", {"rules": [{"latency": "0.5-2"}], "replace": True})
    _, key = await rig.stack.user(amount_credits=10_000)
    async with rig.stack.client(key) as client, FAULTS[fault](rig):
        jobs: list[Job] = []
        for number in range(8):
            model = (ONE, FOUR)[number % 2]
            jobs.append(await client.create(f"{fault} {number}", n=1 + number % 3, model=model, size=1024))
            await asyncio.sleep(0.3)
    done = await nothing_is_lost(rig.stack, key, jobs, 10_000)

    assert {job["status"] for job in done} == {"completed"}
    assert all(len(job["images"]) == job["n"] for job in done)
    await nothing_left(rig.stack)
    sessions = (await emulator(rig.stack, "GET", "bill"))["sessions"]
    assert {job["id"]: sessions[job["id"]]["calls"] for job in done} == {
        job["id"]: job["n"] if job["model"] == ONE else 1 for job in done
    }


async def test_without_postgresql_a_request_gets_503_and_leaves_nothing(rig: Rig) -> None:
    await rig.stack.ready()
    _, key = await rig.stack.user()
    rig.postgres.mode = "refuse"
    rig.postgres.cut()
    try:
        async with rig.stack.client(key) as client:
            body = {"model": "sandbox/aurora", "prompt": "a fox", "width": 64, "height": 64}
            answer = await client.http.post("/v1/generations", json=body)
        parts = {name: await rig.stack.parts(name) for name in ("api", "api-worker", "generator", "ledger")}
    finally:
        rig.postgres.mode = "pass"
    await rig.stack.ready()

    assert (answer.status_code, answer.json()["code"]) == (503, "service_unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert [(said["postgres"] != "ok", said["rabbitmq"]) for said in parts.values()] == [(True, "ok")] * 4
    async with rig.stack.client(key) as client:
        assert (await client.ok("GET", "/v1/generations"))["data"] == []
    await nothing_is_lost(rig.stack, key, [], 1000)


@pytest.mark.parametrize("ahead_s", [600, -600])
async def test_clocks_that_disagree_change_nothing(rig: Rig, ahead_s: float) -> None:
    """Ten minutes is more than a lease, an intent and the deadline of these jobs last."""
    need_clocks()
    await rig.stack.ready()
    _, key = await rig.stack.user(amount_credits=10_000)
    async with AsyncExitStack() as running_twins:
        for number, name in enumerate(SERVICES):
            wrong_by_s = ahead_s * (-1) ** number
            url = await running_twins.enter_async_context(twin(rig.stack, name, clock_of(wrong_by_s)))
            if name == "api":
                other_url = url
        async with (
            rig.stack.client(key) as client,
            httpx.AsyncClient(base_url=other_url, headers=client.http.headers, timeout=30, trust_env=False) as http,
        ):
            jobs: list[Job] = []
            for number in range(12):
                model, asked = (ONE, FOUR)[number % 2], (client, Client(http))[number // 2 % 2]
                jobs.append(await asked.create(f"clock {number}", n=2, model=model, size=1024, deadline_s=300))
                await asyncio.sleep(0.2)
            await client.all_settled(jobs)
    done = await nothing_is_lost(rig.stack, key, jobs, 10_000)

    assert {job["status"] for job in done} == {"completed"}
    assert all(len(job["images"]) == job["n"] for job in done)
    assert all(job["processing_time_ms"] < 60_000 for job in done)
    sessions = (await emulator(rig.stack, "GET", "bill"))["sessions"]
    assert {sessions[job["id"]]["calls"] // (job["n"] if job["model"] == ONE else 1) for job in done} == {1}


async def emulator(stack: Stack, method: str, path: str, body: Any = None) -> Any:
    async with httpx.AsyncClient(base_url=stack.dev["emulator_url"], trust_env=False, timeout=30) as http:
        return (await http.request(method, f"/_emulator/{path}", json=body)).raise_for_status().json()
