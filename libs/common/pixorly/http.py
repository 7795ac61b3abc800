"""HTTP between processes: connections that outlive cancelled calls, and what requests look like in spans and metrics.

Nothing of a query, a header or a body is in a span or a metric, and a path only where a route of ours matched it.
"""

import asyncio
import time
from contextlib import AbstractContextManager, suppress
from typing import Final
from urllib.parse import urlsplit

import httpx
from opentelemetry.trace import Span
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typing_extensions import override

from pixorly import metrics, telemetry

QUIET: Final = frozenset({"/livez", "/readyz", "/metrics"})
"""What is asked all the time and says nothing of the work."""
ROUTE: Final = "pixorly.route"
"""Where in a request's scope a route is named that the framework does not know."""
_METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
_SERVER_ERRORS: Final = 500
_PORTS: Final = {"http": 80, "https": 443}

REQUESTS = metrics.histogram("pixorly_http_request_seconds", "How long requests took.", "method", "route", "status")


def begin(scope: Scope, *, root: bool) -> AbstractContextManager[Span]:
    """Make a block the span of a request that is answered."""
    return telemetry.span(_method(scope), "server", root=root)


def end(scope: Scope, span: Span, status: int, began_s: float) -> None:
    """Name a request's span after its route, and count the request."""
    method, route = _method(scope), scope.get(ROUTE) or _route(scope)
    REQUESTS.labels(method, route, str(status)).observe(time.perf_counter() - began_s)
    if not span.is_recording():
        return
    host, port = scope.get("server") or ("", 0)
    span.update_name(f"{method} {route}")
    span.set_attributes(
        {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
            "url.path": route if route == "none" else scope["path"],
            "url.scheme": scope.get("scheme", "http"),
            "server.address": host,
            "server.port": port or 0,
            "network.protocol.version": scope.get("http_version", "1.1"),
        }
    )
    if status >= _SERVER_ERRORS:
        telemetry.failed(span, str(status))


def _route(scope: Scope) -> str:
    """Return the route that answered as it is written; what comes before the part of a nested router is literal."""
    template: str = getattr(scope.get("route"), "path", "none")
    above = scope["path"].count("/") - template.count("/")
    if template == "none" or above <= 0 or ":path}" in template:
        return template
    return "/".join(scope["path"].split("/")[: above + 1]) + template


def _method(scope: Scope) -> str:
    method: str = scope["method"]
    return method if method in _METHODS else "other"


class Observed:
    """Gives each request of an internal app a span, if it comes with a trace, and a count.

    Args:
        app: What answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] in QUIET:
            await self._app(scope, receive, send)
            return
        status, began_s = 500, time.perf_counter()

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with telemetry.continued(Headers(scope=scope)), begin(scope, root=False) as span:
            try:
                await self._app(scope, receive, noting)
            finally:
                end(scope, span, status, began_s)


def calling(peer: str, method: str, base_url: str, path: str) -> AbstractContextManager[Span]:
    """Make a block the span of a request that is made to another process."""
    if not telemetry.on():
        return telemetry.span(peer)
    parts = urlsplit(base_url)
    port = parts.port or _PORTS.get(parts.scheme, 0)
    attributes: dict[str, str | int] = {
        "http.request.method": method,
        "server.address": parts.hostname or "",
        "server.port": port,
        "url.full": f"{parts.scheme}://{parts.hostname}:{port}{path}",
    }
    return telemetry.span(f"{method} {peer}", "client", attributes)


def answered(span: Span, status: int) -> None:
    """Note how a request was answered; a refusal is an answer, and only a server's error is one."""
    if span.is_recording():
        span.set_attribute("http.response.status_code", status)
        if status >= _SERVER_ERRORS:
            telemetry.failed(span, str(status))


class SteadyTransport(httpx.AsyncBaseTransport):
    """Connections to a process, for calls that a deadline of ours may cut off at any moment.

    A call that is cancelled while it is given a connection leaves that connection's place taken for ever
    (encode/httpcore#1093): a few such calls, and no other is ever sent until the process is started anew. So each
    request goes out in a task of its own, which ends by httpx's time-outs and not with its caller, and no more of them
    at once than there are connections.

    Args:
        connections: The most connections.
        keepalive_s: For how long one is kept that nobody uses.
    """

    def __init__(self, connections: int, keepalive_s: float) -> None:
        limits = httpx.Limits(
            max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=keepalive_s
        )
        self._pool = httpx.AsyncHTTPTransport(limits=limits, trust_env=False)
        self._turns = asyncio.Semaphore(connections)
        self._left = set[asyncio.Task[None]]()

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        # Whoever gives up waiting for a connection leaves its place taken, too.
        request.extensions["timeout"] = {**request.extensions.get("timeout", {}), "pool": None}
        await self._turns.acquire()
        sending = asyncio.create_task(self._pool.handle_async_request(request))
        sending.add_done_callback(lambda _: self._turns.release())
        try:
            return await asyncio.shield(sending)
        except asyncio.CancelledError:
            leaving = asyncio.create_task(_dismiss(sending))
            self._left.add(leaving)
            leaving.add_done_callback(self._left.discard)
            raise

    @override
    async def aclose(self) -> None:
        await self._pool.aclose()


async def _dismiss(sending: asyncio.Task[httpx.Response]) -> None:
    """Wait for an answer that nobody wants any more, and let go of its connection."""
    with suppress(httpx.HTTPError, OSError, RuntimeError):
        await (await sending).aclose()
