"""Blobs on a real S3 server, and on servers that fail in each way that S3 does."""

import asyncio
import hashlib
import json
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web

from pixorly.blobs import S3Blobs, s3_client
from pixorly.errors import OutageError, PixorlyError, StagedBytesMissing, StorageUnavailable
from pixorly.settings import StorageSettings

Calls = Callable[[S3Blobs], Awaitable[object]]


async def _list(blobs: S3Blobs) -> list[str]:
    return [blob.key async for blob in blobs.list("users/")]


CALLS: dict[str, Calls] = {
    "put": lambda blobs: blobs.put("users/a", b"bytes", content_type="image/png"),
    "put of several parts": lambda blobs: blobs.put("users/a", bytes(17 << 20), content_type="image/png"),
    "get": lambda blobs: blobs.get("users/a"),
    "delete": lambda blobs: blobs.delete(["users/a"]),
    "list": _list,
    "probe": lambda blobs: blobs.probe(),
}


@pytest.fixture
def folder() -> str:
    return f"users/{uuid4()}"


async def head(settings: StorageSettings, key: str) -> dict[str, Any]:
    async with s3_client(settings) as client:
        return dict(await client.head_object(Bucket=settings.aws_s3_bucket, Key=key, ChecksumMode="ENABLED"))


async def test_an_object_has_its_type_its_encryption_and_what_we_say_of_it(
    s3_settings: StorageSettings, folder: str
) -> None:
    await S3Blobs(s3_settings).put(
        f"{folder}/a.png",
        b"bytes",
        content_type="image/png",
        cache_control="private, max-age=31536000, immutable",
        metadata={"job-id": "1", "index": "0"},
    )

    found = await head(s3_settings, f"{folder}/a.png")
    assert found["ContentType"] == "image/png"
    assert found["ServerSideEncryption"] == "AES256"
    assert found["CacheControl"] == "private, max-age=31536000, immutable"
    assert found["Metadata"] == {"job-id": "1", "index": "0"}
    assert found["ChecksumSHA256"] == b64encode(hashlib.sha256(b"bytes").digest()).decode()


