"""AVIF: boxes of length, name and content."""

import re
import struct
from collections.abc import Iterator
from typing import Final

from pixorly.errors import InvalidImage
from pixorly.formats.parts import CUT_OFF, Container, Part, bounded

_BYTES_PER_PIXEL: Final = 12
"""Measured: libavif's planes, their RGB, one copy, one picture."""
_DEEP_BYTES_PER_PIXEL: Final = 16
_BRANDS: Final = frozenset({b"avif", b"avis"})
_NAME: Final = re.compile(rb"[\x20-\x7e]{4}")


def recognises(data: bytes) -> bool:
    """Tell whether it begins like an AVIF."""
    if data[4:8] != b"ftyp":
        return False
    brands = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
    return any(brands[at : at + 4] in _BRANDS for at in range(0, len(brands), 4))


def boxes(data: bytes) -> Iterator[Part]:
    """Yield the outermost boxes, which fill the file.

    Raises:
        InvalidImage: One is cut off, or something that is no box follows.
        struct.error: One is cut off.
    """
    at = 0
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        body = at + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, body)
            body += 8
        end = at + length if length else len(data)
        if not _NAME.fullmatch(kind) or end < body:
            raise InvalidImage("The image is damaged, or something follows it.")
        if end > len(data):
            raise InvalidImage(CUT_OFF)
        yield Part(kind, at, body, end, end)
        at = end


def read(data: bytes) -> Container:
    """Return what the file says of itself."""
    described = b"".join(data[box.body : box.stop] for box in bounded(boxes(data)) if box.kind in {b"meta", b"moov"})
    sizes = [struct.unpack_from(">II", described, found.end() + 4) for found in re.finditer(b"ispe", described)]
    if not sizes:
        raise InvalidImage("The image is damaged: it has no size.")
    # Thumbnails, tiles and alpha planes have a size too; the picture's is the largest.
    width, height = max(sizes, key=lambda size: int(size[0] * size[1]))
    deep = any(described[found.end() + 2] & 0x40 for found in re.finditer(b"av1C", described))
    per_pixel = _DEEP_BYTES_PER_PIXEL if deep else _BYTES_PER_PIXEL
    return Container("AVIF", width, height, data[8:12] == b"avis", width * height * per_pixel, len(data))
