"""Virtual time, tasks that pause between atomic actions, and processes that can die between any two of them.

A task is a coroutine; what it does between two pauses happens at once, as one atomic action. Which task goes on next
follows from the times at which their pauses end, which a seeded generator of random numbers draws.
"""

import heapq
import random
import types
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final, TypeVar

from pixorly.errors import PixorlyError

_T = TypeVar("_T")
TRACE_LINES: Final = 120


class Gone(Exception):
    """The process that was asked died before it answered."""


class TimedOut(Exception):
    """What was waited for did not end in time; it goes on all the same."""


@types.coroutine
def _pause() -> Generator[None, Any, Any]:
    return (yield)


@dataclass(eq=False, slots=True)
class Task:
    """A coroutine under way.

    Attributes:
        process: Whose death ends it; None for what lies outside our processes, such as clients.
        epoch: Moves with every pause, so that a waking call that is out of date is known.
        waiting: Who is to be woken when it ends, and in which of their epochs.
    """

    work: Coroutine[Any, Any, Any]
    process: "Process | None"
    epoch: int = 0
    ended: bool = False
    result: Any = None
    error: PixorlyError | Gone | None = None
    waiting: list[tuple["Task", int]] = field(default_factory=list)


@dataclass(eq=False)
class Process:
    """One process of a service.

    Attributes:
        name: As `pixorly ps` shows it, with a number.
        boot: Builds its memory anew and spawns its tasks, at each start.
        on_death: What the world does when it dies.
        alive: Whether it runs.
        life: Which of its lives this is.
        frozen_until_s: Until when it does nothing, as after a SIGSTOP.
        frozen_s: For how long it was frozen in this life.
        skew_s: How far its clock is off.
    """

    name: str
    boot: Callable[["Process"], None]
    on_death: Callable[["Process"], None]
    alive: bool = False
    life: int = 0
    frozen_until_s: float = 0.0
    frozen_s: float = 0.0
    skew_s: float = 0.0
    tasks: dict[Task, None] = field(default_factory=dict)

    def start(self) -> None:
        """Start, unless it runs."""
        if not self.alive:
            self.alive, self.frozen_until_s, self.frozen_s = True, 0.0, 0.0
            self.life += 1
            self.boot(self)

    def die(self) -> list[Task]:
        """Die: what was in memory is gone, nothing is tidied up. Return the tasks that died with it."""
        self.alive = False
        tasks, self.tasks = list(self.tasks), {}
        for task in tasks:
            task.ended, task.error = True, Gone(self.name)
            task.work.close()
        self.on_death(self)
        return tasks


class Bell:
    """Wakes the tasks that wait for it."""

    def __init__(self, clockwork: "Clockwork") -> None:
        self._clockwork = clockwork
        self._waiting: list[tuple[Task, int]] = []

    async def wait(self) -> None:
        """Wait for the next ring."""
        task = self._clockwork.running()
        self._waiting.append((task, task.epoch))
        await _pause()

    def ring(self) -> None:
        """Wake everyone who waits."""
        waiting, self._waiting = self._waiting, []
        for task, epoch in waiting:
            self._clockwork.wake(task, epoch)