@pytest.mark.parametrize("size_bytes", [0, 1, (16 << 20) - 1, 16 << 20, 20_000_001])
async def test_bytes_come_back_as_they_went(s3_settings: StorageSettings, folder: str, size_bytes: int) -> None:
    blobs, data = S3Blobs(s3_settings), bytes(range(251)) * (size_bytes // 251 + 1)
    data = data[:size_bytes]

    await blobs.put(f"{folder}/a", data, content_type="image/png", metadata={"job-id": "1"})

    assert await blobs.get(f"{folder}/a") == data
    found = await head(s3_settings, f"{folder}/a")
    assert (found["ContentLength"], found["ServerSideEncryption"]) == (size_bytes, "AES256")
    assert (found["ContentType"], found["Metadata"]) == ("image/png", {"job-id": "1"})


async def test_a_second_put_takes_the_place_of_the_first(s3_settings: StorageSettings, folder: str) -> None:
    blobs = S3Blobs(s3_settings)
    await blobs.put(f"{folder}/a", b"first", content_type="image/png")
    await blobs.put(f"{folder}/a", b"second", content_type="image/webp")

    assert await blobs.get(f"{folder}/a") == b"second"
    assert (await head(s3_settings, f"{folder}/a"))["ContentType"] == "image/webp"


async def test_what_is_not_there_is_missed_in_our_own_words(s3_settings: StorageSettings, folder: str) -> None:
    with pytest.raises(StagedBytesMissing):
        await S3Blobs(s3_settings).get(f"{folder}/nothing")


async def test_a_listing_is_of_one_folder(s3_settings: StorageSettings, folder: str) -> None:
    blobs = S3Blobs(s3_settings)
    names = [f"{folder}/{number}" for number in range(5)]
    for name in [*names, f"{folder}-and-more/a"]:
        await blobs.put(name, b"x", content_type="image/png")

    assert [(blob.key, blob.size_bytes) async for blob in blobs.list(f"{folder}/")] == [(name, 1) for name in names]

    await blobs.delete(names)
    assert [blob async for blob in blobs.list(f"{folder}/")] == []
    assert await blobs.get(f"{folder}-and-more/a") == b"x"


async def test_a_deletion_minds_nothing_that_is_not_there(s3_settings: StorageSettings, folder: str) -> None:
    blobs = S3Blobs(s3_settings)
    await blobs.put(f"{folder}/a", b"x", content_type="image/png")

    await blobs.delete([f"{folder}/nothing", f"{folder}/a", f"{folder}/a"])
    await blobs.delete([])

    with pytest.raises(StagedBytesMissing):
        await blobs.get(f"{folder}/a")


async def test_a_large_object_goes_up_in_parts_and_is_whole_encrypted_and_typed(
    s3_settings: StorageSettings, folder: str
) -> None:
    blobs, data = S3Blobs(s3_settings), bytes(range(256)) * (17 << 12)
    assert len(data) == 17 << 20

    await blobs.put(f"{folder}/large", data, content_type="image/png", metadata={"index": "3"})

    assert await blobs.get(f"{folder}/large") == data
    async with s3_client(s3_settings) as client:
        bucket = s3_settings.aws_s3_bucket
        head = await client.head_object(Bucket=bucket, Key=f"{folder}/large")
        open_still = (await client.list_multipart_uploads(Bucket=bucket)).get("Uploads", [])
    assert head["ETag"].strip('"').endswith("-3")
    assert (head["ServerSideEncryption"], head["ContentType"]) == ("AES256", "image/png")
    assert head["Metadata"] == {"index": "3"}
    assert [upload for upload in open_still if upload["Key"].startswith(folder)] == []


def elsewhere(url: str, *, timeout_s: float = 0.4) -> StorageSettings:
    return StorageSettings(
        aws_access_key_id="key", aws_secret_access_key="secret", s3_endpoint_url=url, s3_timeout_s=timeout_s
    )


@asynccontextmanager
async def answering(answer: Callable[[web.Request], web.Response]) -> AsyncIterator[S3Blobs]:
    """Lend blobs on a server that answers so."""

    async def handle(request: web.Request) -> web.Response:
        await request.read()
        return answer(request)

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        yield S3Blobs(elsewhere(f"http://{host}:{port}", timeout_s=5))
    finally:
        await runner.cleanup()


def problem(status: int, code: str) -> web.Response:
    return web.Response(status=status, text=f"<Error><Code>{code}</Code><Message>no</Message></Error>")


EMPTY_LIST = "<ListBucketResult><Name>b</Name><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>"


def is_list(request: web.Request) -> bool:
    return request.method == "GET" and "list-type" in request.query


@pytest.mark.parametrize("name", CALLS)
async def test_a_server_that_never_answers_meets_our_deadline(name: str) -> None:
    # The system accepts the connection; nobody ever reads from it.
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        began = time.monotonic()
        with pytest.raises(OutageError) as error:
            await CALLS[name](S3Blobs(elsewhere(f"http://{host}:{port}")))
    took_s = time.monotonic() - began

    assert error.value.part == "s3"
    assert took_s < 10


@pytest.mark.parametrize("name", CALLS)
async def test_a_server_that_is_gone_is_an_outage(name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()

    with pytest.raises(OutageError):
        await CALLS[name](S3Blobs(elsewhere(f"http://{host}:{port}")))


@pytest.mark.parametrize(
    ("status", "code"), [(404, "NoSuchBucket"), (403, "AccessDenied"), (503, "SlowDown"), (500, "InternalError")]
)
@pytest.mark.parametrize("name", CALLS)
async def test_a_bucket_that_gives_nothing_is_an_outage(name: str, status: int, code: str) -> None:
    async with answering(lambda _: problem(status, code)) as blobs:
        with pytest.raises(OutageError):
            await CALLS[name](blobs)


@pytest.mark.parametrize("name", ["put", "put of several parts", "get", "delete"])
@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (500, "InternalError"), (403, "AccessDenied")])
async def test_a_failure_of_one_object_is_that_objects_own(name: str, status: int, code: str) -> None:
    def answer(request: web.Request) -> web.Response:
        return web.Response(text=EMPTY_LIST) if is_list(request) else problem(status, code)

    async with answering(answer) as blobs:
        with pytest.raises(StorageUnavailable):
            await CALLS[name](blobs)


