"""GIF: blocks up to the trailer; a block's content comes in pieces of up to 255 bytes."""

import struct
from typing import Final

from pixorly.errors import InvalidImage
from pixorly.formats.parts import CUT_OFF, MAX_PARTS, NO_PIXELS, TOO_MANY_PARTS, Container

_MAX_PIECES: Final = 500_000
"""Of one block; a full piece has 255 bytes."""


def recognises(data: bytes) -> bool:
    """Tell whether it begins like a GIF."""
    return data.startswith((b"GIF87a", b"GIF89a"))


def read(data: bytes) -> Container:
    """Return what the file says of itself; a frame that reaches past the picture widens it, as in Pillow."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at, frames = 13 + _table_bytes(flags), 0
    for _ in range(MAX_PARTS):
        match data[at : at + 1]:
            case b";" if frames:
                return Container("GIF", width, height, frames > 1, width * height, at + 1)
            case b";":
                raise InvalidImage(NO_PIXELS)
            case b"!":
                at = _after_pieces(data, at + 2)
            case b",":
                left, top, frame_width, frame_height, flags = struct.unpack_from("<HHHHB", data, at + 1)
                width, height = max(width, left + frame_width), max(height, top + frame_height)
                at = _after_pieces(data, at + 11 + _table_bytes(flags))
                frames += 1
            case b"":
                raise InvalidImage(CUT_OFF)
            case _:
                raise InvalidImage("The image is damaged: it has an unknown GIF block.")
    raise InvalidImage(TOO_MANY_PARTS)


def _table_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_pieces(data: bytes, at: int) -> int:
    for _ in range(_MAX_PIECES):
        if not data[at]:
            return at + 1
        at += 1 + data[at]
    raise InvalidImage(TOO_MANY_PARTS)
