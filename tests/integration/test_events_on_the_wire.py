"""A published event on the wire: the AMQP properties and headers that every reader may count on."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage
from samples import JOB, NOON, SAMPLES

from pixorly.broker import Publisher
from pixorly.events import EVENTS
from pixorly.settings import AmqpSettings
from pixorly.topology import EVENTS_EXCHANGE

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.fixture
async def publisher(amqp_url: str) -> AsyncIterator[Publisher]:
    publisher = Publisher(AmqpSettings(amqp_url=amqp_url), "test")
    await publisher.start()
    yield publisher
    await publisher.close()


@pytest.fixture
async def reader(amqp_url: str) -> AsyncIterator[aio_pika.abc.AbstractQueue]:
    """A reader of everything, which knows nothing but the exchange's name."""
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange(EVENTS_EXCHANGE, aio_pika.ExchangeType.TOPIC, durable=True)
        queue = await channel.declare_queue("reader", exclusive=True)
        await queue.bind(exchange, "#")
        yield queue


async def _read(reader: aio_pika.abc.AbstractQueue) -> AbstractIncomingMessage:
    message = await reader.get(no_ack=True)
    assert message is not None
    return message


@pytest.mark.parametrize("kind", sorted(EVENTS))
async def test_a_published_event_carries_the_properties_and_headers_of_the_contract(
    publisher: Publisher, reader: aio_pika.abc.AbstractQueue, kind: str
) -> None:
    event = SAMPLES[kind]

    await publisher.publish(event, {"traceparent": TRACEPARENT})

    message = await _read(reader)
    assert message.body == event.to_json()
    assert (message.exchange, message.routing_key) == (EVENTS_EXCHANGE, kind)
    assert message.message_id == str(event.event_id)
    assert message.type == kind
    assert message.correlation_id == str(JOB)
    assert message.content_type == "application/json"
    assert message.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
    assert message.timestamp is not None
    assert abs(message.timestamp - datetime.now(UTC)) < timedelta(minutes=1)
    assert message.expiration is None
    assert not message.reply_to
    assert message.headers == {
        "traceparent": TRACEPARENT,
        "pixorly-schema": 1,
        "pixorly-attempt": 1,
        "cloudEvents_specversion": "1.0",
        "cloudEvents_id": str(event.event_id),
        "cloudEvents_type": kind,
        "cloudEvents_source": "/pixorly",
        "cloudEvents_subject": str(JOB),
        "cloudEvents_time": NOON.isoformat(),
    }


async def test_an_event_that_is_published_twice_has_the_same_id_twice(
    publisher: Publisher, reader: aio_pika.abc.AbstractQueue
) -> None:
    for _ in range(2):
        await publisher.publish(SAMPLES["image.generated"])

    first, second = await _read(reader), await _read(reader)

    assert first.message_id == second.message_id
    assert first.headers["cloudEvents_id"] == second.headers["cloudEvents_id"]
