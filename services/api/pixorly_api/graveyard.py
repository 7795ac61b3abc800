"""The dead queues over AMQP: what is taken from one is removed or put back; nothing is lost on the way.

All that a visit takes it holds without acknowledging, so it meets no message twice. What it leaves, for whatever
reason, RabbitMQ puts back. One visit at a time: the lock is a queue that only its connection may have, and goes with
it, just as the messages come back with it.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractQueue
from aio_pika.exceptions import ChannelClosed, ChannelNotFoundEntity
from typing_extensions import override

from pixorly.broker import translated
from pixorly.errors import OutageError
from pixorly.settings import AmqpSettings
from pixorly.topology import QUEUES, WorkQueue

_LOCK: Final = "pixorly.live.dead-letters"
_LOCKED: Final = "RESOURCE_LOCKED"
_ANSWER_S: Final = 10.0
_LOCK_TRIES: Final = 25
_LOCK_AGAIN_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Found:
    """A message of a dead queue.

    Attributes:
        tag: Its number on the channel, by which it is removed or put back.
        left: How many more there were in the queue when it was taken.
        timestamp: When it was published here.
    """

    queue: str
    tag: int
    left: int
    message_id: str
    message_type: str | None
    correlation_id: str | None
    timestamp: datetime | None
    headers: Mapping[str, Any] = field(repr=False)
    body: bytes = field(repr=False)


class Grave(Protocol):
    """One dead queue, while it is looked through."""

    async def take(self) -> Found | None:
        """Take a message in hand; None where there are no more.

        Raises:
            OutageError: RabbitMQ is away.
        """

    async def remove(self, found: Found) -> None:
        """Let go of a message for good.

        Raises:
            OutageError: RabbitMQ is away.
        """


class Visit(Protocol):
    """The only visit to the dead queues at this time."""

    def grave(self, queue: WorkQueue) -> AbstractAsyncContextManager[Grave]:
        """Open the dead queue of a work queue; what was taken and not removed is put back at the end."""


class Graveyard(Protocol):
    """All dead queues."""

    def visit(self) -> AbstractAsyncContextManager[Visit]:
        """Keep everybody else away from the dead queues for the length of a block.

        Raises:
            OutageError: RabbitMQ is away, or somebody else is at it.
        """

    async def depths(self) -> dict[str, int]:
        """Return, by work queue, about how many messages wait in its dead queue.

        Raises:
            OutageError: RabbitMQ is away.
        """


class AmqpGraveyard(Graveyard):
    """The dead queues of a RabbitMQ.

    Args:
        settings: Where RabbitMQ is.
    """

    def __init__(self, settings: AmqpSettings) -> None:
        url = settings.amqp_url.get_secret_value()
        separator = "&" if "?" in url else "?"
        self._url = f"{url}{separator}heartbeat={settings.amqp_heartbeat_s}&name=api-dead-letters"

    @override
    @asynccontextmanager
    async def visit(self) -> AsyncIterator[Visit]:
        async with self._connection() as connection:
            await _lock(connection)
            yield _AmqpVisit(connection)

    @override
    async def depths(self) -> dict[str, int]:
        found = dict.fromkeys((queue.name for queue in QUEUES), 0)
        async with self._connection() as connection:
            for queue in QUEUES:
                async with _reaching():
                    channel = await connection.channel()
                    # One that no service has declared yet holds nothing.
                    with suppress(ChannelNotFoundEntity):
                        declared = await channel.declare_queue(queue.dead, passive=True)
                        found[queue.name] = declared.declaration_result.message_count or 0
                    await channel.close()
        return found

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AbstractConnection]:
        async with _reaching():
            connection = await aio_pika.connect(self._url, timeout=_ANSWER_S)
        try:
            yield connection
        finally:
            await _close(connection)


@asynccontextmanager
async def _reaching() -> AsyncIterator[None]:
    """Turn what a link that is lost or silent raises into an `OutageError`."""
    with translated():
        async with asyncio.timeout(_ANSWER_S):
            yield


async def _close(link: AbstractConnection | AbstractChannel) -> None:
    """Close a link; one that is lost has closed itself, and RabbitMQ has put back what it held."""
    with suppress(OutageError):
        async with _reaching():
            await link.close()


async def _lock(connection: AbstractConnection) -> None:
    for _ in range(_LOCK_TRIES):
        async with _reaching():
            try:
                channel = await connection.channel()
                await channel.declare_queue(_LOCK, exclusive=True, auto_delete=True)
            except ChannelClosed as error:
                if _LOCKED not in str(error):
                    raise
            else:
                return
        await asyncio.sleep(_LOCK_AGAIN_S)
    raise OutageError("dead letters", "Somebody else is at the dead letters just now.", retry_after_s=2)


class _AmqpVisit(Visit):
    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection

    @override
    @asynccontextmanager
    async def grave(self, queue: WorkQueue) -> AsyncIterator[Grave]:
        async with _reaching():
            channel = await self._connection.channel()
            grave = _AmqpGrave(queue, channel, await channel.get_queue(queue.dead, ensure=False))
        try:
            yield grave
        finally:
            await grave.put_back()
            await _close(channel)


class _AmqpGrave(Grave):
    def __init__(self, queue: WorkQueue, channel: AbstractChannel, dead: AbstractQueue) -> None:
        self._queue = queue
        self._channel = channel
        self._dead = dead

    @override
    async def take(self) -> Found | None:
        async with _reaching():
            try:
                message = await self._dead.get(fail=False, timeout=_ANSWER_S)
            except ChannelNotFoundEntity:  # no service has declared it yet
                return None
        if message is None or message.delivery_tag is None:
            return None
        return Found(
            queue=self._queue.name,
            tag=message.delivery_tag,
            left=message.message_count or 0,
            message_id=str(message.message_id or ""),
            message_type=message.type,
            correlation_id=message.correlation_id,
            timestamp=message.timestamp,
            headers=dict(message.headers),
            body=message.body,
        )

    @override
    async def remove(self, found: Found) -> None:
        async with _reaching():
            await (await self._channel.get_underlay_channel()).basic_ack(found.tag)

    async def put_back(self) -> None:
        """Put back all that is held; not always in the order in which it was taken."""
        with suppress(OutageError):
            async with _reaching():
                await (await self._channel.get_underlay_channel()).basic_nack(0, multiple=True, requeue=True)
