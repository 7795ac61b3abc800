"""Presigned links on a real S3 server: until they end, and not a second longer."""

import asyncio
from datetime import UTC, datetime
from ipaddress import IPv4Network
from uuid import uuid4

import httpx
import pytest

from pixorly.blobs import S3Blobs, s3_client
from pixorly.settings import StorageSettings
from pixorly_api.links import NotOffered, Presigned, Terms


async def test_a_presigned_link_works_until_it_expires_and_not_a_second_longer(s3_settings: StorageSettings) -> None:
    key = f"users/{uuid4()}/a.png"
    await S3Blobs(s3_settings).put(key, b"bytes", content_type="image/png")
    async with s3_client(s3_settings) as client, httpx.AsyncClient(trust_env=False) as anyone:
        # A minute is the least that a request may ask for; a test has not as much time.
        (link,) = await Presigned(S3Blobs(s3_settings), client, s3_settings.aws_s3_bucket, ttl_s=5).of([key])
        assert link.expires_at
        assert (await anyone.get(link.url)).content == b"bytes"
        await asyncio.sleep((link.expires_at - datetime.now(UTC)).total_seconds() + 1)
        assert (await anyone.get(link.url)).status_code == httpx.codes.FORBIDDEN


async def test_a_download_is_saved_under_its_name(s3_settings: StorageSettings) -> None:
    key = f"users/{uuid4()}/a.png"
    await S3Blobs(s3_settings).put(key, b"bytes", content_type="image/png")
    async with s3_client(s3_settings) as client, httpx.AsyncClient(trust_env=False) as anyone:
        links = Presigned(S3Blobs(s3_settings), client, s3_settings.aws_s3_bucket)
        (link,) = await links.of([key], Terms(60, file_names={key: "pixorly-1-0.png"}))
        answer = await anyone.get(link.url)
        assert answer.headers["content-disposition"] == 'attachment; filename="pixorly-1-0.png"'
        assert answer.headers["content-type"] == "image/png"
        with pytest.raises(NotOffered):
            await links.of([key], Terms(network=IPv4Network("192.0.2.0/24")))
