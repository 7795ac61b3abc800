"""A provider's JSON is read exactly, cheaply, and never beyond measure."""

import base64
import json
import random
import tracemalloc
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixorly_generator.providers.decoding import parse

IMAGE = random.Random(1).randbytes(200_000)


def body_of(b64: str, more: str = "") -> bytes:
    return f'{{"created":1,"data":[{{"b64_json":"{b64}"}}],"usage":{{"cost":0.1000000000000000055{more}}}}}'.encode()


def first(body: bytes) -> bytes:
    parsed = parse(body)
    return parsed.base64(parsed.value["data"][0]["b64_json"])


@pytest.mark.parametrize("size", [1, 2, 3, 3000, 3073, 200_000])
def test_base64_of_any_length_comes_back(size: int) -> None:
    assert first(body_of(base64.b64encode(IMAGE[:size]).decode())) == IMAGE[:size]


@pytest.mark.parametrize("spoilt", ["\\/AAA", "=AAA", "AA==", "A\\n", "AAA-/AAA", "\t\t\t\t"])
def test_base64_that_is_spoilt_far_inside_is_not_read_as_something_else(spoilt: str) -> None:
    b64 = base64.b64encode(IMAGE * 3).decode()
    place = 600_000
    with pytest.raises(ValueError):
        first(body_of(b64[:place] + spoilt + b64[place + len(spoilt) :]))


def test_a_price_keeps_every_digit() -> None:
    assert parse(body_of("AAAA")).value["usage"]["cost"] == Decimal("0.1000000000000000055")


@pytest.mark.parametrize(
    "spell",
    [
        lambda text: text.replace("/", "\\/"),
        lambda text: "\\n".join(text[at : at + 76] for at in range(0, len(text), 76)),
        lambda text: text.rstrip("="),
        lambda text: f"data:image/png;base64,{text}",
    ],
    ids=["escaped slashes", "line ends", "no padding", "a data URL"],
)
@pytest.mark.parametrize("size", [100, 100_001])
def test_base64_is_read_however_it_is_spelled(spell: object, size: int) -> None:
    b64 = base64.b64encode(IMAGE[:size]).decode()

    assert first(body_of(spell(b64))) == IMAGE[:size]  # type: ignore[operator]


@pytest.mark.parametrize("b64", ["*" * 100, "*" * 10_000, "AAAA" * 2000 + "é", "A===" * 3000, "\\u0000" * 3000])
def test_what_is_no_base64_is_refused(b64: str) -> None:
    with pytest.raises(ValueError):
        first(body_of(b64))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html></html>",
        b'{"data": [',
        b'{"data": "' + b"A" * 10_000,
        b"[" * 100_000 + b"]" * 100_000,
        b"[" * 100_000,
        b'{"cost": NaN}',
        b'{"cost": Infinity}',
        b'{"n": ' + b"9" * 5000 + b"}",
        b"\xff\xfe{}",
        b'{"a": "\xff"}',
        b"[" + b"[]," * 1_000_000 + b"[]]",
        b'{"a": "' + b'\\"' * 1_000_000 + b'"}',
        b'"",' * 1_000_000,
        b" " * 2_000_000 + b"{}",
    ],
)
def test_what_nobody_means_well_with_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):
        parse(body)


def test_an_image_is_not_held_more_often_than_needed() -> None:
    body = body_of(base64.b64encode(random.Random(2).randbytes(6_000_000)).decode())
    tracemalloc.start()
    try:
        image = first(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 1.6 * len(image)


def test_a_long_text_does_not_pass_for_an_image_of_another() -> None:
    parsed = parse(json.dumps({"text": "x" * 5000, "mark": "\0cut:7"}).encode())

    with pytest.raises(ValueError):
        parsed.base64(parsed.value["mark"])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=8,
)


@settings(max_examples=25, deadline=None)
@given(json_values)
def test_what_has_no_long_strings_is_read_as_it_stands(value: object) -> None:
    assert parse(json.dumps(value).encode()).value == value
    assert parse(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")).cut == ()


@settings(max_examples=25, deadline=None)
@given(st.binary(min_size=310, max_size=900).map(lambda part: part * 10), st.text(alphabet='"\\/x\n', max_size=50))
def test_escapes_around_a_long_string_do_not_mislead(image: bytes, text: str) -> None:
    body = json.dumps({text: text, "b64": base64.b64encode(image).decode(), "more": [text]}).encode()
    parsed = parse(body)

    assert parsed.base64(parsed.value["b64"]) == image
    assert parsed.value["more"] == [text]
