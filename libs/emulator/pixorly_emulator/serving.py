"""Running the emulator: inside a test's own event loop, or as a process of its own."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import uvicorn

from pixorly_emulator.app import Options, create_app
from pixorly_emulator.wire import Protocol


@dataclass(frozen=True, slots=True)
class Running:
    """An emulator that is running.

    Attributes:
        url: Where; OpenRouter's routes lie under `/api/v1`, OpenAI's under `/v1`.
        port: The port alone.
    """

    url: str
    port: int


def configured(options: Options, *, log_level: str = "warning") -> uvicorn.Config:
    """Return how uvicorn is to run the emulator."""
    return uvicorn.Config(
        create_app(options),
        http=Protocol,
        ws="none",
        lifespan="off",
        log_level=log_level,
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=1,
        backlog=4096,
    )


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(4096)
    return listener


class _Server(uvicorn.Server):
    """A server that leaves the signals to whoever runs the event loop."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


@asynccontextmanager
async def serving(options: Options | None = None, *, host: str = "127.0.0.1") -> AsyncIterator[Running]:
    """Run the emulator in this event loop, on a free port, until the block ends."""
    listener = listening(host, 0)
    port: int = listener.getsockname()[1]
    server = _Server(configured(options or Options()))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            if task.done():
                task.result()
            await asyncio.sleep(0.01)
        yield Running(url=f"http://{host}:{port}", port=port)
    finally:
        server.should_exit = server.force_exit = True
        await task
        listener.close()
