"""The mark that a model made it, in originals and thumbnails."""

import io
import re
import zlib
from xml.etree import ElementTree as ET

import pytest
from pictures import chunk, encoded, exif_turned, picture, png, with_jpeg_segment
from PIL import Image, ImageChops, PngImagePlugin

from pixorly.formats.limits import Limits
from pixorly_uploader.images import Picture, Recipe, examine
from pixorly_uploader.provenance import SOURCE_TYPE, packet

LABELLED = Recipe(model='a "model" <&> \N{BLACK STAR}\x00', label_original=True)
EXT = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
OTHER = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:format="kept"/></rdf:RDF></x:xmpmeta>'
)


def labelled(data: bytes) -> Picture:
    return examine(data, Limits(), LABELLED)


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def packet_in(data: bytes) -> bytes:
    found = opened(data).info
    packet: str | bytes = found.get("xmp") or found["XML:com.adobe.xmp"]
    return packet.encode() if isinstance(packet, str) else packet


def descriptions(data: bytes) -> list[dict[str, str]]:
    found = ET.fromstring(re.sub(rb"<\?xpacket.*?\?>", b"", data))  # noqa: S314 - our own test data
    return [element.attrib for element in found.iter() if element.tag.endswith("}Description")]


def test_the_packet_is_xml_whatever_the_model_is_called() -> None:
    (found,) = descriptions(packet(LABELLED.model))

    assert found[f"{EXT}DigitalSourceType"] == SOURCE_TYPE
    assert found[f"{EXT}AISystemUsed"] == 'a "model" <&> \N{BLACK STAR}'


def test_a_packet_without_a_model_names_none() -> None:
    (found,) = descriptions(packet(None))

    assert f"{EXT}AISystemUsed" not in found


EXIF = Image.Exif()
EXIF[0x0131] = "somebody's software"
TEXT = PngImagePlugin.PngInfo()
TEXT.add_itxt("XML:com.adobe.xmp", OTHER)
COMPRESSED = PngImagePlugin.PngInfo()
COMPRESSED.add_itxt("XML:com.adobe.xmp", OTHER, zip=True)

PLAIN = {
    "png": encoded(picture(), "PNG"),
    "jpeg": encoded(picture(), "JPEG"),
    "jpeg with exif": exif_turned(6),
    "jpeg, progressive": encoded(picture(), "JPEG", progressive=True),
    "webp": encoded(picture(), "WEBP"),
    "webp without loss": encoded(picture(), "WEBP", lossless=True),
    "webp with alpha": encoded(picture(mode="RGBA"), "WEBP"),
    "webp without loss, with alpha": encoded(picture(mode="RGBA"), "WEBP", lossless=True),
    "webp with exif": encoded(picture(), "WEBP", exif=EXIF),
    "moving webp": encoded(picture(), "WEBP", save_all=True, append_images=[Image.new("RGB", (96, 64))]),
}
WITH_XMP = {
    "png": encoded(picture(), "PNG", pnginfo=TEXT),
    "compressed png": encoded(picture(), "PNG", pnginfo=COMPRESSED),
    "jpeg": encoded(picture(), "JPEG", xmp=OTHER.encode()),
    "webp": encoded(picture(), "WEBP", xmp=OTHER.encode()),
}
WITH_MANIFEST = {
    "png": png(8, 8, extra=chunk(b"caBX", b"jumb c2pa")),
    "jpeg": with_jpeg_segment(encoded(picture(), "JPEG"), 0xEB, b"JP\0\1\0\0\0\1\0\0\0\x20jumb....c2pa"),
    "webp": encoded(picture(), "WEBP"),
}
RIFF = WITH_MANIFEST["webp"]
WITH_MANIFEST["webp"] = RIFF[:4] + (len(RIFF) + 4).to_bytes(4, "little") + RIFF[8:] + b"C2PA\4\0\0\0jumb"


@pytest.mark.parametrize("name", PLAIN)
def test_an_original_is_stored_as_it_came_unless_the_setting_asks(name: str) -> None:
    assert examine(PLAIN[name], Limits(), Recipe(model="m")).original is PLAIN[name]


@pytest.mark.parametrize("name", PLAIN)
def test_a_marked_original_says_so_and_shows_the_same_pixels(name: str) -> None:
    before, found = opened(PLAIN[name]), labelled(PLAIN[name])

    after = opened(found.original)
    assert descriptions(packet_in(found.original))[-1][f"{EXT}DigitalSourceType"] == SOURCE_TYPE
    assert (after.mode, after.size, after.format) == (before.mode, before.size, before.format)
    assert ImageChops.difference(before, after).getbbox(alpha_only=False) is None
    assert after.getexif() == before.getexif()
    assert getattr(after, "n_frames", 1) == getattr(before, "n_frames", 1)
    assert found.facts.sha256 != examine(PLAIN[name], Limits(), Recipe()).facts.sha256


@pytest.mark.parametrize("name", PLAIN)
def test_a_marked_original_is_a_good_image_and_is_not_marked_twice(name: str) -> None:
    once = labelled(PLAIN[name]).original

    assert labelled(once).original == once


@pytest.mark.parametrize("name", WITH_XMP)
def test_what_a_packet_says_already_is_kept(name: str) -> None:
    found = descriptions(packet_in(labelled(WITH_XMP[name]).original))

    assert found[0]["{http://purl.org/dc/elements/1.1/}format"] == "kept"
    assert found[1][f"{EXT}DigitalSourceType"] == SOURCE_TYPE


@pytest.mark.parametrize("name", WITH_MANIFEST)
def test_a_signed_manifest_is_never_broken(name: str) -> None:
    assert labelled(WITH_MANIFEST[name]).original == WITH_MANIFEST[name]


@pytest.mark.parametrize("kind", ["GIF", "AVIF"])
def test_formats_without_a_simple_place_are_left_alone(kind: str) -> None:
    data = encoded(picture(), kind)

    assert labelled(data).original == data


def test_a_packet_too_long_for_a_jpeg_segment_gives_way() -> None:
    data = encoded(picture(), "JPEG")
    long = OTHER.replace("kept", "k" * (65_533 - 29 - len(OTHER) + 4)).encode()
    data = with_jpeg_segment(data, 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + long)

    assert descriptions(packet_in(labelled(data).original))[-1][f"{EXT}DigitalSourceType"] == SOURCE_TYPE


@pytest.mark.parametrize("text", [b"no zlib", zlib.compress(b"hello")])
def test_a_packet_that_is_no_xml_gives_way(text: bytes) -> None:
    data = png(8, 8, extra=chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + text))

    (found,) = descriptions(packet_in(labelled(data).original))
    assert found[f"{EXT}DigitalSourceType"] == SOURCE_TYPE
