"""Broken and hostile images as a provider's answers, through the whole system: each ends as is documented."""

import asyncio
import base64
import json
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it has no types of its own
import pytest
from invariants import nothing_is_lost
from pictures import bad, encoded, good, large, picture
from raw_server import RawServer, http, raw_server
from stack import Stack

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

ONE = "google/gemini-3.1-flash-image"
MEMORY_MB = 500
GOOD = {name: data for name, (data, *_) in good().items()} | {"plain": encoded(picture(1024, 1024), "PNG")}
LARGE = {f"large {name}": data for name, data in large().items()}
BAD = {f"bad {name}": data for name, (data, _) in bad().items()}
CORPUS = {name.replace("/", " "): data for name, data in {**GOOD, **LARGE, **BAD}.items()}
FORMATS = ("png", "jpeg", "webp", None)


def answer_of(request: bytes) -> bytes:
    """The image that the prompt names."""
    prompt = json.loads(request.partition(b"\r\n\r\n")[2])["prompt"].partition(" as ")[0]
    image = {"b64_json": base64.b64encode(CORPUS[prompt]).decode()}
    return http(json.dumps({"created": 1, "data": [image], "usage": {"cost": 0.01}}).encode())


async def test_every_image_of_the_corpus_ends_as_documented_in_bounded_memory(tmp_path: Path) -> None:
    servers: list[RawServer] = []

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(await asyncio.to_thread(answer_of, servers[0].requests.pop()))
        await writer.drain()

    async with raw_server(answer) as server:
        servers.append(server)
        told = {"OPENROUTER_API_KEY": "any", "OPENROUTER_BASE_URL": server.url}
        stack = Stack(tmp_path / ".pixorly", told)
        try:
            await asyncio.to_thread(stack.up)
            await fed(stack)
        finally:
            await asyncio.to_thread(stack.down)


async def watch(pid: int, seen: list[float]) -> None:
    """Note the memory of a process, for ever."""
    process = psutil.Process(pid)
    while True:
        seen.append(process.memory_info().rss / 1e6)
        await asyncio.sleep(0.05)


async def fed(stack: Stack) -> None:
    before = await asyncio.to_thread(stack.ps)
    seen: dict[str, list[float]] = {"generator": [], "uploader": []}
    watches = [asyncio.create_task(watch(before[name]["pid"], peaks)) for name, peaks in seen.items()]
    _, key = await stack.user(amount_credits=100_000)
    # What is too large for it is not encoded again, so that is not asked for.
    wanted = [
        (name, None if name.startswith("large ") else FORMATS[number % len(FORMATS)])
        for number, name in enumerate(sorted(CORPUS))
    ]
    async with stack.client(key) as client:
        jobs = [
            await client.create(f"{name} as {kind}", model=ONE, size=1024, output_format=kind) for name, kind in wanted
        ]
    done = await nothing_is_lost(stack, key, jobs, 100_000, within_s=300)
    for each in watches:
        each.cancel()

    for job in done:
        codes = [failure["code"] for failure in job["failures"]]
        name = job["prompt"].partition(" as ")[0]
        refused = ["no_image" if name == "bad nothing" else "invalid_image"]
        assert codes == (refused if name.startswith("bad ") else []), (job["prompt"], codes)
    after = await asyncio.to_thread(stack.ps)
    assert {name: after[name]["pid"] for name in seen} == {name: before[name]["pid"] for name in seen}
    peaks_mb = {name: max(peaks) for name, peaks in seen.items()}
    assert max(peaks_mb.values()) < MEMORY_MB, peaks_mb
