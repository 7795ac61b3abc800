"""Free ports, chosen once and kept."""

import fcntl
import os
import random
import socket
import tempfile
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path

from pixorly_stack.files import read_json, write_json

LOOPBACK = "127.0.0.1"
CHOICE = range(20_000, 32_000)
"""Below the ports that Linux gives to outgoing connections, so that a port stays free while its process restarts."""
TRIES = 200


class Ports:
    """The ports of a stack by name, recorded in a file so that they stay the same while nobody else takes them."""

    def __init__(self, record: Path) -> None:
        self._record = record
        self._ports: dict[str, int] = read_json(record) or {}
        self._settled: set[str] = set()
        # Servers are prepared side by side, in threads.
        self._choosing = threading.Lock()

    def port(self, name: str, *, prefer: int | None = None, twin: int = 0) -> int:
        """Return the port of `name`: the recorded one where it is still free, else `prefer`, else any free one.

        With `twin`, the port that far from it is free as well.
        """
        with self._choosing:
            if name not in self._settled:
                self._ports[name] = self._choose((self._ports.get(name), prefer), twin)
                self._settled.add(name)
                write_json(self._record, self._ports)
            return self._ports[name]

    def _choose(self, wishes: tuple[int | None, ...], twin: int) -> int:
        taken = {self._ports[name] for name in self._settled}
        for wish in (*wishes, *random.sample(CHOICE, TRIES)):
            if wish is not None and wish not in taken and _can_have(wish) and (not twin or _can_have(wish + twin)):
                return wish
        raise OSError("no free port was found on 127.0.0.1")


def _can_have(port: int) -> bool:
    return is_free(port) and claim(port)


@cache
def _claims() -> int | None:
    """Open the file in which each byte stands for a port, and return its descriptor; None where it is closed to us."""
    path = Path(tempfile.gettempdir()) / "pixorly-ports.lock"
    for flags in (os.O_RDWR, os.O_RDWR | os.O_CREAT):  # some systems let nobody create what another user has made
        try:
            file = os.open(path, flags | os.O_CLOEXEC, 0o666)
        except OSError:
            continue
        with suppress(PermissionError):
            os.fchmod(file, 0o666)  # for all users, whatever the mask of the first
        return file
    return None


def claim(port: int) -> bool:
    """Keep other stacks of this machine from a port that its process does not listen on yet, while this process lives.

    Returns:
        Whether no other has claimed it.
    """
    file = _claims()
    if file is None:
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


def is_free(port: int) -> bool:
    """Tell whether nobody listens on this port of the loopback address."""
    with socket.socket() as probe:
        probe.settimeout(1)
        if probe.connect_ex((LOOPBACK, port)) == 0:
            return False
    with socket.socket() as probe:
        # As servers do: a connection of an earlier process that is still winding down does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
