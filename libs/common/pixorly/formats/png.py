"""PNG: chunks of length, name, content and checksum, from IHDR to IEND."""

import struct
import zlib
from collections.abc import Iterator
from typing import Final

from pixorly.errors import InvalidImage
from pixorly.formats.parts import NO_PIXELS, Container, Part, bounded

MAGIC: Final = b"\x89PNG\r\n\x1a\n"
_BYTES_PER_PIXEL: Final = {0: 2, 2: 4, 3: 1, 4: 4, 6: 4}
"""Of a decoded picture, by the colour type."""
_SAMPLES: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PASSES: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Of an interlaced picture: where each pass begins, across and down, and its steps."""


def recognises(data: bytes) -> bool:
    """Tell whether it begins like a PNG."""
    return data.startswith(MAGIC)


def chunks(data: bytes) -> Iterator[Part]:
    """Yield the chunks up to IEND.

    Raises:
        InvalidImage: A checksum is wrong.
        struct.error: A chunk is cut off.
    """
    view, at = memoryview(data), len(MAGIC)
    while True:
        length, kind = struct.unpack_from(">I4s", data, at)
        part = Part(kind, at, at + 8, at + 8 + length, at + 12 + length)
        (checksum,) = struct.unpack_from(">I", data, part.stop)
        if zlib.crc32(view[at + 4 : part.stop]) != checksum:
            raise InvalidImage("The image is damaged: the checksum of a PNG chunk is wrong.")
        yield part
        if kind == b"IEND":
            return
        at = part.end


def read(data: bytes) -> Container:
    """Return what the file says of itself."""
    width, height, _, colour_type = struct.unpack_from(">IIBB", data, len(MAGIC) + 8)
    if data[12:16] != b"IHDR" or colour_type not in _BYTES_PER_PIXEL:
        raise InvalidImage("The image is damaged: it has no valid PNG header.")
    kinds, end = set(), 0
    for chunk in bounded(chunks(data)):
        kinds.add(chunk.kind)
        end = chunk.end
    if b"IDAT" not in kinds:
        raise InvalidImage(NO_PIXELS)
    return Container("PNG", width, height, b"acTL" in kinds, width * height * _BYTES_PER_PIXEL[colour_type], end)


def has_every_row(data: bytes) -> bool:
    """Tell whether the compressed data holds as many bytes as the header asks for.

    Pillow leaves rows that are not there black, and says nothing.
    """
    width, height, depth, colour_type, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, len(MAGIC) + 8)
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    missing = 0
    for left, top, across, down in passes:
        columns, rows = -((left - width) // across), -((top - height) // down)
        if columns > 0 and rows > 0:
            missing += rows * (1 + (columns * depth * _SAMPLES[colour_type] + 7) // 8)
    inflater, view = zlib.decompressobj(), memoryview(data)
    for chunk in chunks(data):
        compressed: bytes | memoryview = view[chunk.body : chunk.stop] if chunk.kind == b"IDAT" else b""
        while compressed and missing > 0 and not inflater.eof:
            missing -= len(inflater.decompress(compressed, 1 << 18))
            compressed = inflater.unconsumed_tail
    return missing <= 0
