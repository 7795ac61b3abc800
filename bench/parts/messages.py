"""What a message costs: a chain of three queues, by aio-pika alone, by FastStream, and as Pixorly does it.

Each hop takes a message from a quorum queue, publishes the next one, persistent, mandatory and confirmed, and
acknowledges. Pixorly's messages are real events with their headers, which are read and checked; the others' are empty.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from functools import partial
from statistics import median
from typing import Any
from uuid import uuid4

import aio_pika
from aio_pika.abc import AbstractIncomingMessage
from effort import Effort, progress
from faststream import AckPolicy
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue
from figures import Found, ratio_of_rounds
from world import World, world

from pixorly.broker import Publisher
from pixorly.delivery import Consumer, Delivery, Subscription
from pixorly.events import Event, ImageFailed, JobRetrying, JobStarted
from pixorly.settings import AmqpSettings
from pixorly.topology import WorkQueue
from pixorly_stack.management import Management

HOPS = 3
PREFETCH = 32
VHOST = "chain"
AT_ONCE = 100
"""How many chains are under way at once."""


def run(effort: Effort) -> Found:
    with world() as lent:
        return asyncio.run(measure(lent, effort))


class Chain(ABC):
    """Three queues, one behind the other."""

    name: str

    def __init__(self, url: str) -> None:
        self.url = url
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._left = 0
        self._done = asyncio.Event()

    @abstractmethod
    async def open(self) -> None:
        """Declare the queues and begin to consume."""

    @abstractmethod
    async def begin(self) -> None:
        """Publish to the first queue."""

    @abstractmethod
    async def close(self) -> None:
        """Close the connections."""

    def ended(self) -> None:
        """Count a message that came out of the last queue."""
        self._turns.release()
        self._left -= 1
        if not self._left:
            self._done.set()

    async def send(self, chains: int) -> None:
        """Send so many messages through, and wait for the last."""
        self._left = chains
        self._done.clear()

        async def one() -> None:
            await self._turns.acquire()
            await self.begin()

        async with asyncio.timeout(120):
            await asyncio.gather(*(one() for _ in range(chains)))
            await self._done.wait()


class AioPika(Chain):
    name = "aio-pika"

    async def open(self) -> None:
        self._publishes, self._consumes = [await aio_pika.connect_robust(self.url) for _ in range(2)]
        self._out = await self._publishes.channel(publisher_confirms=True, on_return_raises=True)
        for hop in range(HOPS):
            channel = await self._consumes.channel()
            await channel.set_qos(prefetch_count=PREFETCH)
            queue = await channel.declare_queue(f"bare.{hop}", durable=True, arguments={"x-queue-type": "quorum"})
            await queue.consume(partial(self._take, hop))

    async def _take(self, hop: int, message: AbstractIncomingMessage) -> None:
        if hop + 1 < HOPS:
            await self._publish(hop + 1)
        await message.ack()
        if hop + 1 == HOPS:
            self.ended()

    async def _publish(self, hop: int) -> None:
        message = aio_pika.Message(b"{}", delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await self._out.default_exchange.publish(message, f"bare.{hop}", mandatory=True)

    async def begin(self) -> None:
        await self._publish(0)

    async def close(self) -> None:
        await self._publishes.close()
        await self._consumes.close()


class FastStream(Chain):
    name = "FastStream"

    async def open(self) -> None:
        channel = Channel(on_return_raises=True)
        self._publishes, self._consumes = [
            RabbitBroker(self.url, default_channel=channel, apply_types=False, logger=None) for _ in range(2)
        ]
        await self._publishes.connect()
        for hop in range(HOPS):
            self._consumes.subscriber(
                RabbitQueue(f"faststream.{hop}", queue_type=QueueType.QUORUM, durable=True),
                channel=Channel(prefetch_count=PREFETCH),
                ack_policy=AckPolicy.REJECT_ON_ERROR,
                no_reply=True,
            )(self._taker(hop))
        await self._consumes.start()

    def _taker(self, hop: int) -> Callable[[Any], Awaitable[None]]:
        async def take(_: Any) -> None:
            if hop + 1 < HOPS:
                await self._publish(hop + 1)
            else:
                self.ended()

        return take

    async def _publish(self, hop: int) -> None:
        await self._publishes.publish(b"{}", f"faststream.{hop}", persist=True, mandatory=True)

    async def begin(self) -> None:
        await self._publish(0)

    async def close(self) -> None:
        await self._consumes.stop()
        await self._publishes.stop()


class Ours(Chain):
    name = "pixorly"

    async def open(self) -> None:
        settings = AmqpSettings(amqp_url=self.url, prefetch=PREFETCH)
        self._publisher = Publisher(settings, "chain")
        await self._publisher.start()
        self._consumer = Consumer(settings, "chain", self._publisher, [
            Subscription(queue=WorkQueue("chain.one", (JobStarted,)), handler=self._first),
            Subscription(queue=WorkQueue("chain.two", (JobRetrying,)), handler=self._second),
            Subscription(queue=WorkQueue("chain.three", (ImageFailed,)), handler=self._third),
        ])  # fmt: skip
        await self._consumer.start()
        async with asyncio.timeout(30):
            while not await self._ready():  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.1)

    async def _ready(self) -> bool:
        try:
            await self._consumer.probe()
        except Exception:  # noqa: BLE001 - whatever it is, it is not ready
            return False
        return True

    async def _first(self, event: Event, _: Delivery) -> Event:
        facts = {"stage": "generate", "attempt": 1, "delay_s": 2, "code": "provider_timeout", "message": ""}
        return JobRetrying.of(event.job_id, event.user_id, **facts)

    async def _second(self, event: Event, _: Delivery) -> Event:
        facts = {"index": 0, "image_id": event.job_id, "code": "provider_timeout", "message": "", "fault": "server"}
        return ImageFailed.of(event.job_id, event.user_id, stage="generate", **facts)

    async def _third(self, _: Event, __: Delivery) -> None:
        self.ended()

    async def begin(self) -> None:
        await self._publisher.publish(JobStarted.of(uuid4(), "bench", attempt=1, provider="any"))

    async def close(self) -> None:
        await self._consumer.stop(1)
        await self._publisher.close()


async def measure(lent: World, effort: Effort) -> Found:
    async with Management(lent.dev["rabbitmq_management_url"]) as rabbitmq:
        user = lent.dev["amqp_url"].partition("://")[2].partition(":")[0]
        await rabbitmq.make_vhost(VHOST)
        await rabbitmq.permit(user, VHOST, {"configure": ".*", "write": ".*", "read": ".*"})
    chains = [kind(lent.amqp_url(VHOST)) for kind in (AioPika, FastStream, Ours)]
    for chain in chains:
        await chain.open()
    try:
        return await in_turn(lent, chains, effort)
    finally:
        for chain in chains:
            await chain.close()


async def in_turn(lent: World, chains: list[Chain], effort: Effort) -> Found:
    count = 50 if effort.quick else 600
    rates: dict[str, list[float]] = {chain.name: [] for chain in chains}
    own_ms: dict[str, list[float]] = {chain.name: [] for chain in chains}
    server_ms: dict[str, list[float]] = {chain.name: [] for chain in chains}
    for chain in chains:
        await chain.send(count // 5)
    for turn in range(effort.rounds):
        shift = turn % len(chains)
        for chain in [*chains[shift:], *chains[:shift]]:
            before, began, cpu = lent.used("rabbitmq"), time.monotonic(), time.process_time()
            await chain.send(count)
            rates[chain.name].append(HOPS * count / (time.monotonic() - began))
            own_ms[chain.name].append(1000 * (time.process_time() - cpu) / count / HOPS)
            spent = lent.used("rabbitmq").since(before).cpu_s["rabbitmq"]
            server_ms[chain.name].append(1000 * spent / count / HOPS)
        reached = ", ".join(f"{name} {each[-1]:.0f}/s" for name, each in rates.items())
        progress(f"round {turn + 1} of {effort.rounds}: {reached}")
    found = Found()
    for what, unit, each in (
        ("messages a second, chain of three", "/s", rates),
        ("processor for each message, ours", "ms", own_ms),
        ("processor for each message, RabbitMQ's", "ms", server_ms),
    ):
        for other in ("aio-pika", "FastStream"):
            found.add(
                what, median(each["pixorly"]), unit, (other, median(each[other])),
                ratio=ratio_of_rounds(each["pixorly"], each[other]),
            )  # fmt: skip
    return found
