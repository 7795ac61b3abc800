"""A keeper starts one process, starts it again when it dies, and leaves nothing behind."""

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pixorly_stack.errors import StartError
from pixorly_stack.keeper import Backoff, Keeper, Pace, State
from pixorly_stack.processes import Command, Identity
from pixorly_stack.units import Unit

QUICK = Pace(probe_s=0.01, health_s=0.01, unready_s=0.01, first_pause_s=0.01)
Ready = Callable[[], Awaitable[bool]]


def unit_of(folder: Path, script: str, ready: Ready | None = None, stop_within_s: float = 5) -> Unit:
    async def at_once() -> bool:
        return True

    command = Command(("/bin/sh", "-c", script), {"PATH": "/usr/bin:/bin"}, folder)
    return Unit("sleeper", None, command, ready or at_once, stop_within_s=stop_within_s)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


def test_pauses_double_up_to_ten_seconds() -> None:
    backoff = Backoff(Pace())

    assert [backoff.pause_s(lived_s=1) for _ in range(7)] == [0.5, 1, 2, 4, 8, 10, 10]


def test_a_process_that_stayed_up_for_a_while_is_started_again_soon() -> None:
    backoff = Backoff(Pace())
    for _ in range(5):
        backoff.pause_s(lived_s=1)

    assert backoff.pause_s(lived_s=31) == 0.5


async def test_it_is_started_and_stopped_and_its_words_are_kept(tmp_path: Path) -> None:
    keeper = Keeper(unit_of(tmp_path, "echo hello; exec sleep 60"), tmp_path / "logs")

    await keeper.start(within_s=5)
    process = keeper.identity
    await until(lambda: (tmp_path / "logs" / "sleeper.log").read_text() == "hello\n")
    await keeper.stop()

    assert process is not None
    assert process.process() is None
    assert keeper.state is State.STOPPED


async def test_it_is_not_ready_before_it_says_so(tmp_path: Path) -> None:
    async def when_there() -> bool:
        return (tmp_path / "there").exists()

    keeper = Keeper(unit_of(tmp_path, "sleep 0.2; touch there; exec sleep 60", when_there), tmp_path)

    await keeper.start(within_s=5)
    assert (tmp_path / "there").exists()
    await keeper.stop()


async def test_a_killed_process_is_started_again(tmp_path: Path) -> None:
    states: list[State] = []
    keeper = Keeper(unit_of(tmp_path, "exec sleep 60"), tmp_path, lambda one: states.append(one.state), QUICK)
    await keeper.start(within_s=5)
    first = keeper.identity
    assert first is not None

    os.kill(first.pid, signal.SIGKILL)
    await until(lambda: keeper.state is State.READY and keeper.identity not in {None, first})
    await keeper.stop()

    assert State.RESTARTING in states
    assert keeper.deaths == 1


async def test_a_process_that_keeps_dying_at_the_start_is_given_up(tmp_path: Path) -> None:
    async def never() -> bool:
        return False

    keeper = Keeper(unit_of(tmp_path, "exit 3", never), tmp_path, pace=QUICK)

    with pytest.raises(StartError, match="ended 3 times, the last time with exit status 3"):
        await keeper.start(within_s=10)
    await keeper.stop()


async def test_a_process_that_never_answers_is_given_up(tmp_path: Path) -> None:
    async def never() -> bool:
        return False

    keeper = Keeper(unit_of(tmp_path, "exec sleep 60", never), tmp_path)

    with pytest.raises(StartError, match="did not answer"):
        await keeper.start(within_s=0.2)
    await keeper.stop()
    assert keeper.identity is None


async def test_another_process_that_has_the_port_is_not_taken_for_ours(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        unit = replace(unit_of(tmp_path, "exec sleep 60"), port=stranger.getsockname()[1])
        keeper = Keeper(unit, tmp_path, pace=QUICK)

        with pytest.raises(StartError, match="did not answer"):
            await keeper.start(within_s=0.2)
        await keeper.stop()


async def test_a_program_that_is_not_there_is_said_to_be(tmp_path: Path) -> None:
    command = Command(("/nowhere/program",), {}, tmp_path)
    unit = Unit("program", None, command, unit_of(tmp_path, "").is_ready)
    keeper = Keeper(unit, tmp_path)

    with pytest.raises(StartError, match="cannot be run"):
        await keeper.start(within_s=5)
    await keeper.stop()


async def test_a_process_that_will_not_end_is_killed(tmp_path: Path) -> None:
    script = "trap '' TERM; touch there; while true; do sleep 0.05; done"

    async def when_there() -> bool:
        return (tmp_path / "there").exists()

    keeper = Keeper(unit_of(tmp_path, script, when_there, stop_within_s=0.2), tmp_path)
    await keeper.start(within_s=5)
    process = keeper.identity

    await keeper.stop()

    assert process is not None
    assert process.process() is None


async def test_a_process_that_stops_answering_is_seen(tmp_path: Path) -> None:
    answers = [True, False]

    async def for_a_while() -> bool:
        return answers.pop(0) if answers else True

    states: list[State] = []
    unit = unit_of(tmp_path, "exec sleep 60", for_a_while)
    keeper = Keeper(unit, tmp_path, lambda one: states.append(one.state), QUICK)

    await keeper.start(within_s=5)
    await until(lambda: states.count(State.READY) == 2)
    await keeper.stop()

    assert State.UNREADY in states


def test_a_number_that_the_system_gave_to_another_process_is_not_ours() -> None:
    mine = Identity.of(os.getpid())
    assert mine is not None

    earlier = Identity(mine.pid, mine.started - 100)

    assert mine.process() is not None
    assert earlier.process() is None
    assert earlier.signal(signal.SIGTERM) is False
    assert earlier.kill() is False
