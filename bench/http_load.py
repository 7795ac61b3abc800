"""A client that costs little beside the server that it measures: HTTP/1.1 over a few connections that stay open."""

import asyncio
import time
from collections.abc import Callable
from urllib.parse import urlsplit


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, url: str) -> "Connection":
        address = urlsplit(url)
        return cls(*await asyncio.open_connection(address.hostname, address.port))

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Return status and body of the answer."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return int(head[9:12]), await self._reader.readexactly(length)

    async def until(self, path: str, token: str, word: bytes) -> None:
        """Read a stream of events until this word comes."""
        self._writer.write(get(path, token))
        seen = b""
        while word not in seen:
            read = await self._reader.read(65_536)
            if not read:
                raise ConnectionError(f"the stream of {path} ended")
            seen = seen[-len(word) :] + read

    def close(self) -> None:
        self._writer.close()


def post(path: str, body: bytes, token: str, **more: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in more.items())
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def get(path: str, token: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n".encode()


async def rate(url: str, make: Callable[[], bytes], at_once: int, seconds: float) -> float:
    """Return how many requests a second are answered with 200, with so many under way at once."""
    connections = [await Connection.open(url) for _ in range(at_once)]
    ends = time.perf_counter() + seconds
    answered = 0

    async def caller(connection: Connection) -> None:
        nonlocal answered
        while time.perf_counter() < ends:
            status, body = await connection.send(make())
            assert status == 200, body
            answered += 1

    began = time.perf_counter()
    await asyncio.gather(*(caller(connection) for connection in connections))
    elapsed = time.perf_counter() - began
    for connection in connections:
        connection.close()
    return answered / elapsed
