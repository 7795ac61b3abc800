"""Calls that arrive while a group is under way share the next one."""

import asyncio
from collections.abc import Sequence
from itertools import chain

import pytest
from clock import now_s, virtual_time

from pixorly.errors import InsufficientCredits, OutageError
from pixorly.grouping import Grouper


class Till:
    """Answers items with ten times their value, a second for each group; remembers the groups.

    Attributes:
        bad: A group with one of these fails as a whole.
        away: How many groups still meet an outage.
    """

    def __init__(self, *bad: int, away: int = 0) -> None:
        self.groups: list[list[int]] = []
        self.bad = set(bad)
        self.away = away
        self.busy = self.most_busy = 0

    async def run(self, items: Sequence[int]) -> list[int | Exception]:
        self.groups.append(list(items))
        self.busy += 1
        self.most_busy = max(self.busy, self.most_busy)
        try:
            await asyncio.sleep(1)
        finally:
            self.busy -= 1
        if self.away:
            self.away -= 1
            raise OutageError("postgres")
        if self.bad & set(items):
            raise ValueError(f"bad among {items}")
        return [item * 10 for item in items]


@virtual_time
async def test_a_lone_call_runs_at_once_and_alone() -> None:
    till = Till()
    grouper = Grouper(till.run)

    assert await grouper(7) == 70
    assert till.groups == [[7]]
    assert now_s() == pytest.approx(1)


@virtual_time
async def test_calls_one_after_the_other_each_get_their_answer() -> None:
    """A caller wakes before its worker has ended; its next call must not count on that worker."""
    till = Till()
    grouper = Grouper(till.run)

    assert [await grouper(item) for item in range(5)] == [0, 10, 20, 30, 40]
    assert till.groups == [[0], [1], [2], [3], [4]]


async def test_a_call_right_after_another_is_answered_even_where_nothing_ever_waits() -> None:
    async def at_once(items: Sequence[int]) -> list[int]:
        return list(items)

    grouper = Grouper(at_once)

    async with asyncio.timeout(10):
        assert [await grouper(item) for item in range(100)] == list(range(100))


@virtual_time
async def test_calls_that_come_while_a_group_is_under_way_share_the_next() -> None:
    till = Till()
    grouper = Grouper(till.run)

    answers = await asyncio.gather(*(grouper(item) for item in range(6)))

    assert answers == [0, 10, 20, 30, 40, 50]
    assert till.groups[0][0] == 0
    assert sorted(chain(*till.groups)) == list(range(6))
    assert len(till.groups) <= 2
    assert till.most_busy == 1


@virtual_time
async def test_nothing_waits_for_a_group_to_fill() -> None:
    till = Till()
    grouper = Grouper(till.run)

    first = asyncio.create_task(grouper(1))
    await asyncio.sleep(0.5)
    rest = asyncio.gather(*(grouper(item) for item in (2, 3, 4)))

    assert await first == 10
    assert now_s() == pytest.approx(1)
    assert await rest == [20, 30, 40]
    assert now_s() == pytest.approx(2)
    assert till.groups == [[1], [2, 3, 4]]


@virtual_time
async def test_a_group_takes_no_more_than_it_may_and_in_the_order_of_arrival() -> None:
    till = Till()
    grouper = Grouper(till.run, max_group=3)

    answers = await asyncio.gather(*(grouper(item) for item in range(8)))

    assert answers == [item * 10 for item in range(8)]
    assert list(chain(*till.groups)) == list(range(8))
    assert max(len(group) for group in till.groups) == 3


@virtual_time
async def test_two_workers_have_two_groups_under_way_and_no_more() -> None:
    till = Till()
    grouper = Grouper(till.run, max_group=2, workers=2)

    answers = await asyncio.gather(*(grouper(item) for item in range(8)))

    assert answers == [item * 10 for item in range(8)]
    assert till.most_busy == 2
    assert now_s() == pytest.approx(2)


@virtual_time
async def test_a_bad_item_harms_nobody_else() -> None:
    till = Till(2)
    grouper = Grouper(till.run)

    begun = asyncio.create_task(grouper(9))
    await asyncio.sleep(0.5)
    answers = await asyncio.gather(*(grouper(item) for item in (1, 2, 3)), return_exceptions=True)

    assert answers[0] == 10
    assert isinstance(answers[1], ValueError)
    assert answers[2] == 30
    assert await begun == 90
    assert till.groups == [[9], [1, 2, 3], [1], [2], [3]]


@virtual_time
async def test_a_lone_bad_item_gets_what_was_raised_and_runs_once() -> None:
    till = Till(2)
    grouper = Grouper(till.run)

    with pytest.raises(ValueError, match=r"bad among \[2\]"):
        await grouper(2)
    assert till.groups == [[2]]
    assert await grouper(3) == 30


