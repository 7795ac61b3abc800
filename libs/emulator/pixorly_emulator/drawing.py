"""Real images, quickly: a gradient with a few discs, always the same for the same words."""

import io
import math
import struct
import zlib
from dataclasses import dataclass
from hashlib import sha256
from random import Random

from PIL import Image, ImageDraw

_SOFT_PX = 96
_PNG_END_BYTES = 12


@dataclass(frozen=True, slots=True)
class Drawn:
    """One image.

    Attributes:
        data: The encoded image.
        media_type: What it really is.
    """

    data: bytes
    media_type: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to draw.

    Attributes:
        model: Steers the drawing, as do `prompt` and `seed`.
        prompt: Any text.
        seed: None is a seed too.
        width: In pixels.
        height: In pixels.
        image_format: `png`, `jpeg` or `webp`.
        transparent: Whether the background is clear.
    """

    model: str
    prompt: str
    seed: int | None
    width: int
    height: int
    image_format: str = "png"
    transparent: bool = False


def draw(wanted: Wanted, index: int) -> Drawn:
    """Return the image that always belongs to `wanted` and `index`."""
    told = repr((wanted.model, wanted.prompt, wanted.seed, index)).encode("utf-8", "backslashreplace")
    chance = Random(sha256(told).digest())  # noqa: S311 - a picture keeps no secret
    size = (wanted.width, wanted.height)
    scale = min(1.0, _SOFT_PX / max(size))
    small = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    picture = _gradient(small, chance).resize(size, Image.Resampling.BILINEAR)
    mask = Image.new("L", size, 0 if wanted.transparent else 255)
    _discs(picture, mask, chance)
    if wanted.transparent and wanted.image_format != "jpeg":
        picture.putalpha(mask)
    return Drawn(encoded(picture, wanted.image_format), f"image/{wanted.image_format}")


def encoded(picture: Image.Image, image_format: str) -> bytes:
    """Return the picture as a file of the format."""
    target = io.BytesIO()
    if image_format == "png":
        picture.save(target, "PNG", compress_level=1)
    elif image_format == "webp":
        picture.save(target, "WEBP", quality=85, method=0)
    else:
        picture.save(target, "JPEG", quality=90)
    return target.getvalue()


def padded(png: bytes, total_bytes: int) -> bytes:
    """Return a PNG with a chunk of padding that readers skip: it decodes as before but has `total_bytes`."""
    body = b"\0" * max(0, total_bytes - len(png) - 12)
    chunk = struct.pack(">I", len(body)) + b"paDd" + body + struct.pack(">I", zlib.crc32(b"paDd" + body))
    return png[:-_PNG_END_BYTES] + chunk + png[-_PNG_END_BYTES:]


def _gradient(size: tuple[int, int], chance: Random) -> Image.Image:
    corners = Image.new("RGB", (2, 2))
    hue, turn = chance.random(), chance.uniform(0.1, 0.4)
    for place, (x, y) in enumerate(((0, 0), (1, 0), (0, 1), (1, 1))):
        corners.putpixel((x, y), _hue(hue + turn * place / 3, 0.35 + 0.15 * place))
    return corners.resize(size, Image.Resampling.BICUBIC)


def _hue(hue: float, light: float) -> tuple[int, int, int]:
    red, green, blue = (int(255 * light * (0.55 + 0.45 * math.cos(math.tau * (hue + third / 3)))) for third in range(3))
    return red, green, blue


def _discs(picture: Image.Image, mask: Image.Image, chance: Random) -> None:
    draw_on, clear = ImageDraw.Draw(picture), ImageDraw.Draw(mask)
    width, height = picture.size
    hue = chance.random()
    for step in range(5):
        radius = min(width, height) * chance.uniform(0.05, 0.3)
        x, y = chance.uniform(0, width), chance.uniform(0, height)
        box = (x - radius, y - radius, x + radius, y + radius)
        draw_on.ellipse(box, fill=_hue(hue + step * 0.07, chance.uniform(0.6, 1.0)))
        clear.ellipse(box, fill=255)
