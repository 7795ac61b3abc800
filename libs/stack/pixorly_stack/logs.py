"""The logs of the stack's processes: followed while they grow, kept from growing without end."""

import asyncio
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

LONGEST_LOG_BYTES = 20_000_000
READ_AT_MOST_BYTES = 1_000_000
LOOK_EVERY_S = 0.2
TRIM_EVERY_S = 60.0

Show = Callable[[str, str], None]
"""Takes the name of a process and a line of its log."""


class Follower:
    """Reads what is added to a log, in whole lines; a log that became shorter is read from its beginning."""

    def __init__(self, path: Path, *, from_end: bool = True) -> None:
        self.name = path.stem
        self._path = path
        self._place = self._size() if from_end else 0

    def new_lines(self) -> list[str]:
        """Return the lines that were added since the last time."""
        size = self._size()
        if size < self._place:
            self._place = 0
        if size == self._place:
            return []
        with self._path.open("rb") as file:
            file.seek(self._place)
            found = file.read(READ_AT_MOST_BYTES)
        whole = found[: found.rfind(b"\n") + 1]
        if not whole and len(found) == READ_AT_MOST_BYTES:
            whole = found  # a line without an end
        self._place += len(whole)
        return whole.decode(errors="replace").splitlines()

    def _size(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0


async def follow(followers: Iterable[Follower], show: Show) -> None:
    """Show what is added to some logs, until cancelled."""
    followers = list(followers)
    while True:
        for follower in followers:
            for line in follower.new_lines():
                show(follower.name, line)
        await asyncio.sleep(LOOK_EVERY_S)


def last_lines(path: Path, count: int) -> list[str]:
    """Return the last lines of a log."""
    if count <= 0 or not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - READ_AT_MOST_BYTES))
        return file.read().decode(errors="replace").splitlines()[-count:]


async def keep_small(logs: Path, longest_bytes: int = LONGEST_LOG_BYTES) -> None:
    """Move what became too long aside, until cancelled; one older part of each log is kept."""
    while True:
        await asyncio.to_thread(trim, logs, longest_bytes)
        await asyncio.sleep(TRIM_EVERY_S)


def trim(logs: Path, longest_bytes: int) -> None:
    """Copy each log that is too long aside and empty it; its process appends, and so goes on at the beginning."""
    for log in logs.glob("*.log"):
        if log.stat().st_size > longest_bytes:
            shutil.copyfile(log, log.with_suffix(".log.1"))
            with log.open("r+b") as file:
                file.truncate(0)
