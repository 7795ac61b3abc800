"""How an answer of the API is read: a value, or the error that its problem body tells of."""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final, TypeVar

import httpx
from pydantic import ValidationError

from pixorly_client.calls import Call
from pixorly_client.errors import BY_STATUS, PixorlyAPIError, ServerFailed, UnreadableAnswer

T = TypeVar("T")

_STANDARD: Final = frozenset({"type", "title", "status", "detail", "code", "instance", "request_id"})
"""Members of every problem body; the others are its facts."""
_SHOWN_BYTES: Final = 200


def value_of(call: Call[T], body: bytes) -> T:
    """Return what the body of an answer says.

    Raises:
        UnreadableAnswer: It is not what the API answers to this call.
    """
    try:
        return call.read(body)
    except ValidationError as error:
        start = body[:_SHOWN_BYTES].decode(errors="replace")
        raise UnreadableAnswer(f"{call.method} {call.path} was answered with something else: {start!r}") from error


def error_of(response: httpx.Response) -> PixorlyAPIError:
    """Return the error that an answer tells of, even if something between us and the API wrote it."""
    status, problem = response.status_code, _problem(response)
    kind = BY_STATUS.get(status, ServerFailed if response.is_server_error else PixorlyAPIError)
    return kind(
        status,
        str(problem.get("code") or f"http_{status}"),
        str(problem.get("detail") or problem.get("title") or _phrase(status)),
        response.headers.get("X-Request-Id") or problem.get("request_id"),
        {name: value for name, value in problem.items() if name not in _STANDARD},
        retry_after_s=retry_after_s(response.headers.get("Retry-After")),
    )


def _problem(response: httpx.Response) -> Mapping[str, Any]:
    try:
        found = response.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"Status {status}"


def retry_after_s(header: str | None, now: datetime | None = None) -> float | None:
    """Return how long a `Retry-After` asks to wait, in seconds; it is a number or a date, or not to be understood."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        until = parsedate_to_datetime(header)
    except ValueError:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - (now or datetime.now(UTC))).total_seconds())
