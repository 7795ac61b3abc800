"""The ledger's internal HTTP, as the api needs it; every call is bounded in time.

Each call bears being made again, so a link that is refused or breaks is tried again within that time: a ledger that is
restarted fails no client's call. What it answered is final.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol
from uuid import UUID

import httpx
import orjson

from pixorly import http, telemetry
from pixorly.errors import InsufficientCredits, InvalidRequest, OutageError, PixorlyError, ServerError, UserError
from pixorly.grouping import Grouper
from pixorly.settings import LedgerClientSettings
from pixorly_api import errors

_REFUSALS: Final[dict[str, type[UserError]]] = {
    refusal.code: refusal
    for refusal in (
        InsufficientCredits,
        InvalidRequest,
        errors.StorageQuotaExceeded,
        errors.AccountSuspended,
        errors.AccountNotFound,
        errors.ChargeVoided,
        errors.NotFound,
    )
}
_STANDARD: Final = frozenset({"type", "title", "status", "detail", "code", "request_id", "errors", "instance"})
_SERVER_ERRORS: Final = 500
_OURS_TO_MEND: Final = frozenset({401, 403, 408, 425, 429})
"""Refusals that say nothing of the request: a wrong token, or a ledger that is too busy."""
_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_AGAIN_S: Final = 0.1
_CHARGING: Final = 2
"""How many calls that charge are under way at once: the fewer, the more charges share one."""
_Ask = Mapping[str, Any]
Params = Mapping[str, str | int | None]


@dataclass(frozen=True, slots=True)
class Charge:
    """What a charge answered."""

    balance_credits: int
    plan: str


class Ledger(Protocol):
    """Accounts, charges and usage. Every call raises `OutageError("ledger")` when the ledger is away."""

    async def charge(
        self, job_id: UUID, user_id: str, amount_credits: int, images: Sequence[tuple[UUID, int]]
    ) -> Charge:
        """Take a job's credits and reserve storage: the estimated bytes of each image.

        Raises:
            UserError: The ledger refused, and took nothing.
            LedgerUnreached: The ledger never heard of it; any other `OutageError` leaves that open.
        """

    async def void(self, job_id: UUID, user_id: str) -> str:
        """Give back an open charge, or refuse a later one; return `voided` or `settled`."""

    async def get_charge(self, job_id: UUID) -> dict[str, Any]:
        """Return a charge with its images and transfers.

        Raises:
            UserError: There is none.
        """

    async def get(self, path: str, params: Params | None = None) -> dict[str, Any]:
        """Return what the ledger answers under an internal path."""

    def lines(self, path: str, params: Params, silence_s: float) -> AsyncIterator[dict[str, Any]]:
        """Yield the lines of JSON that the ledger answers under an internal path, as they come."""

    async def send(self, method: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Send a body to an internal path and return the answer."""

    async def ping(self) -> None:
        """Ask whether the ledger is there."""


