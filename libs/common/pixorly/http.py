"""What HTTP looks like in spans and metrics: of the requests that a process answers, and of those that it makes.

Nothing of a query, a header or a body is in either, and a path only where a route of ours matched it.
"""

import time
from contextlib import AbstractContextManager
from typing import Final
from urllib.parse import urlsplit

from opentelemetry.trace import Span
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
