"""What is done to pixels: averaged, brought into sRGB, and turned upright. Pure, and Pillow's alone."""

import struct
import zlib
from io import BytesIO
from typing import Any, Final

from PIL import Image, ImageCms

BROKEN: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
    ImageCms.PyCMSError,
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
"""What Pillow's decoders and parsers raise on bytes that lie."""

_ORIENTATION: Final = 0x0112
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BAND_PIXELS: Final = 1 << 21
FILTER: Final = Image.Resampling.HAMMING
"""Half the time of LANCZOS, which is hard to tell apart from it (`bench/thumbnails.py`)."""
_COLOUR_MODES: Final[dict[str, tuple[str, ...]]] = {"RGB": ("RGB", "RGBA"), "GRAY": ("L",), "CMYK": ("CMYK",)}


def shrunk(image: Image.Image, long_px: int) -> Image.Image:
    """Return the picture with `long_px` on its long side, or as large as it is, in a mode that can be worked with."""
    factor = max(image.size) // (2 * long_px)
    plain = _reduced(image, factor) if factor > 1 else _plain(image)
    box = (0, 0, image.width / max(factor, 1), image.height / max(factor, 1))
    return plain.resize(fitted(image.size, long_px), FILTER, box=box)


def fitted(size: tuple[int, int], long_px: int) -> tuple[int, int]:
    """Return the size with `long_px` on its long side; never larger, never without a pixel."""
    scale = min(1.0, long_px / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _reduced(image: Image.Image, factor: int) -> Image.Image:
    """Return the picture averaged over squares of `factor` pixels.

    Band by band, for a change of mode would otherwise hold a large picture in memory twice.
    """
    width, height = image.size
    rows = max(1, _BAND_PIXELS // (width * factor)) * factor
    whole: Image.Image | None = None
    for top in range(0, height, rows):
        band = _plain(image.crop((0, top, width, min(top + rows, height)))).reduce(factor)
        if whole is None:
            whole = Image.new(band.mode, (band.width, -(-height // factor)))
        whole.paste(band, (0, top // factor))
    return whole or image


def _plain(image: Image.Image) -> Image.Image:
    """Return the picture in L, RGB, RGBA or CMYK."""
    if image.mode.startswith("I"):
        return image.point(lambda value: value * (1 / 257), "L")
    if image.mode in {"RGBA", "CMYK"}:
        return image
    if image.has_transparency_data:
        return image.convert("RGBA")
    if image.mode in {"L", "RGB"}:
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def in_srgb(image: Image.Image) -> Image.Image:
    """Return the picture in sRGB; a profile that is broken or for other colours is ignored, as browsers do."""
    try:
        converted = _converted(image)
    except BROKEN:
        converted = None
    if converted is None:
        converted = image if image.mode in {"RGB", "RGBA"} else image.convert("RGB")
    converted.info = {}
    return converted


def _converted(image: Image.Image) -> Image.Image | None:
    data = image.info.get("icc_profile")
    if not data:
        return None
    profile = ImageCms.ImageCmsProfile(BytesIO(data))
    space = profile.profile.xcolor_space.strip()
    if space == "RGB" and ImageCms.getProfileDescription(profile).lower().startswith("srgb"):
        return None
    if space == "RGB" and image.mode == "L":
        image = image.convert("RGB")
    if image.mode not in _COLOUR_MODES.get(space, ()):
        return None
    target = "RGBA" if image.mode == "RGBA" else "RGB"
    return ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode=target)


def turn_of(image: Image.Image) -> int:
    """Return EXIF's orientation; 1 where there is none, or none that can be read."""
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif", b""))
        turn: Any = exif.get(_ORIENTATION, 1)
    except BROKEN:
        return 1
    return turn if turn in _TURNS else 1


def upright(image: Image.Image, turn: int) -> Image.Image:
    """Return the picture turned as EXIF's orientation says."""
    return image.transpose(_TURNS[turn]) if turn in _TURNS else image
