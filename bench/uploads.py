"""How many 1.5 MB PNGs the uploader stores in a second, beside a bare script that uses the same libraries.

    python bench/uploads.py [--images 100] [--rounds 3] [--json FILE] [--dir FOLDER]

It starts a stack of its own in a folder that it removes, or takes the one that runs in FOLDER. The bare script fetches
staged images, makes the thumbnails and puts three objects of each, in one process with as many threads as there are
cores, without a broker, a ledger or an event. The system does the same to as many `image.generated` events that go
through RabbitMQ to the uploader, which has the ledger true up each image; its time ends with the last `image.uploaded`.
The two take turns, so that both meet the same machine; what counts is the ratio of the medians.
"""

import argparse
import asyncio
import hashlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID

import aio_pika
import httpx
import psutil  # type: ignore[import-untyped]  # it has no types of its own
from PIL import Image
from pydantic import SecretStr

from pixorly.blobs import S3Blobs
from pixorly.broker import Publisher
from pixorly.events import ImageGenerated
from pixorly.formats.limits import Limits
from pixorly.ids import new_id
from pixorly.keys import staged_key
from pixorly.settings import AmqpSettings, StorageSettings
from pixorly_uploader.handlers import CACHE_CONTROL
from pixorly_uploader.images import Recipe
from pixorly_uploader.workshop import Workshop

PIXORLY = str(Path(sys.executable).with_name("pixorly"))
USER = "bench"
AT_ONCE = 32
SIZE = 1024
WANTED_RATIO = 0.8


def picture() -> bytes:
    """A PNG of about 1.5 MB: smooth, with grain, as models draw."""
    grain = Image.effect_noise((SIZE, SIZE), 9)
    bands = [
        Image.blend(Image.linear_gradient("L").resize((SIZE, SIZE)).rotate(turn), grain, 0.4) for turn in (0, 90, 180)
    ]
    file = BytesIO()
    Image.merge("RGB", bands).save(file, "PNG", compress_level=4)
    return file.getvalue()


