"""What happens to every request around its route: ids, spans, counts, and bodies that are bounded and clean."""

import re
import time
from collections.abc import Callable, Coroutine, MutableMapping
from typing import Any, Final

import structlog
from fastapi import Request, Response
from fastapi.routing import APIRoute
from opentelemetry.trace import Span
from pydantic_core import from_json
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typing_extensions import override

from pixorly import http, telemetry
from pixorly.errors import InvalidRequest, PixorlyError
from pixorly.ids import new_id
from pixorly_api import problems
from pixorly_api.errors import BodyTooLarge, MalformedBody

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


class Edge:
    """Gives each request an id, a span and a count, and bounds its body.

    Args:
        app: What answers.
        body_max_bytes: The largest body.
    """

    def __init__(self, app: ASGIApp, *, body_max_bytes: int) -> None:
        self._app = app
        self._body_max_bytes = body_max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] in http.QUIET:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        asked = headers.get(problems.REQUEST_ID, "")
        request_id = asked if _REQUEST_ID.fullmatch(asked) else str(new_id())
        scope["pixorly.request_id"] = request_id
        with (
            structlog.contextvars.bound_contextvars(request_id=request_id),
            telemetry.continued(telemetry.from_outside(headers)),
            http.begin(scope, root=True) as span,
        ):
            await self._answer(scope, receive, _Reply(send, scope, span, request_id))

    async def _answer(self, scope: Scope, receive: Receive, reply: "_Reply") -> None:
        try:
            body = await _read(scope, receive, self._body_max_bytes)
            if body is not None:
                await self._app(scope, _replayed(body, receive), reply)
        except BodyTooLarge as error:
            await reply.problem(error)
        finally:
            reply.count()


class _Reply:
    """Sends an answer, and notes what it was."""

    def __init__(self, send: Send, scope: Scope, span: Span, request_id: str) -> None:
        self._send = send
        self._scope = scope
        self._span = span
        self._request_id = request_id
        self._began = time.perf_counter()
        # What the server answers for us when something is raised past this point.
        self._status = 500

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = MutableHeaders(scope=message)
            headers[problems.REQUEST_ID] = self._request_id
            headers["X-Content-Type-Options"] = "nosniff"
            if rate := self._scope.get("pixorly.rate"):
                headers.update(rate.headers)
        await self._send(message)

    async def problem(self, error: PixorlyError) -> None:
        """Answer with a problem body."""
        answer = problems.respond(error, self._request_id, path=self._scope["path"])
        await answer(self._scope, _nothing, self)

    def count(self) -> None:
        """Name the span after the route, and count the request."""
        http.end(self._scope, self._span, self._status, self._began)


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


async def _read(scope: Scope, receive: Receive, most: int) -> bytes | None:
    """Read the whole body; None if the client has gone away.

    Raises:
        BodyTooLarge: It is longer than `most`, or says so.
    """
    said = Headers(scope=scope).get("content-length", "")
    if said.isdigit() and (len(said) > len(str(most)) or int(said) > most):
        raise BodyTooLarge(max_bytes=most)
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if len(body) > most:
            raise BodyTooLarge(max_bytes=most)
        if not message.get("more_body"):
            return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body in one piece, and then what else there is."""
    given = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


class JsonRoute(APIRoute):
    """A route whose JSON body is read strictly: bounded depth, no NaN, no half surrogates."""

    @override
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def checked(request: Request) -> Response:
            if body := await request.body():
                request._json = parsed(body)  # noqa: SLF001 - where Starlette remembers what it has parsed
            return await handle(request)

        return checked


def parsed(body: bytes) -> Any:
    """Return what a JSON text says.

    Raises:
        InvalidRequest: A string holds half of a surrogate pair.
        MalformedBody: It is not JSON, or nested too deep.
    """
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        if "escape" in str(error) and _SURROGATE.search(body):
            raise InvalidRequest("A string holds half of a surrogate pair.") from error
        raise MalformedBody(f"The body is not valid JSON: {str(error)[:200]}.") from error
