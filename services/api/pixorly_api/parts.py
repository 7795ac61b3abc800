"""What routes are given: the process's parts, who calls, and the ids and cursors in addresses."""

import base64
import binascii
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import Depends, Path, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from pixorly.catalogue import Catalogue
from pixorly.db import Database
from pixorly.errors import InvalidRequest
from pixorly_api.auth import Auth, Caller
from pixorly_api.creation import Creation
from pixorly_api.dead import DeadLetters
from pixorly_api.erasures import Erasures
from pixorly_api.errors import NotFound, RateLimited
from pixorly_api.fields import USER_ID, Scope
from pixorly_api.images import Images
from pixorly_api.inventory import StorageAudit
from pixorly_api.jobs import Jobs
from pixorly_api.ledger import Ledger
from pixorly_api.limits import Limits
from pixorly_api.links import LEAST_S, MOST_S, Links, Terms
from pixorly_api.live import Watcher
from pixorly_api.pauses import Pauses
from pixorly_api.pictures import Pictures
from pixorly_api.provider_calls import ProviderCalls
from pixorly_api.rates import Rates
from pixorly_api.records import Records
from pixorly_api.settings import ApiSettings

_UUID_BYTES: Final = 16
_bearer = HTTPBearer(auto_error=False, description="An API key: `px_live_…`", scheme_name="api_key")


@dataclass(frozen=True, slots=True)
class Parts:
    """What the HTTP process is made of."""

    settings: ApiSettings
    database: Database
    catalogue: Catalogue
    auth: Auth
    jobs: Jobs
    records: Records
    images: Images
    creation: Creation
    ledger: Ledger
    links: Links
    watcher: Watcher
    dead: DeadLetters
    provider_calls: ProviderCalls
    rates: Rates
    limits: Limits
    erasures: Erasures
    pauses: Pauses
    inventory: StorageAudit
    pictures: Pictures


async def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


def _caller(scope: Scope) -> Callable[..., Awaitable[Caller]]:
    async def caller(
        request: Request,
        parts: Annotated[Parts, Depends(_parts)],
        _: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    ) -> Caller:
        known = await parts.auth.caller(request.headers.get("authorization"), scope, _address(request))
        return await _counted(request, parts, known)

    return caller


async def _counted(request: Request, parts: Parts, caller: Caller) -> Caller:
    """Return a caller who may make one more request; the operator always may.

    Raises:
        RateLimited: There were too many.
    """
    if not caller.user_id:
        return caller
    who = f"key/{caller.key_id}" if caller.key_id else f"user/{caller.user_id}"
    allowance = await parts.rates.take(who, caller.user_id)
    if allowance:
        # The edge tells it with the answer, whatever that is.
        request.scope["pixorly.rate"] = allowance
        if allowance.left < 0:
            raise RateLimited(retry_after_s=allowance.resets_s)
    return caller


async def _job_id(
    generation_id: Annotated[str, Path(description="A generation's id.", json_schema_extra={"format": "uuid"})],
) -> UUID:
    return as_id(generation_id)


async def _image_id(
    image_id: Annotated[str, Path(description="An image's id.", json_schema_extra={"format": "uuid"})],
) -> UUID:
    return as_id(image_id)


async def _key_id(
    key_id: Annotated[str, Path(description="A key's id.", json_schema_extra={"format": "uuid"})],
) -> UUID:
    return as_id(key_id)


async def _terms(
    expires_in: Annotated[
        int | None,
        Query(ge=LEAST_S, le=MOST_S, description="For how many seconds links to private images are good."),
    ] = None,
    ip: Annotated[
        IPv4Network | None,
        Query(
            description="The IPv4 address or network from which alone the links to private images may be used; needs"
            " CloudFront."
        ),
    ] = None,
) -> Terms:
    return Terms(expires_in, ip)


def as_id(text: str) -> UUID:
    """Return the id that a text is.

    Raises:
        NotFound: It is none, so there is nothing under it.
    """
    try:
        return UUID(text)
    except ValueError as error:
        raise NotFound from error


def write_cursor(last_id: UUID) -> str:
    """Return the cursor after an id."""
    return base64.urlsafe_b64encode(last_id.bytes).decode().rstrip("=")


def read_cursor(cursor: str | None) -> UUID | None:
    """Return the id that a cursor stands after.

    Raises:
        InvalidRequest: It is none of ours.
    """
    if cursor is None:
        return None
    try:
        raw = base64.urlsafe_b64decode(cursor + "==")
    except (binascii.Error, ValueError) as error:
        raise _bad_cursor() from error
    if len(raw) != _UUID_BYTES:
        raise _bad_cursor()
    return UUID(bytes=raw)


def _bad_cursor() -> InvalidRequest:
    return InvalidRequest("This is no cursor of ours; take `next_cursor` of the page before.", param="cursor")


def page(found: list[Any], limit: int, last_id: Callable[[Any], UUID]) -> tuple[list[Any], str | None]:
    """Return a page of what was asked for with one more than `limit`, and the cursor to the next."""
    if len(found) <= limit:
        return found, None
    return found[:limit], write_cursor(last_id(found[limit - 1]))


async def _listener(
    request: Request,
    parts: Annotated[Parts, Depends(_parts)],
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    token: Annotated[
        str | None, Query(max_length=100, description="A stream token, for browsers; the key's header otherwise.")
    ] = None,
) -> Caller:
    if token is not None and credentials is None:
        known = await parts.auth.listener(token, _address(request))
    else:
        known = await parts.auth.caller(request.headers.get("authorization"), "read", _address(request))
    return await _counted(request, parts, known)


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


P = Annotated[Parts, Depends(_parts)]
Reader = Annotated[Caller, Depends(_caller("read"))]
Listener = Annotated[Caller, Depends(_listener)]
Maker = Annotated[Caller, Depends(_caller("generate"))]
Admin = Annotated[Caller, Depends(_caller("admin"))]
JobId = Annotated[UUID, Depends(_job_id)]
ImageId = Annotated[UUID, Depends(_image_id)]
KeyId = Annotated[UUID, Depends(_key_id)]
LinkTerms = Annotated[Terms, Depends(_terms)]
Download = Annotated[bool, Query(description="Whether a browser is to save what the links lead to.")]
UserId = Annotated[str, Path(pattern=USER_ID, description="A user's id.")]
Limit = Annotated[int, Query(ge=1, le=100, description="How many at most.")]
Cursor = Annotated[str | None, Query(pattern=r"^[A-Za-z0-9_-]{21}[AQgw]$", description="Where to go on.")]
