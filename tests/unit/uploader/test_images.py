"""What becomes of good, broken and hostile images."""

import base64
import io
import random
import struct
import threading
import time
import zlib
from contextlib import suppress

import pytest
import thumbhash
from pictures import (
    PNG_MAGIC,
    bad,
    chunk,
    encoded,
    exif_turned,
    good,
    picture,
    png,
    swapped_profile,
    with_jpeg_segment,
)
from PIL import Image

from pixorly.errors import InvalidImage
from pixorly.formats import inspect
from pixorly.formats.limits import Limits
from pixorly_uploader.images import Picture, Recipe, develop, examine, set_up
from pixorly_uploader.provenance import SOURCE_TYPE

LIMITS = Limits()
RECIPE = Recipe(model="sandbox/aurora")
GOOD, BAD = good(), bad()


@pytest.fixture(autouse=True)
def _pillow_is_set_up() -> None:
    set_up(LIMITS)


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("name", GOOD)
def test_a_good_image_is_described_by_its_bytes(name: str) -> None:
    data, content_type, size, animated = GOOD[name]

    found = examine(data, LIMITS, RECIPE)

    assert (found.facts.content_type, (found.facts.width, found.facts.height)) == (content_type, size)
    assert found.facts.animated == animated
    assert found.original is data


@pytest.mark.parametrize("name", GOOD)
def test_thumbnails_are_plain_marked_webp_of_the_same_shape(name: str) -> None:
    data, _, size, _ = GOOD[name]

    found = examine(data, LIMITS, RECIPE)

    assert set(found.thumbnails) == {256, 768}
    for thumbnail in found.thumbnails.values():
        image = opened(thumbnail)
        assert (image.format, image.size) == ("WEBP", size)
        assert set(image.info) <= {"loop", "background", "timestamp", "duration", "xmp"}
        assert SOURCE_TYPE.encode() in image.info["xmp"]
        assert b'AISystemUsed="sandbox/aurora"' in image.info["xmp"]
        assert not getattr(image, "is_animated", False)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_refused_in_clear_words(name: str) -> None:
    data, words = BAD[name]

    with pytest.raises(InvalidImage, match=words) as refusal:
        examine(data, LIMITS, RECIPE)

    assert refusal.value.code == "invalid_image"


@pytest.mark.parametrize("name", ["png", "jpeg", "jpeg, progressive", "webp", "gif", "avif", "moving png"])
def test_no_beginning_of_a_file_passes_for_the_whole(name: str) -> None:
    data = GOOD[name][0]
    cuts = {*range(200), *range(200, len(data), 37), *range(len(data) - 20, len(data))} & set(range(len(data)))

    for cut in sorted(cuts):
        with pytest.raises(InvalidImage):
            examine(data[:cut], LIMITS, RECIPE)


@pytest.mark.parametrize("name", [*GOOD])
def test_changed_bytes_are_refused_or_decoded_but_never_crash(name: str) -> None:
    chance, data = random.Random(name), GOOD[name][0]

    for _ in range(25):
        changed = bytearray(data)
        for _ in range(chance.choice((1, 1, 2, 8))):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        try:
            found = examine(bytes(changed), LIMITS, RECIPE)
        except InvalidImage:
            continue
        assert found.facts.width * found.facts.height <= LIMITS.max_pixels


def test_a_png_whose_chunks_lie_but_whose_checksums_hold_never_crashes() -> None:
    chance, bomb = random.Random(1), zlib.compress(bytes(3_000_000))
    for _ in range(100):
        kind = chance.choice([b"iCCP", b"zTXt", b"iTXt", b"tEXt", b"eXIf", b"acTL", b"fcTL", b"tRNS", b"PLTE", b"gAMA"])
        content = chance.choice([b"", chance.randbytes(30), b"a\0\0" + bomb])
        try:
            examine(png(8, 8, extra=chunk(kind, content)), LIMITS, RECIPE)
        except InvalidImage:
            continue


