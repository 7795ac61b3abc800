"""Object storage: bytes in and out, and the bucket itself.

Bytes move through obstore, which spends a tenth of the CPU that boto does on a small object; the bucket's set-up and
links go through aioboto3. Every call has a deadline of ours, since an S3 server that accepts a connection and then says
nothing would hold a plain client for ever.
"""

import asyncio
import atexit
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

import aioboto3
import obstore
from aiobotocore.config import AioConfig
from obstore.exceptions import BaseError as ObstoreError
from obstore.store import S3Store
from pydantic import SecretStr
from typing_extensions import override

from pixorly import metrics, telemetry
from pixorly.errors import OutageError, StagedBytesMissing, StorageUnavailable
from pixorly.settings import StorageSettings

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

_DELETE_BATCH: Final = 1000
_MULTIPART_FROM_BYTES: Final = 16 << 20
"""From here on in several parts at once; below, one request is cheaper and as fast."""
_PART_BYTES: Final = 8 << 20
_LAST_BREATH_S: Final = 0.05
_METHODS: Final = {"put": "PutObject", "get": "GetObject", "delete": "DeleteObjects", "list": "ListObjectsV2"}
"""S3's own names of what is done."""

SECONDS = metrics.histogram("pixorly_object_seconds", "How long calls to the object store took.", "operation", "result")
BYTES = metrics.counter("pixorly_object_bytes", "Bytes that went to the object store or came from it.", "operation")


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """What a listing says of one object."""

    key: str
    size_bytes: int


