"""Group concurrent calls into one: those that arrive while a group is under way share the next one."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from opentelemetry.trace import Span

from pixorly import telemetry
from pixorly.errors import OutageError

Item = TypeVar("Item")
Answer = TypeVar("Answer")
_REST: Final = 6
"""A group that took so long is followed by the next one after so many times as long, counted from its beginning."""
_MOST: Final = 3
"""The most by which a spacing grows."""
_Member = tuple[Item, asyncio.Future[Answer], Span]


class Grouper(Generic[Item, Answer]):
    """Call `run` with all items that are waiting, one group at a time.

    Nothing waits for a group to fill: a call on an idle grouper runs at once, alone. Where calls come one upon another,
    `spacing_s` keeps their groups apart, so that fewer and larger ones do the work; further apart where a group takes
    long, since the machine is busy then. A caller that is cancelled leaves its item in its group.

    Args:
        run: Takes the items of a group and returns an answer, or an exception, for each, in order. If it raises, the
            group's items run again alone, so that one bad item harms no other; a group of one gets what was raised,
            and so does every item where it was an `OutageError`. It must leave nothing behind when it raises. Where it
            returns another number of answers, which is a bug, each caller gets a `RuntimeError`.
        max_group: The most items in one group.
        workers: How many groups may be under way at once.
        spacing_s: How long after the beginning of a group the next one begins at the earliest; six times as long
            as the group took where that is more, but not beyond three times this.
        name: What it does, for spans. Each item has a span in its own trace; what the group does is part of the first
            one's, and the others link to that.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | Exception]]],
        *,
        max_group: int = 256,
        workers: int = 1,
        spacing_s: float = 0,
        name: str = "group",
    ) -> None:
        self._run = run
        self._name = name
        self._max_group = max_group
        self._workers = workers
        self._spacing_s = spacing_s
        self._next_at = 0.0
        self._waiting: deque[_Member[Item, Answer]] = deque()
        self._running: set[asyncio.Task[None]] = set()

    async def __call__(self, item: Item) -> Answer:
        """Return the answer to `item`, or raise the exception that answers it."""
        with telemetry.span(self._name) as span:
            answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
            self._waiting.append((item, answer, span))
            if len(self._running) < self._workers:
                self._running.add(telemetry.detached(self._work()))
            return await answer

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._keep_apart()
                # Another worker may have taken what was there.
                size = min(len(self._waiting), self._max_group)
                if group := [self._waiting.popleft() for _ in range(size)]:
                    began = asyncio.get_running_loop().time()
                    await self._answer(group)
                    self._rest(began)
        finally:
            # Here and not in a callback, which comes after the callers wake: a next call of theirs would find a worker
            # that is about to end, and wait for ever.
            if task := asyncio.current_task():
                self._running.discard(task)

    async def _keep_apart(self) -> None:
        """Wait until a group may begin."""
        if not self._spacing_s:
            return
        loop = asyncio.get_running_loop()
        if (wait_s := self._next_at - loop.time()) > 0 and len(self._waiting) < self._max_group:
            await asyncio.sleep(wait_s)
        self._next_at = loop.time() + self._spacing_s

    def _rest(self, began: float) -> None:
        """Put the next group off if this one took long."""
        took_s = asyncio.get_running_loop().time() - began
        self._next_at = max(self._next_at, began + min(_REST * took_s, _MOST * self._spacing_s))

    async def _answer(self, group: "list[_Member[Item, Answer]]") -> None:
        try:
            with telemetry.shared([span for _, _, span in group]):
                answers = await self._run([item for item, _, _ in group])
        except OutageError as error:
            answers = [error] * len(group)
        except Exception as error:  # noqa: BLE001 - it is handed to whoever waits
            if len(group) > 1:
                for member in group:
                    await self._answer([member])
                return
            answers = [error]
        except BaseException:
            for _, answer, _ in group:
                answer.cancel()
            raise
        if len(answers) != len(group):
            # Whose answer is whose can't be told, and what was done is done: it is not run again.
            answers = [RuntimeError(f"{len(answers)} answers to {len(group)} items")] * len(group)
        for (_, future, _), result in zip(group, answers, strict=True):
            _resolve(future, result)


def _resolve(future: asyncio.Future[Answer], answer: Answer | Exception) -> None:
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
