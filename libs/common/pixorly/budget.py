"""An amount of something, memory for instance, that those who work at once share."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Budget:
    """An amount that callers take shares of, first come, first served.

    A share larger than the whole is served alone.

    Args:
        total: The whole.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._free = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def share(self, amount: int) -> AsyncIterator[None]:
        """Hold `amount` while the body runs, after waiting until there is as much."""
        amount = min(amount, self._total)
        await self._take(amount)
        try:
            yield
        finally:
            self._give_back(amount)

    async def _take(self, amount: int) -> None:
        if not self._waiting and amount <= self._free:
            self._free -= amount
            return
        turn = asyncio.get_running_loop().create_future()
        entry = (amount, turn)
        self._waiting.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_back(amount)
            else:
                self._waiting.remove(entry)
                self._serve()
            raise

    def _give_back(self, amount: int) -> None:
        self._free += amount
        self._serve()

    def _serve(self) -> None:
        while self._waiting and (self._waiting[0][0] <= self._free or self._waiting[0][1].cancelled()):
            amount, turn = self._waiting.popleft()
            if not turn.cancelled():
                self._free -= amount
                turn.set_result(None)
