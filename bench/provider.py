"""A provider that costs next to nothing: it answers OpenRouter's image route from memory, and notes when.

    python bench/provider.py PORT

The emulator draws each picture and keeps a bill, which on a small machine is half of what is to be measured. This one
has one picture of each size, made once. A tag in the prompt says how long a call takes, or that it fails:
`[[latency:2]]`, `[[fault:503]]`. `GET /log` gives the prompt, arrival and answer of every call since the last look,
in seconds of the machine's monotonic clock, which all its processes share.
"""

import asyncio
import base64
import re
import sys
import time
from functools import cache
from io import BytesIO

import orjson
import uvloop
from PIL import Image

SIZE = re.compile(r"^(\d+)x\d+$")
LATENCY = re.compile(r"\[\[latency:([\d.]+)]]")
FAULT = "[[fault:503]]"
AWAY = orjson.dumps({"error": {"code": 503, "message": "Service temporarily unavailable"}})


def picture(side: int) -> bytes:
    """A PNG, of 1024 pixels about 1.5 MB: smooth, with grain, as models draw."""
    grain = Image.effect_noise((side, side), 9)
    bands = [
        Image.blend(Image.linear_gradient("L").resize((side, side)).rotate(turn), grain, 0.4) for turn in (0, 90, 180)
    ]
    file = BytesIO()
    Image.merge("RGB", bands).save(file, "PNG", compress_level=4)
    return file.getvalue()


@cache
def answer(side: int) -> bytes:
    image = {"b64_json": base64.b64encode(picture(side)).decode(), "media_type": "image/png"}
    return orjson.dumps({"created": 1, "data": [image], "usage": {"prompt_tokens": 1, "cost": 0.001}})


class Log:
    def __init__(self) -> None:
        self.calls: list[list[object]] = []

    def take(self) -> bytes:
        calls, self.calls = self.calls, []
        return orjson.dumps(calls)


class Server(asyncio.Protocol):
    def __init__(self, log: Log) -> None:
        self._log = log
        self._data = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._data[:end]).lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
            if len(self._data) < end + 4 + length:
                return
            body = bytes(self._data[end + 4 : end + 4 + length])
            del self._data[: end + 4 + length]
            self._serve(head.partition(b" ")[2].partition(b" ")[0], body)

    def _serve(self, path: bytes, body: bytes) -> None:
        if path != b"/api/v1/images":
            self._write(200, self._log.take() if path == b"/log" else b"{}")
            return
        asked = orjson.loads(body)
        prompt, call = asked["prompt"], [asked["prompt"], time.monotonic(), 0.0]
        self._log.calls.append(call)
        side = SIZE.match(asked.get("size", "1024x1024"))
        assert side, asked
        waits = LATENCY.search(prompt)
        status, text = (503, AWAY) if FAULT in prompt else (200, answer(int(side[1])))
        if waits:
            asyncio.get_running_loop().call_later(float(waits[1]), self._finish, call, status, text)
        else:
            self._finish(call, status, text)

    def _finish(self, call: list[object], status: int, body: bytes) -> None:
        call[2] = time.monotonic()
        if not self._transport.is_closing():
            self._write(status, body)

    def _write(self, status: int, body: bytes) -> None:
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self._transport.writelines([head.encode(), body])


async def main(port: int) -> None:
    for side in (64, 1024):
        answer(side)
    log = Log()
    server = await asyncio.get_running_loop().create_server(lambda: Server(log), "127.0.0.1", port, backlog=1024)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
