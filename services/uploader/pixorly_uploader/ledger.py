"""The ledger, as the uploader calls it: the one file here that knows HTTP."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol
from uuid import UUID

import httpx
from typing_extensions import override

from pixorly import http, telemetry
from pixorly.errors import OutageError, PixorlyError, ServerError
from pixorly.grouping import Grouper
from pixorly.settings import LedgerClientSettings

_OURS_TO_MEND: Final = frozenset({401, 403, 408, 425, 429})
"""Refusals that say nothing of the image: a wrong token, or a ledger that is too busy."""
_SERVER_ERRORS: Final = 500
_SPACING_S: Final = 0.05
"""Between calls that true up: where images come one upon another, several share one."""
_UNREADABLE: Final = "The ledger's answer can't be read."
_State = Literal["stored", "closed"]


class _TrueUp(NamedTuple):
    image_id: UUID
    body: dict[str, str | int]


class Ledger(Protocol):
    """What the uploader asks of the ledger.

    Every method raises `OutageError("ledger")` when there is no answer.
    """

    async def true_up(self, image_id: UUID, *, size_bytes: int, user_id: str, job_id: UUID) -> _State:
        """Count the image's real size as used storage; `closed` means that it must not be stored any more."""

    async def release(self, image_ids: Sequence[UUID]) -> None:
        """Give back the storage of images that are gone; a repeat changes nothing."""


class HttpLedger(Ledger):
    """The ledger over HTTP, with the one client of this process.

    Args:
        settings: Where it is, with which token, and how long one call may take.
        transport: In place of the network, for tests.
    """

    def __init__(self, settings: LedgerClientSettings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._timeout_s = settings.ledger_timeout_s
        self._url = settings.ledger_url
        self._client = httpx.AsyncClient(
            base_url=settings.ledger_url,
            headers={"Authorization": f"Bearer {settings.service_token.get_secret_value()}"},
            timeout=settings.ledger_timeout_s,
            # Few: each request looks at every connection that is open, and more would not be answered any sooner.
            transport=transport or http.SteadyTransport(connections=8, keepalive_s=4),
            trust_env=False,
        )
        # Those that come while others are under way go together.
        self._true_ups: Grouper[_TrueUp, _State] = Grouper(
            self._true_up_group, max_group=64, spacing_s=_SPACING_S, name="true_ups.send"
        )
        self._releases: Grouper[Sequence[UUID], None] = Grouper(self._release_group, max_group=64, name="releases.send")

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    @override
    async def true_up(self, image_id: UUID, *, size_bytes: int, user_id: str, job_id: UUID) -> _State:
        return await self._true_ups(_TrueUp(image_id, {"bytes": size_bytes, "user_id": user_id, "job_id": str(job_id)}))

    async def _true_up_group(self, asked: Sequence[_TrueUp]) -> Sequence[_State | Exception]:
        """Send one image by itself, which every ledger knows: one that knows no list has each asked for alone."""
        if len(asked) == 1:
            image_id, body = asked[0]
            return [_state(await self._call("POST", f"/internal/images/{image_id}/true-up", body))]
        wanted = [{"image_id": str(image_id), **body} for image_id, body in asked]
        answers = await self._call("POST", "/internal/images/true-ups", wanted)
        try:
            return [_outcome(answer["status"], answer["body"]) for _, answer in zip(asked, answers, strict=True)]
        except (KeyError, TypeError, ValueError) as error:
            raise OutageError("ledger", _UNREADABLE) from error

    @override
    async def release(self, image_ids: Sequence[UUID]) -> None:
        await self._releases(image_ids)

    async def _release_group(self, asked: Sequence[Sequence[UUID]]) -> Sequence[None]:
        image_ids = [str(image_id) for images in asked for image_id in images]
        await self._call("POST", "/internal/images/release", {"image_ids": image_ids})
        return [None] * len(asked)

    async def probe(self) -> None:
        """Ask whether the ledger is there.

        Raises:
            OutageError: It is not.
        """
        await self._call("GET", "/livez")

    async def _call(self, method: str, path: str, body: object = None) -> Any:
        with http.calling("ledger", method, self._url, path) as span:
            try:
                # httpx bounds each read, which an answer in drips would never reach.
                async with asyncio.timeout(self._timeout_s):
                    answer = await self._client.request(method, path, json=body, headers=telemetry.carried())
            except (httpx.HTTPError, OSError) as error:
                raise OutageError("ledger", f"The ledger is away: {type(error).__name__}.") from error
            http.answered(span, answer.status_code)
        if not answer.is_success:
            raise _refusal(answer.status_code)
        try:
            return answer.json()
        except ValueError as error:
            raise OutageError("ledger", _UNREADABLE) from error


def _outcome(status: int, body: object) -> _State | Exception:
    """Return what became of one image of several."""
    return _state(body) if status == httpx.codes.OK else _refusal(status)


def _state(answer: object) -> _State:
    match answer:
        case {"state": "stored"}:
            return "stored"
        case {"state": "closed"}:
            return "closed"
    raise OutageError("ledger", _UNREADABLE)


def _refusal(status: int) -> PixorlyError:
    if status >= _SERVER_ERRORS or status in _OURS_TO_MEND:
        return OutageError("ledger", f"The ledger answered {status}.")
    return ServerError(f"The ledger refused a call with {status}.")
