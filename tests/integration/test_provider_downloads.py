"""Downloads from addresses that somebody else wrote: only the public internet, only what was checked, and bounded."""

import asyncio
import ipaddress
import time
from pathlib import Path

import pytest
from raw_server import RawServer, dripping, endless, http, raw_server
from tls import contexts

from pixorly.errors import InvalidImage, PixorlyError, ProviderTimeout, ProviderUnavailable
from pixorly_generator.providers.fetch import Fetcher, FetchRule, Forbidden, _GuardedBackend, is_public, resolve

PNG = b"\x89PNG\r\n\x1a\n" + bytes(1000)
LOCAL = FetchRule(allow_local=True, timeout_s=5, max_bytes=100_000, waits_s=(0.01, 0.01))

NOT_PUBLIC = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.170",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::7f00:1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "3fff::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "2606:4700::1%eth0",
    "fec0::1",
    "ff02::1",
]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_is_not_public_is_known_as_such(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "::ffff:1.1.1.1"])
def test_a_public_address_is_known_as_such(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        "http://images.example/a.png",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "ftp://images.example/a.png",
        "data:image/png;base64,AAAA",
        "https:///a.png",
        "https://",
        "//images.example/a.png",
        "images.example/a.png",
        "",
        "https://user:word@images.example/a.png",
        "https://images.example@127.0.0.1/",
        "https://127.0.0.1\\@images.example/",
        "https://images.example\\.evil/",
        "https://images.example/a b.png",
        "https://images.example/\r\nhost: x",
        "https://images.example:25/",
        "https://images.example:5672/",
        "https://images.example:6379/",
        "https://images.example:15672/",
        "https://images.example:99999/",
        "https://[::1/",
    ],
)
async def test_an_address_of_a_wrong_form_is_refused(url: str) -> None:
    async def nobody(host: str, port: int) -> list[str]:
        raise AssertionError(host, port)

    fetcher = Fetcher(resolver=nobody)
    with pytest.raises(Forbidden):
        await fetcher.fetch(url)
    await fetcher.close()


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "localhost.",
        "LOCALHOST",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0X7F.0.0.1",
        "0177.0.0.1",
        "017700000001",
        "0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "169.254.169.254",
        "\uff11\uff12\uff17.0.0.1",
        "\u2460\u2461\u2466.0.0.1",
    ],
)
async def test_this_machine_is_not_reached_however_it_is_spelled(host: str) -> None:
    fetcher = Fetcher(FetchRule(waits_s=()))
    with pytest.raises((Forbidden, ProviderUnavailable)):  # some spellings have no address at all
        await fetcher.fetch(f"https://{host}/")
    await fetcher.close()


async def connect(server: RawServer, addresses: list[str], rule: FetchRule | None = None) -> None:
    async def told(_host: str, _port: int) -> list[str]:
        return addresses

    stream = await _GuardedBackend(told, rule or FetchRule()).connect_tcp("images.example", server.port, timeout=2)
    await stream.aclose()


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["1.1.1.1", "127.0.0.1"], ["127.0.0.1", "1.1.1.1"], ["::1"], ["::ffff:127.0.0.1"]]
)
async def test_a_name_that_leads_here_is_refused_and_no_packet_is_sent(addresses: list[str]) -> None:
    async with raw_server(b"") as server:
        with pytest.raises(Forbidden):
            await connect(server, addresses)

        assert server.connections == 0


async def test_the_listener_above_is_reached_where_it_is_allowed() -> None:
    async with raw_server(b"") as server:
        await connect(server, ["127.0.0.1"], LOCAL)


async def test_the_connection_goes_to_the_address_that_was_checked(tmp_path: Path) -> None:
    server_tls, client_tls = contexts(tmp_path, "images.example")
    asked: list[str] = []

    async def changes_its_mind(host: str, port: int) -> list[str]:
        asked.append(f"{host}:{port}")
        return ["127.0.0.1"] if len(asked) == 1 else ["192.0.2.1"]

    async with raw_server(http(PNG, content_type="image/png"), tls=server_tls) as server:
        fetcher = Fetcher(LOCAL, resolver=changes_its_mind, tls=client_tls)
        fetched = await fetcher.fetch(f"https://images.example:{server.port}/a.png")
        await fetcher.close()

        assert asked == [f"images.example:{server.port}"]
        assert f"host: images.example:{server.port}".encode() in server.requests[0].lower()
    assert fetched.data == PNG


async def test_a_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    server_tls, client_tls = contexts(tmp_path, "other.example")

    async def here(_host: str, _port: int) -> list[str]:
        return ["127.0.0.1"]

    async with raw_server(http(PNG), tls=server_tls) as server:
        fetcher = Fetcher(LOCAL, resolver=here, tls=client_tls)
        with pytest.raises(ProviderUnavailable):
            await fetcher.fetch(f"https://images.example:{server.port}/a.png")
        await fetcher.close()

        assert server.requests == []


async def fetched(server: RawServer, rule: FetchRule = LOCAL, path: str = "/a.png") -> bytes:
    fetcher = Fetcher(rule)
    try:
        return (await fetcher.fetch(server.url + path)).data
    finally:
        await fetcher.close()


async def test_an_image_is_fetched() -> None:
    async with raw_server(http(PNG, content_type="image/png")) as server:
        assert await fetched(server, path="/a.png?sig=a%2Fb&x=1") == PNG
        assert server.requests[0].startswith(b"GET /a.png?sig=a%2Fb&x=1 HTTP/1.1")
        assert b"accept-encoding: identity" in server.requests[0].lower()


