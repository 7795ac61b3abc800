"""The real servers, as tests and the local stack get them."""

import asyncpg
import pytest
from aio_pika import connect

from pixorly.blobs import S3Blobs
from pixorly.errors import StagedBytesMissing
from pixorly.settings import StorageSettings


async def test_each_test_has_an_empty_database_of_its_own(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
        await connection.execute("CREATE TABLE here (id int)")
    finally:
        await connection.close()


@pytest.mark.parametrize("_", range(2))
async def test_each_test_has_an_empty_virtual_host_of_its_own(amqp_url: str, _: int) -> None:
    connection = await connect(amqp_url)
    async with connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("same-name", durable=True, arguments={"x-queue-type": "quorum"})
        assert queue.declaration_result.message_count == 0


async def test_the_bucket_takes_bytes_and_gives_them_back(s3_settings: StorageSettings) -> None:
    blobs = S3Blobs(s3_settings)

    await blobs.put("a/key", b"bytes", content_type="image/png")

    assert await blobs.get("a/key") == b"bytes"
    await blobs.delete(["a/key"])
    with pytest.raises(StagedBytesMissing):
        await blobs.get("a/key")
