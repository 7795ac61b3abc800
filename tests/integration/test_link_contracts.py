"""More of what delivery leans on, one test a fact: links, channels, and what others do to our queues."""

import asyncio
from collections.abc import AsyncIterator

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import AMQPError, ChannelNotFoundEntity
from aiormq.exceptions import ChannelInvalidStateError
from faststream.rabbit import Channel, ExchangeType, QueueType, RabbitBroker, RabbitExchange, RabbitMessage, RabbitQueue
from proxies import tcp_proxy
from quorum import connected, quorum, send
from waiting import by_way_of, until

from pixorly.broker import Publisher
from pixorly.delivery import Consumer, Delivery, Following, Subscription
from pixorly.errors import OutageError
from pixorly.events import ImageGenerated
from pixorly.settings import AmqpSettings
from pixorly.topology import declare, queue_named

STORE = queue_named("uploader.store_image")


@pytest.fixture
async def channel(amqp_url: str) -> AsyncIterator[AbstractChannel]:
    """A channel to look at queues with."""
    async with await aio_pika.connect(amqp_url) as connection:
        yield await connection.channel(on_return_raises=True)


async def test_a_queue_that_somebody_deletes_is_declared_again_and_consumed_from_again(
    amqp_url: str, channel: AbstractChannel
) -> None:
    """K3. So an operator's slip costs no restart; the bindings come back with our next declaration."""
    seen: list[bytes] = []
    async with connected(amqp_url, reconnect_interval=0.5) as broker:

        @broker.subscriber(RabbitQueue("work", queue_type=QueueType.QUORUM))
        async def handle(message: RabbitMessage) -> None:
            seen.append(message.body)

        await broker.start()
        await send(channel, "work", b"before")
        await until(lambda: len(seen) == 1)
        await channel.queue_delete("work")

        async def is_back() -> bool:
            try:
                await send(channel, "work", b"after")
            except AMQPError:
                return False
            return True

        await until(is_back, 15)
        await until(lambda: len(seen) == 2, 15)

    assert seen == [b"before", b"after"]


async def test_a_link_that_is_dead_and_does_not_know_it_looks_alive_to_a_ping_and_not_to_our_probes(
    amqp_url: str, channel: AbstractChannel
) -> None:
    """K5. Hence a probe publishes, and waits for the confirm."""
    await declare(channel, [STORE])

    async def store(_: ImageGenerated, __: Delivery) -> Following:
        return None

    async with tcp_proxy(amqp_url) as proxy:
        settings = AmqpSettings.model_validate({"amqp_url": by_way_of(proxy, amqp_url)})
        publisher = Publisher(settings, "uploader")
        consumer = Consumer(settings, "uploader", publisher, [Subscription(queue=STORE, handler=store)])
        async with connected(by_way_of(proxy, amqp_url)) as broker:
            await publisher.start()
            await consumer.start()

            async def probes_answer() -> bool:
                try:
                    await publisher.probe()
                    await consumer.probe()
                except OutageError:
                    return False
                return True

            await until(probes_answer)
            proxy.mode = "stall"

            assert await broker.ping(timeout=1)
            with pytest.raises(OutageError):
                await publisher.probe()
            with pytest.raises(OutageError):
                await consumer.probe()
            proxy.mode = "pass"
        await consumer.stop(1)
        await publisher.close()


async def test_a_publication_that_is_refused_closes_its_channel_under_all_the_others(
    amqp_url: str, channel: AbstractChannel
) -> None:
    """P7. Hence the outbox tries one by one what failed together, and no consumer shares a publisher's channel."""
    await quorum(channel, "work")
    async with connected(amqp_url, default_channel=Channel(on_return_raises=True)) as broker:
        await broker.publish(b"first", queue="work", mandatory=True)
        ended = await asyncio.gather(
            broker.publish(b"refused", exchange=RabbitExchange("missing", declare=False), routing_key="x"),
            broker.publish(b"second", queue="work", mandatory=True),
            return_exceptions=True,
        )

        async def works() -> bool:
            try:
                await broker.publish(b"third", queue="work", mandatory=True)
            except ChannelInvalidStateError:
                return False
            return True

        await until(works, 5)

    assert isinstance(ended[0], ChannelNotFoundEntity)


async def test_an_exchange_that_was_declared_actively_comes_back_with_the_connection(
    amqp_url: str, channel: AbstractChannel
) -> None:
    """P8. Hence a publisher declares the exchanges it uses; one that was only looked for would never connect again."""
    exchange = RabbitExchange("news", type=ExchangeType.TOPIC, durable=True)
    async with (
        tcp_proxy(amqp_url) as proxy,
        connected(
            by_way_of(proxy, amqp_url), reconnect_interval=0.5, default_channel=Channel(on_return_raises=True)
        ) as broker,
    ):
        await broker.declare_exchange(exchange)
        await channel.exchange_delete("news")
        proxy.cut()

        async def is_back() -> bool:
            async with await aio_pika.connect(amqp_url) as another:
                try:
                    await (await another.channel()).get_exchange("news")
                except ChannelNotFoundEntity:
                    return False
            return True

        await until(is_back, 15)


async def test_to_cancel_a_declaration_closes_its_channel(amqp_url: str) -> None:
    """P13. Hence queues are declared on a channel of their own, which is closed afterwards."""
    async with tcp_proxy(amqp_url) as proxy, await aio_pika.connect(by_way_of(proxy, amqp_url)) as connection:
        channel = await connection.channel()
        proxy.mode = "stall"
        declaring = asyncio.create_task(channel.declare_queue("work", durable=True))
        await asyncio.sleep(0.2)
        declaring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await declaring
        proxy.mode = "pass"

        with pytest.raises(ChannelInvalidStateError):
            await channel.declare_queue("other", durable=True)


async def test_a_start_without_rabbitmq_waits_for_it_where_it_is_told_to(amqp_url: str) -> None:
    """K12. Hence `fail_fast` is off, and starting never blocks what does not need RabbitMQ."""
    async with tcp_proxy(amqp_url) as proxy:
        proxy.mode = "refuse"
        url = by_way_of(proxy, amqp_url)
        with pytest.raises(AMQPError):
            await RabbitBroker(url, logger=None).connect()
        patient = RabbitBroker(url, logger=None, fail_fast=False, reconnect_interval=0.2)
        connecting = asyncio.create_task(patient.connect())
        await asyncio.sleep(1)
        assert not connecting.done()
        proxy.mode = "pass"
        await asyncio.wait_for(connecting, 10)
        await patient.stop()
