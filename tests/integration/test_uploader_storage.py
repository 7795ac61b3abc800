"""The uploader's handlers on a real S3 server."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal
from uuid import UUID, uuid4

import pytest
from pictures import encoded, good, picture
from typing_extensions import override

from pixorly.blobs import S3Blobs, s3_client
from pixorly.budget import Budget
from pixorly.delivery import Delivery
from pixorly.events import ImageDeleted, ImageGenerated, ImageUploaded
from pixorly.formats.limits import Limits
from pixorly.settings import StorageSettings
from pixorly_uploader.handlers import Uploader, delete_image, store_image
from pixorly_uploader.images import Recipe
from pixorly_uploader.ledger import Ledger
from pixorly_uploader.workshop import Workshop

KINDS = ["png", "jpeg", "webp", "gif", "avif", "moving png"]


class OpenLedger(Ledger):
    """A ledger that agrees to everything."""

    @override
    async def true_up(
        self, image_id: UUID, *, size_bytes: int, user_id: str, job_id: UUID
    ) -> Literal["stored", "closed"]:
        return "stored"

    @override
    async def release(self, image_ids: Sequence[UUID]) -> None:
        return


@pytest.fixture
async def uploader(s3_settings: StorageSettings) -> AsyncIterator[Uploader]:
    workshop = Workshop(Limits(), threads=2)
    yield Uploader(
        blobs=S3Blobs(s3_settings),
        ledger=OpenLedger(),
        workshop=workshop,
        staged=Budget(64 << 20),
        max_bytes=64 << 20,
        recipe=Recipe(),
    )
    workshop.close()


async def staged(uploader: Uploader, data: bytes, index: int = 0) -> ImageGenerated:
    job_id = uuid4()
    event = ImageGenerated.of(
        job_id,
        "demo",
        index=index,
        image_id=uuid4(),
        staged_key=f"staging/{job_id}/{index}",
        content_type="application/octet-stream",
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
    )
    await uploader.blobs.put(event.staged_key, data, content_type=event.content_type)
    return event


async def head(settings: StorageSettings, key: str) -> dict[str, Any]:
    async with s3_client(settings) as client:
        return dict(await client.head_object(Bucket=settings.aws_s3_bucket, Key=key))


@pytest.mark.parametrize("kind", KINDS)
async def test_every_object_has_its_type_its_owner_and_its_encryption(
    uploader: Uploader, s3_settings: StorageSettings, kind: str
) -> None:
    data, content_type, size, _ = good()[kind]
    event = await staged(uploader, data, index=3)

    stored = await store_image(uploader, event, Delivery())

    assert isinstance(stored, ImageUploaded)
    assert (stored.width, stored.height) == size
    assert await uploader.blobs.get(stored.keys.original) == data
    types = {stored.keys.original: content_type, **dict.fromkeys(stored.keys.thumbnails.values(), "image/webp")}
    for key, expected in types.items():
        found = await head(s3_settings, key)
        assert key.startswith(f"users/demo/{event.job_id}/3-{event.image_id}")
        assert found["ServerSideEncryption"] == "AES256"
        assert found["ContentType"] == expected
        assert found["CacheControl"] == "private, max-age=31536000, immutable"
        assert found["Metadata"] == {"job-id": str(event.job_id), "index": "3"}


async def test_a_repeat_leaves_the_same_objects_and_a_deletion_none(uploader: Uploader) -> None:
    event = await staged(uploader, encoded(picture(900, 700), "PNG"))
    folder = f"users/demo/{event.job_id}/"

    first = await store_image(uploader, event, Delivery())
    before = [blob async for blob in uploader.blobs.list(folder)]
    second = await store_image(uploader, event, Delivery(attempt=2))

    assert first
    assert second
    assert first.event_id == second.event_id
    assert [blob async for blob in uploader.blobs.list(folder)] == before
    assert sum(blob.size_bytes for blob in before) == first.bytes + first.thumbnail_bytes

    deletion = ImageDeleted.of(
        event.job_id, "demo", image_id=event.image_id, prefix=f"{folder}0-{event.image_id}", reason="user"
    )
    for _ in range(2):
        await delete_image(uploader, deletion, Delivery())
        assert [blob async for blob in uploader.blobs.list(folder)] == []
