"""Images themselves, for answers that hold them rather than links."""

import asyncio
from base64 import b64encode

from pixorly.blobs import Blobs


class Pictures:
    """Reads images from the bucket.

    Args:
        blobs: Where they are.
        at_once: How many are read at a time.
    """

    def __init__(self, blobs: Blobs, at_once: int) -> None:
        self._blobs = blobs
        self._turns = asyncio.Semaphore(at_once)

    async def base64(self, key: str) -> str:
        """Return what lies under a key, as base64.

        Raises:
            OutageError: The bucket is away.
            StagedBytesMissing: Nothing lies there.
        """
        async with self._turns:
            return b64encode(await self._blobs.get(key)).decode()
