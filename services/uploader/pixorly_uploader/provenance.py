"""The mark that says, for machines to read, that an image was made by a model.

It is an XMP packet with IPTC's digital source type `trainedAlgorithmicMedia` and the model's name. Thumbnails always
carry it. An original is stored byte for byte as it came, unless the setting asks for the mark; then the packet is put
into the file without touching its pixels. A file with a C2PA manifest is never touched: the manifest says the same, and
is signed over the bytes.
"""

import struct
import zlib
from typing import Final
from xml.sax.saxutils import quoteattr

from pixorly.formats import jpeg, png, webp
from pixorly.formats.parts import Container

SOURCE_TYPE: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"

_PNG_KEYWORD: Final = b"XML:com.adobe.xmp\0"
_JPEG_SIGNATURE: Final = b"http://ns.adobe.com/xap/1.0/\0"
_JPEG_LONGEST: Final = 65_533
_WEBP_HAS_XMP: Final = 0x04
_WEBP_HAS_ALPHA: Final = 0x10
_LONGEST_TEXT: Final = 1 << 20
_LONGEST_NAME: Final = 200


def packet(model: str | None) -> bytes:
    """Return the XMP packet for an image that `model` made."""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f"{_description(model)}"
        '</rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    ).encode()


def _description(model: str | None) -> str:
    name = "".join(letter for letter in model or "" if letter.isprintable())[:_LONGEST_NAME]
    system = f" Iptc4xmpExt:AISystemUsed={quoteattr(name)} xmp:CreatorTool={quoteattr(name)}" if name else ""
    return (
        '<rdf:Description rdf:about=""'
        ' xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
        ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
        f" Iptc4xmpExt:DigitalSourceType={quoteattr(SOURCE_TYPE)}{system}/>"
    )


def mark(data: bytes, container: Container, model: str | None) -> bytes:
    """Return the file with the mark in it; the same file where it has one, or where its format has no simple place."""
    if SOURCE_TYPE.encode() in data or has_manifest(data, container):
        return data
    match container.format:
        case "PNG":
            return _mark_png(data, model)
        case "JPEG":
            return _mark_jpeg(data, model)
        case "WEBP":
            return _mark_webp(data, container, model)
        case _:
            return data


def has_manifest(data: bytes, container: Container) -> bool:
    """Tell whether a PNG, JPEG or WebP carries a C2PA manifest."""
    match container.format:
        case "PNG":
            return any(chunk.kind == b"caBX" for chunk in png.chunks(data))
        case "JPEG":
            segments = (data[part.body : part.stop] for part in jpeg.segments(data) if part.kind == jpeg.APP11)
            return any(content.startswith(b"JP") and b"c2pa" in content for content in segments)
        case "WEBP":
            return any(chunk.kind == b"C2PA" for chunk in webp.chunks(data))
        case _:
            return False


def _added_to(existing: bytes, model: str | None) -> bytes:
    """Return a packet with our description in it, or ours alone where the one that is there is not plain."""
    head, end, tail = existing.rpartition(b"</rdf:RDF>")
    return head + _description(model).encode() + end + tail if end else packet(model)


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _mark_png(data: bytes, model: str | None) -> bytes:
    header, *others = png.chunks(data)
    cut, existing = (header.end, header.end), b""
    for chunk in others:
        if chunk.kind == b"iTXt" and data.startswith(_PNG_KEYWORD, chunk.body):
            cut = (chunk.start, chunk.end)
            existing = _international_text(data[chunk.body + len(_PNG_KEYWORD) : chunk.stop])
    text = _PNG_KEYWORD + bytes(4) + _added_to(existing, model)
    return data[: cut[0]] + _png_chunk(b"iTXt", text) + data[cut[1] :]


def _international_text(content: bytes) -> bytes:
    """Return the text behind an iTXt's keyword: two flags, language, translated keyword, text."""
    _, _, rest = content[2:].partition(b"\0")
    _, _, text = rest.partition(b"\0")
    if not content.startswith(b"\1"):
        return text
    try:
        return zlib.decompressobj().decompress(text, _LONGEST_TEXT)
    except zlib.error:
        return b""


def _mark_jpeg(data: bytes, model: str | None) -> bytes:
    cut, existing = (2, 2), b""
    for number, segment in enumerate(jpeg.segments(data)):
        if number == 0 and segment.kind == jpeg.APP0:
            cut = (segment.end, segment.end)
        elif segment.kind == jpeg.APP1 and data.startswith(_JPEG_SIGNATURE, segment.body):
            cut = (segment.start, segment.end)
            existing = data[segment.body + len(_JPEG_SIGNATURE) : segment.stop]
            break
    content = _JPEG_SIGNATURE + _added_to(existing, model)
    if len(content) > _JPEG_LONGEST:
        content = _JPEG_SIGNATURE + packet(model)
    return data[: cut[0]] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + data[cut[1] :]


def _webp_chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def _mark_webp(data: bytes, container: Container, model: str | None) -> bytes:
    """Put the packet last, as the format wants it, and the flag for it into the extended header."""
    chunks = {chunk.start: data[chunk.body : chunk.stop] for chunk in webp.chunks(data)}
    kinds = {start: data[start : start + 4] for start in chunks}
    existing = next((content for start, content in chunks.items() if kinds[start] == b"XMP "), b"")
    first = next(iter(chunks))
    header = chunks[first] if kinds[first] == b"VP8X" else _webp_header(kinds[first], chunks[first], container)
    extended = _webp_chunk(b"VP8X", bytes([header[0] | _WEBP_HAS_XMP]) + header[1:])
    kept = (_webp_chunk(kinds[at], content) for at, content in chunks.items() if kinds[at] not in {b"VP8X", b"XMP "})
    body = b"WEBP" + extended + b"".join(kept) + _webp_chunk(b"XMP ", _added_to(existing, model))
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _webp_header(kind: bytes, content: bytes, container: Container) -> bytes:
    """Return an extended header for a file that has none."""
    has_alpha = kind == b"VP8L" and bool(content[4] & 0x10)
    sides = b"".join((side - 1).to_bytes(3, "little") for side in (container.width, container.height))
    return bytes([_WEBP_HAS_ALPHA if has_alpha else 0, 0, 0, 0]) + sides
