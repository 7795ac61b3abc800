"""One bounded HTTP call to a provider: no retries, no proxies, no decoders, and an end to everything."""

import asyncio
import math
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, Final

import httpcore
import httpx
import orjson

from pixorly.errors import (
    InvalidImage,
    ModelUnavailable,
    PixorlyError,
    ProviderRateLimited,
    ProviderRefused,
    ProviderTimeout,
    ProviderUnavailable,
)
from pixorly.http import answered, calling
from pixorly_generator.providers.decoding import Parsed, parse

MAX_BODY_BYTES: Final = 64_000_000
_STREAMS: Final = 100
"""How many calls share a connection: what servers of HTTP/2 commonly allow. httpcore would queue all others on it."""
_INLINE_BYTES: Final = 65_536
_LARGE_BYTES: Final = 4_000_000
_READ_BYTES: Final = 1 << 18
"""What the event loop reads at once. httpcore hands it on in pieces of a quarter, and each costs as much as a whole."""
_TIMEOUTS: Final = frozenset({408, 504, 524})
_TOO_MANY: Final = 429
_NOT_FOUND: Final = 404

httpcore.AsyncHTTP11Connection.READ_NUM_BYTES = _READ_BYTES
httpcore.AsyncHTTP2Connection.READ_NUM_BYTES = _READ_BYTES


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """How calls are made.

    Attributes:
        concurrency: The most calls at once; the pool of connections is sized by it.
        connect_timeout_s: To have a connection.
        write_timeout_s: For each write of the request.
        max_body_bytes: The largest body that is read.
        large_at_once: How many bodies are read at once beyond 4 MB; more wait, and hold no more than that.
        http2: Whether HTTP/2 is offered.
        tls: Whom to trust; the usual authorities where nothing is said.
    """

    concurrency: int = 64
    connect_timeout_s: float = 10.0
    write_timeout_s: float = 30.0
    max_body_bytes: int = MAX_BODY_BYTES
    large_at_once: int = 16
    http2: bool = True
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back.

    Attributes:
        status: The HTTP status.
        headers: The headers.
        parsed: The JSON body; None where it is none.
    """

    status: int
    headers: httpx.Headers
    parsed: Parsed | None

    @property
    def value(self) -> dict[str, Any]:
        """The body, if it is a JSON object, else an empty one."""
        value = self.parsed.value if self.parsed else None
        return value if isinstance(value, dict) else {}


@dataclass(slots=True)
class _Lane:
    """One pool of connections and how many calls it has."""

    client: httpx.AsyncClient
    busy: int = 0


@dataclass(slots=True)
class ProviderHttp:
    """The connections to one provider.

    Over HTTP/2 httpcore puts every call onto one connection and lets those wait that the server has no stream for, so
    the calls are spread over as many small pools as are needed for all of them to be under way together.

    Args:
        base_url: What paths are added to.
        headers: Sent with every call.
        options: How calls are made.
    """

    base_url: str
    headers: Mapping[str, str]
    options: HttpOptions = field(default_factory=HttpOptions)
    _lanes: list[_Lane] = field(init=False)
    _large: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._large = asyncio.Semaphore(self.options.large_at_once)
        tls = self.options.tls or usual_authorities()
        lanes = math.ceil(self.options.concurrency / _STREAMS)
        each = math.ceil(self.options.concurrency / lanes)
        self._lanes = [_Lane(self._client(each, tls)) for _ in range(lanes)]

    def _client(self, connections: int, tls: ssl.SSLContext) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=30)
        transport = httpx.AsyncHTTPTransport(
            verify=tls, http1=True, http2=self.options.http2, limits=limits, trust_env=False, retries=0
        )
        headers = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "pixorly", **self.headers}
        return httpx.AsyncClient(transport=transport, headers=headers, trust_env=False, follow_redirects=False)

    async def post(
        self, path: str, body: Mapping[str, Any], *, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Send one JSON body and read one.

        Raises:
            ProviderTimeout: It took longer than `timeout_s`, all in all.
            ProviderUnavailable: The connection failed.
            InvalidImage: The answer is larger than allowed, or packed although that was not asked for.
            ProviderRefused: The body can't be sent.
        """
        return await self._call("POST", path, body, timeout_s, headers)

    async def get(self, path: str, *, timeout_s: float) -> Reply:
        """Read one JSON body.

        Raises:
            ProviderTimeout, ProviderUnavailable, InvalidImage: As `post`.
        """
        return await self._call("GET", path, None, timeout_s, None)

    async def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        timeout_s: float,
        headers: Mapping[str, str] | None,
    ) -> Reply:
        lane = min(self._lanes, key=lambda lane: lane.busy)
        lane.busy += 1
        try:
            async with asyncio.timeout(timeout_s):
                with calling("provider", method, self.base_url, path) as span:
                    reply = await self._exchange(lane.client, (method, path), body, timeout_s, headers)
                    answered(span, reply.status)
                    return reply
        except (TimeoutError, httpx.TimeoutException) as error:
            raise ProviderTimeout from error
        except httpx.HTTPError as error:
            raise ProviderUnavailable from error
        finally:
            lane.busy -= 1

    async def _exchange(
        self,
        client: httpx.AsyncClient,
        address: tuple[str, str],
        body: Mapping[str, Any] | None,
        timeout_s: float,
        headers: Mapping[str, str] | None,
    ) -> Reply:
        method, path = address
        options = self.options
        phases = httpx.Timeout(
            connect=min(options.connect_timeout_s, timeout_s), write=options.write_timeout_s, read=timeout_s, pool=None
        )
        sent = {"content-type": "application/json", **(headers or {})}
        try:
            content = orjson.dumps(body) if body is not None else None
        except orjson.JSONEncodeError as error:
            raise ProviderRefused("The prompt is not valid text.") from error
        async with AsyncExitStack() as held:
            async with client.stream(
                method, self.base_url + path, content=content, headers=sent, timeout=phases
            ) as response:
                raw = await _read(response, options.max_body_bytes, lambda: held.enter_async_context(self._large))
            parsing = asyncio.to_thread(_parsed, raw) if len(raw) > _INLINE_BYTES else None
            return Reply(response.status_code, response.headers, await parsing if parsing else _parsed(raw))

    async def close(self) -> None:
        """Close the connections."""
        for lane in self._lanes:
            await lane.client.aclose()


