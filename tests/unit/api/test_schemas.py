"""What a request may say."""

from typing import Any

import pytest
from pydantic import ValidationError

from pixorly.errors import InvalidRequest
from pixorly.events import ImageParams
from pixorly_api.admin_schemas import PutUser
from pixorly_api.creation import body_hash, estimated_bytes
from pixorly_api.edge import parsed
from pixorly_api.errors import MalformedBody
from pixorly_api.schemas import CreateGeneration

GOOD: dict[str, Any] = {"model": "sandbox/aurora", "prompt": "a lake"}


def test_the_least_that_can_be_said() -> None:
    asked = CreateGeneration.model_validate(GOOD)
    assert (asked.n, asked.metadata, asked.width) == (1, {}, None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0),
        ("n", 11),
        ("n", "2"),
        ("n", True),
        ("n", 1.5),
        ("n", None),
        ("prompt", ""),
        ("prompt", " \n\t"),
        ("prompt", None),
        ("prompt", 7),
        ("prompt", "a\0b"),
        ("prompt", "\ud800"),
        ("prompt", "x" * 32_001),
        ("model", ""),
        ("model", "x" * 129),
        ("width", 0),
        ("width", -1),
        ("width", "64"),
        ("seed", -1),
        ("seed", 2**32),
        ("output_format", "gif"),
        ("background", "red"),
        ("deadline_s", 0),
        ("metadata", {"k": 1}),
        ("metadata", {"": "x"}),
        ("metadata", {"k" * 65: "x"}),
        ("metadata", {"k": "x" * 513}),
        ("metadata", {"k": "\0"}),
        ("metadata", {str(number): "x" for number in range(17)}),
        ("metadata", []),
        ("user_id", "other"),
        ("credits", 0),
        ("status", "completed"),
    ],
)
def test_what_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as raised:
        CreateGeneration.model_validate({**GOOD, field: value})
    assert raised.value.errors()[0]["loc"][0] == field


@pytest.mark.parametrize(
    "prompt", ["🌌" * 100, "نص", "a\u202eb", "e\u0301" * 50, "\u200b.", "line\nline", "x" * 32_000]
)
def test_every_other_text_is_kept_as_it_is(prompt: str) -> None:
    assert CreateGeneration.model_validate({**GOOD, "prompt": prompt}).prompt == prompt


def test_the_operator_may_not_set_what_there_is_not() -> None:
    with pytest.raises(ValidationError):
        PutUser.model_validate({"credits": 10})


@pytest.mark.parametrize(
    "body", [b"{", b"", b"\xff", b"[" * 100_000, b'{"n": NaN}', b'{"n": Infinity}', b"{'a': 1}", b'{"a": 1} x']
)
def test_what_is_not_json_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedBody):
        parsed(body)


@pytest.mark.parametrize("body", [rb'{"prompt": "\ud800"}', rb'{"prompt": "\udc00 x"}', rb'{"\ud83d": "x"}'])
def test_half_a_surrogate_pair_is_refused_in_words_of_its_own(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="surrogate"):
        parsed(body)


def test_a_body_is_the_same_however_it_is_written() -> None:
    assert body_hash({"a": 1, "b": {"c": 2, "d": 3}}) == body_hash({"b": {"d": 3, "c": 2}, "a": 1})
    assert body_hash({"a": 1}) != body_hash({"a": 2})


def test_room_is_reserved_by_size_and_format() -> None:
    png = estimated_bytes(ImageParams(width=1024, height=1024))
    webp = estimated_bytes(ImageParams(width=1024, height=1024, output_format="webp"))
    assert png > webp > 0
