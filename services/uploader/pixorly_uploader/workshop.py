"""Decoding off the event loop, in a few threads, within a budget of memory.

Pillow lets go of the interpreter while it decodes, scales and encodes, so threads are enough; what they could cost is
bounded before they begin.
"""

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pixorly import metrics
from pixorly.budget import Budget
from pixorly.errors import StagedBytesMissing
from pixorly.formats import inspect
from pixorly.formats.limits import Limits
from pixorly.formats.parts import Container
from pixorly_uploader import images
from pixorly_uploader.images import Picture, Recipe

_T = TypeVar("_T")

DEVELOP_SECONDS = metrics.histogram(
    "pixorly_image_develop_seconds",
    "From an image's bytes to its thumbnails, without the wait for room and a thread.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)


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
        return inspect(data, self._limits)

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
