"""The stack's folder: what lies where, who runs in it, and what is recorded of that."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from pixorly_stack.errors import StackError
from pixorly_stack.files import read_json, write_json
from pixorly_stack.processes import Identity

LOCK_PATIENCE_S = 1.0
EXTERNAL = "external"
"""The state of a part that is somebody else's."""


class RunningAlreadyError(StackError):
    """The stack of this folder runs already."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of `pixorly ps`.

    Attributes:
        pid: None where nothing runs, or where the part is somebody else's.
        started: When the process started; with the pid it tells the process from a later one of that number.
        shown: Whether `pixorly ps` lists it.
    """

    name: str
    pid: int | None
    port: int | None
    state: str
    started: float | None = None
    shown: bool = True

    @property
    def identity(self) -> Identity | None:
        """The process, if there is one."""
        return None if self.pid is None or self.started is None else Identity(self.pid, self.started)


@dataclass(frozen=True, slots=True)
class Record:
    """What the supervisor wrote down last.

    Attributes:
        status: `starting`, `ready`, `stopping`, `stopped` or `failed`.
        error: Why it failed.
        failed: The name of the process that did not come up, where it was one.
        supervisor: The supervisor's row.
    """

    status: str
    supervisor: Row | None = None
    rows: list[Row] = field(default_factory=list)
    error: str | None = None
    failed: str | None = None

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Return the record in a file, or None where there is none."""
        found: dict[str, Any] | None = read_json(path)
        if found is None:
            return None
        supervisor = found["supervisor"] and Row(**found["supervisor"])
        rows = [Row(**row) for row in found["rows"]]
        return cls(found["status"], supervisor, rows, found["error"], found["failed"])


class Folder:
    """The folder of one stack."""

    def __init__(self, root: Path, patience_s: float = LOCK_PATIENCE_S) -> None:
        self.root = root.absolute()
        self._patience_s = patience_s
        self.logs = self.root / "logs"
        self.dev = self.root / "dev.json"
        self._state = self.root / "state.json"
        self._lock = self.root / "lock"

    def make(self) -> None:
        """Make the folder, for its owner's eyes only.

        Raises:
            StackError: It cannot be made or written to.
        """
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.logs.mkdir(mode=0o700, exist_ok=True)
            self._lock.touch()
        except OSError as error:
            raise StackError(
                f"the folder {self.root} cannot be used: {error.strerror}; choose another with --dir"
            ) from error

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be the one supervisor of this folder; the system forgets it when the process ends, in whatever way.

        Raises:
            RunningAlreadyError: There is one.
        """
        deadline = time.monotonic() + self._patience_s
        with self._lock.open("w") as file:
            # Whoever looks whether the stack runs holds the lock for a moment, too.
            while not _locked(file.fileno(), fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    raise RunningAlreadyError
                time.sleep(0.05)
            yield

    def runs(self) -> bool:
        """Tell whether a supervisor has this folder."""
        if not self._lock.exists():
            return False
        with self._lock.open("r") as file:
            return not _locked(file.fileno(), fcntl.LOCK_SH)

    def record(self) -> Record | None:
        """Return what the supervisor wrote down last, or None where there never was one."""
        return Record.read(self._state)

    def write(self, record: Record) -> None:
        """Write down what runs."""
        write_json(self._state, asdict(record))

    def rows(self) -> list[Row]:
        """Return what runs now, for people to see: nothing where no supervisor has this folder."""
        record = self.record() if self.runs() else None
        return [row for row in record.rows if row.shown] if record else []

    def clear_away(self) -> list[str]:
        """Kill what an earlier supervisor left behind when it was killed itself, and return the names."""
        record = self.record()
        rows = record.rows if record else []
        return [row.name for row in rows if row.identity and row.identity.kill()]


def _locked(file: int, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
