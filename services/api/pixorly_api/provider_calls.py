"""What the generator recorded of its provider calls, over its internal HTTP. Nothing is retried here."""

from collections.abc import Mapping
from typing import Any, Protocol

import httpx
import orjson

from pixorly.errors import OutageError
from pixorly_api.settings import ApiSettings


class ProviderCalls(Protocol):
    """The generator's records. Every call raises `OutageError("generator")` when it is away."""

    async def get(self, path: str, params: Mapping[str, str | int | None]) -> dict[str, Any]:
        """Return what the generator answers under an internal path."""

    async def send(self, path: str, body: Mapping[str, Any]) -> None:
        """Put a body to an internal path."""


class HttpProviderCalls(ProviderCalls):
    """The generator over HTTP.

    Args:
        settings: Where it is, and the token that opens it.
        patience_s: How long it may say nothing to what it is told; its books may take longer.
    """

    def __init__(self, settings: ApiSettings, *, patience_s: float = 5) -> None:
        self._patience_s = patience_s
        self._client = httpx.AsyncClient(
            base_url=settings.generator_url,
            headers={"Authorization": f"Bearer {settings.service_token.get_secret_value()}"},
            timeout=httpx.Timeout(settings.books_timeout_s, connect=2.0),
            trust_env=False,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def get(self, path: str, params: Mapping[str, str | int | None]) -> dict[str, Any]:
        """Return what the generator answers under an internal path."""
        given = {name: value for name, value in params.items() if value is not None}
        try:
            response = await self._client.get(path, params=given)
            response.raise_for_status()
            return dict(orjson.loads(response.content))
        except (httpx.HTTPError, orjson.JSONDecodeError) as error:
            raise OutageError("generator", f"The generator's records can't be read: {type(error).__name__}.") from error

    async def send(self, path: str, body: Mapping[str, Any]) -> None:
        """Put a body to an internal path."""
        try:
            response = await self._client.put(
                path,
                content=orjson.dumps(body),
                headers={"Content-Type": "application/json"},
                timeout=httpx.Timeout(self._patience_s, connect=min(2.0, self._patience_s)),
            )
            response.raise_for_status()
        except httpx.HTTPError as error:
            words = f"The generator can't be told ({type(error).__name__}). It may have heard of it: say it again."
            raise OutageError("generator", words) from error
