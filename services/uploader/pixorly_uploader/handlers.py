"""Events in, events out: a staged image becomes a stored one, and an image that must not exist goes.

The uploader remembers nothing. What it writes has a name that follows from the event, so a repeat writes the same
again, and what it deletes is found by the same name.
"""

import asyncio
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Final, TypeVar
from uuid import UUID

from pixorly.blobs import Blobs
from pixorly.budget import Budget
from pixorly.delivery import Delivery, Fail
from pixorly.errors import InvalidImage, StagedBytesMissing
from pixorly.events import (
    ImageDeleted,
    ImageFailed,
    ImageGenerated,
    ImageMoved,
    ImageMoving,
    ImageUploaded,
    ImageVacated,
    StoredKeys,
    Visibility,
)
from pixorly.failpoints import failpoint
from pixorly.keys import PUBLIC, image_keys, image_prefix, is_public
from pixorly_uploader.cdn import Cdn, NoCdn
from pixorly_uploader.images import Picture, Recipe
from pixorly_uploader.ledger import Ledger
from pixorly_uploader.workshop import Workshop

CACHE_CONTROL: Final[dict[Visibility, str]] = {
    "private": "private, max-age=31536000, immutable",
    "public": "public, max-age=31536000, immutable",
}
"""The bytes under a key never change, but no shared cache may keep what a signed link gave."""
_T = TypeVar("_T")
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
        cdn: Who keeps copies of what is in the bucket.
    """

    blobs: Blobs
    ledger: Ledger
    workshop: Workshop
    staged: Budget
    max_bytes: int
    recipe: Recipe
    cdn: Cdn = field(default_factory=NoCdn)


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
    prefix = image_prefix(event.user_id, event.job_id, event.index, event.image_id)
    return image_keys(prefix, picture.facts.extension, picture.thumbnails, event.visibility)


async def _put(event: ImageGenerated, keys: StoredKeys, picture: Picture, blobs: Blobs) -> None:
    thumbnails = {keys.thumbnails[str(px)]: data for px, data in picture.thumbnails.items()}
    await _put_all(event, {keys.original: picture.original, **thumbnails}, picture.facts.content_type, blobs)


async def _put_all(
    event: ImageGenerated | ImageMoving, objects: Mapping[str, bytes], content_type: str, blobs: Blobs
) -> None:
    """Put an original with this content type first, and its thumbnails after it, all at once."""
    metadata = {"job-id": str(event.job_id), "index": str(event.index)}
    types = chain([content_type], repeat(_THUMBNAIL_TYPE))
    await _all(
        [
            blobs.put(
                key,
                data,
                content_type=kind,
                cache_control=CACHE_CONTROL["public" if is_public(key) else "private"],
                metadata=metadata,
            )
            for (key, data), kind in zip(objects.items(), types, strict=False)
        ]
    )


async def _all(calls: Sequence[Awaitable[_T]]) -> list[_T]:
    """Wait for all calls, also when one fails, so that none of them runs on into the next attempt."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


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
    """Delete whatever lies under the image's name, private or public, then have its storage released."""
    folder, name = event.prefix.rsplit("/", 1)
    # The event says what to delete, so it must be about its own image and nothing wider.
    if not name.endswith(str(event.image_id)) or not folder.endswith(str(event.job_id)):
        raise ValueError(f"the prefix of image {event.image_id} is not its own")
    found = [
        blob.key
        for place in ("", PUBLIC)
        async for blob in uploader.blobs.list(f"{place}{folder}/")
        if blob.key.startswith(place + event.prefix)
    ]
    keys = sorted({*found, *_own(event.keys, event.image_id)})
    if keys:
        await uploader.blobs.delete(keys)
    await uploader.ledger.release([event.image_id])
    await uploader.cdn.forget(keys, event.event_id)


async def leave_image(_: ImageDeleted | ImageMoving | ImageVacated, __: Fail) -> None:
    """Leave a deletion or a move that fails again and again to the api, which says it again."""


async def move_image(uploader: Uploader, event: ImageMoving | ImageVacated, _: Delivery) -> ImageMoved | None:
    """Copy an image to where it belongs now, or clear up where it was."""
    if isinstance(event, ImageVacated):
        await _clear(uploader, event)
        return None
    sources, targets = event.source.all(), event.target.all()
    if len(_own([*sources, *targets], event.image_id)) != 2 * len(targets):
        raise ValueError(f"the keys of image {event.image_id} are not its own")
    async with uploader.staged.share(event.bytes):
        try:
            data = await _all([uploader.blobs.get(key) for key in sources])
        except StagedBytesMissing:
            # It is deleted or has moved on since: this is an old event, and nobody waits for what follows.
            return None
        failpoint("move.fetched")
        await _put_all(event, dict(zip(targets, data, strict=True)), event.content_type, uploader.blobs)
    failpoint("move.stored")
    return ImageMoved.of(event.job_id, event.user_id, image_id=event.image_id, move=event.move)


async def _clear(uploader: Uploader, event: ImageVacated) -> None:
    keys = _own(event.keys, event.image_id)
    if len(keys) != len(event.keys):
        raise ValueError(f"the keys of image {event.image_id} are not its own")
    await uploader.blobs.delete(keys)
    await uploader.cdn.forget(keys, event.event_id)


def _own(keys: Iterable[str], image_id: UUID) -> list[str]:
    """Return those keys that are the image's."""
    return [key for key in keys if str(image_id) in key]
