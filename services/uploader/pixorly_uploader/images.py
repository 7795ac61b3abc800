"""The rules of a picture, pure: bytes in, facts and small versions out.

An image is looked at before it is decoded, decoded once, and turned into WebP thumbnails in sRGB. What Pillow may raise
on hostile bytes is turned into `InvalidImage` here. Nothing in this module waits; `workshop` keeps it off the event
loop and within bounds.
"""

import base64
import ctypes
import hashlib
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Final, Self

import thumbhash
from PIL import AvifImagePlugin, GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from pixorly.errors import InvalidImage
from pixorly.formats import CONTENT_TYPES, inspect, png
from pixorly.formats.limits import Limits
from pixorly.formats.parts import Container
from pixorly_uploader import pixels, provenance

PLUGINS: Final = (AvifImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, WebPImagePlugin)
"""Imported here, so that Pillow does not load every format that it knows when it meets a broken file."""

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_LARGE_BLOCK_BYTES: Final = 8 << 20
"""Of a usual picture all blocks are smaller, and are used again."""
_KEPT_BYTES: Final = 16 << 20
"""What a thread keeps for its next picture: a usual one takes less, and gave back and fetched 1,400 pages otherwise."""
_SIDEWAYS: Final = frozenset({5, 6, 7, 8})
_THUMBHASH_PX: Final = 64
"""Thumbhash keeps fewer than eight waves a side; its limit is 100."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to make of an image.

    Attributes:
        thumbnail_px: The long sides of the thumbnails.
        thumbnail_quality: WebP's, 1 to 100.
        thumbnail_effort: WebP's method, 0 to 6. 2 makes files a third smaller than 0 for 9 ms more; beyond, time grows
            and size hardly shrinks (`bench/thumbnails.py`).
        model: The name of the model that made the image, for the mark.
        label_original: Whether the original is marked too.
    """

    thumbnail_px: Sequence[int] = (256, 768)
    thumbnail_quality: int = 80
    thumbnail_effort: int = 2
    model: str | None = None
    label_original: bool = False

    def of(self, model: str | None) -> Self:
        """Return the same recipe for an image that `model` made."""
        return replace(self, model=model)


@dataclass(frozen=True, slots=True)
class Facts:
    """What an image is.

    Attributes:
        content_type: From its bytes.
        extension: From its bytes, without a dot.
        width: In pixels, as shown: a turn that EXIF asks for is applied.
        height: In pixels, as shown.
        animated: Whether it has more than one frame.
        sha256: Of the bytes to store, in hexadecimal.
    """

    content_type: str
    extension: str
    width: int
    height: int
    animated: bool
    sha256: str


@dataclass(frozen=True, slots=True)
class Picture:
    """An image that was found good, ready to be stored.

    Attributes:
        facts: What it is.
        original: The bytes to store: those that came, or the same with a mark.
        thumbnails: The small WebP versions, by their long side.
        thumbhash: In base64.
    """

    facts: Facts
    original: bytes
    thumbnails: dict[int, bytes]
    thumbhash: str

    @property
    def thumbnail_bytes(self) -> int:
        """How large all thumbnails are together."""
        return sum(len(data) for data in self.thumbnails.values())


def set_up(limits: Limits) -> None:
    """Set Pillow's own limits, once in a process: they are a second net under ours."""
    Image.MAX_IMAGE_PIXELS = limits.max_pixels
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    # Broken EXIF and the like: it is no reason to refuse an image, and nobody reads it on standard error.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    # Decoding is spread over threads by us; a decoder with threads of its own would take more than its share.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    _set_up_memory()


