"""Staging: an image is encoded again only where another format was asked for, under the uploader's own guards."""

import asyncio
from io import BytesIO
from uuid import uuid4

import pytest
from pictures import bad, encoded, exif_turned, good, picture
from PIL import Image

from pixorly.blobs import MemoryBlobs
from pixorly.errors import InvalidImage
from pixorly_generator.providers import GeneratedImage
from pixorly_generator.staging import in_format, stage

GOOD, BAD = good(), bad()
FORMATS = ["png", "jpeg", "webp"]


def opened(data: bytes) -> Image.Image:
    image = Image.open(BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("wanted", [None, "png"])
def test_the_bytes_stay_as_they_came_where_no_other_format_is_asked_for(wanted: str | None) -> None:
    data = encoded(picture(), "PNG")
    assert in_format(data, wanted) == (data, "image/png")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning")
@pytest.mark.parametrize("wanted", FORMATS)
@pytest.mark.parametrize("kind", sorted(GOOD))
def test_every_good_image_can_be_had_in_every_format(kind: str, wanted: str) -> None:
    data, _, _, _ = GOOD[kind]
    made, content_type = in_format(data, wanted)
    assert content_type == f"image/{wanted}"
    assert opened(made).format in {wanted.upper(), "MPO"}


@pytest.mark.parametrize("wanted", FORMATS)
@pytest.mark.parametrize("kind", sorted(BAD))
async def test_no_hostile_image_is_encoded_again(kind: str, wanted: str) -> None:
    data, _ = BAD[kind]
    blobs = MemoryBlobs()
    try:
        async with asyncio.timeout(20):
            staged = await stage(blobs, uuid4(), 0, uuid4(), GeneratedImage(data), wanted=wanted)
    except InvalidImage:
        assert blobs.objects == {}
    else:
        # The format is the one that was asked for, so nothing was decoded: the uploader looks at it.
        assert blobs.objects == {staged.staged_key: data}


def test_an_image_too_large_to_be_encoded_again_is_refused_before_it_is_decoded() -> None:
    data = encoded(Image.new("1", (4600, 4600)), "PNG")
    with pytest.raises(InvalidImage, match="too large to be encoded as webp: 4600 x 4600"):
        in_format(data, "webp")


def test_what_is_transparent_becomes_white_where_the_format_knows_no_transparency() -> None:
    made, _ = in_format(encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 0)), "PNG"), "jpeg")
    assert opened(made).convert("RGB").getpixel((4, 4)) == (255, 255, 255)


def test_an_image_that_is_to_be_turned_is_turned_since_its_exif_is_lost() -> None:
    data = exif_turned(6)
    made, _ = in_format(data, "png")
    assert opened(made).size == opened(data).size[::-1]
