"""WebP: chunks of name, length and content in a RIFF of a given length."""

import struct
from collections.abc import Iterator
from typing import Final

from pixorly.errors import InvalidImage
from pixorly.formats.parts import CUT_OFF, NO_PIXELS, Container, Part, bounded

_BYTES_PER_PIXEL: Final = 16
"""Measured: two canvases in libwebp, one copy, one picture."""


def recognises(data: bytes) -> bool:
    """Tell whether it begins like a WebP."""
    return data.startswith(b"RIFF") and data[8:12] == b"WEBP"


def chunks(data: bytes) -> Iterator[Part]:
    """Yield the chunks.

    Raises:
        InvalidImage: One is cut off.
    """
    (length,) = struct.unpack_from("<I", data, 4)
    at, end = 12, 8 + length
    if end > len(data):
        raise InvalidImage(CUT_OFF)
    while at < end:
        kind, length = struct.unpack_from("<4sI", data, at)
        stop = at + 8 + length
        if stop > end:
            raise InvalidImage(CUT_OFF)
        part = Part(kind, at, at + 8, stop, stop + length % 2)
        yield part
        at = part.end


def read(data: bytes) -> Container:
    """Return what the file says of itself."""
    first, end, kinds = None, 0, set()
    for chunk in bounded(chunks(data)):
        first, end = first or chunk, chunk.end
        kinds.add(chunk.kind)
    if first is None or not kinds & {b"VP8 ", b"VP8L", b"ANMF"}:
        raise InvalidImage(NO_PIXELS)
    width, height = size(data, first)
    return Container("WEBP", width, height, b"ANMF" in kinds, width * height * _BYTES_PER_PIXEL, end)


def size(data: bytes, first: Part) -> tuple[int, int]:
    """Return width and height, which the first chunk says in one of three ways."""
    if first.kind == b"VP8X":
        width, height = (int.from_bytes(data[first.body + at : first.body + at + 3], "little") for at in (4, 7))
        return width + 1, height + 1
    if first.kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, first.body + 1)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, first.body + 6)
    return width & 0x3FFF, height & 0x3FFF
