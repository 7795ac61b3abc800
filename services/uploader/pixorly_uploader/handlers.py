"""Events in, events out: a staged image becomes a stored one, and an image that must not exist goes.

The uploader remembers nothing. What it writes has a name that follows from the event, so a repeat writes the same
again, and what it deletes is found by the same name.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Final

from pixorly.blobs import Blobs
from pixorly.budget import Budget
from pixorly.delivery import Delivery, Fail
from pixorly.errors import InvalidImage
from pixorly.events import ImageDeleted, ImageFailed, ImageGenerated, ImageUploaded, StoredKeys
from pixorly.failpoints import failpoint
from pixorly_uploader.images import Picture, Recipe
from pixorly_uploader.ledger import Ledger
from pixorly_uploader.workshop import Workshop

CACHE_CONTROL: Final = "private, max-age=31536000, immutable"
"""The bytes under a key never change, but they are their owner's: no shared cache may keep what a signed link gave."""
_THUMBNAIL_TYPE: Final = "image/webp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploader:
    """What the handlers work with.

    Attributes:
        blobs: Where staged images lie and stored ones go.
        ledger: Who counts the storage.
        workshop: Where images are examined.
        staged: How many bytes of staged images may be in memory.
        max_bytes: How large a staged image may be.
        recipe: What to make of each image.
    """

    blobs: Blobs
    ledger: Ledger
    workshop: Workshop
    staged: Budget
    max_bytes: int
    recipe: Recipe


async def store_image(uploader: Uploader, event: ImageGenerated, _: Delivery) -> ImageUploaded | None:
    """Check the image, count its bytes, and store it with its thumbnails; nothing if it must not be stored any more."""
    if event.bytes > uploader.max_bytes:
        raise InvalidImage(f"The image has {event.bytes} bytes; {uploader.max_bytes} are allowed.")
    async with uploader.staged.share(event.bytes):
        data = await uploader.blobs.get(event.staged_key)
        failpoint("image.fetched")
        picture = await uploader.workshop.develop(data, event.sha256, uploader.recipe.of(event.model))
        state = await uploader.ledger.true_up(
            event.image_id,
            size_bytes=len(picture.original) + picture.thumbnail_bytes,
            user_id=event.user_id,
            job_id=event.job_id,
        )
        failpoint("image.counted")
        if state == "closed":
            return None
        keys = keys_of(event, picture)
        await _put(event, keys, picture, uploader.blobs)
        failpoint("image.stored")
    return _uploaded(event, keys, picture)


def keys_of(event: ImageGenerated, picture: Picture) -> StoredKeys:
    """Return where the image and its thumbnails go: the same for each repeat, all under the image's own prefix."""
    prefix = f"users/{event.user_id}/{event.job_id}/{event.index}-{event.image_id}"
    return StoredKeys(
        original=f"{prefix}.{picture.facts.extension}",
        thumbnails={str(long_px): f"{prefix}_{long_px}.webp" for long_px in sorted(picture.thumbnails)},
    )


async def _put(event: ImageGenerated, keys: StoredKeys, picture: Picture, blobs: Blobs) -> None:
    metadata = {"job-id": str(event.job_id), "index": str(event.index)}

    def put(key: str, data: bytes, content_type: str) -> Awaitable[None]:
        return blobs.put(key, data, content_type=content_type, cache_control=CACHE_CONTROL, metadata=metadata)

    await _all(
        [
            put(keys.original, picture.original, picture.facts.content_type),
            *(put(keys.thumbnails[str(px)], data, _THUMBNAIL_TYPE) for px, data in picture.thumbnails.items()),
        ]
    )


async def _all(calls: Sequence[Awaitable[None]]) -> None:
    """Wait for all calls, also when one fails, so that none of them runs on into the next attempt."""
    for result in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def _uploaded(event: ImageGenerated, keys: StoredKeys, picture: Picture) -> ImageUploaded:
    facts = picture.facts
    return ImageUploaded.of(
        event.job_id,
        event.user_id,
        index=event.index,
        image_id=event.image_id,
        keys=keys,
        bytes=len(picture.original),
        thumbnail_bytes=picture.thumbnail_bytes,
        width=facts.width,
        height=facts.height,
        content_type=facts.content_type,
        sha256=facts.sha256,
        thumbhash=picture.thumbhash,
        model=event.model,
    )


async def fail_image(event: ImageGenerated, failure: Fail) -> ImageFailed:
    """Say that the image can't be stored."""
    return ImageFailed.of(
        event.job_id,
        event.user_id,
        index=event.index,
        image_id=event.image_id,
        code=failure.code,
        message=failure.message,
        fault=failure.outcome.fault or "server",
        stage="upload",
    )


async def delete_image(uploader: Uploader, event: ImageDeleted, _: Delivery) -> None:
    """Delete whatever lies under the image's name, then have its storage released."""
    folder, name = event.prefix.rsplit("/", 1)
    # The event says what to delete, so it must be about its own image and nothing wider.
    if not name.endswith(str(event.image_id)) or not folder.endswith(str(event.job_id)):
        raise ValueError(f"the prefix of image {event.image_id} is not its own")
    found = [blob.key async for blob in uploader.blobs.list(f"{folder}/") if blob.key.startswith(event.prefix)]
    own = [key for key in event.keys if str(event.image_id) in key]
    if keys := sorted({*found, *own}):
        await uploader.blobs.delete(keys)
    await uploader.ledger.release([event.image_id])


async def leave_image(_: ImageDeleted, __: Fail) -> None:
    """Leave a deletion that fails again and again to the api, which says it again until the storage is released."""
