"""What both clients have in common: who they are, and the requests they send."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import httpx

from pixorly_client.calls import Call
from pixorly_client.patience import Patience

CONNECT_TIMEOUT_S: Final = 5.0
ANSWER_TIMEOUT_S: Final = 30.0
SHORTEST_TIMEOUT_S: Final = 0.5
WAIT_TIMEOUT_S: Final = 1860.0
"""A little more than a job's own deadline, after which it is settled in any case."""


def _version() -> str:
    try:
        return version("pixorly-client")
    except PackageNotFoundError:  # it lies on the path without being installed
        return "0"


@dataclass(frozen=True, slots=True)
class Core:
    """Makes the requests of one client.

    Attributes:
        base_url: Where the API is, with or without `/v1` at its end.
        api_key: The key that all calls of the API carry; a link never does.
        timeout_s: How long an answer may take.
        patience: How often and how long is tried.
    """

    base_url: str
    api_key: str = field(repr=False)
    timeout_s: float = ANSWER_TIMEOUT_S
    patience: Patience = field(default_factory=Patience)

    def request(self, call: Call[Any], within_s: float) -> httpx.Request:
        """Return the request of a call, whose answer may take as long as usual and so long at most."""
        return self._request(call, min(self.timeout_s + call.waits_s, max(SHORTEST_TIMEOUT_S, within_s)))

    def stream(self, call: Call[Any], silence_s: float) -> httpx.Request:
        """Return the request of a call whose answer goes on, and may be silent for so long."""
        return self._request(call, silence_s)

    def _request(self, call: Call[Any], read_s: float) -> httpx.Request:
        return httpx.Request(
            call.method,
            self.url(call),
            params=call.params or None,
            json=call.json,
            headers=self.headers(call),
            extensions={"timeout": httpx.Timeout(read_s, connect=min(CONNECT_TIMEOUT_S, read_s)).as_dict()},
        )

    def url(self, call: Call[Any]) -> str:
        """Return the whole address of a call: a link is one already."""
        return call.path if call.is_link else self.base_url.rstrip("/").removesuffix("/v1") + call.path

    def headers(self, call: Call[Any]) -> Mapping[str, str]:
        """Return the headers of a call."""
        own = {"User-Agent": f"pixorly-python/{_version()}", "Accept": "application/json"}
        if not call.is_link:
            own["Authorization"] = f"Bearer {self.api_key}"
        return own | dict(call.headers)
