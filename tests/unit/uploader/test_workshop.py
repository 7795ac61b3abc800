"""The bounds on decoding."""

import asyncio
import hashlib
import threading

import pytest
from pictures import encoded, picture

from pixorly.budget import Budget
from pixorly.errors import InvalidImage, StagedBytesMissing
from pixorly.formats.limits import Limits
from pixorly_uploader.images import Recipe
from pixorly_uploader.workshop import Workshop

DATA = encoded(picture(), "PNG")
SHA256 = hashlib.sha256(DATA).hexdigest()


async def test_shares_are_served_in_turn_and_never_exceed_the_whole() -> None:
    budget, held, most, order = Budget(10), 0, 0, list[int]()

    async def worker(number: int, amount: int) -> None:
        nonlocal held, most
        async with budget.share(amount):
            order.append(number)
            held += amount
            most = max(most, held)
            await asyncio.sleep(0)
            held -= amount

    await asyncio.gather(*(worker(number, amount) for number, amount in enumerate([4, 4, 9, 1, 1, 10, 3])))

    assert most <= 10
    assert order == sorted(order)


async def test_a_share_larger_than_the_whole_is_served_alone() -> None:
    budget, alone = Budget(10), True

    async with budget.share(99):
        late = asyncio.create_task(_hold(budget, 1))
        await asyncio.sleep(0)
        alone = not late.done()

    assert alone
    await late


async def _hold(budget: Budget, amount: int) -> None:
    async with budget.share(amount):
        pass


async def test_who_gives_up_waiting_blocks_nobody() -> None:
    budget = Budget(10)
    async with budget.share(6):
        large = asyncio.create_task(_hold(budget, 8))
        small = asyncio.create_task(_hold(budget, 2))
        await asyncio.sleep(0)
        large.cancel()
        with pytest.raises(asyncio.CancelledError):
            await large
        await asyncio.wait_for(small, 10)
    await asyncio.wait_for(_hold(budget, 10), 10)


async def test_who_is_canceled_in_the_moment_of_his_turn_gives_it_on() -> None:
    budget = Budget(10)
    async with budget.share(10):
        first, second = (asyncio.create_task(_hold(budget, 10)) for _ in range(2))
        await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait_for(second, 10)
    await asyncio.wait_for(_hold(budget, 10), 10)


async def test_the_event_loop_goes_on_while_images_are_decoded() -> None:
    workshop, ticks = Workshop(Limits(), threads=2), 0
    data = encoded(picture(1500, 1500), "PNG")
    work = asyncio.gather(*(workshop.develop(data, hashlib.sha256(data).hexdigest(), Recipe()) for _ in range(4)))
    while not work.done():
        await asyncio.sleep(0.001)
        ticks += 1
    workshop.close()

    assert ticks > 5
    assert len({picture.facts for picture in await work}) == 1


async def test_bytes_with_another_checksum_are_not_decoded() -> None:
    workshop = Workshop(Limits(), threads=1)

    with pytest.raises(StagedBytesMissing):
        await workshop.develop(b"<svg/>", SHA256, Recipe())
    with pytest.raises(InvalidImage):
        await workshop.develop(b"<svg/>", hashlib.sha256(b"<svg/>").hexdigest(), Recipe())
    workshop.close()


async def test_a_checksum_may_be_written_in_capitals() -> None:
    workshop = Workshop(Limits(), threads=1)

    assert (await workshop.develop(DATA, SHA256.upper(), Recipe())).facts.sha256 == SHA256
    workshop.close()


async def test_who_is_canceled_keeps_the_memory_until_the_thread_is_done() -> None:
    workshop, may_end, running = Workshop(Limits(), threads=1), threading.Event(), threading.Event()

    def slow() -> None:
        running.set()
        may_end.wait(5)

    task = asyncio.create_task(workshop._run(slow))
    await asyncio.to_thread(running.wait, 5)
    task.cancel()
    await asyncio.sleep(0.01)
    still_there = not task.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    workshop.close()

    assert still_there