def _pixorly(environment: dict[str, str], *words: str) -> None:
    subprocess.run([PIXORLY, *words], env=environment, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own


@contextmanager
def stack(folder: Path | None) -> Iterator[dict[str, Any]]:
    """Lend a running stack."""
    if folder is not None:
        yield json.loads((folder / "dev.json").read_text())
        return
    root = Path(tempfile.mkdtemp(prefix="pixorly-bench-"))
    environment = {**os.environ, "PIXORLY_DIR": str(root / "stack")}  # noqa: TID251 - the stack gets ours
    try:
        _pixorly(environment, "up", "--detach")
        yield json.loads((root / "stack" / "dev.json").read_text())
    finally:
        _pixorly(environment, "down")
        shutil.rmtree(root, ignore_errors=True)


@dataclass
class Bench:
    """What both sides work with."""

    dev: dict[str, Any]
    blobs: S3Blobs
    data: bytes
    sha256: str

    async def stage(self, count: int) -> list[ImageGenerated]:
        """Stage images, each of a job of its own, and have the ledger know them."""
        events = [self._event(new_id(), new_id()) for _ in range(count)]
        turns = asyncio.Semaphore(8)

        async def one(event: ImageGenerated) -> None:
            async with turns:
                await self.blobs.put(event.staged_key, self.data, content_type="image/png")
                await self._charge(event)

        async with self._ledger() as self.ledger:
            await asyncio.gather(*(one(event) for event in events))
        return events

    def _ledger(self) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {self.dev['service_token']}"}
        return httpx.AsyncClient(base_url=self.dev["service_urls"]["ledger"], headers=headers, trust_env=False)

    async def _charge(self, event: ImageGenerated) -> None:
        image = {"image_id": str(event.image_id), "estimate_bytes": len(self.data)}
        body = {"job_id": str(event.job_id), "user_id": USER, "amount_credits": 1, "images": [image]}
        (await self.ledger.post("/internal/charges", json=body)).raise_for_status()

    def _event(self, job_id: UUID, image_id: UUID) -> ImageGenerated:
        return ImageGenerated.of(
            job_id,
            USER,
            index=0,
            image_id=image_id,
            staged_key=staged_key(job_id, 0, self.sha256),
            content_type="image/png",
            sha256=self.sha256,
            bytes=len(self.data),
            model="sandbox/aurora",
        )

    async def bare(self, events: list[ImageGenerated]) -> float:
        """Do it by a bare script, and return the seconds."""
        workshop = Workshop(Limits(), len(os.sched_getaffinity(0)))
        turns, recipe = asyncio.Semaphore(AT_ONCE), Recipe(model="sandbox/aurora")

        async def one(event: ImageGenerated) -> None:
            async with turns:
                data = await self.blobs.get(event.staged_key)
                made = await workshop.develop(data, event.sha256, recipe)
                objects = {"": (made.original, "image/png")}
                objects |= {f"_{px}": (thumbnail, "image/webp") for px, thumbnail in made.thumbnails.items()}
                puts = (
                    self.blobs.put(
                        f"bare/{event.job_id}{name}",
                        content,
                        content_type=kind,
                        cache_control=CACHE_CONTROL["private"],
                        metadata={"job-id": str(event.job_id), "index": "0"},
                    )
                    for name, (content, kind) in objects.items()
                )
                await asyncio.gather(*puts)

        began = time.perf_counter()
        await asyncio.gather(*(one(event) for event in events))
        took = time.perf_counter() - began
        workshop.close()
        return took

    async def system(self, events: list[ImageGenerated], publisher: Publisher) -> float:
        """Have the uploader do it, and return the seconds."""
        connection = await aio_pika.connect(self.dev["amqp_url"])
        async with connection:
            channel = await connection.channel()
            queue = await channel.declare_queue(exclusive=True)
            for key in ("image.uploaded", "image.failed", "job.retrying"):
                await queue.bind("pixorly.events", key)
            open_still, finished, wrong = {event.image_id for event in events}, asyncio.Event(), list[bytes]()

            async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
                if message.type != "image.uploaded":
                    wrong.append(message.body)
                open_still.discard(UUID(json.loads(message.body)["image_id"]))
                if not open_still:
                    finished.set()

            await queue.consume(take, no_ack=True)
            began = time.perf_counter()
            await asyncio.gather(*(publisher.publish(event) for event in events))
            await asyncio.wait_for(finished.wait(), 600)
            took = time.perf_counter() - began
        assert not wrong, wrong[:1]
        return took

    def uploader_mb(self) -> tuple[int, int]:
        """The uploader's memory, now and at its peak."""
        port = int(self.dev["service_urls"]["uploader"].rpartition(":")[2])
        for process in psutil.process_iter():
            try:
                listening = [at.laddr.port for at in process.net_connections("inet") if at.status == "LISTEN"]
            except psutil.Error:
                continue
            if port in listening:
                status = Path(f"/proc/{process.pid}/status").read_text()
                kb = {line.split(":")[0]: int(line.split()[1]) for line in status.splitlines() if line.endswith("kB")}
                return kb["VmRSS"] // 1024, kb["VmHWM"] // 1024
        return 0, 0


async def open_account(dev: dict[str, Any], credits_: int) -> None:
    headers = {"Authorization": f"Bearer {dev['admin_key']}"}
    async with httpx.AsyncClient(base_url=dev["api_url"], headers=headers, trust_env=False, timeout=30) as admin:
        (await admin.put(f"/admin/v1/users/{USER}", json={"plan": "enterprise"})).raise_for_status()
        grant = {"grant_id": str(new_id()), "amount_credits": credits_, "reason": "bench"}
        (await admin.post(f"/admin/v1/users/{USER}/grants", json=grant)).raise_for_status()


async def measure(dev: dict[str, Any], images: int, rounds: int) -> dict[str, Any]:
    names = {name.lower().removeprefix("pixorly_"): value for name, value in dev["s3"].items()}
    data = picture()
    bench = Bench(dev, S3Blobs(StorageSettings.model_validate(names)), data, hashlib.sha256(data).hexdigest())
    await open_account(dev, 10 * images * (rounds + 1))
    publisher = Publisher(AmqpSettings(amqp_url=SecretStr(dev["amqp_url"])), "bench")
    await publisher.start()
    await asyncio.sleep(1)
    await bench.bare(await bench.stage(8))
    await bench.system(await bench.stage(8), publisher)
    bare, system = list[float](), list[float]()
    for number in range(rounds):
        sides = [("bare", bare), ("system", system)]
        random.shuffle(sides)
        for name, rates in sides:
            events = await bench.stage(images)
            took_s = await (bench.bare(events) if name == "bare" else bench.system(events, publisher))
            rates.append(images / took_s)
            print(f"round {number + 1}  {name:<6}  {images / took_s:6.1f} images/s", flush=True)
    await publisher.close()
    now_mb, peak_mb = bench.uploader_mb()
    return {
        "bytes": len(data),
        "images": images,
        "bare_per_s": round(statistics.median(bare), 1),
        "system_per_s": round(statistics.median(system), 1),
        "ratio": round(statistics.median(system) / statistics.median(bare), 2),
        "uploader_mb": now_mb,
        "uploader_peak_mb": peak_mb,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="The uploader's throughput beside a bare script's.")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--dir", type=Path)
    given = parser.parse_args()
    with stack(given.dir) as dev:
        found = asyncio.run(measure(dev, given.images, given.rounds))
    print(json.dumps(found, indent=2))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    if found["ratio"] < WANTED_RATIO:
        sys.exit(f"below {WANTED_RATIO}")


if __name__ == "__main__":
    main()
