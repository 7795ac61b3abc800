"""The object store in memory, with objects that fail, writes that take effect late, and outages."""

from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from pixorly.blobs import BlobInfo, Blobs
from pixorly.errors import OutageError, StagedBytesMissing, StorageUnavailable

if TYPE_CHECKING:
    from simulator.world import World

_TIMEOUT_S: Final = 20.0
_LATEST_S: Final = 40.0


class Bucket(Blobs):
    """What `pixorly.blobs.S3Blobs` is to the services.

    Attributes:
        objects: The bytes by key.
    """

    def __init__(self, world: "World") -> None:
        self._world = world
        self.objects: dict[str, bytes] = {}

    @override
    async def put(
        self,
        key: str,
        data: bytes,
        *,
        content_type: str,
        cache_control: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        await self._step(f"put {key}")
        if self._world.happens("object_late"):
            self._world.clockwork.later(
                self._world.clockwork.random.uniform(0, _LATEST_S), lambda: self._write(key, data)
            )
            await self._world.clockwork.sleep(_TIMEOUT_S)
            raise StorageUnavailable
        self._write(key, data)
        await self._answer()

    def _write(self, key: str, data: bytes) -> None:
        self.objects[key] = data
        self._world.touch()

    @override
    async def get(self, key: str) -> bytes:
        await self._step(f"get {key}")
        if key not in self.objects:
            raise StagedBytesMissing
        return self.objects[key]

    @override
    async def delete(self, keys: Sequence[str]) -> None:
        # A batch may be cut off in the middle.
        for key in keys:
            await self._step(f"delete {key}")
            self.objects.pop(key, None)
            self._world.touch()
        await self._answer()

    @override
    def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        return _Listing(self, prefix)

    async def found(self, prefix: str) -> deque[BlobInfo]:
        """Return what lies under a prefix."""
        await self._step(f"list {prefix}")
        objects = sorted(self.objects.items())
        return deque(BlobInfo(key, len(data)) for key, data in objects if key.startswith(prefix))

    @override
    async def probe(self) -> None:
        return

    async def _step(self, what: str) -> None:
        await self._world.step(what)
        if self._world.away("s3"):
            await self._world.clockwork.sleep(1.0)
            raise OutageError("s3")
        if self._world.happens("object_fails"):
            raise StorageUnavailable

    async def _answer(self) -> None:
        await self._world.step("s3 has done it")
        if self._world.happens("object_fails"):
            raise StorageUnavailable


class _Listing(AsyncIterator[BlobInfo]):
    """A listing as an object: a generator that a crash leaves behind would complain."""

    def __init__(self, bucket: Bucket, prefix: str) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._left: deque[BlobInfo] | None = None

    async def __anext__(self) -> BlobInfo:
        if self._left is None:
            self._left = await self._bucket.found(self._prefix)
        if not self._left:
            raise StopAsyncIteration
        return self._left.popleft()
