"""Every refusal is a problem body (RFC 9457) whose `code` is in the table of outcomes."""

from collections.abc import Mapping
from typing import Any, Final

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from pixorly.errors import OutageError, PixorlyError, UserError
from pixorly.outcomes import outcome_of


class Unauthorized(UserError):
    """The service token is missing or wrong."""

    code = "unauthorized"


def problem(code: str, detail: str, facts: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """Return a problem body (RFC 9457)."""
    outcome = outcome_of(code)
    body = {
        "type": "about:blank",
        "title": outcome.message,
        "status": outcome.status,
        "detail": detail,
        "code": outcome.code,
        **facts,
    }
    return Response(orjson.dumps(body), outcome.status, headers, "application/problem+json")


def problem_of(error: PixorlyError) -> Response:
    """Return the problem body of an error of ours."""
    headers = {"Retry-After": "1"} if isinstance(error, OutageError) else None
    return problem(error.code, error.message, error.facts, headers)


def first_fault(errors: Any) -> str:
    """Return where and how a body is wrong, without what it holds."""
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"] if part not in {"body", "query", "path"})
    return f"{where}: {first['msg']}" if where else str(first["msg"])


_CODES: Final = {401: "unauthorized", 404: "not_found", 405: "method_not_allowed"}


def answer_errors(app: FastAPI) -> None:
    """Answer every error with a problem body."""

    @app.exception_handler(PixorlyError)
    async def ours(_: Request, error: PixorlyError) -> Response:
        return problem_of(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return problem("invalid_request", first_fault(error.errors()), {})

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        return problem(_CODES.get(error.status_code, "invalid_request"), str(error.detail), {}, error.headers)

    @app.exception_handler(Exception)
    async def unexpected(_: Request, __: Exception) -> Response:
        # It is logged by the server, where it goes on to.
        return problem("internal_error", "", {})
