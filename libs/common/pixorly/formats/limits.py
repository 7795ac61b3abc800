"""What an image may cost us, asked before anything is decoded."""

from dataclasses import dataclass

from pixorly.errors import InvalidImage


@dataclass(frozen=True, slots=True)
class Limits:
    """What an image may cost us.

    Attributes:
        max_bytes: How large the file may be.
        max_pixels: How many pixels it may have.
        max_memory_bytes: How much memory its decode may take.
    """

    max_bytes: int = 64 << 20
    max_pixels: int = 64 << 20
    max_memory_bytes: int = 320 << 20

    def check_size(self, width: int, height: int) -> None:
        """Let a size pass that may be decoded.

        Raises:
            InvalidImage: There are no pixels, or too many.
        """
        if not width or not height:
            raise InvalidImage("The image has no width or no height.")
        if width * height > self.max_pixels:
            raise InvalidImage(f"The image has {width} x {height} pixels; {self.max_pixels} are allowed in all.")
