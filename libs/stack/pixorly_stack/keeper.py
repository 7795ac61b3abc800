"""A keeper starts one unit, starts it again when it dies, and stops it."""

import asyncio
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pixorly_stack.errors import StartError
from pixorly_stack.processes import Identity, listens, spawn
from pixorly_stack.units import Unit

DEATHS_AT_START = 3
"""A process that dies this often before it was ever ready will not get better by itself."""
KILL_WAIT_S = 5.0


class State(StrEnum):
    """What a unit is doing."""

    STARTING = "starting"
    READY = "ready"
    UNREADY = "unready"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a unit is looked at, and how long the pauses before it is started again are.

    Attributes:
        probe_s: Between looks while it starts.
        health_s: Between looks while it is well.
        unready_s: Between looks while it does not answer.
        first_pause_s: Before the first new start; the next is twice as long, and so on.
        longest_pause_s: No pause is longer.
        healthy_after_s: After a life of this length the first pause comes again.
    """

    probe_s: float = 0.1
    health_s: float = 5.0
    unready_s: float = 1.0
    first_pause_s: float = 0.5
    longest_pause_s: float = 10.0
    healthy_after_s: float = 30.0


class Backoff:
    """How long to wait before the next start: twice as long each time, until the process stayed up for a while."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._pause_s = pace.first_pause_s

    def pause_s(self, lived_s: float) -> float:
        """Return how long to wait after a process that lived this long."""
        if lived_s >= self._pace.healthy_after_s:
            self._pause_s = self._pace.first_pause_s
        pause_s, self._pause_s = self._pause_s, min(self._pause_s * 2, self._pace.longest_pause_s)
        return pause_s


class Keeper:
    """Keeps one unit running until it is told to stop."""

    def __init__(
        self, unit: Unit, logs: Path, on_change: Callable[["Keeper"], None] = lambda _: None, pace: Pace = Pace()
    ) -> None:
        self.unit = unit
        self.state = self._before = State.STOPPED
        self.identity: Identity | None = None
        self.deaths = 0
        self.last_exit: int | None = None
        self._log = logs / f"{unit.name}.log"
        self._on_change = on_change
        self._pace = pace
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._was_ready = asyncio.Event()
        self._started = 0.0
        self._backoff = Backoff(pace)

    async def start(self, within_s: float) -> None:
        """Start the unit, and return when it is ready.

        Raises:
            StartError: It keeps dying, cannot be run, or was not ready in time.
        """
        self._task = asyncio.create_task(self._keep(), name=f"keep {self.unit.name}")
        ready = asyncio.create_task(self._was_ready.wait())
        try:
            await asyncio.wait({ready, self._task}, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if self._task.done():
            self._task.result()
        if not self._was_ready.is_set():
            raise StartError(self.unit.name, f"it did not answer within {within_s:g} s")

    async def stop(self) -> None:
        """Ask the unit to end, kill it if it does not, and return when it is gone."""
        self._change(State.STOPPING)
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError, StartError):
                await self._task
        if self._process is not None and self._process.returncode is None:
            await self._end(self._process)
        self._process = self.identity = None
        self.unit.after_stop()
        self._change(State.STOPPED)

    def kill(self) -> None:
        """Kill the process at once, in the middle of a stop."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()

    def in_words(self) -> str | None:
        """Return what people want to know of the state it is in now."""
        name, port = self.unit.name, self.unit.port
        match self.state:
            case State.READY if self._before is State.UNREADY:
                return f"{name} answers again"
            case State.READY:
                return f"{name} is ready on port {port} ({time.monotonic() - self._started:.1f} s)"
            case State.UNREADY:
                return f"{name} does not answer"
            case State.RESTARTING:
                return f"{name} ended ({ending_in_words(self.last_exit)}) and is started again"
            case _:
                return None

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        with suppress(ProcessLookupError):
            process.send_signal(self.unit.stop_signal)
        try:
            await asyncio.wait_for(process.wait(), self.unit.stop_within_s)
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await asyncio.wait_for(process.wait(), KILL_WAIT_S)

    async def _keep(self) -> None:
        while True:
            self._started = time.monotonic()
            try:
                self.last_exit = await self._live()
            except OSError as error:
                if not self._was_ready.is_set():
                    raise StartError(self.unit.name, f"it cannot be run: {error}") from error
            self._note_death()
            await asyncio.sleep(self._backoff.pause_s(time.monotonic() - self._started))

    async def _live(self) -> int:
        """Run the process once, and return its exit status."""
        await asyncio.to_thread(self.unit.before_start)
        self._process = process = await spawn(self.unit.command, self._log)
        self.identity = Identity.of(process.pid)
        self._change(State.STARTING)
        health = asyncio.create_task(self._watch_health())
        try:
            return await process.wait()
        finally:
            health.cancel()

    def _note_death(self) -> None:
        self.deaths += 1
        self.identity = None
        if not self._was_ready.is_set() and self.deaths >= DEATHS_AT_START:
            raise StartError(
                self.unit.name, f"it ended {self.deaths} times, the last time with {ending_in_words(self.last_exit)}"
            )
        self._change(State.RESTARTING)

    async def _watch_health(self) -> None:
        pause_s = self._pace.probe_s
        while True:
            if await self._answers():
                self._was_ready.set()
                self._change(State.READY)
                pause_s = self._pace.health_s
            elif self.state is State.READY:
                self._change(State.UNREADY)
                pause_s = self._pace.unready_s
            await asyncio.sleep(pause_s)

    async def _answers(self) -> bool:
        """Tell whether it is this process that answers, and not another one that has its port."""
        if not await self.unit.is_ready():
            return False
        if self.state is State.READY or self.unit.port is None:
            return True
        return self._process is not None and listens(self._process.pid, self.unit.port)

    def _change(self, state: State) -> None:
        if state != self.state:
            self._before, self.state = self.state, state
            self._on_change(self)


def ending_in_words(status: int | None) -> str:
    """Return how a process ended."""
    if status is None:
        return "it could not be run"
    if status < 0:
        return signal.Signals(-status).name
    return f"exit status {status}"
