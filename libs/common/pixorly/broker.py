"""RabbitMQ: two connections a process, one that only publishes and one that only consumes.

On one connection a memory alarm would stop the acknowledgements together with the publications. FastStream's own
time-out argument does nothing, so every wait here has a deadline of ours, and a publication that met it may have
arrived all the same: it is repeated with the same id, never taken back.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from aio_pika import DeliveryMode, Exchange, Message
from aio_pika.exceptions import AMQPError
from faststream.rabbit import Channel, ExchangeType, RabbitBroker, RabbitExchange, RabbitMessage
from typing_extensions import override

from pixorly import telemetry
from pixorly.errors import OutageError
from pixorly.events import Event
from pixorly.outbox import Bus
from pixorly.settings import AmqpSettings
from pixorly.topology import EVENTS_EXCHANGE, EXCHANGES, RETRY_EXCHANGE

_log = structlog.get_logger()
_RECONNECT_S: Final = 1.0
_CONNECT_S: Final = 10.0
"""The longest that a handshake may take: a server or balancer that accepts and says nothing would hold it for ever."""

ATTEMPT_HEADER: Final = "pixorly-attempt"

# FastStream and aio-pika log every reconnect at length; what matters is logged here.
for _name in ("aio_pika", "aiormq", "faststream"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


@contextmanager
def translated() -> Iterator[None]:
    """Turn what a link that is lost raises into an `OutageError`."""
    try:
        yield
    except (AMQPError, RuntimeError, OSError) as error:
        raise OutageError("rabbitmq", f"RabbitMQ is away: {type(error).__name__}.") from error
    except asyncio.CancelledError as error:
        # A link that is declared dead cancels what waits on it, in a task that nobody cancelled.
        if (task := asyncio.current_task()) and task.cancelling():
            raise
        raise OutageError("rabbitmq", "The link to RabbitMQ was lost.") from error


def make_broker(settings: AmqpSettings, name: str) -> RabbitBroker:
    """Return a broker with our settings: names its connection, waits for RabbitMQ, returns raise on every channel."""
    url = settings.amqp_url.get_secret_value()
    separator = "&" if "?" in url else "?"
    return RabbitBroker(
        f"{url}{separator}heartbeat={settings.amqp_heartbeat_s}&name={name}",
        fail_fast=False,
        reconnect_interval=_RECONNECT_S,
        timeout=_CONNECT_S,
        graceful_timeout=None,
        default_channel=Channel(on_return_raises=True),
        apply_types=False,
        logger=None,
    )


async def stop(broker: RabbitBroker) -> None:
    """Close a broker's connection, within a deadline."""
    with suppress(TimeoutError, AMQPError, OSError, RuntimeError):
        async with asyncio.timeout(3):
            await broker.stop()


