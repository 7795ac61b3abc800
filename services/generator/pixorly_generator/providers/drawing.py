"""What the sandbox paints: northern lights over hills, and mosaics. Pure: the same brief gives the same picture.

Pillow does the work in few large steps, so that a picture costs milliseconds: what is soft is made small and scaled up,
only edges are drawn at full size.
"""

import io
import math
from dataclasses import dataclass
from hashlib import sha256
from random import Random
from typing import Final, Literal

from PIL import Image, ImageChops, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
Ridge = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Brief:
    """What to paint.

    Attributes:
        style: `aurora` or `mosaic`.
        prompt: Steers everything that is left to chance.
        seed: Another seed, another picture; None is a seed too.
        index: Tells the pictures of one job apart.
        width: In pixels.
        height: In pixels.
        detail: From 1 (plain) to 3 (rich).
        transparent: Whether to round the corners off to nothing.
    """

    style: Literal["aurora", "mosaic"]
    prompt: str
    seed: int | None
    index: int
    width: int
    height: int
    detail: int = 2
    transparent: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.width, self.height

    def chance(self) -> Random:
        """Return the source of everything that is left to chance: always the same for the same brief."""
        told = repr((self.style, self.prompt, self.seed, self.index)).encode("utf-8", "backslashreplace")
        return Random(sha256(told).digest())  # noqa: S311 - a picture keeps no secret


def paint(brief: Brief, image_format: Literal["png", "jpeg", "webp"]) -> bytes:
    """Return the picture, encoded."""
    picture = _mosaic(brief) if brief.style == "mosaic" else _aurora(brief)
    if brief.transparent and image_format != "jpeg":
        picture.putalpha(_rounded(brief.size))
    return _encoded(picture, image_format)


def _encoded(picture: Image.Image, image_format: str) -> bytes:
    target = io.BytesIO()
    if image_format == "png":
        # Grain does not compress: a higher level only takes longer.
        picture.save(target, "PNG", compress_level=1)
    elif image_format == "webp":
        picture.save(target, "WEBP", quality=88, method=0)
    else:
        picture.save(target, "JPEG", quality=90)
    return target.getvalue()


