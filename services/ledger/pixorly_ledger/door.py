"""The door of the calls that come with every job: they are answered before the framework hears of them.

What the framework does around a route takes several times longer than a charge or a true-up itself.
"""

import asyncio
import re
from collections.abc import Awaitable, Iterable
from enum import StrEnum
from typing import Annotated, Any, Final, TypeVar
from uuid import UUID

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
from pixorly_ledger.schemas import ChargeIn, TrueUpIn, TrueUpOfImageIn
from pixorly_ledger.storage import Storage

_In = TypeVar("_In")
_OF_IMAGE: Final = re.compile(r"/internal/images/([^/]+)/true-up")
_TYPE: Final = (b"content-type", b"application/json")
_CHARGE_IN: Final = TypeAdapter(ChargeIn)
_CHARGES_IN: Final = TypeAdapter(Annotated[list[ChargeIn], Field(max_length=256)])
_IMAGE_ID: Final = TypeAdapter(UUID)
_TRUE_UP_IN: Final = TypeAdapter(TrueUpIn)
_TRUE_UPS_IN: Final = TypeAdapter(Annotated[list[TrueUpOfImageIn], Field(max_length=256)])


class _Route(StrEnum):
    CHARGE = "/internal/charges"
    CHARGES = "/internal/charges/batch"
    TRUE_UP = "/internal/images/{image_id}/true-up"
    TRUE_UPS = "/internal/images/true-ups"


_LITERAL: Final = {str(route): route for route in _Route if route is not _Route.TRUE_UP}


class Door:
    """Answers charges and true-ups, one or several in a request, and passes on everything else.

    `POST /internal/charges`: 200 `{job_id, amount_credits, balance_credits, plan, status}`; 402 `insufficient_credits`
    {needed_credits, available_credits}, 403 `storage_quota_exceeded` {used_bytes, reserved_bytes, quota_bytes,
    needed_bytes}, 403 `account_suspended`, 404 `account_not_found`, 409 `charge_voided`; none of these leaves anything
    behind.

    `POST /internal/images/{image_id}/true-up` says what an image really takes: 200 `{state: "stored"}`, or `closed`
    where it must not be stored any more; 404 `not_found`: no room was ever kept for it, or it is another user's.

    `POST /internal/charges/batch` and `POST /internal/images/true-ups` take a list of up to 256 of them (a true-up has
    its `image_id` with it there), each of which is done or refused by itself: 200 `[{status, body}]`, in that order.

    Args:
        app: What answers the rest.
        credits_: What charges.
        storage: What trues up.
        tokens: The service tokens.
    """

    def __init__(self, app: ASGIApp, *, credits_: Credits, storage: Storage, tokens: Tokens) -> None:
        self._app = app
        self._credits = credits_
        self._storage = storage
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        route = _route(scope)
        if route is None:
            await self._app(scope, receive, send)
            return
        scope[ROUTE] = str(route)
        headers: dict[bytes, bytes] = dict(scope["headers"])
        try:
            if not self._tokens.open(headers.get(b"authorization", b"")):
                raise Unauthorized
            answer = _shown(await self._answer(route, scope["path"], await _body(receive)))
        except PixorlyError as error:
            await problem_of(error)(scope, receive, send)
            return
        length = str(len(answer)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length), _TYPE]})
        await send({"type": "http.response.body", "body": answer})

    async def _answer(self, route: _Route, path: str, body: bytes) -> Any:
        match route:
            case _Route.CHARGE:
                return await self._charge(_valid(_CHARGE_IN, body))
            case _Route.CHARGES:
                charges = _valid(_CHARGES_IN, body)
                return await _each(self._charge(one) for one in charges)
            case _Route.TRUE_UPS:
                true_ups = _valid(_TRUE_UPS_IN, body)
                return await _each(self._true_up(one.image_id, one) for one in true_ups)
            case _Route.TRUE_UP:
                image_id = _valid(_IMAGE_ID, orjson.dumps(path.split("/")[3]))
                return await self._true_up(image_id, _valid(_TRUE_UP_IN, body))

    async def _charge(self, body: ChargeIn) -> dict[str, Any]:
        images = tuple((image.image_id, image.estimate_bytes) for image in body.images)
        request = ChargeRequest(body.job_id, body.user_id, body.amount_credits, images)
        return (await self._credits.charge(request))._asdict()

    async def _true_up(self, image_id: UUID, body: TrueUpIn) -> dict[str, Any]:
        return {"state": await self._storage.true_up(image_id, body.user_id, body.bytes)}


class AppWithDoor(FastAPI):
    """An app that hands each request to a door before it looks at it itself."""

    def set_door(self, credits_: Credits, storage: Storage, tokens: Tokens) -> None:
        """Set the door."""
        door = Door(super().__call__, credits_=credits_, storage=storage, tokens=tokens)
        self._door: ASGIApp = Observed(door)

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._door(scope, receive, send)


def _route(scope: Scope) -> _Route | None:
    """Return which of the door's routes a request is for."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    path: str = scope["path"]
    return _LITERAL.get(path) or (_Route.TRUE_UP if _OF_IMAGE.fullmatch(path) else None)


async def _each(asked: Iterable[Awaitable[Any]]) -> list[dict[str, Any]]:
    """Answer requests side by side, so that they share their transactions."""
    return await asyncio.gather(*map(_outcome, asked))


async def _outcome(asked: Awaitable[Any]) -> dict[str, Any]:
    try:
        return {"status": 200, "body": await asked}
    except PixorlyError as error:
        refused = problem_of(error)
        return {"status": refused.status_code, "body": orjson.Fragment(bytes(refused.body))}


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


def _shown(answer: Any) -> bytes:
    # asyncpg has a UUID type of its own.
    return orjson.dumps(answer, default=str)
