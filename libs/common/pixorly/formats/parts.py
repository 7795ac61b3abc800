"""What the formats have in common: a container, its parts, and the words for a broken one."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from pixorly.errors import InvalidImage

Format = Literal["PNG", "JPEG", "WEBP", "GIF", "AVIF"]
"""Pillow's names."""

CUT_OFF: Final = "The image is cut off."
NO_PIXELS: Final = "The image is damaged: it has no pixels."
TOO_MANY_PARTS: Final = "The image has too many parts."
MAX_PARTS: Final = 100_000
"""Far more than an honest file has, so that a file of empty parts does not keep us busy."""


@dataclass(frozen=True, slots=True)
class Container:
    """What an image file says of itself.

    Attributes:
        format: Which one it is.
        width: In pixels, as stored; a turn that EXIF asks for is not applied.
        height: In pixels, as stored.
        animated: Whether there is more than one frame; only the first is ever decoded.
        memory_bytes: About how much memory a decode takes at its peak.
        end: Where the file ends by its own account.
    """

    format: Format
    width: int
    height: int
    animated: bool
    memory_bytes: int
    end: int

    @property
    def pixels(self) -> int:
        """How many pixels there are."""
        return self.width * self.height


@dataclass(frozen=True, slots=True)
class Part:
    """A chunk, a segment or a box of a file.

    Attributes:
        kind: Its name; for JPEG its marker.
        start: Where it begins, name and length included.
        body: Where its content begins.
        stop: Where its content ends.
        end: Where the next part begins.
    """

    kind: bytes
    start: int
    body: int
    stop: int
    end: int


def bounded(parts: Iterator[Part]) -> Iterator[Part]:
    """Yield `parts`, but not for ever.

    Raises:
        InvalidImage: There are too many.
    """
    for number, part in enumerate(parts):
        if number > MAX_PARTS:
            raise InvalidImage(TOO_MANY_PARTS)
        yield part
