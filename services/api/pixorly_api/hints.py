"""Which jobs changed, told to every process of the api: over an exchange of its own, by messages that may be lost."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid4

import orjson
import structlog
from faststream import AckPolicy
from faststream.rabbit import ExchangeType, RabbitBroker, RabbitExchange, RabbitMessage, RabbitQueue

from pixorly import telemetry
from pixorly.broker import make_broker, stop, translated
from pixorly.errors import OutageError
from pixorly.settings import AmqpSettings
from pixorly.topology import LIVE_EXCHANGE

_log = structlog.get_logger()
_EXCHANGE: Final = RabbitExchange(LIVE_EXCHANGE, type=ExchangeType.FANOUT, durable=True)
_MOST: Final = 500
SPACING_S: Final = 0.03
"""Where changes come one upon another, those of so long share a message."""
_BEAT_S: Final = 1.0
_SILENT_S: Final = 3.0
_AGAIN_S: Final = 1.0
_LINK_TRIES: Final = 5
"""How many heartbeats may get lost one after the other before the link is made anew."""
_QUEUE_LIMIT: Final = 10_000


@dataclass(frozen=True, slots=True)
class Changed:
    """A job that changed.

    Attributes:
        trace_id: Its trace, where something failed: every process is to send what it has of it.
    """

    job_id: UUID
    user_id: str
    trace_id: str | None = None


Announce = Callable[[Iterable[Changed]], None]
"""Tells every process of the api what changed; it returns at once, and nothing depends on it."""


def nobody(_: Iterable[Changed]) -> None:
    """Tell nobody."""


def written(changes: Sequence[Changed]) -> bytes:
    """Return a hint's body: a JSON list of a job's id and its user's, and of its trace's where something failed."""
    # PostgreSQL's driver has a UUID type of its own, which orjson does not know.
    return orjson.dumps(
        [(str(change.job_id), change.user_id, *((change.trace_id,) if change.trace_id else ())) for change in changes]
    )


def read(body: bytes) -> list[Changed]:
    """Return what a hint says; nothing where it can't be read."""
    try:
        return [Changed(UUID(job_id), str(user_id), *more[:1]) for job_id, user_id, *more in orjson.loads(body)]
    except (ValueError, TypeError, AttributeError):
        return []


class Hints:
    """This process's end of the exchange, on a connection of its own, so that nothing else suffers from it.

    Args:
        settings: Where RabbitMQ is.
    """

    def __init__(self, settings: AmqpSettings) -> None:
        self._settings = settings
        self._broker: RabbitBroker | None = None
        self._pending: dict[Changed, None] = {}
        self._sending: asyncio.Task[None] | None = None
        self._running: asyncio.Task[None] | None = None
        self._heard_at = float("-inf")

    async def start(self, hear: Announce | None = None) -> None:
        """Begin to connect, and go on trying.

        Args:
            hear: Takes what was announced, by this process too; None for a process that only announces.
        """
        self._running = asyncio.create_task(self._run(hear))

    def come(self) -> bool:
        """Tell whether hints come: this process has heard one a moment ago, its own heartbeat at least."""
        return time.monotonic() - self._heard_at < _SILENT_S

    def announce(self, changes: Iterable[Changed]) -> None:
        """Tell every process of the api what changed, soon and if possible."""
        if self._broker is None:
            return
        self._pending.update(dict.fromkeys(changes))
        if self._pending and (self._sending is None or self._sending.done()):
            self._sending = telemetry.detached(self._send())

    async def _send(self) -> None:
        while self._pending:
            changes = list(self._pending)[:_MOST]
            for change in changes:
                del self._pending[change]
            await self._publish(changes)
            await asyncio.sleep(SPACING_S)

    async def _publish(self, changes: Sequence[Changed]) -> bool:
        """Send one message, and return whether RabbitMQ took it."""
        if self._broker is None:
            return False
        with suppress(OutageError), translated():
            async with asyncio.timeout(self._settings.publish_timeout_s):
                await self._broker.publish(
                    written(changes),
                    exchange=_EXCHANGE,
                    content_type="application/json",
                    persist=False,
                    mandatory=False,
                )
            return True
        return False

    async def _run(self, hear: Announce | None) -> None:
        while True:
            try:
                with translated():
                    broker = self._broker = await self._connected(hear)
            except OutageError as error:
                _log.warning("hints wait", reason=error.message)
                await asyncio.sleep(_AGAIN_S)
                continue
            await self._beat(hears=hear is not None)
            self._broker = None
            await stop(broker)

    async def _beat(self, *, hears: bool) -> None:
        """Send heartbeats until they do not come through any more: a link can be dead for good and tell nobody."""
        began, failures = time.monotonic(), 0
        while failures < _LINK_TRIES:
            sent = await self._publish([])
            silent_s = time.monotonic() - max(self._heard_at, began)
            failures = 0 if sent and not (hears and silent_s > _SILENT_S) else failures + 1
            await asyncio.sleep(_BEAT_S)

    async def _connected(self, hear: Announce | None) -> RabbitBroker:
        broker = make_broker(self._settings, "api-hints")
        async with AsyncExitStack() as undo:
            undo.push_async_callback(stop, broker)
            await broker.connect()
            await broker.declare_exchange(_EXCHANGE)
            if hear:
                self._subscribe(broker, hear)
            await broker.start()
            undo.pop_all()
        return broker

    def _subscribe(self, broker: RabbitBroker, hear: Announce) -> None:
        async def consume(message: RabbitMessage) -> None:
            self._heard_at = time.monotonic()
            hear(read(message.body))

        async def as_it_came(message: RabbitMessage) -> RabbitMessage:
            return message

        # It goes with its connection; a process that stands still must not fill the broker's memory meanwhile.
        arguments: Any = {"x-max-length": _QUEUE_LIMIT}
        queue = RabbitQueue(f"{LIVE_EXCHANGE}.{uuid4()}", durable=False, exclusive=True, arguments=arguments)
        broker.subscriber(queue, _EXCHANGE, ack_policy=AckPolicy.ACK_FIRST, decoder=as_it_came, no_reply=True)(consume)

    async def close(self) -> None:
        """Close the connection, within a deadline."""
        for task in (self._running, self._sending):
            if task:
                task.cancel()
        if self._broker:
            await stop(self._broker)
