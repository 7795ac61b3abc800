"""Listening in on the events that pass through RabbitMQ, without taking any from those they are for."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from pixorly.topology import EVENTS_EXCHANGE

CONNECT_TIMEOUT_S: Final = 5.0
ENDINGS: Final = frozenset({"job.completed", "job.failed", "job.canceled"})


@dataclass(frozen=True, slots=True)
class Heard:
    """An event that passed by.

    Attributes:
        at: When, on this process's clock.
        type: Its routing key.
        body: What it carries.
    """

    at: float
    type: str
    body: dict[str, Any]


@dataclass(slots=True)
class Ear:
    """Remembers what it heard, in order."""

    heard: list[Heard] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, message: AbstractIncomingMessage) -> None:
        """Remember a message."""
        self.heard.append(Heard(time.monotonic(), message.routing_key or "", json.loads(message.body)))
        self._news.set()

    def of(self, job_id: str) -> list[Heard]:
        """Return the events of one job."""
        return [event for event in self.heard if event.body.get("job_id") == job_id]

    async def until_settled(self, job_id: str, within_s: float) -> list[Heard]:
        """Return the events of a job when its ending was heard, or those there are when the time is up."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not any(event.type in ENDINGS for event in self.of(job_id)):
                    self._news.clear()
                    await self._news.wait()
        return self.of(job_id)


@asynccontextmanager
async def listening(amqp_url: str) -> AsyncIterator[Ear]:
    """Hear every event for the length of a block, on a queue that goes away with it.

    Raises:
        aio_pika.exceptions.AMQPError, OSError: RabbitMQ does not let us.
    """
    ear = Ear()
    async with await aio_pika.connect(amqp_url, timeout=CONNECT_TIMEOUT_S) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(EVENTS_EXCHANGE, "#")
        await queue.consume(ear.take, no_ack=True)
        yield ear
