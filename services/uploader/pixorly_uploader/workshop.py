"""Decoding off the event loop, in a few threads, within a budget of memory.

Pillow lets go of the interpreter while it decodes, scales and encodes, so threads are enough; what they could cost is
bounded before they begin.
"""

import asyncio
import functools
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from prometheus_client import Histogram

from pixorly.errors import StagedBytesMissing
from pixorly_uploader import images
from pixorly_uploader.formats.parts import Container
from pixorly_uploader.images import Limits, Picture, Recipe

_T = TypeVar("_T")

DEVELOP_SECONDS = Histogram(
    "pixorly_image_develop_seconds",
    "From an image's bytes to its thumbnails, without the wait for room and a thread.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)


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


class Workshop:
    """Where images are examined.

    Args:
        limits: What one image may cost; all images under way together take no more memory than one may.
        threads: How many are worked on at once.
    """

    def __init__(self, limits: Limits, threads: int) -> None:
        images.set_up(limits)
        self._limits = limits
        self._memory = Budget(limits.max_memory_bytes)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="images")

    async def develop(self, data: bytes, sha256: str, recipe: Recipe) -> Picture:
        """Return what is stored of an image.

        Raises:
            InvalidImage: It is not one that we store.
            StagedBytesMissing: These are not the bytes with this checksum.
        """
        sha256 = sha256.lower()
        container = await self._run(functools.partial(self._check, data, sha256))
        async with self._memory.share(container.memory_bytes):
            return await self._run(functools.partial(self._develop, data, sha256, container, recipe))

    def _check(self, data: bytes, sha256: str) -> Container:
        if images.checksum(data) != sha256:
            raise StagedBytesMissing("The staged bytes are not those that were announced.")
        return images.inspect(data, self._limits)

    def _develop(self, data: bytes, sha256: str, container: Container, recipe: Recipe) -> Picture:
        with DEVELOP_SECONDS.time():
            return images.develop(data, sha256, container, self._limits, recipe)

    async def _run(self, work: Callable[[], _T]) -> _T:
        """Run `work` in a thread. Whoever is canceled still waits for it, since its memory is in use until it ends."""
        job = self._pool.submit(work)
        running = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            if not job.cancel():
                await asyncio.gather(running, return_exceptions=True)
            raise

    def close(self) -> None:
        """Let go of the threads; what has not begun never will."""
        self._pool.shutdown(wait=False, cancel_futures=True)
