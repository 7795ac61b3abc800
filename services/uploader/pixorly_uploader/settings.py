"""The uploader's settings."""

import os
from typing import Annotated

from pydantic import Field

from pixorly.settings import AmqpSettings, Delays, LedgerClientSettings, ProcessSettings, StorageSettings
from pixorly_uploader.images import Limits, Recipe


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


Sizes = Annotated[Delays, Field(min_length=1, max_length=8)]


class UploaderSettings(ProcessSettings, AmqpSettings, StorageSettings, LedgerClientSettings):
    """What the uploader takes."""

    http_port: int = 8082
    thumbnail_px: Sizes = (256, 768)
    """The long sides of the thumbnails, with commas between them."""
    thumbnail_quality: int = Field(default=80, ge=1, le=100)
    image_max_bytes: int = Field(default=64 << 20, ge=1)
    image_max_pixels: int = Field(default=64 << 20, ge=1)
    image_memory_bytes: int = Field(default=320 << 20, ge=1)
    """What all decodes under way may take together, and so the most that one may."""
    staged_memory_bytes: int = Field(default=96 << 20, ge=1)
    """How many bytes of staged images may be in memory at once."""
    image_threads: int = Field(default_factory=_cores, ge=1, le=64)
    label_originals: bool = False
    """Whether the mark that a model made it is put into originals too; thumbnails always carry it."""

    @property
    def limits(self) -> Limits:
        """What one image may cost."""
        return Limits(self.image_max_bytes, self.image_max_pixels, self.image_memory_bytes)

    @property
    def recipe(self) -> Recipe:
        """What to make of each image."""
        return Recipe(self.thumbnail_px, self.thumbnail_quality, label_original=self.label_originals)