def _rounded(size: tuple[int, int]) -> Image.Image:
    mask = Image.new("L", size, 0)
    corners = (0, 0, size[0] - 1, size[1] - 1)
    ImageDraw.Draw(mask).rounded_rectangle(corners, radius=min(size) // 8, fill=255)
    return mask


# --- Aurora -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Night:
    """The colours of one night, from the top down."""

    zenith: Colour
    middle: Colour
    horizon: Colour
    hem: Colour
    """The curtains' bright lower edge."""
    veil: Colour
    """Their upper end."""


_NIGHTS: Final = (
    _Night((5, 8, 26), (12, 30, 66), (38, 84, 104), (90, 255, 160), (110, 70, 220)),
    _Night((8, 5, 28), (36, 22, 78), (112, 66, 120), (80, 250, 210), (230, 70, 190)),
    _Night((3, 10, 22), (8, 44, 60), (52, 116, 112), (150, 255, 120), (40, 150, 220)),
    _Night((10, 6, 24), (46, 20, 60), (150, 78, 84), (255, 170, 110), (220, 60, 140)),
    _Night((4, 6, 30), (18, 26, 92), (74, 90, 156), (110, 220, 255), (150, 90, 255)),
)
_GLOW_PX: Final = 288
"""The long side of what is soft."""


def _aurora(brief: Brief) -> Image.Image:
    chance = brief.chance()
    night = chance.choice(_NIGHTS)
    scale = min(1.0, _GLOW_PX / max(brief.size))
    small = (max(8, round(brief.width * scale)), max(8, round(brief.height * scale)))
    picture = _sky(small, night)
    for number in range(brief.detail):
        picture = ImageChops.screen(picture, _curtain(small, night, chance, number))
    picture = picture.resize(brief.size, Image.Resampling.BICUBIC)
    _stars(picture, chance, brief.detail)
    picture = ImageChops.add(picture, _grain(brief.size, chance), 1, -4)
    _hills(picture, night, chance, brief.detail + 2)
    return picture


def _sky(size: tuple[int, int], night: _Night) -> Image.Image:
    column = Image.new("RGB", (1, 4))
    for place, colour in enumerate((night.zenith, night.middle, night.horizon, night.horizon)):
        column.putpixel((0, place), colour)
    return column.resize((1, size[1]), Image.Resampling.BICUBIC).resize(size)


def _wave(chance: Random, parts: int) -> list[tuple[float, float, float]]:
    """Return a smooth random line: (weight, frequency, phase) of each of its parts."""
    return [
        (chance.uniform(0.5, 1.0) / (part + 1), (part + 1) * chance.uniform(0.6, 1.5), chance.uniform(0, math.tau))
        for part in range(parts)
    ]


def _at(wave: list[tuple[float, float, float]], place: float) -> float:
    """Return the height of the wave at `place` (0 to 1), about -1 to 1."""
    total = sum(weight for weight, _, _ in wave)
    return sum(weight * math.sin(math.tau * often * place + phase) for weight, often, phase in wave) / total


def _curtain(size: tuple[int, int], night: _Night, chance: Random, number: int) -> Image.Image:
    """Return one curtain of light on black.

    It is put together column by column: rays of differing strength and height stand on a swaying line. A column is a
    stretch of a ready-made profile, one for the hem's colour and one for the veil's.
    """
    width, height = size
    line, rays, folds = _wave(chance, 3), _wave(chance, 9), _wave(chance, 4)
    foot = height * (0.36 + 0.15 * number + chance.uniform(-0.05, 0.05))
    hems, veils = bytearray(), bytearray()
    for x in range(width):
        place = x / width
        strength = max(0.0, 0.46 + 0.45 * _at(folds, place) + 0.34 * _at(rays, place * 3))
        reach = height * (0.30 + 0.16 * _at(rays, place * 2 + 0.3))
        edge = foot + height * 0.13 * _at(line, place)
        hems += _column(edge, reach * 0.55, strength, height)
        veils += _column(edge - reach * 0.22, reach, strength * 0.75, height)
    lights = [Image.frombytes("L", (height, width), bytes(rows)) for rows in (hems, veils)]
    hem, veil = (light.transpose(Image.Transpose.TRANSPOSE) for light in lights)
    return ImageChops.screen(_lit(hem, night.hem), _lit(veil, night.veil)).filter(ImageFilter.GaussianBlur(0.8))


_PROFILE_PX: Final = 256
_PROFILE: Final = bytes(
    round(255 * (step / _PROFILE_PX) ** 1.8 * min(1.0, (_PROFILE_PX - step) / 14)) for step in range(_PROFILE_PX)
)
"""Light along a ray from its tip down to its foot: a slow rise, then a short soft hem."""
_STRENGTHS: Final = tuple(bytes(min(255, value * level // 32) for value in range(256)) for level in range(40))


def _column(foot: float, reach: float, strength: float, height: int) -> bytes:
    """Return one column of light, top to bottom, that ends at `foot` and reaches up `reach` pixels."""
    reach_px, foot_px = max(4, int(reach)), int(foot)
    ray = bytes(_PROFILE[step * _PROFILE_PX // reach_px] for step in range(reach_px))
    ray = ray.translate(_STRENGTHS[min(39, int(strength * 32))])
    above = foot_px - reach_px
    column = bytes(above) + ray if above >= 0 else ray[-above:]
    return column[:height].ljust(height, b"\0")


def _lit(light: Image.Image, colour: Colour) -> Image.Image:
    """Return `light` in `colour`."""
    return Image.merge("RGB", [light.point([value * part // 255 for value in range(256)]) for part in colour])


def _stars(picture: Image.Image, chance: Random, detail: int) -> None:
    width, height = picture.size
    draw = ImageDraw.Draw(picture)
    unit = max(1.0, min(width, height) / 900)
    for _ in range(90 * detail):
        x, y = chance.uniform(0, width), chance.uniform(0, height * 0.7) * chance.random() ** 0.4
        bright, radius = chance.randint(120, 255), unit * chance.choice((0.5, 0.5, 0.6, 0.8, 1.2))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(bright, bright, min(255, bright + 20)))


def _grain(size: tuple[int, int], chance: Random) -> Image.Image:
    """Return fine noise from 0 to 7 that keeps the night sky from showing bands."""
    side = 192
    tile = Image.frombytes("L", (side, side), chance.randbytes(side * side)).point([v >> 5 for v in range(256)])
    return Image.merge("RGB", [_repeated(tile, size)] * 3)


def _repeated(tile: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return `tile` laid side by side until `size` is full, doubling what is laid each time."""
    laid = Image.new(tile.mode, size)
    laid.paste(tile, (0, 0))
    width, height = tile.size
    while width < size[0]:
        laid.paste(laid.crop((0, 0, width, height)), (width, 0))
        width *= 2
    while height < size[1]:
        laid.paste(laid.crop((0, 0, size[0], height)), (0, height))
        height *= 2
    return laid


def _hills(picture: Image.Image, night: _Night, chance: Random, layers: int) -> None:
    """Put hills into the foreground, the nearer the darker, mist between them and firs on the nearest."""
    width, height = picture.size
    for layer in range(layers):
        near = layer / max(1, layers - 1)
        wave, crags = _wave(chance, 5), _wave(chance, 24)
        base, swing = height * (0.66 + 0.25 * near), height * (0.10 - 0.06 * near)
        step = max(1, width // 256)
        ridge = [
            (float(x), base - swing * (_at(wave, x / width) + 0.16 * (1.3 - near) * _at(crags, x / width * 3)))
            for x in range(0, width + step, step)
        ]
        red, green, blue = (
            round(part * (0.62 * (1 - near) + 0.05) + dark * near)
            for part, dark in zip(night.horizon, (4, 7, 14), strict=True)
        )
        firs = _wood(ridge, height, chance) if layer == layers - 1 else []
        _fill_below(picture, ridge, firs, colour=(red, green, blue), mist=0.6 * (1 - near))


_FIR: Final = ((0.06, 0.0), (0.06, 0.1), (0.5, 0.08), (0.2, 0.36), (0.38, 0.34), (0.13, 0.62), (0.26, 0.6), (0.0, 1.0))
"""The right half of a fir from foot to tip: (half width, height), both in parts of its height."""


def _wood(ridge: Ridge, height: int, chance: Random) -> list[Ridge]:
    """Return the outlines of firs that stand on the ridge, in loose groups."""
    wood, groups = [], _wave(chance, 6)
    for x, y in ridge[::2]:
        if chance.random() < 0.35 + 0.6 * _at(groups, x / ridge[-1][0]):
            tall = height * chance.triangular(0.02, 0.09, 0.035)
            slim = tall * chance.uniform(0.42, 0.6)
            foot = y + tall * 0.12
            right = [(x + slim * aside, foot - tall * up) for aside, up in _FIR]
            left = [(x - slim * aside, foot - tall * up) for aside, up in reversed(_FIR)]
            wood.append([*right, *left])
    return wood


def _fill_below(picture: Image.Image, ridge: Ridge, firs: list[Ridge], colour: Colour, mist: float) -> None:
    """Fill the firs and what lies below the ridge, with smooth edges, paler towards the foot the more mist there is."""
    width, height = picture.size
    top = max(0, int(min(y for outline in (ridge, *firs) for _, y in outline)) - 2)
    if top >= height:
        return
    mask = Image.new("L", (width * 2, (height - top) * 2), 0)
    draw, bottom = ImageDraw.Draw(mask), (height - top) * 2.0
    for outline in (*firs, [(0.0, float(height)), *ridge, (float(width), float(height))]):
        draw.polygon([(x * 2, min(bottom, (y - top) * 2)) for x, y in outline], fill=255)
    foot = tuple(round(part + (170 - part) * mist * 0.5) for part in colour)
    shade = Image.new("RGB", (1, 2), colour)
    shade.putpixel((0, 1), foot)
    shade = shade.resize((1, height - top), Image.Resampling.BILINEAR).resize((width, height - top))
    picture.paste(shade, (0, top), mask.reduce(2))


# --- Mosaic -----------------------------------------------------------------------------------------------------------

_GLAZES: Final[tuple[tuple[Colour, ...], ...]] = (
    ((16, 62, 92), (28, 116, 138), (96, 186, 178), (240, 226, 188), (226, 130, 74)),
    ((58, 24, 72), (138, 44, 102), (226, 92, 98), (250, 178, 110), (250, 232, 190)),
    ((22, 54, 46), (56, 110, 72), (150, 178, 92), (236, 216, 134), (190, 92, 58)),
    ((24, 28, 76), (58, 78, 164), (124, 152, 222), (222, 214, 240), (240, 158, 176)),
)


def _mosaic(brief: Brief) -> Image.Image:
    """Return tiles whose colours run through a glaze in slow waves."""
    chance = brief.chance()
    glaze = chance.choice(_GLAZES)
    side = max(6, min(brief.size) // (8 + 4 * brief.detail))
    columns, rows = -(-brief.width // side), -(-brief.height // side)
    across, down = _wave(chance, 2), _wave(chance, 2)
    waves_x = [_at(across, x / columns) for x in range(columns)]
    waves_y = [_at(down, y / rows) for y in range(rows)]
    steps = _glaze_steps(glaze)
    colours = b"".join(
        steps[min(63, max(0, int(32 + 20 * (wave_x + wave_y) + chance.gauss(0, 5))))]
        for wave_y in waves_y
        for wave_x in waves_x
    )
    tiles = Image.frombytes("RGB", (columns, rows), colours)
    laid = tiles.resize((columns * side, rows * side), Image.Resampling.NEAREST).crop((0, 0, *brief.size))
    return ImageChops.multiply(laid, Image.merge("RGB", [_repeated(_tile(side), brief.size)] * 3))


def _glaze_steps(glaze: tuple[Colour, ...]) -> list[bytes]:
    """Return 64 colours from the glaze's first to its last."""
    ramp = Image.frombytes("RGB", (len(glaze), 1), bytes(part for colour in glaze for part in colour))
    run = ramp.resize((64, 1), Image.Resampling.BILINEAR).tobytes()
    return [run[place : place + 3] for place in range(0, len(run), 3)]


def _tile(side: int) -> Image.Image:
    """Return the light on one tile: grout around it, bright above left, dark below right."""
    gap, rim = max(1, side // 20), max(1, side // 10)
    tile = Image.new("L", (side, side), 46)
    draw = ImageDraw.Draw(tile)
    far = side - 1
    draw.rectangle((gap, gap, far, far), fill=176)
    draw.polygon([(gap, gap), (far, gap), (gap, far)], fill=255)
    draw.rectangle((gap + rim, gap + rim, far - rim, far - rim), fill=232)
    return tile