async def test_an_object_that_is_missing_from_a_good_bucket_is_missing() -> None:
    def answer(request: web.Request) -> web.Response:
        return web.Response(text=EMPTY_LIST) if is_list(request) else problem(404, "NoSuchKey")

    async with answering(answer) as blobs:
        with pytest.raises(StagedBytesMissing):
            await blobs.get("users/a")


async def test_an_answer_that_stops_in_the_middle_is_not_taken_for_the_object() -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if b"list-type" in request:
            answer = f"HTTP/1.1 200 OK\r\nContent-Length: {len(EMPTY_LIST)}\r\n\r\n{EMPTY_LIST}"
        else:
            answer = (
                "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nLast-Modified: Sun, 22 Nov 2026 16:00:00 GMT\r\n\r\nhalf"
            )
        writer.write(answer.encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(cut, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    with pytest.raises(PixorlyError) as error:
        await S3Blobs(elsewhere(f"http://{host}:{port}", timeout_s=3)).get("users/a")
    server.close()

    assert isinstance(error.value, StorageUnavailable | OutageError)


async def test_a_listing_goes_on_over_all_pages() -> None:
    def answer(request: web.Request) -> web.Response:
        page = int(request.query.get("continuation-token", "0"))
        more = f"<NextContinuationToken>{page + 1}</NextContinuationToken>" if page < 2 else ""
        when = "<LastModified>2026-11-22T16:00:00Z</LastModified>"
        item = f"<Contents><Key>users/{page}</Key><Size>1</Size>{when}</Contents>"
        return web.Response(
            text=f"<ListBucketResult><Name>b</Name><IsTruncated>{str(page < 2).lower()}</IsTruncated>{item}{more}"
            "</ListBucketResult>"
        )

    async with answering(answer) as blobs:
        assert await _list(blobs) == ["users/0", "users/1", "users/2"]


async def test_many_keys_are_deleted_in_few_calls() -> None:
    calls: list[str] = []

    def answer(request: web.Request) -> web.Response:
        calls.append(request.method)
        deleted = "<Deleted><Key>users/0</Key></Deleted>" * (1000 if len(calls) == 1 else 500)
        return web.Response(text=f"<DeleteResult>{deleted}</DeleteResult>")

    async with answering(answer) as blobs:
        await blobs.delete([f"users/{number}" for number in range(1500)])

    assert calls == ["POST", "POST"]


async def test_a_key_that_could_not_be_deleted_is_no_success() -> None:
    refused = "<Error><Key>users/1</Key><Code>InternalError</Code><Message>no</Message></Error>"

    def answer(request: web.Request) -> web.Response:
        if is_list(request):
            return web.Response(text=EMPTY_LIST)
        return web.Response(text=f"<DeleteResult><Deleted><Key>users/0</Key></Deleted>{refused}</DeleteResult>")

    async with answering(answer) as blobs:
        with pytest.raises(StorageUnavailable):
            await blobs.delete(["users/0", "users/1"])


def test_a_process_that_ends_right_after_a_call_ends_well(s3_settings: StorageSettings, folder: str) -> None:
    key, secret = s3_settings.aws_access_key_id, s3_settings.aws_secret_access_key
    settings = {
        **s3_settings.model_dump(include={"aws_region", "aws_s3_bucket", "s3_endpoint_url"}),
        "aws_access_key_id": key and key.get_secret_value(),
        "aws_secret_access_key": secret and secret.get_secret_value(),
    }
    program = (
        "import asyncio, json, sys\n"
        "from pixorly.blobs import S3Blobs\n"
        "from pixorly.settings import StorageSettings\n"
        "blobs = S3Blobs(StorageSettings(**json.load(sys.stdin)))\n"
        f"asyncio.run(blobs.put('{folder}/a', bytes(1_500_000), content_type='image/png'))\n"
    )

    for _ in range(3):
        ended = subprocess.run(
            [sys.executable, "-c", program], input=json.dumps(settings), text=True, timeout=60, check=False
        )
        assert ended.returncode == 0
