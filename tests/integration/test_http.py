"""Calls between processes that a deadline cuts off, against a server on a socket."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx

from pixorly.http import SteadyTransport

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
CONNECTIONS = 4
CALLERS = 4 * CONNECTIONS
"""More than there are connections, so that most of them wait for one."""


@asynccontextmanager
async def server(answer: bytes, within_s: float = 0) -> AsyncIterator[str]:
    """Answer each request after a while of at most so many seconds."""
    served = set[asyncio.Task[None] | None]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.add(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await asyncio.sleep(random.uniform(0, within_s))
                writer.write(answer)
                await writer.drain()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()
        await asyncio.gather(*filter(None, served))


async def test_calls_that_are_cut_off_leave_every_connection_to_the_next_ones() -> None:
    async with (
        server(ANSWER, within_s=0.02) as url,
        httpx.AsyncClient(base_url=url, transport=SteadyTransport(CONNECTIONS, keepalive_s=4), timeout=30) as client,
    ):

        async def give_up_soon() -> None:
            for _ in range(60):
                with suppress(TimeoutError):
                    async with asyncio.timeout(random.uniform(0, 0.03)):
                        await client.get("/")

        await asyncio.gather(*(give_up_soon() for _ in range(CALLERS)))
        answers = await asyncio.gather(*(client.get("/") for _ in range(CALLERS)))

    assert [answer.status_code for answer in answers] == [200] * CALLERS


async def test_a_call_that_was_cut_off_is_ended_by_the_clients_own_time_out() -> None:
    """A server that hears and says nothing holds a connection no longer than httpx waits for it."""
    async with (
        server(ANSWER) as url,
        server(b"") as silent_url,
        httpx.AsyncClient(transport=SteadyTransport(connections=1, keepalive_s=4), timeout=0.5) as client,
    ):
        with suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.get(silent_url)
        answer = await client.get(url)

    assert answer.status_code == 200
