"""The uploader's settings."""

import os
from typing import Annotated, Final

from pydantic import AfterValidator, AliasChoices, Field

from pixorly.formats.limits import Limits
from pixorly.settings import AmqpSettings, Delays, LedgerClientSettings, ProcessSettings, StorageSettings
from pixorly_uploader.images import Recipe

_SMALLEST_PX: Final = 16
_LARGEST_PX: Final = 4096


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _sizes(values: tuple[int, ...]) -> tuple[int, ...]:
    if not all(_SMALLEST_PX <= value <= _LARGEST_PX for value in values):
        raise ValueError(f"a thumbnail has from {_SMALLEST_PX} to {_LARGEST_PX} pixels on its long side")
    return tuple(sorted(set(values)))


Sizes = Annotated[Delays, Field(min_length=1, max_length=8), AfterValidator(_sizes)]


class UploaderSettings(ProcessSettings, AmqpSettings, StorageSettings, LedgerClientSettings):
    """What the uploader takes."""

    http_port: int = 8082
    thumbnail_px: Sizes = (256, 768)
    """The long sides of the thumbnails, with commas between them."""
    thumbnail_quality: int = Field(default=80, ge=1, le=100)
    thumbnail_effort: int = Field(default=2, ge=0, le=6)
    """How long WebP's encoder tries: 0 is the fastest, at 2 files are a third smaller, beyond that little is won."""
    image_max_bytes: int = Field(default=64 << 20, ge=1)
    image_max_pixels: int = Field(default=64 << 20, ge=1)
    image_memory_bytes: int = Field(default=320 << 20, ge=1)
    """What all decodes under way may take together, and so the most that one may."""
    staged_memory_bytes: int = Field(default=96 << 20, ge=1)
    """How many bytes of staged images may be in memory at once."""
    image_threads: int = Field(default=0, ge=0, le=64)
    """How many images are decoded at once; 0 is one for each core."""
    cloudfront_distribution_id: str | None = Field(
        default=None, validation_alias=AliasChoices("cloudfront_distribution_id", "AWS_CLOUDFRONT_DISTRIBUTION_ID")
    )
    """The CDN that is told to forget what is deleted or taken back; none is where this is not set."""
    cloudfront_endpoint_url: str | None = None
    """For tests: another address of CloudFront's API."""
    label_originals: bool = False
    """Whether the mark that a model made it is put into originals too; thumbnails always carry it."""

    @property
    def threads(self) -> int:
        """How many images are decoded at once."""
        return self.image_threads or _cores()

    @property
    def limits(self) -> Limits:
        """What one image may cost."""
        return Limits(self.image_max_bytes, self.image_max_pixels, self.image_memory_bytes)

    @property
    def recipe(self) -> Recipe:
        """What to make of each image."""
        return Recipe(
            self.thumbnail_px,
            self.thumbnail_quality,
            self.thumbnail_effort,
            label_original=self.label_originals,
        )