@virtual_time
async def test_an_outage_answers_all_and_nothing_is_run_again() -> None:
    till = Till(away=2)
    grouper = Grouper(till.run, max_group=4)

    answers = await asyncio.gather(*(grouper(item) for item in range(8)), return_exceptions=True)

    assert [type(answer) for answer in answers] == [OutageError] * 8
    assert sorted(chain(*till.groups)) == list(range(8))
    assert await grouper(1) == 10


@virtual_time
async def test_an_exception_among_the_answers_goes_to_the_one_it_is_for() -> None:
    async def run(items: Sequence[int]) -> list[int | Exception]:
        await asyncio.sleep(1)
        return [InsufficientCredits() if item == 1 else item for item in items]

    grouper = Grouper(run)

    answers = await asyncio.gather(*(grouper(item) for item in range(3)), return_exceptions=True)

    assert answers[0] == 0
    assert isinstance(answers[1], InsufficientCredits)
    assert answers[2] == 2


@virtual_time
async def test_a_caller_that_is_cancelled_leaves_its_item_in_the_group_and_harms_nobody() -> None:
    till = Till()
    grouper = Grouper(till.run)
    begun = asyncio.create_task(grouper(0))
    await asyncio.sleep(0.5)
    waiting, neighbour = asyncio.create_task(grouper(1)), asyncio.create_task(grouper(2))
    await asyncio.sleep(0.1)

    waiting.cancel()
    begun.cancel()

    assert await neighbour == 20
    assert till.groups == [[0], [1, 2]]
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(asyncio.CancelledError):
        await begun
    assert await grouper(3) == 30


@pytest.mark.parametrize("answers", [[], [1], [1, 2, 3, 4]])
async def test_another_number_of_answers_than_items_is_an_error_to_every_caller_and_hangs_nobody(
    answers: list[int],
) -> None:
    async def run(_: Sequence[int]) -> list[int]:
        await asyncio.sleep(0)
        return answers

    grouper = Grouper(run, max_group=3)

    async with asyncio.timeout(5):
        ended = await asyncio.gather(*(grouper(item) for item in range(3)), return_exceptions=True)
        again = await asyncio.gather(*(grouper(item) for item in range(3)), return_exceptions=True)

    assert [type(end) for end in (*ended, *again)] == [RuntimeError] * 6


async def _after(seconds: float, grouper: Grouper[int, int], item: int) -> int:
    await asyncio.sleep(seconds)
    return await grouper(item)


@virtual_time
async def test_groups_that_are_kept_apart_begin_so_far_from_each_other() -> None:
    till = Till()
    grouper = Grouper(till.run, spacing_s=30)

    async def later(item: int, after_s: float) -> tuple[int, float]:
        await asyncio.sleep(after_s)
        return await grouper(item), now_s()

    # The first runs at once, those of the next half minute share a group, and a late one runs at once again.
    answers = await asyncio.gather(later(1, 0), later(2, 2), later(3, 11), later(4, 90))

    assert answers == [(10, 1), (20, 31), (30, 31), (40, 91)]
    assert till.groups == [[1], [2, 3], [4]]


@virtual_time
@pytest.mark.parametrize(("spacing_s", "second_at"), [(4, 6), (1, 3), (0, 1)])
async def test_groups_that_take_long_are_kept_further_apart_but_not_for_ever(spacing_s: int, second_at: int) -> None:
    """Each takes a second: the next begins 6 s after it, or after three times the spacing if that is less."""
    till = Till()
    grouper = Grouper(till.run, spacing_s=spacing_s)

    await asyncio.gather(grouper(1), _after(0.5, grouper, 2))

    assert till.groups == [[1], [2]]
    assert now_s() == pytest.approx(second_at + 1)


@virtual_time
async def test_a_full_group_is_not_kept_apart() -> None:
    till = Till()
    grouper = Grouper(till.run, max_group=2, spacing_s=60)

    await asyncio.gather(*(grouper(item) for item in range(4)))

    assert till.groups == [[0, 1], [2, 3]]
    assert now_s() == pytest.approx(2)


@virtual_time
async def test_several_workers_share_what_is_kept_apart() -> None:
    till = Till()
    grouper = Grouper(till.run, workers=3, spacing_s=5)

    assert await asyncio.gather(*(grouper(item) for item in range(7))) == [item * 10 for item in range(7)]
    assert sorted(chain.from_iterable(till.groups)) == list(range(7))
    assert all(till.groups), "no group is empty"
