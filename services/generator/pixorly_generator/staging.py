"""From a provider's bytes to staged ones: what they are, in the format that was asked for, under their own name."""

import asyncio
import hashlib
import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final
from uuid import UUID

from PIL import Image, ImageOps

from pixorly.blobs import Blobs
from pixorly.budget import Budget
from pixorly.errors import InvalidImage
from pixorly.formats import inspect, png
from pixorly.formats.limits import Limits
from pixorly.formats.parts import Container
from pixorly.keys import staged_key
from pixorly_generator.providers import GeneratedImage

LIMITS: Final = Limits()
"""Of an image that is encoded again: the uploader's own."""
_BYTES_PER_PIXEL: Final = 16
"""What it takes at most to decode a picture, turn it into another mode and encode it."""
_INLINE_BYTES: Final = 65_536
"""To hash this much takes less than to hand it to a thread."""
_ROOM: Final = Budget(LIMITS.max_memory_bytes)
_BROKEN: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    Image.DecompressionBombError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders and encoders raise on bytes that lie."""


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
    container = inspect(data, LIMITS)
    if _memory_of(container) > LIMITS.max_memory_bytes:
        size = f"{container.width} x {container.height}"
        raise InvalidImage(f"The image is too large to be encoded as {wanted}: {size} pixels.")
    try:
        if container.format == "PNG" and not png.has_every_row(data):
            raise InvalidImage("The image is cut off: it has fewer rows than its header says.")
        with Image.open(io.BytesIO(data), formats=[container.format]) as image:
            LIMITS.check_size(*image.size)
            profile = image.info.get("icc_profile") if image.mode != "CMYK" else None
            picture = _upright(image.convert("RGB") if image.mode == "CMYK" else image)
            out = io.BytesIO()
            picture = _opaque(picture) if wanted == "jpeg" else picture
            picture.save(out, format=wanted.upper(), quality=92, icc_profile=profile)
    except _BROKEN as error:
        raise InvalidImage(f"The image can't be decoded: {type(error).__name__}.") from error
    return out.getvalue(), f"image/{wanted}"


def _memory_of(container: Container) -> int:
    return max(container.memory_bytes, _BYTES_PER_PIXEL * container.pixels)


def _upright(image: Image.Image) -> Image.Image:
    """Return the picture turned as its EXIF asks, which is lost when it is encoded again."""
    try:
        return ImageOps.exif_transpose(image)
    except _BROKEN:
        return image


def _opaque(image: Image.Image) -> Image.Image:
    """Return the picture on white, for a format that knows no transparency."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    ground = Image.new("RGB", layer.size, "white")
    ground.paste(layer, mask=layer)
    return ground


async def stage(
    blobs: Blobs, job_id: UUID, index: int, image_id: UUID, image: GeneratedImage, *, wanted: str | None
) -> StagedImage:
    """Make one image's bytes durable; a repeat writes the same bytes under the same name.

    Raises:
        InvalidImage: They are not a usable image.
        StorageUnavailable: The object store failed on them.
        OutageError: The object store is away.
    """
    data, content_type, sha256 = await _in_workshop(image.data, wanted)
    key = staged_key(job_id, index, sha256)
    await blobs.put(key, data, content_type=content_type)
    return StagedImage(index, image_id, key, content_type, sha256, len(data))


async def _in_workshop(data: bytes, wanted: str | None) -> tuple[bytes, str, str]:
    """Prepare an image in a thread, if it is worth one; those that are encoded again share a bounded room."""
    if wanted is None or content_type_of(data) == f"image/{wanted}":
        if len(data) <= _INLINE_BYTES:
            return _prepared(data, wanted)
        return await asyncio.to_thread(_prepared, data, wanted)
    container = await asyncio.to_thread(inspect, data, LIMITS)
    async with _ROOM.share(_memory_of(container)):
        return await asyncio.to_thread(_prepared, data, wanted)


def _prepared(data: bytes, wanted: str | None) -> tuple[bytes, str, str]:
    data, content_type = in_format(data, wanted)
    return data, content_type, hashlib.sha256(data).hexdigest()


def staged_from_json(rows: Sequence[dict[str, Any]]) -> list[StagedImage]:
    """Return what the database kept."""
    return [StagedImage(**{**row, "image_id": UUID(row["image_id"])}) for row in rows]
