"""The door of the one call that comes with every job: it is answered before the framework looks for a route.

What the framework does around a route takes longer than the charge itself.
"""

import hmac
from typing import Final

import orjson
from pydantic import TypeAdapter, ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pixorly.errors import InvalidRequest, PixorlyError
from pixorly_ledger.credits import Charged, ChargeRequest, Credits
from pixorly_ledger.problems import Unauthorized, first_fault, problem_of
from pixorly_ledger.schemas import ChargeIn

_PATH: Final = "/internal/charges"
_TYPE: Final = (b"content-type", b"application/json")
_CHARGE_IN: Final = TypeAdapter(ChargeIn)


class ChargeDoor:
    """Answers `POST /internal/charges` and passes on everything else.

    200 `{job_id, amount_credits, balance_credits, plan, status}`; 402 `insufficient_credits` {needed_credits,
    available_credits}, 403 `storage_quota_exceeded` {used_bytes, reserved_bytes, quota_bytes, needed_bytes}, 403
    `account_suspended`, 404 `account_not_found`, 409 `charge_voided`; none of these leaves anything behind.

    Args:
        app: What answers the rest.
        credits_: What charges.
        token: The service token.
    """

    def __init__(self, app: ASGIApp, *, credits_: Credits, token: str) -> None:
        self._app = app
        self._credits = credits_
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] != _PATH or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            answer = await self._charge(scope, receive)
        except PixorlyError as error:
            await problem_of(error)(scope, receive, send)
            return
        length = str(len(answer)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length), _TYPE]})
        await send({"type": "http.response.body", "body": answer})

    async def _charge(self, scope: Scope, receive: Receive) -> bytes:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        if not hmac.compare_digest(given, self._expected):
            raise Unauthorized
        try:
            body = _CHARGE_IN.validate_json(await _body(receive))
        except ValidationError as error:
            raise InvalidRequest(first_fault(error.errors(include_url=False, include_input=False))) from error
        images = tuple((image.image_id, image.estimate_bytes) for image in body.images)
        return _shown(await self._credits.charge(ChargeRequest(body.job_id, body.user_id, body.amount_credits, images)))


async def _body(receive: Receive) -> bytes:
    parts, more = list[bytes](), True
    while more:
        message: Message = await receive()
        if message["type"] != "http.request":
            raise InvalidRequest("The body broke off.")
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def _shown(charged: Charged) -> bytes:
    # asyncpg has a UUID type of its own.
    return orjson.dumps(charged._asdict(), default=str)