def _set_up_memory() -> None:
    """Have the C library give large blocks back to the system once they are free, and keep the room of small ones.

    By itself glibc learns from the first picture to keep large ones, for each thread, which costs 100 MB and more. Once
    it is told about them, it gives back whatever is free beyond 128 kB, too, unless it is told otherwise.
    """
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES)
        library.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def develop(data: bytes, sha256: str, container: Container, limits: Limits, recipe: Recipe) -> Picture:
    """Decode an image with this checksum that was inspected, and make what is stored of it.

    Raises:
        InvalidImage: It can't be decoded whole.
    """
    sizes = sorted(recipe.thumbnail_px, reverse=True)
    decoded = _decode(data, container, limits, max([*sizes, _THUMBHASH_PX]))
    turn = pixels.turn_of(decoded.small)
    shown = pixels.upright(pixels.in_srgb(decoded.small), turn)
    original = provenance.mark(data, container, recipe.model) if recipe.label_original else data
    content_type, extension = CONTENT_TYPES[container.format]
    width, height = (decoded.height, decoded.width) if turn in _SIDEWAYS else (decoded.width, decoded.height)
    if original is not data:
        sha256 = checksum(original)
    facts = Facts(content_type, extension, width, height, container.animated, sha256)
    thumbnails, smallest = _thumbnails(shown, sizes, recipe)
    return Picture(facts, original, thumbnails, _thumbhash(smallest))


def examine(data: bytes, limits: Limits, recipe: Recipe) -> Picture:
    """Inspect an image and develop it.

    Raises:
        InvalidImage: It is not one that we store.
    """
    return develop(data, checksum(data), inspect(data, limits), limits, recipe)


def checksum(data: bytes) -> str:
    """Return the SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class _Decoded:
    small: Image.Image
    width: int
    height: int


def _decode(data: bytes, container: Container, limits: Limits, long_px: int) -> _Decoded:
    """Decode every pixel once, and keep no more of them than thumbnails of `long_px` need."""
    try:
        with Image.open(BytesIO(data), formats=[container.format]) as image:
            width, height = image.size
            limits.check_size(width, height)
            # A JPEG scales while it decodes, by up to eight, and reads all of its data all the same.
            image.draft(None, (2 * long_px, 2 * long_px))
            image.load()
            if container.format == "PNG" and _may_lack_rows(image) and not png.has_every_row(data):
                raise InvalidImage("The image is cut off: it has fewer rows than its header says.")
            small = pixels.shrunk(image, long_px)
            small.info = {key: image.info[key] for key in ("exif", "icc_profile") if key in image.info}
    except pixels.BROKEN as error:
        raise InvalidImage(f"The image can't be decoded: {type(error).__name__}.") from error
    return _Decoded(small, width, height)


def _may_lack_rows(image: Image.Image) -> bool:
    """Tell whether rows may be missing: those stay zero, and the last of them is missing first, unless interlaced."""
    width, height = image.size
    last = image.crop((0, height - 1, width, height)).tobytes()
    return bool(image.info.get("interlace")) or not last.strip(b"\0")


def _thumbnails(image: Image.Image, sizes: Sequence[int], recipe: Recipe) -> tuple[dict[int, bytes], Image.Image]:
    """Return the thumbnails, each made from the next larger one, and the picture of the smallest."""
    mark, thumbnails = provenance.packet(recipe.model), {}
    encoded: tuple[tuple[int, int], bytes] | None = None
    for long_px in sizes:
        size = pixels.fitted(image.size, long_px)
        if size != image.size:
            image = image.resize(size, pixels.FILTER)
        if encoded is None or encoded[0] != size:
            encoded = size, _as_webp(image, recipe, mark)
        thumbnails[long_px] = encoded[1]
    return thumbnails, image


def _as_webp(image: Image.Image, recipe: Recipe, mark: bytes) -> bytes:
    file = BytesIO()
    image.save(file, "WEBP", quality=recipe.thumbnail_quality, method=recipe.thumbnail_effort, xmp=mark)
    return file.getvalue()


def _thumbhash(image: Image.Image) -> str:
    size = pixels.fitted(image.size, _THUMBHASH_PX)
    small = image.resize(size, pixels.FILTER).convert("RGBA")
    return base64.b64encode(thumbhash.rgba_to_thumb_hash(*size, small.tobytes())).decode()