class Clockwork:
    """Runs tasks in virtual time.

    Args:
        seed: Decides everything that is left to chance.
        keep: How many lines of the trace to keep; None keeps all.

    Attributes:
        now_s: The time.
        random: The one source of chance.
        steps: How many atomic actions there were.
        dies: Tells of a process whether it dies at this step.
        after: Called after each atomic action.
    """

    def __init__(self, seed: int, keep: int | None = TRACE_LINES) -> None:
        self.now_s = 0.0
        self.random = random.Random(seed)
        self.steps = 0
        self.dies: Callable[[Process], bool] = lambda _: False
        self.after: Callable[[], None] = lambda: None
        self.trace: deque[tuple[float, str, str]] = deque(maxlen=keep)
        self._numbers = count()
        self._agenda: list[tuple[float, int, Task | Callable[[], None], int]] = []
        self._tasks: dict[Task, None] = {}
        self._running: Task | None = None

    # What tasks call

    def running(self) -> Task:
        """Return the task that asks."""
        if self._running is None:
            raise RuntimeError("only a task may wait")
        return self._running

    def tell(self, what: str) -> None:
        """Write a line into the trace."""
        process = self._running.process if self._running else None
        self.trace.append((self.now_s, process.name if process else "world", what))

    async def sleep(self, delay_s: float) -> None:
        """Pause."""
        task = self.running()
        self._push(self.now_s + delay_s, task, task.epoch)
        await _pause()

    async def join(self, other: Task, timeout_s: float | None = None) -> Any:
        """Return what another task returns, or raise what it raises.

        Raises:
            Gone: It died with its process.
            TimedOut: It was still at it.
        """
        if not other.ended:
            task = self.running()
            other.waiting.append((task, task.epoch))
            if timeout_s is not None:
                self._push(self.now_s + timeout_s, task, task.epoch)
            await _pause()
        if not other.ended:
            raise TimedOut
        if other.error is not None:
            raise other.error
        return other.result

    def spawn(self, work: Coroutine[Any, Any, Any], process: Process | None, delay_s: float = 0.0) -> Task:
        """Begin a task."""
        task = Task(work, process)
        self._tasks[task] = None
        if process is not None:
            process.tasks[task] = None
        self._push(self.now_s + delay_s, task, 0)
        return task

    def later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Have something happen that no process does."""
        self._push(self.now_s + delay_s, call, 0)

    def wake(self, task: Task, epoch: int) -> None:
        """Wake a task, if it still is where it was."""
        self._push(self.now_s, task, epoch)

    def _push(self, at_s: float, what: Task | Callable[[], None], epoch: int) -> None:
        heapq.heappush(self._agenda, (at_s, next(self._numbers), what, epoch))

    # What turns it

    def run(self, until_s: float, done: Callable[[], bool]) -> bool:
        """Go on until `done` or a time, and return whether it was `done`."""
        while self._agenda and self._agenda[0][0] <= until_s:
            at_s, _, what, epoch = heapq.heappop(self._agenda)
            passes = at_s > self.now_s
            if passes and done():
                return True
            self.now_s = max(at_s, self.now_s)
            if isinstance(what, Task):
                self._resume(what, epoch)
            else:
                what()
                self.after()
        return done()

    def _resume(self, task: Task, epoch: int) -> None:
        if task.ended or task.epoch != epoch:
            return
        process = task.process
        if process is not None:
            if process.frozen_until_s > self.now_s:
                self._push(process.frozen_until_s + self.random.random() / 10, task, epoch)
                return
            if self.dies(process):
                self.kill(process)
                return
        self._advance(task)
        self.after()

    def tell_of(self, whom: str, what: str) -> None:
        """Write a line about somebody who is no task into the trace."""
        self.trace.append((self.now_s, whom, f"*** {what}"))

    def kill(self, process: Process) -> None:
        """Kill a process as by SIGKILL."""
        self.tell_of(process.name, "dies")
        for task in process.die():
            del self._tasks[task]
            self._wake_waiting(task)
        self.after()

    def _advance(self, task: Task) -> None:
        self.steps += 1
        task.epoch += 1
        self._running = task
        try:
            task.work.send(None)
        except StopIteration as end:
            task.result = end.value
            self._end(task)
        except PixorlyError as error:
            task.error = error
            self._end(task)
        finally:
            self._running = None

    def _end(self, task: Task) -> None:
        task.ended = True
        del self._tasks[task]
        if task.process is not None:
            task.process.tasks.pop(task, None)
        self._wake_waiting(task)

    def _wake_waiting(self, task: Task) -> None:
        for waiter, epoch in task.waiting:
            self.wake(waiter, epoch)

    def close(self) -> None:
        """Let go of everything that is under way."""
        for task in self._tasks:
            task.work.close()

    def lines(self) -> list[str]:
        """Return the trace, readable."""
        return [f"{at_s:9.3f}  {who:<12} {what}" for at_s, who, what in self.trace]


async def gather(clockwork: Clockwork, tasks: list[Task]) -> list[PixorlyError | None]:
    """Wait for all tasks and return what each raised."""
    errors: list[PixorlyError | None] = []
    for task in tasks:
        try:
            await clockwork.join(task)
            errors.append(None)
        except PixorlyError as error:
            errors.append(error)
    return errors


async def insist(
    action: Callable[[], Awaitable[_T]], pause: Callable[[], Awaitable[None]], *errors: type[Exception]
) -> _T:
    """Return what `action` returns, trying again after a pause for as long as it raises one of `errors`."""
    while True:
        try:
            return await action()
        except errors:
            await pause()
