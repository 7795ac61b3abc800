"""From a provider's bytes to staged ones: what they are, in the format that was asked for, under their own name."""

import asyncio
import hashlib
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final
from uuid import UUID

from PIL import Image, UnidentifiedImageError

from pixorly.blobs import STAGING, Blobs
from pixorly.errors import InvalidImage
from pixorly_generator.providers import GeneratedImage

_MAX_PIXELS: Final = 64_000_000
_PIL_FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "AVIF")


@dataclass(frozen=True, slots=True)
class StagedImage:
    """Where one slot's bytes lie, and what they are."""

    index: int
    image_id: UUID
    staged_key: str
    content_type: str
    sha256: str
    bytes: int

    def as_json(self) -> dict[str, Any]:
        """Return what the database keeps."""
        return {**asdict(self), "image_id": str(self.image_id)}


def content_type_of(data: bytes) -> str:
    """Return what the bytes are by their first ones.

    Raises:
        InvalidImage: Not an image that we know.
    """
    signatures = (
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"\xff\xd8\xff", "image/jpeg"),
        (b"GIF8", "image/gif"),
    )
    for signature, content_type in signatures:
        if data.startswith(signature):
            return content_type
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[4:8] == b"ftyp" and data[8:12] in {b"avif", b"avis"}:
        return "image/avif"
    raise InvalidImage


def in_format(data: bytes, wanted: str | None) -> tuple[bytes, str]:
    """Return the bytes and their type, encoded again only where another format was asked for.

    Raises:
        InvalidImage: Not an image that we know, broken, or too large to be encoded again.
    """
    content_type = content_type_of(data)
    if wanted is None or content_type == f"image/{wanted}":
        return data, content_type
    try:
        with Image.open(io.BytesIO(data), formats=_PIL_FORMATS) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise InvalidImage(f"The image has more than {_MAX_PIXELS} pixels.")
            picture = image.convert("RGB") if wanted == "jpeg" else image
            out = io.BytesIO()
            picture.save(out, format=wanted.upper(), quality=92, icc_profile=image.info.get("icc_profile"))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InvalidImage from error
    return out.getvalue(), f"image/{wanted}"


async def stage(
    blobs: Blobs, job_id: UUID, index: int, image_id: UUID, image: GeneratedImage, *, wanted: str | None
) -> StagedImage:
    """Make one image's bytes durable; a repeat writes the same bytes under the same name.

    Raises:
        InvalidImage: They are not a usable image.
        StorageUnavailable: The object store failed on them.
        OutageError: The object store is away.
    """
    data, content_type, sha256 = await asyncio.to_thread(_prepared, image.data, wanted)
    key = f"{STAGING}{job_id}/{index}-{sha256}"
    await blobs.put(key, data, content_type=content_type)
    return StagedImage(index, image_id, key, content_type, sha256, len(data))


def _prepared(data: bytes, wanted: str | None) -> tuple[bytes, str, str]:
    data, content_type = in_format(data, wanted)
    return data, content_type, hashlib.sha256(data).hexdigest()


def staged_from_json(rows: Sequence[dict[str, Any]]) -> list[StagedImage]:
    """Return what the database kept."""
    return [StagedImage(**{**row, "image_id": UUID(row["image_id"])}) for row in rows]