@pytest.mark.parametrize("content_type", ["image/png", "IMAGE/JPEG", "application/octet-stream", "image/svg+xml"])
async def test_a_type_that_may_be_an_image_is_taken(content_type: str) -> None:
    async with raw_server(http(PNG, content_type=content_type)) as server:
        assert await fetched(server) == PNG


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (http(b"<html>", content_type="text/html"), InvalidImage),
        (http(PNG, content_type="image/png", extra="content-encoding: gzip\r\n"), InvalidImage),
        (http(bytes(100_001), content_type="image/png"), InvalidImage),
        (b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: 99999999\r\n\r\n", InvalidImage),
        (http(b"", status="404 Not Found"), InvalidImage),
        (http(b"", status="403 Forbidden"), InvalidImage),
        (http(b"", status="302 Found"), InvalidImage),
    ],
)
async def test_what_is_no_image_is_refused_without_another_try(answer: bytes, expected: type[PixorlyError]) -> None:
    async with raw_server(answer) as server:
        with pytest.raises(expected):
            await fetched(server, FetchRule(allow_local=True, max_bytes=100_000, max_redirects=0))

        assert server.connections == 1


async def test_an_endless_image_is_cut_off() -> None:
    async def images_without_end(writer: asyncio.StreamWriter) -> None:
        await endless(writer, "image/png")

    async with raw_server(images_without_end) as server:
        with pytest.raises(InvalidImage, match="too large"):
            await fetched(server)


async def test_a_slow_drip_is_cut_off() -> None:
    async def slowly(writer: asyncio.StreamWriter) -> None:
        await dripping(writer, "image/png")

    begin = time.perf_counter()
    async with raw_server(slowly) as server:
        with pytest.raises(ProviderTimeout):
            await fetched(server, FetchRule(allow_local=True, timeout_s=0.5))

    assert time.perf_counter() - begin < 8


async def test_a_server_that_stumbles_is_asked_again() -> None:
    async with raw_server(b"", http(b"", status="503 Busy"), http(PNG, content_type="image/png")) as server:
        assert await fetched(server) == PNG


async def test_a_server_that_stays_away_is_the_provider_s_absence() -> None:
    async with raw_server(http(b"", status="503 Busy")) as server:
        with pytest.raises(ProviderUnavailable):
            await fetched(server)

        assert server.connections == 3


def moved(to: str, status: str = "302 Found") -> bytes:
    return http(b"", status=status, extra=f"location: {to}\r\n")


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_a_redirect_is_followed(status: str) -> None:
    async with raw_server(moved("/b.png", status), http(PNG, content_type="image/png")) as server:
        assert await fetched(server) == PNG
        assert server.requests[1].startswith(b"GET /b.png ")


async def test_three_redirects_are_followed_and_no_more() -> None:
    image = http(PNG, content_type="image/png")
    async with raw_server(moved("/1"), moved("/2"), moved("/3"), image) as server:
        assert await fetched(server) == PNG
    async with raw_server(moved("/again")) as server:
        with pytest.raises(Forbidden):
            await fetched(server)

        assert server.connections == 4


@pytest.mark.parametrize(
    "to",
    [
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "http://user:word@127.0.0.1/",
        "data:image/png;base64,AAAA",
    ],
)
async def test_a_redirect_to_what_is_not_allowed_is_not_followed(to: str) -> None:
    async with raw_server(moved(to)) as server:
        with pytest.raises(Forbidden):
            await fetched(server)

        assert server.connections == 1


@pytest.mark.parametrize("to", ["https://127.0.0.1/", "https://metadata.example/latest", "http://images.example/a"])
async def test_a_redirect_is_checked_like_the_first_address(tmp_path: Path, to: str) -> None:
    """The first hop is public, as far as the guard can see; only what it leads to is not."""
    server_tls, client_tls = contexts(tmp_path, "images.example")

    async def names(host: str, _port: int) -> list[str]:
        return {"images.example": ["127.0.0.1"], "127.0.0.1": ["127.0.0.1"]}.get(host, ["169.254.169.254"])

    class PublicFirst(_GuardedBackend):
        async def connect_tcp(self, host: str, port: int, *args: object, **kwargs: object) -> object:  # type: ignore[override]
            if host == "images.example":
                return await self._inner.connect_tcp("127.0.0.1", server.port, *args, **kwargs)  # type: ignore[arg-type]
            return await super().connect_tcp(host, port, *args, **kwargs)  # type: ignore[arg-type]

    async with raw_server(moved(to), tls=server_tls) as server:
        fetcher = Fetcher(FetchRule(timeout_s=5), resolver=names, tls=client_tls)
        fetcher._pool._network_backend = PublicFirst(names, FetchRule())
        with pytest.raises(Forbidden):
            await fetcher.fetch("https://images.example/a.png")
        await fetcher.close()

        assert server.connections == 1


async def test_proxies_in_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with raw_server(http(PNG, content_type="image/png")) as server:
        assert await fetched(server) == PNG


async def test_numeric_hosts_are_resolved_in_every_form() -> None:
    assert {(await resolve(host, 443))[0] for host in ("127.1", "2130706433", "0x7f000001", "0177.0.0.1")} == {
        "127.0.0.1"
    }
