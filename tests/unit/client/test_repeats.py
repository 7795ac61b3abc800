"""When the client asks again: only where that does no more than asking once."""

import json
from collections.abc import Callable
from datetime import UTC, datetime

import httpx
import pytest
from fake_api import FakeApi, job, ok, problem

from pixorly_client import Conflict, ConnectionTrouble, NotFound, Pixorly, RateLimited, ServerFailed
from pixorly_client.answers import retry_after_s

PASSING = [
    httpx.ConnectError("refused"),
    httpx.ReadError("cut"),
    httpx.ReadTimeout("late"),
    httpx.RemoteProtocolError("half an answer"),
    429,
    502,
    503,
    504,
]


@pytest.mark.parametrize("trouble", PASSING, ids=repr)
def test_a_create_is_sent_again_with_the_same_key_and_body(api: FakeApi, trouble: Exception | int) -> None:
    api.will(problem(trouble) if isinstance(trouble, int) else trouble, ok(job(), 202))

    api.client().create("a lighthouse", n=2)

    first, second = api.requests
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"]
    assert json.loads(first.content) == json.loads(second.content)
    assert api.pauses_s == [0.25]


def test_pauses_grow_and_the_tries_end(api: FakeApi) -> None:
    api.will(*(httpx.ConnectError("refused") for _ in range(5)))

    with pytest.raises(ConnectionTrouble, match=r"http://api\.test/v1/account: refused") as caught:
        api.client().account()

    assert caught.value.refused
    assert api.pauses_s == [0.25, 0.5, 1.0, 2.0]


def test_retry_after_is_honoured(api: FakeApi) -> None:
    api.will(problem(429, "rate_limited", headers={"Retry-After": "7"}), ok(job(), 202))

    api.client().create("x")

    assert api.pauses_s == [7.0]


def test_a_retry_after_beyond_our_patience_is_the_callers_to_decide(api: FakeApi) -> None:
    api.will(problem(429, "rate_limited", headers={"Retry-After": "3600"}))

    with pytest.raises(RateLimited) as caught:
        api.client().create("x")

    assert caught.value.retry_after_s == 3600
    assert api.pauses_s == []


def test_a_create_that_is_still_under_way_is_asked_for_again(api: FakeApi) -> None:
    api.will(problem(409, "idempotency_in_progress", headers={"Retry-After": "1"}), ok(job(), 202))

    api.client().create("x")

    assert api.pauses_s == [1.0]


@pytest.mark.parametrize("trouble", PASSING, ids=repr)
def test_a_cancel_is_never_sent_twice(api: FakeApi, trouble: Exception | int) -> None:
    api.will(problem(trouble) if isinstance(trouble, int) else trouble)

    with pytest.raises((ConnectionTrouble, ServerFailed, RateLimited)):
        api.client().cancel("abc")

    assert len(api.requests) == 1


@pytest.mark.parametrize(("status", "code"), [(400, "a"), (401, "b"), (402, "c"), (404, "d"), (409, "e"), (500, "f")])
def test_a_refusal_is_not_asked_for_again(api: FakeApi, status: int, code: str) -> None:
    api.will(problem(status, code))

    with pytest.raises(Exception, match=code):
        api.client().create("x")


def test_an_image_that_an_earlier_try_deleted_is_deleted(api: FakeApi) -> None:
    api.will(httpx.ReadError("cut"), problem(404, "not_found"))

    api.client().images.delete("img-1")

    assert len(api.requests) == 2


def test_an_image_that_was_never_there_is_not_found(api: FakeApi) -> None:
    api.will(problem(404, "not_found"))

    with pytest.raises(NotFound):
        api.client().images.delete("img-1")


def test_too_late_to_cancel_is_a_conflict(api: FakeApi) -> None:
    api.will(problem(409, "already_started"))

    with pytest.raises(Conflict):
        api.client().cancel("abc")


@pytest.mark.parametrize(
    ("header", "expected_s"),
    [
        (None, None),
        ("0", 0),
        ("12", 12),
        ("soon", None),
        ("-5", None),
        ("Thu, 02 Jan 2025 03:04:15 GMT", 10),
        ("Thu, 02 Jan 2025 03:00:00 GMT", 0),
        ("Thu, 02 Jan 2025 03:04:15 -0000", 10),
    ],
)
def test_a_retry_after_is_a_number_or_a_date(header: str | None, expected_s: float | None) -> None:
    assert retry_after_s(header, datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)) == expected_s


@pytest.mark.parametrize("read", [Pixorly.account, Pixorly.models, lambda client: client.get("a")])
def test_what_only_reads_is_asked_for_again(api: FakeApi, read: Callable[[Pixorly], object]) -> None:
    api.will(*(problem(503, "service_unavailable") for _ in range(5)))

    with pytest.raises(ServerFailed):
        read(api.client())

    assert len(api.requests) == 5