class HttpLedger(Ledger):
    """The ledger over HTTP.

    Args:
        settings: Where it is, and the token that opens it.
        transport: Another transport than the network, for tests.
    """

    def __init__(self, settings: LedgerClientSettings, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._timeout_s = settings.ledger_timeout_s
        self._url = settings.ledger_url
        self._client = httpx.AsyncClient(
            base_url=settings.ledger_url,
            headers={"Authorization": f"Bearer {settings.service_token.get_secret_value()}"},
            timeout=httpx.Timeout(settings.ledger_timeout_s, connect=min(2.0, settings.ledger_timeout_s)),
            # Few: each request looks at every connection that is open, and more would not be answered any sooner.
            transport=transport or http.SteadyTransport(connections=16, keepalive_s=4),
            trust_env=False,
        )
        # Those that come while others are under way go together.
        self._charge: Grouper[_Ask, Charge] = Grouper(
            self._charge_group, max_group=64, workers=_CHARGING, name="charges.send"
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def charge(
        self, job_id: UUID, user_id: str, amount_credits: int, images: Sequence[tuple[UUID, int]]
    ) -> Charge:
        """Take a job's credits and reserve storage."""
        return await self._charge(
            {
                "job_id": str(job_id),
                "user_id": user_id,
                "amount_credits": amount_credits,
                "images": [{"image_id": str(image_id), "estimate_bytes": size} for image_id, size in images],
            }
        )

    async def _charge_group(self, asked: Sequence[_Ask]) -> Sequence[Charge | Exception]:
        if len(asked) == 1:
            return [_charged(await self.send("POST", "/internal/charges", asked[0]))]
        answers = await self._call(
            "POST", "/internal/charges/batch", content=orjson.dumps(asked), headers={"Content-Type": "application/json"}
        )
        return [_outcome(answer["status"], answer["body"]) for answer in answers]

    async def void(self, job_id: UUID, user_id: str) -> str:
        """Give back an open charge, or refuse a later one."""
        answer = await self.send("POST", f"/internal/charges/{job_id}/void", {"user_id": user_id})
        return str(answer["status"])

    async def get_charge(self, job_id: UUID) -> dict[str, Any]:
        """Return a charge with its images and transfers."""
        return await self.get(f"/internal/charges/{job_id}")

    async def get(self, path: str, params: Params | None = None) -> dict[str, Any]:
        """Return what the ledger answers under an internal path."""
        given = {name: value for name, value in (params or {}).items() if value is not None}
        return await self._asked("GET", path, params=given)

    async def lines(self, path: str, params: Params, silence_s: float) -> AsyncIterator[dict[str, Any]]:
        """Yield the lines of JSON that the ledger answers under an internal path, as they come."""
        given = {name: value for name, value in params.items() if value is not None}
        timeout = httpx.Timeout(silence_s, connect=min(2.0, self._timeout_s))
        try:
            async with self._client.stream("GET", path, params=given, timeout=timeout) as response:
                if not response.is_success:
                    await response.aread()
                    _understood(response)
                async for line in response.aiter_lines():
                    yield orjson.loads(line)
        except (httpx.HTTPError, orjson.JSONDecodeError) as error:
            raise OutageError("ledger", f"The ledger broke off: {type(error).__name__}.") from error

    async def send(self, method: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Send a body to an internal path and return the answer."""
        return await self._asked(method, path, content=orjson.dumps(body), headers={"Content-Type": "application/json"})

    async def ping(self) -> None:
        """Ask whether the ledger is there."""
        await self._call("GET", "/livez", patient=False)

    async def _asked(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        return dict(await self._call(method, path, **more))

    async def _call(self, method: str, path: str, *, patient: bool = True, **more: Any) -> Any:
        heard = False  # whether the ledger may have heard of it
        with http.calling("ledger", method, self._url, path) as span:
            headers = {**more.pop("headers", {}), **telemetry.carried()}
            try:
                async with asyncio.timeout(self._timeout_s):
                    while True:
                        before, heard = heard, True
                        try:
                            response = await self._client.request(method, path, headers=headers, **more)
                            http.answered(span, response.status_code)
                            break
                        except httpx.TransportError as error:
                            heard = before or not isinstance(error, _NOT_SENT)
                            if not patient or isinstance(error, httpx.TimeoutException):
                                raise
                        await asyncio.sleep(_AGAIN_S)
            except (httpx.HTTPError, TimeoutError) as error:
                if not heard:
                    raise errors.LedgerUnreached(f"The ledger is away: {type(error).__name__}.") from error
                raise OutageError("ledger", f"The ledger did not answer: {type(error).__name__}.") from error
        return _understood(response)


def _understood(response: httpx.Response) -> Any:
    """Return the body of an answer, or raise what a problem body says in our words."""
    if response.status_code >= _SERVER_ERRORS:
        raise OutageError("ledger", f"The ledger answered {response.status_code}.")
    try:
        body = orjson.loads(response.content)
    except orjson.JSONDecodeError as error:
        raise OutageError("ledger", "The ledger's answer can't be read.") from error
    if response.is_success:
        return body
    raise _refusal(response.status_code, body)


def _outcome(status: int, body: Mapping[str, Any]) -> Charge | Exception:
    """Return what became of one charge of several."""
    return _charged(body) if status == httpx.codes.OK else _refusal(status, body)


def _charged(answer: Mapping[str, Any]) -> Charge:
    return Charge(answer["balance_credits"], answer["plan"])


def _refusal(status: int, body: Mapping[str, Any]) -> PixorlyError:
    """Return what a problem body says in our words."""
    refusal = _REFUSALS.get(body.get("code", ""))
    if status >= _SERVER_ERRORS or (refusal is None and status in _OURS_TO_MEND):
        return OutageError("ledger", f"The ledger answered {status}.")
    if refusal is None:
        return ServerError(f"The ledger refused a call: {status} {body.get('code')}.")
    return refusal(body.get("detail"), **{name: value for name, value in body.items() if name not in _STANDARD})


def moment(time: datetime | None) -> str | None:
    """Return a time as the ledger reads it."""
    return time.isoformat() if time else None
