"""The small files of the stack's folder: written whole or not at all, secrets for the owner's eyes only."""

import json
import os
import secrets
import tempfile
from pathlib import Path
from typing import Any

PASSWORDS = (
    "postgres",
    "rabbitmq",
    "s3",
    "database-api",
    "database-ledger",
    "database-generator",
    "broker-api",
    "broker-ledger",
    "broker-generator",
    "broker-uploader",
    "admin-key",
    "service-token",
)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file that nobody else can read, in one step: a reader sees the old one or the new one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
    Path(name).replace(path)


def read_json(path: Path) -> Any:
    """Return what a JSON file holds, or None where it is missing or not whole."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


class Secrets:
    """The passwords and keys of a stack, made at random the first time and kept.

    Args:
        path: The file.
        turn: Names the users that take their turn while passwords are rotated; they have passwords of their own.
    """

    def __init__(self, path: Path, turn: str = "") -> None:
        self._values: dict[str, str] = read_json(path) or {}
        self.turn = turn
        own = [self.in_turn(name) for name in PASSWORDS if name.startswith(("database-", "broker-"))]
        missing = [name for name in (*PASSWORDS, *own) if name not in self._values]
        if missing:
            self._values.update({name: secrets.token_hex(24) for name in missing})
            write_json(path, self._values)

    def __getitem__(self, name: str) -> str:
        """Return the secret of that name."""
        return self._values[name]

    def in_turn(self, name: str) -> str:
        """Return the name of this turn's user or password."""
        return f"{name}-{self.turn}" if self.turn else name
