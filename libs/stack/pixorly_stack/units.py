"""A unit is one process of the stack: how to run it, how to see that it is ready, how to stop it."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httpx

from pixorly_stack.ports import LOOPBACK
from pixorly_stack.processes import Command

PROBE_S = 2.0


@dataclass(frozen=True, slots=True)
class Unit:
    """One process of the stack.

    Attributes:
        name: Its name in `pixorly ps`, and of its log.
        port: The port that it listens on and people want to know, if it has one.
        command: How it is run.
        is_ready: Asked until it answers True; it never raises.
        before_start: Run before each start, a restart included.
        after_stop: Run when it has been stopped.
        stop_signal: What asks it to end in good order.
        stop_within_s: After this it is killed.
        shown: Whether `pixorly ps` lists it.
    """

    name: str
    port: int | None
    command: Command
    is_ready: Callable[[], Awaitable[bool]]
    before_start: Callable[[], None] = lambda: None
    after_stop: Callable[[], None] = lambda: None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_within_s: float = 20.0
    shown: bool = True


async def name_server_answers(port: int) -> bool:
    """Tell whether Erlang's name server answers a request for its names."""
    try:
        async with asyncio.timeout(PROBE_S):
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            writer.write(b"\x00\x01n")  # one byte follows: NAMES_REQ
            answer = await reader.read(4)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return int.from_bytes(answer) == port


async def url_answers(url: str, auth: tuple[str, str] | None = None, within_s: float = PROBE_S) -> bool:
    """Tell whether a GET of `url` is answered with 200."""
    try:
        # Ours speak plain HTTP on loopback; to read the list of authorities costs a hundred times what the probe does.
        plain = url.startswith("http://")
        async with httpx.AsyncClient(timeout=within_s, trust_env=False, auth=auth, verify=not plain) as client:
            return (await client.get(url)).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


async def anything_answers(url: str) -> bool:
    """Tell whether a GET of `url` is answered, in whatever way."""
    try:
        async with httpx.AsyncClient(timeout=PROBE_S) as client:
            await client.get(url)
    except httpx.HTTPError:
        return False
    return True
