"""HTTP/2: more calls than one connection has streams are all under way together."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import h2.config
import h2.connection
import h2.events
import h2.settings
from provider_calls import a_request
from tls import contexts

from pixorly_generator.providers.http import HttpOptions
from pixorly_generator.providers.openrouter import OpenRouter

BODY = json.dumps(
    {"created": 1, "data": [{"b64_json": base64.b64encode(b"\xff\xd8\xff" + bytes(99)).decode()}]}
).encode()
STREAMS = 100


@dataclass(slots=True)
class Http2Server:
    """Answers each call when it is let go, with as many streams on a connection as the big ones allow."""

    waiting: int = 0
    connections: int = 0
    most: int = 0
    let_go: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        connection.update_settings({h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS})
        answers: set[asyncio.Task[None]] = set()
        try:
            writer.write(connection.data_to_send())
            while data := await reader.read(65536):
                for event in connection.receive_data(data):
                    if isinstance(event, h2.events.StreamEnded):
                        answers.add(asyncio.create_task(self.answer(connection, writer, event.stream_id)))
                writer.write(connection.data_to_send())
        finally:
            writer.close()

    async def answer(self, connection: h2.connection.H2Connection, writer: asyncio.StreamWriter, stream: int) -> None:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        await self.let_go.wait()
        self.waiting -= 1
        connection.send_headers(stream, [(":status", "200"), ("content-type", "application/json")])
        connection.send_data(stream, BODY, end_stream=True)
        writer.write(connection.data_to_send())


@asynccontextmanager
async def http2_server(folder: Path) -> AsyncIterator[tuple[Http2Server, str, HttpOptions]]:
    server_tls, client_tls = contexts(folder, "localhost")
    server_tls.set_alpn_protocols(["h2"])
    http2 = Http2Server()
    server = await asyncio.start_server(http2.serve, "127.0.0.1", 0, ssl=server_tls)
    port = server.sockets[0].getsockname()[1]
    try:
        yield http2, f"https://localhost:{port}", HttpOptions(concurrency=250, tls=client_tls)
    finally:
        server.close()
        await asyncio.sleep(0.05)


async def test_more_calls_than_streams_are_in_flight_together(tmp_path: Path) -> None:
    async with http2_server(tmp_path) as (server, url, options):
        adapter = OpenRouter("k", base_url=url, http=options)
        calls = [asyncio.create_task(adapter.generate(a_request(job_id=uuid4(), timeout_s=60))) for _ in range(250)]
        async with asyncio.timeout(60):
            while server.waiting < 250:
                await asyncio.sleep(0.02)
        server.let_go.set()
        answers = await asyncio.gather(*calls)
        await adapter.close()

    assert all(answer.images for answer in answers)
    assert server.connections == 3
