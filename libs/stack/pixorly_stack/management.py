"""RabbitMQ's management API: virtual hosts, users and what they may do."""

from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx

from pixorly_stack.errors import StackError


class ManagementError(StackError):
    """RabbitMQ's management API could not be used."""


class Management:
    """RabbitMQ's management API, for the length of a block.

    Args:
        url: Its address, with a user that may do everything.
        timeout_s: How long one call may take.

    Every method raises `ManagementError` when the API is away or refuses.
    """

    def __init__(self, url: str, timeout_s: float = 10) -> None:
        parts = urlsplit(url)
        address = (
            f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "") + parts.path.rstrip("/")
        )
        auth = (parts.username or "guest", parts.password or "guest")
        self._client = httpx.AsyncClient(base_url=f"{address}/api/", auth=auth, timeout=timeout_s, trust_env=False)

    async def __aenter__(self) -> Self:
        """Open the connection."""
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        await self._client.__aexit__(kind, error, trace)

    async def overview(self) -> dict[str, Any]:
        """Return what the server says of itself."""
        return dict((await self._call("GET", "overview")).json())

    async def make_vhost(self, vhost: str) -> None:
        """Make a virtual host unless it is there."""
        await self._call("PUT", f"vhosts/{_in_path(vhost)}")

    async def delete_vhost(self, vhost: str) -> None:
        """Delete a virtual host with all that is in it."""
        await self._call("DELETE", f"vhosts/{_in_path(vhost)}")

    async def make_user(self, name: str, password: str, tags: str = "") -> None:
        """Make a user, or give it this password."""
        await self._call("PUT", f"users/{_in_path(name)}", {"password": password, "tags": tags})

    async def permit(self, user: str, vhost: str, rights: dict[str, str]) -> None:
        """Let a user configure, write and read what these three patterns match, and nothing else."""
        await self._call("PUT", f"permissions/{_in_path(vhost)}/{_in_path(user)}", rights)

    async def permit_topics(self, user: str, vhost: str, exchange: str, rights: dict[str, str]) -> None:
        """Let a user write and read, on one topic exchange, the routing keys that these two patterns match."""
        await self._call(
            "PUT", f"topic-permissions/{_in_path(vhost)}/{_in_path(user)}", {"exchange": exchange, **rights}
        )

    async def _call(self, method: str, path: str, body: dict[str, str] | None = None) -> httpx.Response:
        try:
            answer = await self._client.request(method, path, json=body)
            answer.raise_for_status()
        except httpx.HTTPStatusError as error:
            raise ManagementError(
                f"RabbitMQ's management API answered {error.response.status_code} to {path}"
            ) from error
        except httpx.HTTPError as error:
            raise ManagementError(f"RabbitMQ's management API did not answer ({type(error).__name__})") from error
        return answer


def _in_path(name: str) -> str:
    return quote(name, safe="")