class Publisher(Bus):
    """The publishing side: every message persistent, mandatory, confirmed, and within a deadline.

    Args:
        settings: Where RabbitMQ is.
        service: The service's name, which its user may publish under.
    """

    def __init__(self, settings: AmqpSettings, service: str) -> None:
        self._service = service
        self._broker = make_broker(settings, f"{service}-publishes")
        self._timeout_s = settings.publish_timeout_s
        self._exchanges: dict[str, Exchange] = {}
        self._connected = asyncio.Event()
        self._connecting: asyncio.Task[None] | None = None
        self._in_flight: dict[str, asyncio.Future[None]] = {}

    async def start(self) -> None:
        """Begin to connect, and go on trying; whoever publishes meanwhile meets an `OutageError`."""
        self._connecting = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        while not self._connected.is_set():
            try:
                with translated():
                    await self._broker.connect()
                    for name in EXCHANGES:
                        exchange = RabbitExchange(name, type=ExchangeType.TOPIC, durable=True)
                        self._exchanges[name] = await self._broker.declare_exchange(exchange)
                self._connected.set()
            except OutageError as error:
                _log.warning("rabbitmq is away", reason=error.message)
                await asyncio.sleep(_RECONNECT_S)

    async def close(self) -> None:
        """Close the connection, within a deadline."""
        if self._connecting:
            self._connecting.cancel()
        await stop(self._broker)

    @override
    async def publish(self, event: Event, headers: dict[str, str] | None = None) -> None:
        event_id, job_id = str(event.event_id), str(event.job_id)
        attributes = sent_attributes(EVENTS_EXCHANGE, event.type, event_id, job_id) if telemetry.on() else None
        with telemetry.span(f"publish {event.type}", "producer", attributes):
            await self.send(
                EVENTS_EXCHANGE,
                event.type,
                event.to_json(),
                message_id=event_id,
                message_type=event.type,
                correlation_id=job_id,
                headers={**(headers or {}), **_event_headers(event, event_id, job_id), **telemetry.carried()},
            )

    async def send(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        *,
        message_id: str,
        message_type: str | None,
        correlation_id: str | None,
        headers: Mapping[str, Any],
    ) -> None:
        """Publish a message and return when RabbitMQ has it in a queue.

        Raises:
            OutageError: It could not be published, or perhaps was, without an answer in time.
        """
        # Returns are matched by id alone, so one id is under way once at a time, wherever it goes.
        while (other := self._in_flight.get(message_id)) is not None:
            await asyncio.wait([other])
        mine = self._in_flight[message_id] = asyncio.get_running_loop().create_future()
        try:
            with translated():
                async with asyncio.timeout(self._timeout_s):
                    await self._connected.wait()
                    message = Message(
                        body,
                        content_type="application/json",
                        delivery_mode=DeliveryMode.PERSISTENT,
                        message_id=message_id,
                        type=message_type,
                        correlation_id=correlation_id,
                        timestamp=datetime.now(UTC),
                        headers=dict(headers),
                    )
                    await self._hand_over(message, exchange, routing_key)
        finally:
            del self._in_flight[message_id]
            mine.set_result(None)

    async def _hand_over(self, message: Message, exchange: str, routing_key: str) -> None:
        """Write a message on the channel that FastStream opened, where returns raise, and wait for its confirm only.

        To wait for the socket besides, as aio-pika's own `publish` does, takes each message several turns of the event
        loop, one message after another: where thousands of tasks make a turn long, it took seconds.
        """
        channel = self._exchanges[exchange].channel
        if channel.is_closed:
            raise OutageError("rabbitmq", "RabbitMQ is away: the channel is closed.")
        link: Any = await channel.get_underlay_channel()  # whose type does not know `wait`
        await link.basic_publish(
            message.body,
            exchange=exchange,
            routing_key=routing_key,
            properties=message.properties,
            mandatory=True,
            wait=False,
        )

    async def probe(self) -> None:
        """Publish to nobody and wait for the confirm, since a connection looks alive long after it is dead.

        Raises:
            OutageError: RabbitMQ did not confirm in time.
        """
        with translated():
            async with asyncio.timeout(2):
                await self._connected.wait()
                await self._exchanges[RETRY_EXCHANGE].publish(Message(b"{}"), f"{self._service}.probe", mandatory=False)


def _event_headers(event: Event, event_id: str, job_id: str) -> dict[str, Any]:
    """Return our schema version, the first attempt, and the CloudEvents attributes."""
    return {
        "pixorly-schema": event.schema_version,
        ATTEMPT_HEADER: 1,
        "cloudEvents_specversion": "1.0",
        "cloudEvents_id": event_id,
        "cloudEvents_type": event.type,
        "cloudEvents_source": "/pixorly",
        "cloudEvents_subject": job_id,
        "cloudEvents_time": event.occurred_at.isoformat(),
    }


def sent_attributes(exchange: str, routing_key: str, message_id: str, job_id: str) -> dict[str, str]:
    """Return OpenTelemetry's messaging attributes of a message that is published."""
    return {
        "messaging.system": "rabbitmq",
        "messaging.operation.type": "send",
        "messaging.operation.name": "publish",
        "messaging.destination.name": f"{exchange}:{routing_key}",
        "messaging.rabbitmq.destination.routing_key": routing_key,
        "messaging.message.id": message_id,
        "messaging.message.conversation_id": job_id,
        "pixorly.job_id": job_id,
    }


def taken_attributes(message: RabbitMessage, queue: str, attempt: int) -> dict[str, str | int]:
    """Return OpenTelemetry's messaging attributes of a message that is worked on."""
    raw, key = message.raw_message, message.raw_message.routing_key or ""
    job_id = str(message.correlation_id or "")
    return {
        **sent_attributes(raw.exchange or "", key, str(message.message_id or ""), job_id),
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.destination.name": f"{raw.exchange or ''}:{key}:{queue}",
        "messaging.message.body.size": len(message.body),
        "pixorly.attempt": attempt,
    }
