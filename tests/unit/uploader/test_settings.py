"""The uploader's settings."""

import pytest
from pydantic import ValidationError

from pixorly_uploader.settings import UploaderSettings


def test_thumbnail_sizes_come_as_a_list_and_in_order() -> None:
    assert UploaderSettings(thumbnail_px="512, 128,512").recipe.thumbnail_px == (128, 512)


@pytest.mark.parametrize("sizes", ["0", "-5", "15", "4097", "a", ",", "64," * 9])
def test_sizes_that_are_no_thumbnails_are_refused(sizes: str) -> None:
    with pytest.raises(ValidationError):
        UploaderSettings(thumbnail_px=sizes)


def test_there_is_a_thread_for_each_core_unless_told_otherwise() -> None:
    assert UploaderSettings().threads >= 1
    assert UploaderSettings(image_threads=3).threads == 3


def test_the_defaults_take_every_image_that_the_catalogue_can_ask_for() -> None:
    limits = UploaderSettings().limits

    assert limits.max_pixels >= 4096 * 4096
    assert limits.max_memory_bytes >= 4096 * 4096 * 16
    assert limits.max_bytes >= 4096 * 4096 * 3
