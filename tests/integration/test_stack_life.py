"""The life of a whole stack: up, up again, its supervisor killed, up with the same data, down."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from stack import PIXORLY

from pixorly_stack.files import read_json

WITHIN_S = 240
NAMES = ["rabbitmq", "postgres", "s3", "api", "api-worker", "generator", "uploader", "ledger"]


def pixorly(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [PIXORLY, *words, "--dir", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_S, check=False)


def rows(folder: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(pixorly(folder, "ps", "--json").stdout)
    return found


def processes_of(folder: Path) -> list[str]:
    """The processes that have the folder in their words, or work in it."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            if process.status() != psutil.STATUS_ZOMBIE and any(str(folder) in word for word in words):
                found.append(" ".join(words))
        except psutil.Error:
            continue
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "stack"
    pixorly(tmp_path / "stack", "down")


@pytest.mark.timeout(900)
def test_a_stack_is_started_killed_started_again_and_stopped(folder: Path) -> None:
    started = pixorly(folder, "up", "--detach")
    assert started.returncode == 0, started.stdout + started.stderr
    assert [row["name"] for row in rows(folder)] == NAMES
    assert {row["state"] for row in rows(folder)} == {"ready"}
    dev = read_json(folder / "dev.json")

    again = pixorly(folder, "up", "--detach")
    assert again.returncode == 0
    assert "runs already" in again.stdout

    os.kill(read_json(folder / "state.json")["supervisor"]["pid"], signal.SIGKILL)
    deadline = time.monotonic() + 20
    while processes_of(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_of(folder) == []
    assert rows(folder) == []

    assert pixorly(folder, "up", "--detach").returncode == 0
    assert read_json(folder / "dev.json") == dev

    assert pixorly(folder, "down").returncode == 0
    assert processes_of(folder) == []
    assert rows(folder) == []
