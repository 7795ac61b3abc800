"""Free ports, chosen once and kept."""

import random
import socket
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

    def port(self, name: str, *, prefer: int | None = None, twin: int = 0) -> int:
        """Return the port of `name`: the recorded one where it is still free, else `prefer`, else any free one.

        With `twin`, the port that far from it is free as well.
        """
        if name not in self._settled:
            self._ports[name] = self._choose((self._ports.get(name), prefer), twin)
            self._settled.add(name)
            write_json(self._record, self._ports)
        return self._ports[name]

    def _choose(self, wishes: tuple[int | None, ...], twin: int) -> int:
        taken = {self._ports[name] for name in self._settled}
        for wish in (*wishes, *random.sample(CHOICE, TRIES)):
            if wish is not None and wish not in taken and is_free(wish) and (not twin or is_free(wish + twin)):
                return wish
        raise OSError("no free port was found on 127.0.0.1")


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
