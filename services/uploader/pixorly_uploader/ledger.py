"""The ledger, as the uploader calls it: the one file here that knows HTTP."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Protocol
from uuid import UUID

import httpx
from typing_extensions import override

from pixorly import http, telemetry
from pixorly.errors import OutageError, ServerError
from pixorly.settings import LedgerClientSettings

_OURS_TO_MEND: Final = frozenset({401, 403, 408, 425, 429})
"""Refusals that say nothing of the image: a wrong token, or a ledger that is too busy."""


class Ledger(Protocol):
    """What the uploader asks of the ledger.

    Every method raises `OutageError("ledger")` when there is no answer.
    """

    async def true_up(
        self, image_id: UUID, *, size_bytes: int, user_id: str, job_id: UUID
    ) -> Literal["stored", "closed"]:
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

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    @override
    async def true_up(
        self, image_id: UUID, *, size_bytes: int, user_id: str, job_id: UUID
    ) -> Literal["stored", "closed"]:
        body = {"bytes": size_bytes, "user_id": user_id, "job_id": str(job_id)}
        match await self._call("POST", f"/internal/images/{image_id}/true-up", body):
            case {"state": "stored"}:
                return "stored"
            case {"state": "closed"}:
                return "closed"
        raise OutageError("ledger", "The ledger's answer can't be read.")

    @override
    async def release(self, image_ids: Sequence[UUID]) -> None:
        await self._call("POST", "/internal/images/release", {"image_ids": [str(image_id) for image_id in image_ids]})

    async def probe(self) -> None:
        """Ask whether the ledger is there.

        Raises:
            OutageError: It is not.
        """
        await self._call("GET", "/livez")

    async def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        with http.calling("ledger", method, self._url, path) as span:
            try:
                # httpx bounds each read, which an answer in drips would never reach.
                async with asyncio.timeout(self._timeout_s):
                    answer = await self._client.request(method, path, json=body, headers=telemetry.carried())
            except (httpx.HTTPError, OSError) as error:
                raise OutageError("ledger", f"The ledger is away: {type(error).__name__}.") from error
            http.answered(span, answer.status_code)
        if answer.is_server_error or answer.status_code in _OURS_TO_MEND:
            raise OutageError("ledger", f"The ledger answered {answer.status_code}.")
        if not answer.is_success:
            raise ServerError(f"The ledger refused a call with {answer.status_code}.")
        try:
            return answer.json()
        except ValueError as error:
            raise OutageError("ledger", "The ledger's answer can't be read.") from error
