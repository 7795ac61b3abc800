"""Children die with the process that started them, however it ends."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from pixorly_stack.processes import Command, Identity, spawn

STARTER = """
import asyncio, sys
from pathlib import Path
from pixorly_stack.processes import Command, spawn

async def main():
    child = await spawn(Command(("/bin/sleep", "60"), {}, Path("/")), Path(sys.argv[1]))
    print(child.pid, flush=True)
    await child.wait()

asyncio.run(main())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux can promise this")
async def test_a_child_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    words = (sys.executable, "-c", STARTER, str(tmp_path / "log"))
    starter = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
    assert starter.stdout is not None
    child = Identity.of(int(await starter.stdout.readline()))
    assert child is not None

    starter.send_signal(signal.SIGKILL)
    await starter.wait()

    async with asyncio.timeout(5):
        while child.process() is not None:
            await asyncio.sleep(0.01)


async def test_a_child_gives_way_as_far_as_it_is_told(tmp_path: Path) -> None:
    log = tmp_path / "log"

    child = await spawn(Command(("/bin/sh", "-c", "nice"), {"PATH": "/usr/bin:/bin"}, tmp_path, niceness=3), log)
    await child.wait()

    assert int(log.read_text()) == os.nice(0) + 3
