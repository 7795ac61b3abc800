"""Requests that no client writes, on every route of a running api: each is answered, and tells nothing that is ours."""

import asyncio
import json
import string
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from api_world import make_settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stack import Stack

from pixorly.outcomes import OUTCOMES
from pixorly_api.app import make_app

pytestmark = pytest.mark.timeout(300)
_EXAMPLES: Final = 200
_SERVER_ERROR: Final = 500
_LEAKS: Final = (b"Traceback", b"asyncpg", b"postgresql://", b"amqp://", b'File "', b"site-packages")

Operation = tuple[str, str, tuple[str, ...]]
Answer = tuple[int, dict[str, str], bytes]


def operations() -> list[Operation]:
    """Return every call's method and path, and its parameters in the query."""
    return [
        (method.upper(), path, tuple(one["name"] for one in call.get("parameters", ()) if one["in"] == "query"))
        for path, calls in make_app(make_settings()).openapi()["paths"].items()
        for method, call in calls.items()
    ]


OPERATIONS: Final = operations()

# What stands in addresses, as it is sent.
_ODD: Final = st.sampled_from(
    [
        *("", ".", "..", "%00", "%ff", "%2e%2e", "%2F", "%", "%zz", "null", "-1", "0", "1e3", "NaN", "9" * 400),
        *("A" * 22, "A" * 21 + "B", "=" * 22, "%D9%A3", "%EF%BC%91", "%F0%9F%A6%8A", "%ED%A0%80", "x" * 5000),
        *("00000000-0000-0000-0000-000000000000", "{00000000-0000-0000-0000-000000000000}", "2026-01-01", "a:b"),
        *("2026-13-45", "2026-02-30T25:00:00Z", "9999999999999999999", "true", "csv", "10.0.0.0/8", "day", "';--"),
    ]
)
_IN_PATHS: Final = st.text(string.ascii_letters + string.digits + "-_.~!$&'()*+,;=:@%", max_size=60)
_PARTS: Final = _ODD | _IN_PATHS.map(lambda text: text.replace("%", "%25"))

# What stands in headers, as it is sent: any bytes but the end of a line, mostly such as a server takes.
_BYTES: Final = st.binary(max_size=80).map(lambda raw: raw.replace(b"\r", b"").replace(b"\n", b""))
_TAKEN: Final = _BYTES.map(lambda raw: bytes(byte for byte in raw if byte > 31 and byte != 127))
_VALUES: Final = _TAKEN | st.sampled_from(
    [b"", b'"', b'""', b'"k', b"wait=", b"wait=1e999", b"respond-async", b"-1", b"9" * 400, b"x" * 9000, b"0",
     b"00-0-0-0", b"\xf0\x9f\xa6\x8a", b"Bearer", b"Bearer ", b"Bearer a.b.c", b"Basic Og==", b"bytes=0-", b"*",
     b"a\x00", b"text/csv"]
)  # fmt: skip
_NAMES: Final = st.sampled_from(
    [b"Idempotency-Key", b"Prefer", b"Last-Event-ID", b"X-Stainless-Retry-Count", b"X-Request-Id", b"Authorization",
     b"Accept", b"Content-Type", b"Content-Encoding", b"traceparent", b"tracestate", b"baggage", b"Origin", b"Range",
     b"If-None-Match", b"X-Forwarded-For", b"X-HTTP-Method-Override", b"Cookie", b"Connection", b"Host", b"TE"]
)  # fmt: skip
_HEADERS: Final = st.lists(st.tuples(_NAMES, _VALUES), max_size=5)

_JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
_ORDERS: Final = st.dictionaries(
    st.sampled_from(
        ["model", "prompt", "n", "width", "metadata", "ids", "visibility", "plan", "name", "scopes", "all"]
    ),
    _JSON | st.sampled_from(["sandbox/aurora", "\0", "a" * 5000, 10**30, -1, {"k": "v"}]),
    max_size=5,
).map(lambda body: json.dumps(body).encode())
_BODIES: Final = _ORDERS | _JSON.map(lambda body: json.dumps(body).encode()) | st.binary(max_size=60)


@st.composite
def requests(draw: st.DrawFn, users: bytes, operators: bytes) -> bytes:
    """Return the bytes of a request, most often with the key that opens the route."""
    method, path, parameters = draw(st.sampled_from(OPERATIONS))
    fitting, other = (operators, users) if path.startswith("/admin/") else (users, operators)
    key = draw(st.sampled_from([fitting, fitting, fitting, other]))
    while "{" in path:
        head, _, rest = path.partition("{")
        path = head + draw(_PARTS) + rest.partition("}")[2]
    query = "&".join(f"{draw(st.sampled_from([*parameters, 'x']))}={draw(_PARTS)}" for _ in range(draw(_COUNTS)))
    # A good key comes first, so that most requests get further than the door.
    headers = [(b"Host", b"api"), (b"Authorization", b"Bearer " + key), *draw(_HEADERS)]
    body = draw(_BODIES) if method != "GET" else b""
    headers += [(b"Content-Type", b"application/json"), (b"Content-Length", str(len(body)).encode())]
    lines = [f"{method} {path}{'?' if query else ''}{query} HTTP/1.1".encode()]
    return b"\r\n".join([*lines, *(name + b": " + value for name, value in headers), b"", body])


_COUNTS: Final = st.integers(min_value=0, max_value=4)


async def send(url: str, request: bytes) -> Answer:
    """Send bytes and return the status, the headers and the beginning of the body that come back."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(request)
        await writer.drain()
        async with asyncio.timeout(100):
            head = await reader.readuntil(b"\r\n\r\n")
            status_line, *lines = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            length = int(headers.get("content-length", "0"))
            return int(status_line.split()[1]), headers, await reader.readexactly(length)
    finally:
        writer.transport.abort()


def check(answer: Answer, *keys: bytes) -> None:
    """Check what holds of every answer."""
    status, headers, body = answer
    assert status < _SERVER_ERROR, body
    assert not [leak for leak in (*_LEAKS, *keys) if leak in body]
    if status < 400 or body == b"Invalid HTTP request received.":
        return
    assert headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = json.loads(body)
    assert problem["code"] in OUTCOMES
    assert problem["request_id"] == headers["x-request-id"]


@pytest.fixture(scope="module")
def keys(stack: Stack) -> list[bytes]:
    """The key of a user, and the operator's."""
    _, made = asyncio.run(stack.user(amount_credits=100))
    return [made.encode(), stack.dev["admin_key"].encode()]


def test_whatever_is_sent_is_answered_and_tells_nothing(
    stack: Stack, keys: list[bytes], pytestconfig: pytest.Config
) -> None:
    """The same requests each time; with `--hypothesis-seed`, others."""
    seeded = pytestconfig.getoption("hypothesis_seed") is not None

    @settings(
        max_examples=_EXAMPLES,
        deadline=None,
        derandomize=not seeded,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(request=requests(*keys))
    def hold(request: bytes) -> None:
        check(asyncio.run(send(stack.dev["api_url"], request)), *keys)

    hold()
