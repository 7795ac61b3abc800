"""One door out for whatever goes wrong: every error becomes a problem body (RFC 9457) here."""

from collections.abc import Mapping
from typing import Any, Final

import orjson
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from pixorly.errors import InvalidRequest, OutageError, PixorlyError, TransientError
from pixorly.outcomes import OUTCOMES, outcome_of
from pixorly_api import openai
from pixorly_api.errors import BodyTooLarge, InternalFailure, MalformedBody, MethodNotAllowed, NotFound, Unauthorized
from pixorly_api.schemas import Problem

_log = structlog.get_logger()
MEDIA_TYPE: Final = "application/problem+json"
REQUEST_ID: Final = "X-Request-Id"
_BY_STATUS: Final[dict[int, type[PixorlyError]]] = {
    400: MalformedBody,
    401: Unauthorized,
    404: NotFound,
    405: MethodNotAllowed,
    413: BodyTooLarge,
    422: InvalidRequest,
}
_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
_PLACES: Final = frozenset({"body", "query", "path", "header", "cookie"})
_MOST_FIELDS: Final = 20
_TEXT_MAX: Final = 300


def describe(error: PixorlyError, request_id: str) -> dict[str, Any]:
    """Return the problem body of an error; of one that is ours nothing but its code gets out."""
    outcome = outcome_of(error.code)
    facts = dict(error.facts) if outcome.code == error.code else {}
    if (param := facts.pop("param", None)) and "errors" not in facts:
        facts["errors"] = [{"field": param, "message": error.message}]
    facts.pop("retry_after_s", None)
    return body_of(error.code, error.message, request_id, facts)


def body_of(code: str, message: str, request_id: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the problem body for a code of the table of outcomes."""
    outcome = outcome_of(code)
    return {
        **{name: value for name, value in facts.items() if value is not None},
        "type": f"urn:pixorly:error:{outcome.code}",
        "title": outcome.message,
        "status": outcome.status,
        "detail": outcome.message if outcome.code == "internal_error" else message,
        "code": outcome.code,
        "request_id": request_id,
    }


def respond(
    error: PixorlyError, request_id: str, headers: Mapping[str, str] | None = None, *, path: str = ""
) -> Response:
    """Return the answer that an error becomes; `path` is what was called."""
    more = dict(headers or {})
    if (retry_after_s := _retry_after_s(error)) is not None:
        more["Retry-After"] = str(max(1, round(retry_after_s)))
    return answer(describe(error, request_id), path, more)


def answer(body: dict[str, Any], path: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return a problem body as an answer; where OpenAI's clients call, it is theirs as well."""
    more = {**(headers or {}), REQUEST_ID: body["request_id"], "Cache-Control": "no-store"}
    if path.startswith(openai.PREFIX):
        more["x-should-retry"] = "true" if openai.worth_repeating(body) else "false"
        body = openai.dressed(body)
    if body["status"] == OUTCOMES["unauthorized"].status:
        more["WWW-Authenticate"] = 'Bearer realm="pixorly"'
    return Response(orjson.dumps(body, default=str), body["status"], more, MEDIA_TYPE)


def _retry_after_s(error: PixorlyError) -> float | None:
    if isinstance(error, OutageError | TransientError):
        return error.retry_after_s or 2
    return error.facts.get("retry_after_s")


def request_id_of(request: Request) -> str:
    """Return the id of a request."""
    return str(request.scope.get("pixorly.request_id", ""))


def answer_errors(app: FastAPI) -> None:
    """Have `app` answer every error with a problem body."""

    @app.exception_handler(PixorlyError)
    async def ours(request: Request, error: PixorlyError) -> Response:
        if outcome_of(error.code).status >= OUTCOMES["internal_error"].status:
            _log.warning("a request failed", code=error.code, reason=error.message)
        return respond(error, request_id_of(request), path=request.url.path)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return respond(refusal(error.errors()), request_id_of(request), path=request.url.path)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        kind = _BY_STATUS.get(error.status_code, InternalFailure)
        headers = {"Allow": ", ".join(_allowed(request))} if kind is MethodNotAllowed else error.headers
        return respond(kind(), request_id_of(request), headers, path=request.url.path)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        # The server logs it, where it goes on to.
        return respond(InternalFailure(type(error).__name__), request_id_of(request), path=request.url.path)


def _allowed(request: Request) -> list[str]:
    """Return the methods that an address takes, on whichever routes."""
    routes = request.app.router.routes
    return [
        method
        for method in _METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]


def refusal(errors: Any) -> PixorlyError:
    """Return the refusal that a failed validation becomes: it names each bad field, and no value."""
    fields = [{"field": _field(error["loc"]), "message": str(error["msg"])[:_TEXT_MAX]} for error in errors]
    named = ", ".join(sorted({field["field"] for field in fields if field["field"]})[:_MOST_FIELDS])
    return InvalidRequest(f"Not valid: {named or 'the request'}."[:_TEXT_MAX], errors=fields[:_MOST_FIELDS])


def _field(loc: tuple[int | str, ...]) -> str:
    parts = [str(part) for part in loc if part not in _PLACES and part != "[key]"]
    return ".".join(parts)[:_TEXT_MAX] or (str(loc[0]) if loc else "")


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI says of these errors: which codes each status may carry."""
    return {status: {"model": Problem, "description": _codes(status)} for status in statuses}


def _codes(status: int) -> str:
    found = [f"`{outcome.code}`: {outcome.message}" for outcome in OUTCOMES.values() if outcome.status == status]
    asked = [line for line in found if line.split("`")[1] not in _ENDS_SLOTS]
    return "\n".join(asked) or "The call failed."


_ENDS_SLOTS: Final = frozenset(
    outcome.code for outcome in OUTCOMES.values() if outcome.fault and outcome.code != "internal_error"
)
