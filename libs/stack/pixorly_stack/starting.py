"""Borrowing the stack of a folder: the one that runs there, or one that is started for the while and stopped again."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from rich.markup import escape

from pixorly_stack.console import out
from pixorly_stack.errors import StackError
from pixorly_stack.folder import Folder, Record
from pixorly_stack.logs import Follower

LOOK_EVERY_S: Final = 0.1
READY_WITHIN_S: Final = 600.0
"""The first start may have to bring parts from far away."""
STOPPED_WITHIN_S: Final = 120.0
_ARRIVED: Final = frozenset({"ready", "external"})


@dataclass(slots=True)
class Borrowed:
    """A stack that runs, for the length of a block.

    Attributes:
        own: Whether it was started for it.
        times_s: How long starting and stopping took.
    """

    own: bool
    times_s: dict[str, float] = field(default_factory=dict)


@contextmanager
def borrowed(folder: Folder) -> Iterator[Borrowed]:
    """Have the stack of a folder run for the length of a block, and leave it as it was found.

    Raises:
        StackError: It could not be started.
    """
    folder.make()
    if folder.runs():
        out.print(f"Pixorly runs already in {escape(str(folder.root))}; it is used, and left running.")
        _wait(folder, None)
        yield Borrowed(own=False)
        return
    began = time.monotonic()
    supervisor = _started(folder)
    try:
        _wait(folder, supervisor)
        stack = Borrowed(own=True, times_s={"start": time.monotonic() - began})
        yield stack
    finally:
        began = time.monotonic()
        _stop(folder, supervisor)
    stack.times_s["stop"] = time.monotonic() - began


def _started(folder: Folder) -> subprocess.Popen[bytes]:
    """Start a supervisor in a session of its own, so that Ctrl-C here does not reach it before we tell it."""
    words = [sys.executable, "-m", "pixorly_stack", "up", "--supervised", "--dir", str(folder.root)]
    with (folder.logs / "supervisor.log").open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - our own words
            words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )


def _wait(folder: Folder, supervisor: subprocess.Popen[bytes] | None) -> None:
    """Return when the stack is ready, showing what is waited for and what the supervisor says.

    Raises:
        StackError: It ended instead, or took far too long.
    """
    follower, deadline = Follower(folder.logs / "supervisor.log"), time.monotonic() + READY_WITHIN_S
    with out.status("starting") as status:
        while True:
            ended = not folder.runs() if supervisor is None else supervisor.poll() is not None
            for line in follower.new_lines():
                out.print(f"  [dim]{escape(line)}[/]")
            record = folder.record()
            if ended:
                said = record is not None and record.status == "failed"
                raise StackError("the stack did not start" + ("" if said else ": its supervisor ended without a word"))
            if record and record.status == "ready" and _is_of(record, supervisor):
                return
            if time.monotonic() > deadline:
                raise StackError(f"the stack was not ready within {READY_WITHIN_S:g} s")
            status.update(waited_for(record if record and _is_of(record, supervisor) else None))
            time.sleep(LOOK_EVERY_S)


def _is_of(record: Record, supervisor: subprocess.Popen[bytes] | None) -> bool:
    """Tell whether a record was written by this supervisor, and not by one before it."""
    return supervisor is None or (record.supervisor is not None and record.supervisor.pid == supervisor.pid)


def waited_for(record: Record | None) -> str:
    """Return in words which parts are not ready yet."""
    if record is None:
        return "starting"
    missing = [row.name for row in record.rows if row.shown and row.state not in _ARRIVED]
    return f"waiting for {', '.join(missing)}" if missing else "starting: almost there"


def _stop(folder: Folder, supervisor: subprocess.Popen[bytes]) -> None:
    """Stop what was started, and return when it is gone."""
    with out.status("stopping"):
        supervisor.terminate()
        try:
            supervisor.wait(STOPPED_WITHIN_S)
        except subprocess.TimeoutExpired:
            supervisor.kill()
            supervisor.wait()
            folder.clear_away()
