"""The door of the call that comes with every job: it is answered before the framework hears of it.

What the framework does around a route takes several times longer than the charge itself.
"""

import asyncio
from typing import Annotated, Any, Final, TypeVar

import orjson
from fastapi import FastAPI
from pydantic import Field, TypeAdapter, ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typing_extensions import override

from pixorly.errors import InvalidRequest, PixorlyError
from pixorly.http import ROUTE, Observed
from pixorly.tokens import Tokens
from pixorly_ledger.credits import ChargeRequest, Credits
from pixorly_ledger.problems import Unauthorized, first_fault, problem_of
from pixorly_ledger.schemas import ChargeIn

_In = TypeVar("_In")
_ONE: Final = "/internal/charges"
_MANY: Final = "/internal/charges/batch"
_TYPE: Final = (b"content-type", b"application/json")
_CHARGE_IN: Final = TypeAdapter(ChargeIn)
_CHARGES_IN: Final = TypeAdapter(Annotated[list[ChargeIn], Field(max_length=256)])


class ChargeDoor:
    """Answers `POST /internal/charges` and `POST /internal/charges/batch`, and passes on everything else.

    200 `{job_id, amount_credits, balance_credits, plan, status}`; 402 `insufficient_credits` {needed_credits,
    available_credits}, 403 `storage_quota_exceeded` {used_bytes, reserved_bytes, quota_bytes, needed_bytes}, 403
    `account_suspended`, 404 `account_not_found`, 409 `charge_voided`; none of these leaves anything behind. A batch is
    a list of up to 256 charges, each of which is made or refused by itself: 200 `[{status, body}]`, in the same order.

    Args:
        app: What answers the rest.
        credits_: What charges.
        tokens: The service tokens.
    """

    def __init__(self, app: ASGIApp, *, credits_: Credits, tokens: Tokens) -> None:
        self._app = app
        self._credits = credits_
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] not in {_ONE, _MANY} or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        scope[ROUTE] = scope["path"]
        headers: dict[bytes, bytes] = dict(scope["headers"])
        try:
            if not self._tokens.open(headers.get(b"authorization", b"")):
                raise Unauthorized
            body = await _body(receive)
            answer = await (self._charge(body) if scope["path"] == _ONE else self._charge_all(body))
        except PixorlyError as error:
            await problem_of(error)(scope, receive, send)
            return
        length = str(len(answer)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length), _TYPE]})
        await send({"type": "http.response.body", "body": answer})

    async def _charge(self, body: bytes) -> bytes:
        return _shown((await self._credits.charge(_request(_valid(_CHARGE_IN, body))))._asdict())

    async def _charge_all(self, body: bytes) -> bytes:
        """Make charges side by side, so that they share their transactions."""
        asked = [_request(one) for one in _valid(_CHARGES_IN, body)]
        return _shown(await asyncio.gather(*(self._outcome(one) for one in asked)))

    async def _outcome(self, request: ChargeRequest) -> dict[str, Any]:
        try:
            return {"status": 200, "body": (await self._credits.charge(request))._asdict()}
        except PixorlyError as error:
            refused = problem_of(error)
            return {"status": refused.status_code, "body": orjson.Fragment(bytes(refused.body))}


class AppWithDoor(FastAPI):
    """An app that hands each request to a door before it looks at it itself."""

    def charge_at_the_door(self, credits_: Credits, tokens: Tokens) -> None:
        """Set the door."""
        self._door: ASGIApp = Observed(ChargeDoor(super().__call__, credits_=credits_, tokens=tokens))

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._door(scope, receive, send)


async def _body(receive: Receive) -> bytes:
    parts, more = list[bytes](), True
    while more:
        message: Message = await receive()
        if message["type"] != "http.request":
            raise InvalidRequest("The body broke off.")
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def _valid(kind: TypeAdapter[_In], body: bytes) -> _In:
    try:
        return kind.validate_json(body)
    except ValidationError as error:
        raise InvalidRequest(first_fault(error.errors(include_url=False, include_input=False))) from error


def _request(body: ChargeIn) -> ChargeRequest:
    images = tuple((image.image_id, image.estimate_bytes) for image in body.images)
    return ChargeRequest(body.job_id, body.user_id, body.amount_credits, images)


def _shown(answer: Any) -> bytes:
    # asyncpg has a UUID type of its own.
    return orjson.dumps(answer, default=str)
