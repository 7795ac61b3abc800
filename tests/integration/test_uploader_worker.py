"""The uploader's process, whole, on a real RabbitMQ and a real S3 server; only the ledger is a stand-in."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import aio_pika
import httpx
import pytest
from aiohttp import web
from pictures import SVG, encoded, picture

from pixorly.blobs import S3Blobs
from pixorly.broker import Publisher
from pixorly.events import EVENTS, Event, ImageDeleted, ImageFailed, ImageGenerated, ImageUploaded
from pixorly.settings import AmqpSettings, StorageSettings
from pixorly.topology import QUEUES, declare
from pixorly_uploader.settings import UploaderSettings
from pixorly_uploader.worker import build

PNG = encoded(picture(400, 300), "PNG")


@dataclass
class LedgerServer:
    """A ledger over HTTP that says what it is told."""

    state: str = "stored"
    status: int = 200
    url: str = ""
    trued_up: dict[str, int] = field(default_factory=dict)
    released: list[str] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        if request.path == "/livez":
            return web.json_response({"status": "alive"}, status=self.status)
        if request.headers["Authorization"] != "Bearer token" or self.status != 200:
            return web.json_response({}, status=401 if self.status == 200 else self.status)
        body = json.loads(await request.read())
        if request.path.endswith("/true-up"):
            self.trued_up[request.path.split("/")[3]] = body["bytes"]
            return web.json_response({"state": self.state})
        self.released += body["image_ids"]
        return web.json_response({"released": body["image_ids"]})


@pytest.fixture
async def ledger() -> AsyncIterator[LedgerServer]:
    server = LedgerServer()
    runner = web.ServerRunner(web.Server(server.handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    server.url = f"http://{host}:{port}"
    yield server
    await runner.cleanup()


class Bench:
    """A running uploader, and what a generator and an api would do beside it."""

    def __init__(
        self, client: httpx.AsyncClient, blobs: S3Blobs, publisher: Publisher, queue: aio_pika.abc.AbstractQueue
    ) -> None:
        self.client = client
        self.blobs = blobs
        self.publisher = publisher
        self._queue = queue

    async def generated(self, data: bytes, **changes: Any) -> ImageGenerated:
        job_id = uuid4()
        facts: dict[str, Any] = {
            "index": 0,
            "image_id": uuid4(),
            "staged_key": f"staging/{job_id}/0",
            "content_type": "image/png",
            "sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
            "model": "sandbox/aurora",
        }
        event = ImageGenerated.of(job_id, "demo", **{**facts, **changes})
        await self.blobs.put(f"staging/{job_id}/0", data, content_type="image/png")
        await self.publisher.publish(event)
        return event

    async def answer(self, job_id: UUID) -> Event:
        """Return the next event about a job."""
        async with asyncio.timeout(30):
            while True:
                message = await self._queue.get(fail=False)
                if message is None:
                    await asyncio.sleep(0.02)
                    continue
                await message.ack()
                event = EVENTS[str(message.type)].model_validate_json(message.body)
                if event.job_id == job_id and not isinstance(event, ImageGenerated):
                    return event

    async def is_ready(self, code: int = 200) -> dict[str, str]:
        async with asyncio.timeout(30):
            while (answer := await self.client.get("/readyz")).status_code != code:
                await asyncio.sleep(0.05)
        parts: dict[str, str] = answer.json()["parts"]
        return parts


@asynccontextmanager
async def running(settings: UploaderSettings) -> AsyncIterator[httpx.AsyncClient]:
    app = build(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://uploader") as client,
    ):
        yield client


@pytest.fixture
async def bench(amqp_url: str, s3_settings: StorageSettings, ledger: LedgerServer) -> AsyncIterator[Bench]:
    connection = await aio_pika.connect(amqp_url)
    channel = await connection.channel()
    await declare(channel, QUEUES)
    settings = UploaderSettings(
        **{**s3_settings.model_dump(), "ledger_timeout_s": 2},
        amqp_url=amqp_url,
        ledger_url=ledger.url,
        service_token="token",
        shutdown_grace_s=5,
    )
    publisher = Publisher(AmqpSettings(amqp_url=settings.amqp_url), "generator")
    await publisher.start()
    async with running(settings) as client:
        bench = Bench(client, S3Blobs(s3_settings), publisher, await channel.get_queue("api.follow_job"))
        await bench.is_ready()
        yield bench
    await publisher.close()
    await connection.close()


async def test_a_generated_image_becomes_an_uploaded_one(bench: Bench, ledger: LedgerServer) -> None:
    event = await bench.generated(PNG)

    uploaded = await bench.answer(event.job_id)

    assert isinstance(uploaded, ImageUploaded)
    assert await bench.blobs.get(uploaded.keys.original) == PNG
    assert ledger.trued_up == {str(event.image_id): len(PNG) + uploaded.thumbnail_bytes}


async def test_a_hostile_image_fails_its_slot(bench: Bench, ledger: LedgerServer) -> None:
    event = await bench.generated(SVG)

    failed = await bench.answer(event.job_id)

    assert isinstance(failed, ImageFailed)
    assert (failed.code, failed.stage, failed.fault) == ("invalid_image", "upload", "server")
    assert "SVG" in failed.message
    assert ledger.trued_up == {}


async def test_missing_staged_bytes_fail_their_slot(bench: Bench) -> None:
    event = await bench.generated(PNG, staged_key="staging/nothing/here")

    failed = await bench.answer(event.job_id)

    assert isinstance(failed, ImageFailed)
    assert failed.code == "staged_bytes_missing"


async def test_an_image_waits_for_a_ledger_that_is_away(bench: Bench, ledger: LedgerServer) -> None:
    ledger.status = 503
    event = await bench.generated(PNG)
    assert (await bench.is_ready(503))["ledger"] != "ok"
    await asyncio.sleep(1)
    ledger.status = 200

    assert isinstance(await bench.answer(event.job_id), ImageUploaded)


async def test_a_deleted_image_is_gone_and_its_storage_released(bench: Bench, ledger: LedgerServer) -> None:
    event = await bench.generated(PNG)
    uploaded = await bench.answer(event.job_id)
    assert isinstance(uploaded, ImageUploaded)
    prefix = f"users/demo/{event.job_id}/0-{event.image_id}"

    deletion = ImageDeleted.of(event.job_id, "demo", image_id=event.image_id, prefix=prefix, reason="user")
    await bench.publisher.publish(deletion)

    async with asyncio.timeout(30):
        while not ledger.released:
            await asyncio.sleep(0.02)
    assert ledger.released == [str(event.image_id)]
    assert [blob async for blob in bench.blobs.list(f"users/demo/{event.job_id}/")] == []


async def test_a_closed_image_is_acknowledged_and_stored_nowhere(bench: Bench, ledger: LedgerServer) -> None:
    ledger.state = "closed"
    event = await bench.generated(PNG)
    async with asyncio.timeout(30):
        while str(event.image_id) not in ledger.trued_up:
            await asyncio.sleep(0.02)
    ledger.state = "stored"
    later = await bench.generated(PNG)

    assert isinstance(await bench.answer(later.job_id), ImageUploaded)
    assert [blob async for blob in bench.blobs.list(f"users/demo/{event.job_id}/")] == []
