"""A provider that answers with whatever it likes, through the whole system: no crash, no wrong charge, no flood."""

import asyncio
import base64
import gzip
import io
import json
import random
import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # it has no types of its own
import pytest
from invariants import nothing_is_lost
from PIL import Image
from raw_server import Answer, RawServer, endless, http, raw_server
from stack import Stack

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]

ONE = "google/gemini-3.1-flash-image"
FOUR = "openai/gpt-image-2"
MEMORY_MB = 400
"""What the generator may take beside endless answers of 64 MB, two at once."""


def encoded(picture: Image.Image, image_format: str) -> str:
    into = io.BytesIO()
    picture.save(into, image_format)
    return base64.b64encode(into.getvalue()).decode()


def noise(side: int) -> Image.Image:
    return Image.frombytes("RGB", (side, side), random.Random(5).randbytes(3 * side * side))


def vast_png(side: int = 60_000) -> str:
    """A few bytes that say they are an image of ten gigabytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10_000))) + chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + parts).decode()


def images(*pictures: Any, **more: Any) -> bytes:
    data = [{"b64_json": picture} if isinstance(picture, str) else picture for picture in pictures]
    return http(json.dumps({"created": 1, "data": data, **more}).encode())


def error(status: str = "200 OK", **said: Any) -> bytes:
    return http(json.dumps({"error": said}).encode(), status=status)


JPEG = encoded(Image.new("RGB", (64, 64), "teal"), "JPEG")
PAGE = b"<!doctype html><title>Bad gateway</title><h1>502</h1>"


@dataclass(frozen=True)
class Case:
    """An answer, and what must come of it."""

    answer: Answer
    images: int = 0
    code: str | None = None
    fault: str | None = "server"
    n: int = 1
    calls: int = 1
    type: str = "image/jpeg"
    asked: dict[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> str:
        return FOUR if self.n > 1 else ONE


CASES = {
    "nothing but the image": Case(images(JPEG), images=1),
    "jpeg for png": Case(images(JPEG), images=1, type="image/png", asked={"output_format": "png"}),
    "a wrong media type": Case(images({"b64_json": JPEG, "media_type": "image/webp"}), images=1),
    "1.6 MB": Case(images(encoded(noise(640), "PNG"), usage={"cost": 0.0387}), images=1, type="image/png"),
    "fewer": Case(images(JPEG, JPEG), n=4, images=2, code="missing_image"),
    "more": Case(images(*[JPEG] * 5), n=2, images=2),
    "odd entries": Case(images(None, 7, {"b64_json": ["x"]}, JPEG), n=4, images=1, code="missing_image"),
    "one is none": Case(images(JPEG, base64.b64encode(b"text").decode()), n=2, images=1, code="invalid_image"),
    "odd usage": Case(images(JPEG, usage={"cost": "free", "prompt_tokens": 10**30}), images=1),
    "moderation in a 200": Case(
        error(code="403", metadata={"reasons": ["violence"]}), code="content_rejected", fault="user"
    ),
    "a refusal in a 200": Case(error(code=400, message="no"), code="provider_refused"),
    "a code as text": Case(error(code="429", message="slow"), code="provider_rate_limited", calls=4),
    "a page": Case(http(PAGE, "502 Bad Gateway", "text/html"), code="provider_unavailable", calls=4),
    "a page for a model": Case(http(PAGE, "404 Not Found", "text/html"), code="model_unavailable"),
    "a page for an answer": Case(http(PAGE, content_type="text/html"), code="no_image", calls=2),
    "no base64": Case(images("!!!!"), code="invalid_image"),
    "a vast image": Case(images(vast_png()), code="invalid_image"),
    "a gzip bomb": Case(
        http(gzip.compress(b" " * 50_000_000), extra="content-encoding: gzip\r\n"), code="invalid_image"
    ),
    "a length beyond belief": Case(b"HTTP/1.1 200 OK\r\ncontent-length: 999999999999\r\n\r\n", code="invalid_image"),
    "endless": Case(endless, code="invalid_image"),
    "endless too": Case(endless, code="invalid_image"),
    "half": Case(images(JPEG)[:-300], code="provider_unavailable", calls=4),
}


def by_prompt(server: Sequence[RawServer], calls: dict[str, int]) -> Answer:
    """Answer with the case that the prompt names."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        prompt = json.loads(server[0].requests.pop().partition(b"\r\n\r\n")[2])["prompt"]
        calls[prompt] = calls.get(prompt, 0) + 1
        told = CASES[prompt].answer
        if isinstance(told, bytes):
            writer.write(told)
            await writer.drain()
        else:
            await told(writer)

    return answer


async def peak_mb(pid: int, seen: list[float]) -> None:
    """Note the memory of a process, for ever."""
    process = psutil.Process(pid)
    while True:
        with suppress(psutil.Error):
            seen.append(process.memory_info().rss / 1e6)
        await asyncio.sleep(0.05)


async def test_whatever_a_provider_answers_the_system_stands_and_nobody_pays_wrongly(tmp_path: Path) -> None:
    servers: list[RawServer] = []
    calls: dict[str, int] = {}
    async with raw_server(by_prompt(servers, calls)) as server:
        servers.append(server)
        told = {"OPENROUTER_API_KEY": "any", "OPENROUTER_BASE_URL": server.url, "PIXORLY_RETRY_DELAYS_S": "1,2,3"}
        stack = Stack(tmp_path / ".pixorly", told)
        try:
            await asyncio.to_thread(stack.up)
            await attacked(stack, calls)
        finally:
            await asyncio.to_thread(stack.down)


async def attacked(stack: Stack, calls: dict[str, int]) -> None:
    generator = (await asyncio.to_thread(stack.ps))["generator"]["pid"]
    seen: list[float] = []
    watch = asyncio.create_task(peak_mb(generator, seen))
    _, key = await stack.user(amount_credits=10_000)
    async with stack.client(key) as client:
        jobs = [
            await client.create(prompt, n=case.n, model=case.model, size=1024, **case.asked)
            for prompt, case in CASES.items()
        ]
    done = await nothing_is_lost(stack, key, jobs, 10_000)
    watch.cancel()

    for job in done:
        case = CASES[job["prompt"]]
        failed = {(failure["code"], failure["fault"]) for failure in job["failures"]}
        said = (job["prompt"], job["status"], failed, calls[job["prompt"]])
        assert len(job["images"]) == case.images, said
        assert failed == ({(case.code, case.fault)} if case.code else set()), said
        assert {image["content_type"] for image in job["images"]} <= {case.type}, said
        assert calls[job["prompt"]] == case.calls, said
        per_image = job["credits_used"] // job["n"]
        assert job["credits_refunded"] == (per_image * (case.n - case.images) if case.fault == "server" else 0), said
    assert (await asyncio.to_thread(stack.ps))["generator"]["pid"] == generator
    assert max(seen) < MEMORY_MB, max(seen)
