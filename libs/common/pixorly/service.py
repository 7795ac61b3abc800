"""Run one process of a service: an ASGI app whose lifespan builds its parts and takes them down again."""

import asyncio
import gc
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import structlog
import uvicorn
from fastapi import FastAPI
from typing_extensions import override

from pixorly import failpoints, telemetry
from pixorly.errors import OutageError
from pixorly.priority import give_way
from pixorly.settings import ProcessSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_HARD_STOP_AFTER_GRACE_S: Final = 10
_EXIT_HARD: Final = 70
_NEW_OBJECTS: Final = 20_000
"""How many new objects Python lets pile up before it looks for rings among them."""
_MEASURE_EVERY_S: Final = 15.0


class _Server(uvicorn.Server):
    """A server that is gone for sure some time after it was told to stop, and calls `on_stop` at once."""

    def __init__(self, config: uvicorn.Config, grace_s: float, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_stop = on_stop
        self._deadline_s = grace_s + _HARD_STOP_AFTER_GRACE_S

    @override
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # A closing handshake with a server that is cut off has no time-out of its own.
        timer = threading.Timer(self._deadline_s, os._exit, (_EXIT_HARD,))
        timer.daemon = True
        timer.start()
        # Uvicorn's own handler would raise the signal again at the end: the process would die of it, and not exit 0.
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True
        self._on_stop()


def run(app: FastAPI, service: str, settings: ProcessSettings) -> None:
    """Serve `app` until SIGTERM or SIGINT, then let its lifespan end within the grace period, and exit 0.

    Requests that are under way come first. An app whose requests wait for something puts what makes them give up the
    wait into `app.state.on_stop`.
    """
    telemetry.setup(service, settings)
    failpoints.arm(service, settings.failpoints)
    config = uvicorn.Config(
        app,
        host=settings.http_host,
        port=settings.http_port,
        log_config=None,
        access_log=False,
        server_header=False,
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_graceful_shutdown=max(1, int(settings.shutdown_grace_s)),
        lifespan="on",
    )
    _collect_seldom()
    if settings.niceness:
        give_way(settings.niceness)
    server = _Server(config, settings.shutdown_grace_s, getattr(app.state, "on_stop", lambda: None))
    server.run()
    telemetry.shutdown()
    if not server.started:
        raise SystemExit(1)


def _collect_seldom() -> None:
    """Let Python look for rings of dead objects less often, and never among what lives as long as the process.

    By default it looks after every 700 new objects, which is several times in each group of requests, and most of what
    it walks through then is the code that was imported.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, 10, 10)


@asynccontextmanager
async def background(*loops: Coroutine[Any, Any, None]) -> "AsyncIterator[None]":
    """Run endless `loops` beside the body; one that ends by itself or raises is logged and ends the process."""
    tasks = [asyncio.create_task(_watched(loop)) for loop in loops]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


async def keep_measuring(measure: Callable[[], Awaitable[None]], or_else: str) -> None:
    """Set gauges for ever; while a part is away they say what was seen last, and the log has `or_else`."""
    while True:
        try:
            await measure()
        except OutageError as error:
            structlog.get_logger().warning(or_else, part=error.part)
        await asyncio.sleep(_MEASURE_EVERY_S)


async def _watched(loop: Coroutine[Any, Any, None]) -> None:
    reason: BaseException | None = None
    try:
        await loop
    except asyncio.CancelledError as error:
        if (task := asyncio.current_task()) and task.cancelling():
            raise
        reason = error
    except Exception as error:  # noqa: BLE001 - whatever it is, the loop is dead
        reason = error
    name = getattr(loop, "__qualname__", "?")
    structlog.get_logger().error("a loop ended, so the process stops", loop=name, exc_info=reason)
    # Whatever runs the process starts it again; half a service would look healthy.
    os._exit(1)
