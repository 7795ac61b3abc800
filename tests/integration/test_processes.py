"""How a process ends: in good order with status 0, or loudly."""

import asyncio
import signal
import sys
import textwrap
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

TOY = """
    import asyncio
    import socket
    from contextlib import asynccontextmanager

    from fastapi import FastAPI
    from pixorly import service
    from pixorly.settings import ProcessSettings

    async def for_ever():
        await asyncio.Event().wait()

    async def fail():
        await asyncio.sleep(0.05)
        raise ZeroDivisionError("planted")

    async def end():
        await asyncio.sleep(0.05)

    async def be_cancelled_by_nobody():
        await asyncio.sleep(0.05)
        raise asyncio.CancelledError

    @asynccontextmanager
    async def lifespan(_):
        {before}
        async with service.background({loop}()):
            print("up", flush=True)
            yield
        print("down", flush=True)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    service.run(FastAPI(lifespan=lifespan), "toy", ProcessSettings(http_port=port, shutdown_grace_s=5))
    print("over", flush=True)
"""


@asynccontextmanager
async def running(loop: str = "for_ever", before: str = "pass") -> AsyncIterator[Process]:
    program = textwrap.dedent(TOY).format(loop=loop, before=before)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=PIPE, stderr=PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ended(process: Process, within_s: float = 40) -> tuple[list[str], str]:
    """Return the lines that the process wrote, and its log."""
    async with asyncio.timeout(within_s):
        out, log = await process.communicate()
    return out.decode().split(), log.decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_process_that_is_told_to_stop_ends_in_good_order_with_status_0(number: signal.Signals) -> None:
    async with running() as process:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"up\n"
        # Uvicorn takes signals from the moment that the lifespan has begun; the server's own start follows it.
        await asyncio.sleep(0.5)
        process.send_signal(number)
        lines, log = await ended(process)

    assert lines == ["down", "over"], log
    assert process.returncode == 0


@pytest.mark.parametrize("loop", ["fail", "end", "be_cancelled_by_nobody"])
async def test_a_loop_that_ends_ends_the_process_so_that_it_is_started_again(loop: str) -> None:
    async with running(loop) as process:
        lines, log = await ended(process)

    assert lines == ["up"]
    assert process.returncode == 1
    assert '"a loop ended, so the process stops"' in log
    assert f'"loop": "{loop}"' in log
    assert ("ZeroDivisionError: planted" in log) == (loop == "fail")


async def test_a_process_that_cannot_start_says_so_with_its_status() -> None:
    async with running(before="raise RuntimeError('planted')") as process:
        lines, log = await ended(process)

    assert process.returncode not in {0, None}
    assert "planted" in log
    assert "up" not in lines
