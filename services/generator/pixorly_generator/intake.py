"""What was begun is finished before more is bought: no new call while too many images wait to be stored.

A model that answers at once can be asked faster than uploaders store what it makes. Images that lie staged are paid for
and nobody has them, and on a machine that is busy their making takes the time from their storing. So the generator
looks at the uploader's queue, and begins no more calls between two looks than would fill it up to a bound. Calls that
are under way do not count: a model that thinks for a minute says nothing of the uploader.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from math import ceil
from typing import Final

from pixorly import metrics
from pixorly.errors import OutageError

LOOK_S: Final = 0.5
SHARE: Final = 4
"""Between two looks no more begins than this part of the bound: the next look sees what became of it."""

TO_STORE = metrics.gauge(
    "pixorly_generator_images_to_store",
    "Images that wait for an uploader, as RabbitMQ said last, and those that this process is about to hand over.",
)
HELD_BACK = metrics.gauge(
    "pixorly_generator_calls_held_back", "Calls that are not begun while too many images wait for an uploader."
)

_Line = deque[tuple[int, asyncio.Future[None]]]


class Intake:
    """Lets calls begin, those of retries first and else in the order in which they came.

    Args:
        most: How many images may wait to be stored before no call is begun.
        look_s: How often to look.
        longest_s: How long a call waits before its message is seen to; RabbitMQ takes a channel from a consumer that
            sits on a message for half an hour.
    """

    def __init__(self, most: int, *, look_s: float = LOOK_S, longest_s: float = 300) -> None:
        self._most = most
        self._look_s = look_s
        self._longest_s = longest_s
        self._in_hand = 0
        self._left = 0
        self._new: _Line = deque()
        self._again: _Line = deque()
        self._closed = False
        self.look(0)

    async def turn(self, images: int, *, again: bool) -> None:
        """Return when a call may begin.

        Raises:
            OutageError: It may not for a long time, or the process is to stop.
        """
        if self._closed:
            raise _held_back()
        if self._left > 0:
            self._left -= images
        else:
            await self._wait(images, self._again if again else self._new)

    @contextmanager
    def in_hand(self, images: int) -> Iterator[None]:
        """Count images that were made, until they wait for an uploader."""
        self._in_hand += images
        try:
            yield
        finally:
            self._in_hand -= images

    async def _wait(self, images: int, line: _Line) -> None:
        turn = asyncio.get_running_loop().create_future()
        line.append((images, turn))
        with HELD_BACK.track_inprogress():
            try:
                async with asyncio.timeout(self._longest_s):
                    await turn
            except TimeoutError as error:
                raise _held_back() from error

    def look(self, waiting: int) -> None:
        """Learn how many images wait to be stored, and let as many calls begin."""
        made = waiting + self._in_hand
        TO_STORE.set(made)
        self._left = min(self._most - made, ceil(self._most / SHARE))
        while self._left > 0 and (line := self._again or self._new):
            images, turn = line.popleft()
            if not turn.done():
                turn.set_result(None)
                self._left -= images

    async def keep_looking(self, waiting: Callable[[], Awaitable[int]]) -> None:
        """Look, for ever; while RabbitMQ is away no more is begun than it said last."""
        while True:
            with suppress(OutageError):  # who consumes says so
                self.look(await waiting())
            await asyncio.sleep(self._look_s)

    async def close(self) -> None:
        """Let nothing begin any more: who waits hands back its message."""
        self._closed = True
        for _, turn in (*self._again, *self._new):
            if not turn.done():
                turn.set_exception(_held_back())


def _held_back() -> OutageError:
    return OutageError("uploader", "Images wait to be stored.")