def test_a_thumbnail_is_as_long_as_asked_and_never_larger_than_the_image() -> None:
    found = examine(encoded(picture(900, 300), "PNG"), LIMITS, Recipe(thumbnail_px=(64, 256, 2000)))

    assert {px: opened(data).size for px, data in found.thumbnails.items()} == {
        64: (64, 21),
        256: (256, 85),
        2000: (900, 300),
    }


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1), (3, 9000)])
def test_a_very_thin_image_keeps_one_pixel(size: tuple[int, int]) -> None:
    found = examine(encoded(Image.new("RGB", size, "red"), "PNG"), LIMITS, RECIPE)

    assert min(opened(found.thumbnails[256]).size) == 1
    assert max(opened(found.thumbnails[256]).size) == 256


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF"])
@pytest.mark.parametrize("long_px", [600, 160])
def test_thumbnails_show_the_image(kind: str, long_px: int) -> None:
    data = encoded(picture(800, 600), kind, quality=95)

    found = examine(data, LIMITS, Recipe(thumbnail_px=(long_px, 128)))

    shown = opened(found.thumbnails[128]).convert("RGB")
    assert_corners(shown, "red", "lime", "blue", "white")


def assert_corners(image: Image.Image, *names: str) -> None:
    """The corners have these colours: top left, top right, bottom left, bottom right."""
    colours = {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
    right, bottom = image.width - 4, image.height - 4
    for place, name in zip([(3, 3), (right, 3), (3, bottom), (right, bottom)], names, strict=True):
        found = image.getpixel(place)
        assert isinstance(found, tuple)
        assert all(abs(is_ - should) < 40 for is_, should in zip(found[:3], colours[name], strict=True)), (place, found)


CORNERS_BY_TURN = {
    1: ("red", "lime", "blue", "white"),
    2: ("lime", "red", "white", "blue"),
    3: ("white", "blue", "lime", "red"),
    4: ("blue", "white", "red", "lime"),
    5: ("red", "blue", "lime", "white"),
    6: ("blue", "red", "white", "lime"),
    7: ("white", "lime", "blue", "red"),
    8: ("lime", "white", "red", "blue"),
}


@pytest.mark.parametrize("turn", CORNERS_BY_TURN)
def test_thumbnails_are_turned_as_exif_asks(turn: int) -> None:
    found = examine(exif_turned(turn), LIMITS, RECIPE)

    upright = (96, 64) if turn <= 4 else (64, 96)
    assert (found.facts.width, found.facts.height) == upright
    shown = opened(found.thumbnails[256])
    assert shown.size == upright
    assert_corners(shown, *CORNERS_BY_TURN[turn])


def test_colours_are_brought_into_srgb() -> None:
    found = examine(encoded(picture(), "PNG", icc_profile=swapped_profile()), LIMITS, RECIPE)

    assert_corners(opened(found.thumbnails[256]), "lime", "red", "blue", "white")


def test_alpha_survives_the_profile() -> None:
    image = picture(mode="RGBA")
    image.putalpha(Image.new("L", image.size, 128))

    found = examine(encoded(image, "PNG", icc_profile=swapped_profile()), LIMITS, RECIPE)

    assert opened(found.thumbnails[256]).getchannel("A").getextrema() == (128, 128)


@pytest.mark.parametrize("size", [(96, 64), (1000, 700)])
def test_transparent_pixels_do_not_bleed(size: tuple[int, int]) -> None:
    image = Image.new("RGBA", size, (0, 255, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, size[0] // 2, size[1]))

    shown = opened(examine(encoded(image, "PNG"), LIMITS, Recipe(thumbnail_px=(48,))).thumbnails[48]).convert("RGBA")

    row = shown.crop((0, 10, shown.width, 11)).tobytes()
    visible = [pixel for pixel in struct.iter_unpack("4B", row) if pixel[3] > 128]
    assert visible
    assert all(green < 60 for _, green, _, _ in visible)


def test_sixteen_bits_of_grey_are_scaled_and_not_clipped() -> None:
    grey = Image.new("I;16", (32, 32), 0x8000)

    shown = opened(examine(encoded(grey, "PNG"), LIMITS, RECIPE).thumbnails[256]).convert("L")

    assert set(shown.tobytes()) <= set(range(125, 132))


def test_the_first_frame_of_a_moving_image_is_shown() -> None:
    for name in ("moving gif", "moving webp", "moving png", "moving avif"):
        shown = opened(examine(GOOD[name][0], LIMITS, RECIPE).thumbnails[256]).convert("RGB")
        assert_corners(shown, "red", "lime", "blue", "white")


def test_the_thumbhash_gives_the_shape_and_the_colour_back() -> None:
    found = examine(encoded(Image.new("RGB", (800, 400), (200, 40, 40)), "PNG"), LIMITS, RECIPE)

    width, height, pixels = thumbhash.thumb_hash_to_rgba(base64.b64decode(found.thumbhash))
    assert 1.5 < width / height < 2.5
    assert pixels[0] > 150
    assert pixels[1] < 90


def test_a_repeat_gives_the_same_bytes() -> None:
    data = encoded(picture(1000, 800), "PNG")

    assert examine(data, LIMITS, RECIPE) == examine(data, LIMITS, RECIPE)


def test_the_bounds_hold_to_the_pixel_and_the_byte() -> None:
    data = encoded(picture(100, 50), "PNG")

    inspect(data, Limits(max_bytes=len(data), max_pixels=5000))
    with pytest.raises(InvalidImage, match="100 x 50 pixels; 4999"):
        inspect(data, Limits(max_pixels=4999))
    with pytest.raises(InvalidImage, match=f"{len(data)} bytes; {len(data) - 1}"):
        inspect(data, Limits(max_bytes=len(data) - 1))


def test_a_progressive_jpeg_counts_its_coefficients() -> None:
    plain, progressive = (
        inspect(encoded(picture(640, 640), "JPEG", progressive=progressive, subsampling=0), LIMITS).memory_bytes
        for progressive in (False, True)
    )

    assert progressive == plain + 640 * 640 * 3 * 2


def test_a_decoder_that_finds_another_size_than_the_header_is_bounded_too() -> None:
    data = encoded(picture(100, 50), "PNG")
    container = inspect(data, LIMITS)

    with pytest.raises(InvalidImage, match="100 x 50"):
        develop(data, "", container, Limits(max_pixels=4999), RECIPE)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8\xff" + b"\xff" * 3_000_000,
        encoded(picture(), "JPEG")[:-2] + b"\xff" * 3_000_000 + b"\x00\xff\xd9",
        encoded(picture(mode="P"), "GIF")[:-2] + b"\x01\x00" * 600_000 + b"\0;",
        PNG_MAGIC + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)) + chunk(b"teSt", b"") * 150_000,
        b"RIFF" + struct.pack("<I", 4 + 8 * 150_000) + b"WEBP" + (b"JUNK" + bytes(4)) * 150_000,
        encoded(picture(), "AVIF") + struct.pack(">I4s", 8, b"free") * 150_000,
        encoded(picture(), "JPEG")[:2]
        + b"\xff\xe2\0\x06MPF\0"
        + encoded(picture(), "JPEG")[2:]
        + b"\xff\xd8\xff\xd9" * 100_000,
    ],
    ids=[
        "fill bytes",
        "fill bytes in a scan",
        "tiny pieces",
        "tiny chunks",
        "tiny riff chunks",
        "tiny boxes",
        "pictures",
    ],
)
def test_a_file_of_tiny_parts_keeps_nobody_busy(data: bytes) -> None:
    began = time.process_time()

    with suppress(InvalidImage):
        examine(data, LIMITS, RECIPE)

    assert time.process_time() - began < 3


def test_images_are_examined_in_several_threads_at_once() -> None:
    data = encoded(picture(600, 400), "PNG", icc_profile=swapped_profile())
    expected, found = examine(data, LIMITS, RECIPE), list[Picture]()

    def work() -> None:
        found.extend(examine(data, LIMITS, RECIPE) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == [expected] * 20


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_palette_image_without_a_palette_is_refused(depth: int) -> None:
    with pytest.raises(InvalidImage):
        examine(png(8, 8, bytes(9 * 8), colour=3, depth=depth), LIMITS, RECIPE)


def test_a_jpeg_comment_stays_where_it_is() -> None:
    data = with_jpeg_segment(encoded(picture(), "JPEG"), 0xFE, b"<script>alert(1)</script>")

    assert examine(data, LIMITS, RECIPE).original == data
