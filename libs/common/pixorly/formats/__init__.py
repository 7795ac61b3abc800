"""What an image file says of itself before anything is decoded: its format, its size, and where it ends.

The format comes from the bytes, never from a name or a header of HTTP. A file must be whole, from its first byte to the
end that its own format gives it, and nothing may follow: a second file behind the image is how one file pretends to be
two. What stands inside the container (text, C2PA, vendors' chunks) is part of the image and is left alone.
"""

import struct
from typing import Final, Protocol

from pixorly.errors import InvalidImage
from pixorly.formats import avif, gif, jpeg, png, webp
from pixorly.formats.limits import Limits
from pixorly.formats.parts import CUT_OFF, Container, Format

CONTENT_TYPES: Final[dict[Format, tuple[str, str]]] = {
    "PNG": ("image/png", "png"),
    "JPEG": ("image/jpeg", "jpg"),
    "WEBP": ("image/webp", "webp"),
    "GIF": ("image/gif", "gif"),
    "AVIF": ("image/avif", "avif"),
}
"""From the format to the content type and the extension."""


class _Reader(Protocol):
    def recognises(self, data: bytes) -> bool: ...

    def read(self, data: bytes) -> Container: ...


_READERS: Final[tuple[_Reader, ...]] = (png, jpeg, webp, gif, avif)
_PADDING: Final = b"\0\r\n\t "


def read_container(data: bytes) -> Container:
    """Return what the file says of itself.

    Raises:
        InvalidImage: It is no image of a format that we take, it is cut off, or something follows it.
    """
    reader = next((reader for reader in _READERS if reader.recognises(data)), None)
    if reader is None:
        raise InvalidImage(_what_else(data))
    try:
        container = reader.read(data)
    except (struct.error, IndexError) as error:
        raise InvalidImage(CUT_OFF) from error
    if data[container.end :].strip(_PADDING):
        raise InvalidImage(f"Something follows the image: {len(data) - container.end} bytes.")
    return container


def inspect(data: bytes, limits: Limits) -> Container:
    """Return what the file says of itself, if it is one that may be decoded.

    Raises:
        InvalidImage: It is no image of ours, not whole, or too large.
    """
    if len(data) > limits.max_bytes:
        raise InvalidImage(f"The image has {len(data)} bytes; {limits.max_bytes} are allowed.")
    container = read_container(data)
    limits.check_size(container.width, container.height)
    if container.memory_bytes > limits.max_memory_bytes:
        size = f"{container.width} x {container.height}"
        raise InvalidImage(f"The image is too large to be decoded: {size} pixels as {container.format}.")
    return container


def _what_else(data: bytes) -> str:
    start = data[:4096].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not data:
        return "There are no bytes."
    if start.startswith(b"<") and b"<svg" in start:
        return "SVG is not accepted, since it can carry scripts."
    if start.startswith((b"<", b"{", b"[")):
        return "The bytes are text, not an image."
    return "The bytes are not a PNG, JPEG, WebP, GIF or AVIF image."
