"""The CDN, which keeps copies of what is in the bucket: the one file here that speaks CloudFront's API."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, Final, Protocol
from urllib.parse import quote
from uuid import UUID

import aioboto3
from aiobotocore.config import AioConfig
from botocore.exceptions import BotoCoreError, ClientError
from typing_extensions import override

from pixorly.errors import ServerError, StorageUnavailable
from pixorly_uploader.settings import UploaderSettings

_ASKED_BEFORE: Final = "InvalidationBatchAlreadyExists"
_TOO_MUCH: Final = frozenset({"TooManyInvalidationsInProgress", "Throttling", "ThrottlingException"})
_LATER_S: Final = 60.0
_FIRST_SERVER_ERROR: Final = 500


class Cdn(Protocol):
    """Who keeps copies of what is in the bucket."""

    async def forget(self, keys: Sequence[str], reference: UUID) -> None:
        """Have copies thrown away; a repeat with the same reference asks for nothing new.

        What goes wrong with a CDN holds up one message and no other, so none of it is an outage.

        Raises:
            StorageUnavailable: It is away, or has too much to do.
            ServerError: It refused.
        """

    async def open(self) -> None:
        """Make ready; to read how its API looks takes half a second."""

    async def close(self) -> None:
        """Close its connections."""


class NoCdn(Cdn):
    """Nobody does."""

    @override
    async def open(self) -> None:
        return

    @override
    async def close(self) -> None:
        return

    @override
    async def forget(self, keys: Sequence[str], reference: UUID) -> None:
        return


class CloudFront(Cdn):
    """A CloudFront distribution.

    Args:
        settings: Which one, and with which keys it is spoken to.
        distribution_id: The distribution.
    """

    def __init__(self, settings: UploaderSettings, distribution_id: str) -> None:
        self._settings = settings
        self._distribution_id = distribution_id
        self._closing = AsyncExitStack()
        self._client: Any = None

    @override
    async def open(self) -> None:
        settings = self._settings
        key_id, secret = settings.aws_access_key_id, settings.aws_secret_access_key
        session = aioboto3.Session(
            aws_access_key_id=key_id.get_secret_value() if key_id else None,
            aws_secret_access_key=secret.get_secret_value() if secret else None,
            region_name=settings.aws_region,
        )
        config = AioConfig(connect_timeout=3, read_timeout=settings.s3_timeout_s, retries={"total_max_attempts": 1})
        client: Any = session.client("cloudfront", endpoint_url=settings.cloudfront_endpoint_url, config=config)
        self._client = await self._closing.enter_async_context(client)

    @override
    async def close(self) -> None:
        await self._closing.aclose()

    @override
    async def forget(self, keys: Sequence[str], reference: UUID) -> None:
        if not keys:
            return
        paths = [quote(f"/{key}") for key in keys]
        batch = {"Paths": {"Quantity": len(paths), "Items": paths}, "CallerReference": str(reference)}
        try:
            async with asyncio.timeout(self._settings.s3_timeout_s):
                await self._client.create_invalidation(DistributionId=self._distribution_id, InvalidationBatch=batch)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code == _ASKED_BEFORE:
                return
            if code in _TOO_MUCH:
                raise StorageUnavailable("The CDN has too much to do.", retry_after_s=_LATER_S) from error
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500) >= _FIRST_SERVER_ERROR:
                raise StorageUnavailable(f"The CDN failed: {code}.") from error
            raise ServerError(f"The CDN refused to forget an image: {code}.") from error
        except (BotoCoreError, OSError) as error:
            raise StorageUnavailable(f"The CDN is away: {type(error).__name__}.") from error
