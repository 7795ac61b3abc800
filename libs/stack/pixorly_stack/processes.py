"""Child processes that never outlive the stack, and never a signal to a process that is not ours."""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it has no types of its own

from pixorly.priority import give_way

SAME_START_S = 2.0
"""How far two readings of a process's start may lie apart; a clock that is set moves them."""
PR_SET_PDEATHSIG = 1
KILL_WAIT_S = 5.0
IN_THE_BACKGROUND = 10
"""How nice those parts are that nobody waits for at the other end of a request: on a machine that is busy they lag, and
catch up, while creating a job stays quick."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to run: the words, the whole environment, and where; how far it gives way to others."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    niceness: int = 0


@dataclass(frozen=True, slots=True)
class Identity:
    """A process that is known by more than a number, which the system may have given to another one since."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> "Identity | None":
        """Return the identity of a process that runs now, or None where it is gone."""
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.NoSuchProcess:
            return None

    def process(self) -> psutil.Process | None:
        """Return the process while it runs, or None once it is gone (or is only waiting to be collected)."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < SAME_START_S
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal if the process still runs, and tell whether it did."""
        process = self.process()
        if process is None:
            return False
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            return False
        return True

    def kill(self) -> bool:
        """Kill the process if it still runs, wait until it is gone, and tell whether it did run."""
        process = self.process()
        if process is None:
            return False
        with suppress(psutil.Error):
            process.kill()
            process.wait(KILL_WAIT_S)
        return True


def program_of(pid: int) -> str:
    """Return the name of the program that runs under a number; "" where none does."""
    try:
        return str(psutil.Process(pid).name())
    except psutil.Error:
        return ""


def listens(pid: int, port: int) -> bool:
    """Tell whether a process listens on a port; where the system does not say, it is taken to."""
    try:
        connections = psutil.Process(pid).net_connections("tcp")
    except psutil.AccessDenied:
        return True
    except psutil.NoSuchProcess:
        return False
    return any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in connections)


async def spawn(command: Command, log: Path) -> asyncio.subprocess.Process:
    """Start a process in a session of its own, with its words appended to `log`; it dies with this process.

    Raises:
        OSError: The program cannot be run.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *command.argv,
            env=command.env,
            cwd=command.cwd,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_at_first(command.niceness),
        )


def _at_first(niceness: int) -> Callable[[], None]:
    """Return what a child does before it becomes the program."""
    die_with_parent = _die_with_parent()

    def arrange() -> None:
        if die_with_parent:
            die_with_parent()
        if niceness:
            give_way(niceness)

    return arrange


def _die_with_parent() -> Callable[[], None] | None:
    """Return what a child does so that it is killed when this process ends in whatever way (Linux only).

    The kernel ties this to the thread that starts the child, so children are started from the main thread, which lives
    as long as the process. Where there is no such thing, the next `up` or `down` clears away what was left.
    """
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def arrange() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before this took effect
            os._exit(1)

    return arrange
