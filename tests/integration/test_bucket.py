"""The bucket's set-up, on a real S3 server and on servers that do not know everything."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from aiohttp import web

from pixorly.blobs import S3Blobs, s3_client
from pixorly.bucket import ensure_bucket
from pixorly.errors import OutageError
from pixorly.settings import StorageSettings


async def test_the_bucket_is_set_up_once_and_a_repeat_changes_nothing(s3_settings: StorageSettings) -> None:
    bucket = f"test-{uuid4().hex}"
    settings = s3_settings.model_copy(update={"aws_s3_bucket": bucket, "s3_cors_origins": ("https://app.test",)})

    first, second = await ensure_bucket(settings), await ensure_bucket(settings)

    assert first[0].words == f"made the bucket {bucket}"
    assert first[1:] == second
    async with s3_client(settings) as client:
        rules = (await client.get_bucket_lifecycle_configuration(Bucket=bucket))["Rules"]
        assert [rule["ID"] for rule in rules] == ["staging", "aborted-uploads"]
        (rule,) = (await client.get_bucket_encryption(Bucket=bucket))["ServerSideEncryptionConfiguration"]["Rules"]
        assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
        (cors,) = (await client.get_bucket_cors(Bucket=bucket))["CORSRules"]
        assert cors["AllowedOrigins"] == ["https://app.test"]
        await client.delete_bucket(Bucket=bucket)


Answer = Callable[[web.BaseRequest], tuple[int, str] | None]


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[tuple[StorageSettings, list[str]]]:
    """A server that refuses what `answer` says, and notes what it took."""
    taken: list[str] = []

    async def handle(request: web.BaseRequest) -> web.Response:
        body = await request.read()
        if refused := answer(request):
            status, code = refused
            return web.Response(status=status, text=f"<Error><Code>{code}</Code><Message>no</Message></Error>")
        taken.append(f"{request.query_string} {body.decode()}")
        return web.Response(headers={"ETag": '"1"'})

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        url = f"http://{host}:{port}"
        yield StorageSettings(aws_access_key_id="key", aws_secret_access_key="secret", s3_endpoint_url=url), taken
    finally:
        await runner.cleanup()


def like_minio(request: web.BaseRequest) -> tuple[int, str] | None:
    """What a MinIO without a key answers."""
    if {"publicAccessBlock", "cors", "encryption"} & set(request.query):
        return 501, "NotImplemented"
    return None


async def test_a_server_that_does_not_know_everything_says_what_and_gets_the_rest() -> None:
    async with serving(like_minio) as (settings, taken):
        done = await ensure_bucket(settings)

    assert [step.known for step in done] == [False, False, True, False]
    assert all(step.words for step in done)
    assert [line.split()[0] for line in taken if line.strip()] == ["lifecycle"]


async def test_a_server_that_does_not_read_the_rule_on_aborted_uploads_gets_the_other_alone() -> None:
    refused: list[str] = []

    def answer(request: web.BaseRequest) -> tuple[int, str] | None:
        if "lifecycle" in request.query and not refused:
            refused.append("once")
            return 400, "MalformedXML"
        return None

    async with serving(answer) as (settings, taken):
        done = await ensure_bucket(settings)

    (rules,) = [line for line in taken if line.startswith("lifecycle")]
    assert "staging" in rules
    assert "aborted" not in rules
    assert "server's own" in next(step.words for step in done if not step.known)


@pytest.mark.parametrize("query", ["encryption", "publicAccessBlock", "lifecycle", "cors"])
async def test_a_step_that_is_refused_for_another_reason_is_no_success(query: str) -> None:
    async with serving(lambda request: (403, "AccessDenied") if query in request.query else None) as (settings, _):
        with pytest.raises(OutageError, match="AccessDenied"):
            await ensure_bucket(settings)


@pytest.mark.parametrize(
    ("sse", "key", "headers"),
    [
        ("AES256", None, {"x-amz-server-side-encryption": "AES256"}),
        (
            "aws:kms",
            "alias/pixorly",
            {
                "x-amz-server-side-encryption": "aws:kms",
                "x-amz-server-side-encryption-aws-kms-key-id": "alias/pixorly",
            },
        ),
        ("none", None, {}),
    ],
)
async def test_an_object_asks_for_the_encryption_of_the_setting(
    sse: str, key: str | None, headers: dict[str, str]
) -> None:
    seen: list[dict[str, str]] = []

    def answer(request: web.BaseRequest) -> None:
        seen.append({name.lower(): value for name, value in request.headers.items()})

    async with serving(answer) as (settings, _):
        told = settings.model_copy(update={"s3_sse": sse, "s3_kms_key_id": key})
        await S3Blobs(told).put("users/a", b"x", content_type="image/png")

    (sent,) = seen
    assert {name: value for name, value in sent.items() if "encryption" in name} == headers