async def _read(response: httpx.Response, max_bytes: int, room: Callable[[], Awaitable[None]]) -> bytearray:
    """Return the body as it came over the wire; before it becomes large, wait for `room`.

    Raises:
        InvalidImage: It is too large, or packed: unpacking could make any size of it.
    """
    if response.headers.get("content-encoding", "identity").strip().lower() not in {"", "identity"}:
        raise InvalidImage("The image provider sent a packed answer.")
    declared = response.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise InvalidImage("The image provider sent too large an answer.")
    raw, small = bytearray(), True
    async for chunk in response.aiter_raw():
        if small and len(raw) + len(chunk) > _LARGE_BYTES:
            await room()
            small = False
        raw += chunk
        if len(raw) > max_bytes:
            raise InvalidImage("The image provider sent too large an answer.")
    return raw


def _parsed(raw: bytearray) -> Parsed | None:
    try:
        return parse(raw)
    except ValueError:
        return None


@cache
def usual_authorities() -> ssl.SSLContext:
    """Return the context that trusts the usual authorities; one for all, for it is large and slow to make."""
    return httpx.create_ssl_context(trust_env=False)


def error_of_status(status: int, retry_after_s: float | None) -> PixorlyError:
    """Return what an HTTP status means where nothing in the body says more."""
    if status == _TOO_MANY:
        return ProviderRateLimited(retry_after_s=retry_after_s)
    if status in _TIMEOUTS:
        return ProviderTimeout(retry_after_s=retry_after_s)
    if status == _NOT_FOUND:
        return ModelUnavailable()
    if 400 <= status < 500:  # noqa: PLR2004 - an HTTP class
        return ProviderRefused()
    return ProviderUnavailable(retry_after_s=retry_after_s)


def retry_after_s(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Return how long the other side asks us to wait, from seconds, milliseconds or a date; None if it does not say."""
    thousandths = _seconds(headers.get("retry-after-ms", ""))
    if thousandths is not None:
        return thousandths / 1000
    told = headers.get("retry-after", "").strip()
    seconds = _seconds(told)
    if seconds is not None or not told:
        return seconds
    try:
        when = parsedate_to_datetime(told)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())


def _seconds(text: object) -> float | None:
    try:
        seconds = float(str(text))
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None
