"""Trouble on the wire: answers that are cut, slow, endless or far too large."""

import asyncio
import zlib
from collections.abc import AsyncIterator
from contextvars import ContextVar
from functools import cache
from typing import Any, Final

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

_TRANSPORT: ContextVar[asyncio.Transport] = ContextVar("transport")
_MEGABYTE: Final = 1_000_000


class Protocol(H11Protocol):
    """Uvicorn's HTTP/1.1, which lets an answer get hold of its connection."""

    def data_received(self, data: bytes) -> None:
        """Remember the connection for the tasks that are started from here."""
        _TRANSPORT.set(self.transport)
        super().data_received(data)


class Cut(Response):
    """The connection ends without a word.

    Args:
        answer: The answer of which the first half is still sent; None sends nothing at all, not even a status.
    """

    def __init__(self, answer: bytes | None = None) -> None:
        super().__init__()
        self.answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Cut the connection."""
        transport = _TRANSPORT.get()
        if self.answer is not None:
            length = str(len(self.answer)).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", length)]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": self.answer[: len(self.answer) // 2], "more_body": True})
            transport.close()  # sends what is left, but for the rest of the answer
        else:
            transport.abort()
        await wait_for_client(receive)  # else uvicorn complains of a missing answer


async def wait_for_client(receive: Receive) -> None:
    """Return when the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass


def drip(body: bytes, bytes_per_s: int) -> Response:
    """Return the answer so slowly that no read ever times out."""
    step = max(1, bytes_per_s // 10)

    async def parts() -> AsyncIterator[bytes]:
        for place in range(0, len(body), step):
            yield body[place : place + step]
            await asyncio.sleep(step / max(1, bytes_per_s))

    return StreamingResponse(parts(), headers={"content-length": str(len(body))}, media_type="application/json")


def endless() -> Response:
    """Return white space for ever."""

    async def parts() -> AsyncIterator[bytes]:
        yield b'{"created":1,"data":['
        while True:
            yield b" " * 65536
            await asyncio.sleep(0)

    return StreamingResponse(parts(), media_type="application/json")


def huge(body: bytes, megabytes: int) -> Response:
    """Return the answer with so much white space before it."""

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(megabytes):
            yield b" " * _MEGABYTE
        yield body

    return StreamingResponse(parts(), media_type="application/json")


@cache
def gzip_bomb(megabytes: int) -> bytes:
    """Return a small gzip file that unpacks to so much. Takes processor time: not for the event loop."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join([*(packer.compress(b" " * _MEGABYTE) for _ in range(megabytes)), packer.flush()])


def with_headers(body: bytes, megabytes: int, headers: dict[str, Any]) -> Response:
    """Return the answer with so many megabytes of headers."""
    many = {f"x-filler-{number}": "x" * 100_000 for number in range(megabytes * 10)}
    return Response(body, headers={**headers, **many}, media_type="application/json")
