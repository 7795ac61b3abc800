"""Guarded downloads, for providers that answer with an address instead of an image.

Whoever writes that address writes what our machine connects to. So only https to the public internet is spoken; names
are resolved here, each answer is checked, and the connection goes to the very address that was checked, so that a name
that changes its mind in between gains nothing. Bytes, time, redirects and the type are bounded; nothing is unpacked;
proxies in the environment are ignored, for httpcore reads none.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import httpcore
import httpx

from pixorly.errors import InvalidImage, PixorlyError, ProviderTimeout, ProviderUnavailable
from pixorly_generator.providers.http import usual_authorities

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""From host and port to addresses."""
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_FORBIDDEN: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",
        "192.0.0.0/24",  # protocol assignments, and the metadata of some clouds
        "192.88.99.0/24",  # 6to4 relays
        "::/96",  # IPv4 in the old compatible form
        "64:ff9b::/96",  # NAT64: an IPv4 address behind it
        "64:ff9b:1::/48",
        "2001::/23",  # Teredo, ORCHID and other assignments
        "2002::/16",  # 6to4: an IPv4 address inside it
        "3fff::/20",
        "fec0::/10",
    )
)
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_TYPES: Final = ("image/", "application/octet-stream", "binary/octet-stream")
_OK: Final = 200
_SERVER_FAULT: Final = 500
_HTTPS_PORT: Final = 443


class Forbidden(InvalidImage):
    """The image provider gave an address that we do not fetch from."""


@dataclass(frozen=True, slots=True)
class FetchRule:
    """What may be fetched.

    Attributes:
        max_bytes: The largest image, as it comes over the wire.
        timeout_s: The longest that the whole may take, redirects included.
        max_redirects: How many are followed.
        connect_timeout_s: To have a connection.
        waits_s: How long to wait before each further try.
        allow_local: Whether http, other ports and private addresses are allowed. For tests only.
    """

    max_bytes: int = 64_000_000
    timeout_s: float = 60.0
    max_redirects: int = 3
    connect_timeout_s: float = 10.0
    waits_s: tuple[float, ...] = (0.5, 1.0)
    allow_local: bool = False


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was fetched.

    Attributes:
        data: The bytes.
        content_type: What the server called them.
    """

    data: bytes
    content_type: str | None


def is_public(address: _Address) -> bool:
    """Tell whether the address lies in the public internet, and is not a way around to what does not."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address.scope_id is not None:
            return False
    if any(address in network for network in _FORBIDDEN if network.version == address.version):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


async def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host, numeric forms of every kind included."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for _, _, _, _, address in found))


class _GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects to public addresses only, and to none that was not checked a moment ago."""

    def __init__(self, resolver: Resolve, rule: FetchRule) -> None:
        self._resolver = resolver
        self._rule = rule
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first of the host's addresses that answers.

        Raises:
            Forbidden: One of the addresses is not public; then none is tried.
            httpcore.ConnectError: None answers.
        """
        try:
            addresses = await self._resolver(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(str(error)) from error
        if not self._rule.allow_local and not all(is_public(ipaddress.ip_address(address)) for address in addresses):
            raise Forbidden
        for address in addresses[:-1]:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        if not addresses:
            raise httpcore.ConnectError("no address")
        return await self._inner.connect_tcp(addresses[-1], port, timeout, local_address, socket_options)

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        """Refuse: nothing that a provider names lies on this machine.

        Raises:
            Forbidden: Always.
        """
        raise Forbidden

    async def sleep(self, seconds: float) -> None:
        """Sleep."""
        await asyncio.sleep(seconds)


class Fetcher:
    """Fetches images from addresses that somebody else wrote.

    Args:
        rule: What may be fetched.
        resolver: Finds the addresses of a host.
        tls: Whom to trust; the usual authorities where nothing is said.
    """

    def __init__(
        self, rule: FetchRule | None = None, *, resolver: Resolve = resolve, tls: ssl.SSLContext | None = None
    ) -> None:
        self._rule = rule or FetchRule()
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls or usual_authorities(),
            max_connections=100,
            max_keepalive_connections=10,
            keepalive_expiry=10,
            network_backend=_GuardedBackend(resolver, self._rule),
        )

    async def fetch(self, url: str) -> Fetched:
        """Return what lies at `url`.

        A failure is tried again soon, for it costs nothing, while making the image once more does.

        Raises:
            InvalidImage: The address is not allowed, or what lies there is no image that we take.
            ProviderTimeout: It took too long.
            ProviderUnavailable: It could not be fetched.
        """
        try:
            async with asyncio.timeout(self._rule.timeout_s):
                for wait_s in self._rule.waits_s:
                    try:
                        return await self._follow(url)
                    except ProviderUnavailable:
                        await asyncio.sleep(wait_s)
                return await self._follow(url)
        except TimeoutError as error:
            raise ProviderTimeout("The image could not be fetched in time.") from error

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.aclose()

    async def _follow(self, url: str) -> Fetched:
        here = self._allowed(url)
        for _ in range(self._rule.max_redirects + 1):
            came = await self._get(here)
            if isinstance(came, Fetched):
                return came
            here = self._allowed(str(here.join(came)))
        raise Forbidden("The image provider's address leads to too many others.")

    def _allowed(self, url: str) -> httpx.URL:
        """Return the address in parts.

        Raises:
            Forbidden: Its scheme, its port or its form is not one that we fetch from.
        """
        if any(character <= " " or character == "\\" for character in url):
            raise Forbidden
        try:
            parts = httpx.URL(url)
        except (httpx.InvalidURL, UnicodeError, ValueError) as error:
            raise Forbidden from error
        if parts.userinfo or not parts.host:
            raise Forbidden
        if self._rule.allow_local and parts.scheme == "http":
            return parts
        if parts.scheme != "https" or (parts.port not in {None, _HTTPS_PORT} and not self._rule.allow_local):
            raise Forbidden
        return parts

    async def _get(self, url: httpx.URL) -> Fetched | str:
        """Return what lies there, or where it leads.

        Raises:
            PixorlyError: As `fetch` says.
        """
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        headers = {
            "host": url.netloc.decode(),
            "accept": "image/*",
            "accept-encoding": "identity",
            "user-agent": "pixorly",
        }
        phases = {"connect": self._rule.connect_timeout_s, "read": self._rule.timeout_s, "write": 10.0}
        try:
            async with self._pool.stream(
                "GET", target, headers=list(headers.items()), extensions={"timeout": phases}
            ) as response:
                return await self._received(response)
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            raise ProviderUnavailable("The image could not be fetched.") from error
        except httpcore.UnsupportedProtocol as error:
            raise Forbidden from error

    async def _received(self, response: httpcore.Response) -> Fetched | str:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
        if response.status in _REDIRECTS:
            return headers.get("location", "")
        if response.status != _OK:
            raise _status_error(response.status)
        content_type = headers.get("content-type")
        if content_type and not content_type.lower().startswith(_TYPES):
            raise InvalidImage("The image provider's address holds no image.")
        if headers.get("content-encoding", "identity").strip().lower() not in {"", "identity"}:
            raise InvalidImage("The image provider sent a packed image.")
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._rule.max_bytes:
            raise InvalidImage("The image is too large.")
        raw = bytearray()
        async for chunk in response.aiter_stream():
            raw += chunk
            if len(raw) > self._rule.max_bytes:
                raise InvalidImage("The image is too large.")
        return Fetched(bytes(raw), content_type)


def _status_error(status: int) -> PixorlyError:
    if status >= _SERVER_FAULT:
        return ProviderUnavailable("The image could not be fetched.")
    return InvalidImage("The image is not where the image provider said.")
