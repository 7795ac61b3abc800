"""Two thousand clients who listen, on an api that is killed while they do: each hears how its job ended."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
from stack import SETTLED, Job, Stack, running

pytestmark = [pytest.mark.long, pytest.mark.timeout(500)]
LISTENERS = 2000
JOBS = 20


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    yield from running(tmp_path_factory.mktemp("streams") / ".pixorly", PIXORLY_SANDBOX_LATENCY_S="100")


@dataclass
class Listener:
    """A client of one stream, who comes back as often as the stream breaks.

    Attributes:
        path: The stream.
        wanted: The jobs whose ends it waits for.
        told: Each job as it was last told.
        event_id: The last event's id.
        connections: How often it connected.
    """

    path: str
    wanted: set[str]
    key: str
    address: tuple[str, int]
    told: dict[str, Job] = field(default_factory=dict)
    event_id: str = ""
    connections: int = 0

    @property
    def done(self) -> bool:
        """Whether all ends have come."""
        return self.wanted <= {job_id for job_id, job in self.told.items() if job["status"] in SETTLED}

    async def listen(self) -> None:
        """Listen until all ends have come."""
        while not self.done:
            with suppress(OSError):
                await self._connect()
            await asyncio.sleep(0.5)

    async def _connect(self) -> None:
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            self.connections += 1
            came_back = f"Last-Event-ID: {self.event_id}\r\n" if self.event_id else ""
            head = f"GET {self.path} HTTP/1.1\r\nHost: api\r\nAuthorization: Bearer {self.key}\r\n{came_back}\r\n"
            writer.write(head.encode())
            await writer.drain()
            while not self.done and (line := (await reader.readline()).decode()):
                self._hear(line.strip())
        finally:
            writer.close()

    def _hear(self, line: str) -> None:
        name, _, value = line.partition(": ")
        if name == "id":
            self.event_id = value
        elif name == "data":
            job = json.loads(value)
            self.told[job["id"]] = job


def address(stack: Stack) -> tuple[str, int]:
    api = urlsplit(stack.dev["api_url"])
    return api.hostname or "", api.port or 0


async def until_all_listen(listeners: list[Listener]) -> None:
    async with asyncio.timeout(100):
        while not all(listener.told for listener in listeners):
            await asyncio.sleep(0.1)


async def test_two_thousand_listeners_miss_no_end_when_the_api_dies(stack: Stack) -> None:
    _, key = await stack.user(amount_credits=1000)
    async with stack.client(key) as client:
        jobs = [await client.create(f"job {number}") for number in range(JOBS)]
        ids = [jobs[number % JOBS]["id"] for number in range(LISTENERS)]
        listeners = [Listener(f"/v1/generations/{one}/events", {one}, key, address(stack)) for one in ids]
        listening = [asyncio.create_task(listener.listen()) for listener in listeners]
        await until_all_listen(listeners)
        assert not any(listener.done for listener in listeners)

        stack.kill("api")
        async with asyncio.timeout(300):
            await asyncio.gather(*listening)
        done = {job["id"]: job for job in await client.all_settled(jobs)}

    assert all(listener.connections >= 2 for listener in listeners)
    for listener in listeners:
        for job_id in listener.wanted:
            assert listener.told[job_id]["status"] == "completed"
            assert listener.told[job_id]["settled_at"] == done[job_id]["settled_at"]


async def test_a_stream_of_all_jobs_that_broke_misses_no_end(stack: Stack) -> None:
    _, key = await stack.user(amount_credits=1000)
    async with stack.client(key) as client:
        jobs = [await client.create(f"job {number}") for number in range(5)]
        listener = Listener("/v1/events", {job["id"] for job in jobs}, key, address(stack))
        listening = asyncio.create_task(listener.listen())
        await until_all_listen([listener])

        stack.kill("api")
        async with asyncio.timeout(300):
            await listening

    assert listener.connections >= 2
