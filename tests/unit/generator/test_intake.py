"""When a call may begin: never more than would fill the uploader's queue up to the bound."""

import asyncio

import pytest

from pixorly.errors import OutageError
from pixorly_generator.intake import HELD_BACK, Intake


class Calls:
    """Calls that ask to begin, and which of them did."""

    def __init__(self, intake: Intake) -> None:
        self.intake = intake
        self.begun: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def ask(self, *names: str, images: int = 1, again: bool = False) -> None:
        self.tasks += [asyncio.create_task(self._one(name, images, again=again)) for name in names]
        await _settled()

    async def _one(self, name: str, images: int, *, again: bool) -> None:
        await self.intake.turn(images, again=again)
        self.begun.append(name)

    async def look(self, waiting: int) -> None:
        self.intake.look(waiting)
        await _settled()


async def _settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_no_more_calls_begin_than_fill_the_queue_up_to_the_bound() -> None:
    calls = Calls(Intake(8))
    await calls.look(6)
    await calls.ask("a", "b", "c", "d", "e")
    assert calls.begun == ["a", "b"]
    await calls.look(8)
    assert calls.begun == ["a", "b"]
    await calls.look(7)
    assert calls.begun == ["a", "b", "c"]
    await calls.look(0)
    assert calls.begun == ["a", "b", "c", "d", "e"]


async def test_between_two_looks_no_more_than_a_quarter_of_the_bound_begins() -> None:
    calls = Calls(Intake(8))
    await calls.ask(*"abcde")
    assert calls.begun == ["a", "b"]
    await calls.look(0)
    assert calls.begun == ["a", "b", "c", "d"]


async def test_images_that_are_about_to_be_handed_over_count_as_if_they_waited() -> None:
    calls = Calls(Intake(4))
    with calls.intake.in_hand(3):
        await calls.look(1)
        await calls.ask("a")
        assert calls.begun == []
    await calls.look(3)
    assert calls.begun == ["a"]


async def test_slow_calls_keep_none_from_beginning_however_many_are_in_flight() -> None:
    calls = Calls(Intake(4))
    for number in range(100):
        await calls.ask(str(number))
        await calls.look(0)
    assert len(calls.begun) == 100


async def test_a_call_of_more_images_than_are_left_begins_all_the_same_and_counts_in_full() -> None:
    calls = Calls(Intake(8))
    await calls.ask("a", images=1)
    await calls.ask("b", images=10)
    await calls.ask("c", images=1)
    assert calls.begun == ["a", "b"]


async def test_a_retry_begins_before_what_is_new() -> None:
    calls = Calls(Intake(1))
    await calls.ask("first", "new")
    await calls.ask("retry", again=True)
    await calls.look(0)
    assert calls.begun == ["first", "retry"]


async def test_one_that_was_canceled_in_line_takes_nobodys_place() -> None:
    calls = Calls(Intake(1))
    await calls.ask("first", "canceled", "next")
    calls.tasks[1].cancel()
    await _settled()
    await calls.look(0)
    assert calls.begun == ["first", "next"]


async def test_who_is_in_line_when_the_process_stops_hands_back_its_message() -> None:
    calls = Calls(Intake(1))
    await calls.ask("first", "in line")
    assert HELD_BACK._value.get() == 1
    await calls.intake.close()
    with pytest.raises(OutageError):
        await calls.tasks[1]
    assert HELD_BACK._value.get() == 0
    with pytest.raises(OutageError):
        await calls.intake.turn(1, again=False)


async def test_who_waits_for_very_long_raises_an_outage_which_costs_no_retry() -> None:
    intake = Intake(1, longest_s=0.01)
    intake.look(1)
    with pytest.raises(OutageError, match="wait to be stored"):
        await intake.turn(1, again=False)
    calls = Calls(intake)
    await calls.look(0)
    await calls.ask("next")  # nobody is in line any more
    assert calls.begun == ["next"]


async def test_it_goes_on_looking_when_rabbitmq_was_away() -> None:
    intake = Intake(1, look_s=0.001)
    answers: list[OutageError | int] = [OutageError("rabbitmq"), 1, OutageError("rabbitmq"), 0]

    async def waiting() -> int:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, OutageError):
            raise answer
        return answer

    intake.look(1)
    looking = asyncio.create_task(intake.keep_looking(waiting))
    async with asyncio.timeout(10):
        await intake.turn(1, again=False)
    looking.cancel()
