"""The servers of the stack come back when they are killed, with all that was in them."""

import asyncio
import os
import signal
from pathlib import Path

import aio_pika
import asyncpg
import pytest

from pixorly.blobs import S3Blobs
from pixorly.bucket import ensure_bucket
from pixorly.errors import OutageError, StorageUnavailable
from pixorly_stack.keeper import Keeper, State
from pixorly_stack.servers import Servers
from pixorly_stack.settings import StackSettings

WITHIN_S = 120
QUEUE = "kept"
QUORUM = {"x-queue-type": "quorum"}
AWAY = (OSError, asyncpg.PostgresError, aio_pika.exceptions.AMQPError, OutageError, StorageUnavailable)


async def leave_something(servers: Servers) -> None:
    access = servers.access
    database = await asyncpg.connect(access.database_url)
    await database.execute("CREATE TABLE kept AS SELECT 42 AS number")
    await database.close()
    async with await aio_pika.connect(access.amqp_url) as connection:
        channel = await connection.channel()
        await channel.declare_queue(QUEUE, durable=True, arguments=QUORUM)
        message = aio_pika.Message(b"kept", delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, QUEUE)
    await ensure_bucket(access.s3.settings())
    await S3Blobs(access.s3.settings()).put("kept", b"kept", content_type="image/png")


async def all_is_there(servers: Servers) -> bool:
    access = servers.access
    try:
        database = await asyncpg.connect(access.database_url, timeout=30)
        number = await database.fetchval("SELECT number FROM kept")
        await database.close()
        async with await aio_pika.connect(access.amqp_url, timeout=30) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue(QUEUE, passive=True)
        bytes_kept = await S3Blobs(access.s3.settings()).get("kept")
    except (*AWAY, TimeoutError):
        return False
    return (number, queue.declaration_result.message_count, bytes_kept) == (42, 1, b"kept")


async def until_all_is_there(servers: Servers) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not await all_is_there(servers):
            await asyncio.sleep(0.2)


def pid_of(keeper: Keeper) -> int:
    assert keeper.identity is not None
    return keeper.identity.pid


@pytest.mark.timeout(400)
async def test_killed_servers_come_back_with_all_that_was_in_them(tmp_path: Path) -> None:
    settings = StackSettings.from_environment(amqp_url=None, database_url=None, s3_endpoint_url=None)
    async with Servers(tmp_path, settings) as servers:
        await leave_something(servers)
        # A queue that was declared a moment ago does not survive a kill of its only member.
        await asyncio.sleep(4)
        before = servers.access
        pids = [pid_of(keeper) for keeper in servers.keepers]

        for pid in pids:
            os.kill(pid, signal.SIGKILL)

        await until_all_is_there(servers)
        async with asyncio.timeout(WITHIN_S):
            while any(keeper.state is not State.READY for keeper in servers.keepers):
                await asyncio.sleep(0.05)
        assert not {pid_of(keeper) for keeper in servers.keepers} & set(pids)

    assert all(keeper.state is State.STOPPED for keeper in servers.keepers)
    async with Servers(tmp_path, settings) as again:
        assert again.access == before
        assert await all_is_there(again)