class Blobs(Protocol):
    """Where bytes lie under a key.

    Every method raises `OutageError("s3")` when the whole store is away, and `StorageUnavailable` when it failed on
    these objects only.
    """

    async def put(
        self,
        key: str,
        data: bytes,
        *,
        content_type: str,
        cache_control: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Store `data` under `key`, encrypted, in place of what is there."""

    async def get(self, key: str) -> bytes:
        """Return what lies under `key`.

        Raises:
            StagedBytesMissing: Nothing does.
        """

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete what lies under `keys`; what is not there is no error."""

    def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        """Yield every object whose key starts with `prefix`, which ends with `/`."""

    async def probe(self) -> None:
        """Ask whether the store is there.

        Raises:
            OutageError: It is not.
        """


class S3Blobs(Blobs):
    """The bucket of `settings`, which must exist.

    Args:
        settings: Where and with which keys; without keys, those of the machine's own identity are taken.
    """

    def __init__(self, settings: StorageSettings) -> None:
        self._timeout_s = settings.s3_timeout_s
        self._store = S3Store(settings.aws_s3_bucket, **_store_options(settings))
        self._attributes = {operation: _span_attributes(settings, method) for operation, method in _METHODS.items()}
        atexit.unregister(_wait_for_obstore)
        atexit.register(_wait_for_obstore)

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
        attributes = {"Content-Type": content_type, **(metadata or {})}
        if cache_control:
            attributes["Cache-Control"] = cache_control
        async with self._call("put", len(data)):
            await obstore.put_async(
                self._store,
                key,
                data,
                attributes=attributes,
                use_multipart=len(data) >= _MULTIPART_FROM_BYTES,
                chunk_size=_PART_BYTES,
            )

    @override
    async def get(self, key: str) -> bytes:
        async with self._call("get"):
            try:
                found = await obstore.get_async(self._store, key)
                data = bytes(await found.bytes_async())
            except FileNotFoundError as error:
                # Without its bucket nothing is there either, and that is no fault of this object's.
                await self.probe()
                raise StagedBytesMissing from error
        BYTES.labels("get").inc(len(data))
        return data

    async def get_with_attributes(self, key: str) -> tuple[bytes, dict[str, str]]:
        """Return what lies under `key` and what is said of it, by the names that `put` gives them.

        Raises:
            StagedBytesMissing: Nothing does.
        """
        async with self._call("get"):
            try:
                found = await obstore.get_async(self._store, key)
                attributes = {str(name): str(value) for name, value in found.attributes.items()}
                return bytes(await found.bytes_async()), attributes
            except FileNotFoundError as error:
                raise StagedBytesMissing from error

    @override
    async def delete(self, keys: Sequence[str]) -> None:
        for start in range(0, len(keys), _DELETE_BATCH):
            async with self._call("delete"):
                try:
                    await obstore.delete_async(self._store, list(keys[start : start + _DELETE_BATCH]))
                except FileNotFoundError:
                    await self.probe()

    async def presigned(self, keys: Sequence[str], good_for: timedelta) -> Sequence[str]:
        """Return addresses that anyone may read these objects at for a while.

        Raises:
            OutageError: There are no keys to sign with, because whoever gives them to this machine is away.
        """
        with _as_outage():
            return await obstore.sign_async(self._store, "GET", keys, good_for)

    @override
    async def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        pages = obstore.list(self._store, prefix)
        while True:
            async with self._call("list"):
                try:
                    page = await anext(pages)
                except StopAsyncIteration:
                    return
            for item in page:
                yield BlobInfo(item["path"], item["size"])

    @override
    async def probe(self) -> None:
        with _as_outage():
            async with asyncio.timeout(min(self._timeout_s, 5)):
                await obstore.list_with_delimiter_async(self._store, "probe")

    @asynccontextmanager
    async def _call(self, operation: str, size_bytes: int = 0) -> AsyncIterator[None]:
        """Bound a call, measure it, and find out whether one object failed or the whole store."""
        result, began_s = "failed", time.perf_counter()
        try:
            with telemetry.span(f"S3.{_METHODS[operation]}", "client", self._attributes[operation]):
                try:
                    async with asyncio.timeout(self._timeout_s):
                        yield
                    result = "ok"
                except (ObstoreError, OSError) as error:
                    await self.probe()
                    raise StorageUnavailable(f"The object store failed: {type(error).__name__}.") from error
        finally:
            SECONDS.labels(operation, result).observe(time.perf_counter() - began_s)
        BYTES.labels(operation).inc(size_bytes)


def _wait_for_obstore() -> None:
    """Let obstore's threads end the calls whose answers we have: without an interpreter they abort the process."""
    time.sleep(_LAST_BREATH_S)


def _span_attributes(settings: StorageSettings, method: str) -> dict[str, str]:
    """Return OpenTelemetry's attributes of a call to the object store; keys are in none, for they name users."""
    server = urlsplit(settings.s3_endpoint_url or "").netloc or f"s3.{settings.aws_region}.amazonaws.com"
    return {
        "rpc.system.name": "aws-api",
        "rpc.method": f"S3/{method}",
        "aws.s3.bucket": settings.aws_s3_bucket,
        "cloud.region": settings.aws_region,
        "server.address": server.rpartition("@")[2],
    }


def _store_options(settings: StorageSettings) -> dict[str, Any]:
    options: dict[str, Any] = {
        "region": settings.aws_region,
        # The request is signed over the same sum, so it costs nothing; the store checks it and keeps it.
        "checksum_algorithm": "SHA256",
        "client_options": {
            "timeout": timedelta(seconds=settings.s3_timeout_s),
            "connect_timeout": timedelta(seconds=3),
        },
        "retry_config": {"max_retries": 1, "retry_timeout": timedelta(seconds=settings.s3_timeout_s)},
    }
    if settings.s3_sse != "none":
        options["server_side_encryption"] = settings.s3_sse
    if settings.s3_kms_key_id:
        options["sse_kms_key_id"] = settings.s3_kms_key_id
    if settings.s3_endpoint_url:
        options["endpoint"] = settings.s3_endpoint_url
        options["virtual_hosted_style_request"] = False
        options["client_options"]["allow_http"] = settings.s3_endpoint_url.startswith("http://")
    if settings.aws_access_key_id and settings.aws_secret_access_key:
        options["access_key_id"] = settings.aws_access_key_id.get_secret_value()
        options["secret_access_key"] = settings.aws_secret_access_key.get_secret_value()
    return options


@contextmanager
def _as_outage() -> Iterator[None]:
    try:
        yield
    except (ObstoreError, OSError) as error:
        raise OutageError("s3", f"The object store is away: {type(error).__name__}.") from error


class MemoryBlobs(Blobs):
    """Blobs in a dict, for tests.

    Attributes:
        objects: The bytes by key.
        attributes: Content type, cache control and metadata by key.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.attributes: dict[str, dict[str, str]] = {}

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
        self.objects[key] = data
        self.attributes[key] = {"Content-Type": content_type, "Cache-Control": cache_control or "", **(metadata or {})}

    @override
    async def get(self, key: str) -> bytes:
        try:
            return self.objects[key]
        except KeyError as error:
            raise StagedBytesMissing from error

    @override
    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.objects.pop(key, None)
            self.attributes.pop(key, None)

    @override
    async def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        for key, data in sorted(self.objects.items()):
            if key.startswith(prefix):
                yield BlobInfo(key, len(data))

    @override
    async def probe(self) -> None:
        return


def _revealed(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None


@asynccontextmanager
async def s3_client(settings: StorageSettings, endpoint_url: str | None = None) -> AsyncIterator["S3Client"]:
    """Lend the one boto client of a process, for the bucket and for links; `endpoint_url` goes before the settings'."""
    endpoint_url = endpoint_url or settings.s3_endpoint_url
    session = aioboto3.Session(
        aws_access_key_id=_revealed(settings.aws_access_key_id),
        aws_secret_access_key=_revealed(settings.aws_secret_access_key),
        region_name=settings.aws_region,
    )
    config = AioConfig(
        signature_version="s3v4",
        connect_timeout=3,
        read_timeout=10,
        retries={"mode": "standard", "total_max_attempts": 2},
        s3={"addressing_style": "path" if endpoint_url else "virtual"},
    )
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(session.client("s3", endpoint_url=endpoint_url, config=config))
