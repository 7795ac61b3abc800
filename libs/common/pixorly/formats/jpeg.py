"""JPEG: segments from the start of image to its end; compressed data follows each start of scan."""

import re
import struct
from collections.abc import Iterator
from typing import Final

from pixorly.errors import InvalidImage
from pixorly.formats.parts import CUT_OFF, NO_PIXELS, TOO_MANY_PARTS, Container, Part, bounded

APP0: Final = b"\xe0"
APP1: Final = b"\xe1"
APP2: Final = b"\xe2"
APP11: Final = b"\xeb"
_START_OF_SCAN: Final = b"\xda"
_END_OF_IMAGE: Final = b"\xd9"
_FRAMES: Final = frozenset(bytes([marker]) for marker in range(0xC0, 0xD0) if marker not in {0xC4, 0xC8, 0xCC})
_PROGRESSIVE: Final = frozenset({b"\xc2", b"\xca"})
_WITHOUT_CONTENT: Final = frozenset(bytes([marker]) for marker in (0x01, *range(0xD0, 0xD8)))
_BEGIN: Final = 0xFF
_MARKER: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""What ends a scan: neither a stuffed byte nor a restart."""
_ZEROS: Final = re.compile(rb"\0*")
_MAX_SCANS: Final = 100
"""Each scan of a progressive JPEG costs a pass over all its pixels; encoders write about ten."""
_MAX_PICTURES: Final = 16


def recognises(data: bytes) -> bool:
    """Tell whether it begins like a JPEG."""
    return data.startswith(b"\xff\xd8\xff")


def segments(data: bytes, at: int = 2) -> Iterator[Part]:
    """Yield the segments up to the end of image; a scan's compressed data lies between `stop` and `end`.

    Raises:
        InvalidImage: There is something else where a segment must begin, or no end.
        struct.error, IndexError: A segment is cut off.
    """
    while True:
        start = at
        if data[at] != _BEGIN:
            raise InvalidImage("The image is damaged: it has bytes between its JPEG segments.")
        while data[at] == _BEGIN:
            at += 1
        kind, body = data[at : at + 1], at + 1
        if kind == _END_OF_IMAGE:
            yield Part(kind, start, body, body, body)
            return
        if kind in _WITHOUT_CONTENT:
            at = body
            yield Part(kind, start, body, body, at)
            continue
        (length,) = struct.unpack_from(">H", data, body)
        stop = at = body + length
        if kind == _START_OF_SCAN:
            following = _MARKER.search(data, stop)
            if following is None:
                raise InvalidImage(CUT_OFF)
            at = following.start()
        yield Part(kind, start, body + 2, stop, at)


def read(data: bytes) -> Container:
    """Return what the file says of itself."""
    frame, scans, end, has_index = None, 0, 0, False
    for part in bounded(segments(data)):
        end = part.end
        if part.kind in _FRAMES and frame is None:
            frame = part
        elif part.kind == APP2 and data.startswith(b"MPF\0", part.body):
            has_index = True
        elif part.kind == _START_OF_SCAN:
            scans += 1
            if scans > _MAX_SCANS:
                raise InvalidImage(f"The image has more than {_MAX_SCANS} scans.")
    if frame is None or not scans:
        raise InvalidImage(NO_PIXELS)
    height, width = struct.unpack_from(">HH", data, frame.body + 1)
    memory_bytes = _memory_bytes(data, frame, several_scans=scans > 1)
    if has_index:
        end = _end_of_pictures(data, end)
    return Container("JPEG", width, height, animated=False, memory_bytes=memory_bytes, end=end)


def _memory_bytes(data: bytes, frame: Part, *, several_scans: bool) -> int:
    """Return what a decode takes: it scales while it decodes, but several scans keep every coefficient."""
    height, width, components = struct.unpack_from(">HHB", data, frame.body + 1)
    factors = [divmod(data[frame.body + 7 + 3 * number], 16) for number in range(components)]
    largest = max((across for across, _ in factors), default=1) * max((down for _, down in factors), default=1)
    samples = sum(width * height * across * down // (largest or 1) for across, down in factors)
    return int(width * height + (2 * samples if several_scans or frame.kind in _PROGRESSIVE else 0))


def _end_of_pictures(data: bytes, end: int) -> int:
    """Return where the last of the pictures ends that a multi-picture file announces, such as a gain map."""
    for _ in range(_MAX_PICTURES):
        zeros = _ZEROS.match(data, end)
        begin = zeros.end() if zeros else end
        if not data.startswith(b"\xff\xd8", begin):
            return end
        for part in bounded(segments(data, begin + 2)):
            end = part.end
    raise InvalidImage(TOO_MANY_PARTS)
