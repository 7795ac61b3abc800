"""What becomes of a message after its handler: the one place that retries, waits, gives up or puts aside.

A handler takes an event and returns the events that follow; it knows nothing of messages. What it raises is turned into
a fate by one pure function. A message is acknowledged when what follows from it is safe: published with confirms, or
committed with an outbox.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import structlog
from aio_pika.exceptions import AMQPError, ChannelClosed
from faststream import AckPolicy
from faststream.exceptions import NackMessage
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitMessage, RabbitQueue
from pydantic import ValidationError

from pixorly import metrics, telemetry
from pixorly.broker import ATTEMPT_HEADER, Publisher, make_broker, sent_attributes, stop, taken_attributes, translated
from pixorly.errors import OutageError, PixorlyError, ServerError, TransientError, UserError
from pixorly.events import EVENTS, Event, JobRetrying, Stage, utcnow
from pixorly.failpoints import failpoint
from pixorly.meters import Meters
from pixorly.outcomes import Outcome, outcome_of
from pixorly.settings import AmqpSettings
from pixorly.topology import DEAD_EXCHANGE, HELD_S, LADDER_S, RETRY_AFTER_S, RETRY_EXCHANGE, WorkQueue, declare

_log = structlog.get_logger()
_T = TypeVar("_T")

REASON_HEADER: Final = "pixorly-reason"
EARLIER_HEADER: Final = "pixorly-earlier-attempt"
"""The trace context of the attempt before, to which the next one links."""
_LONGEST_BACKOFF_S: Final = 10.0
_HAND_BACK_AFTER_S: Final = 600.0
"""RabbitMQ takes a channel from a consumer that sits on a message for half an hour."""
_REASSERT_S: Final = 30.0
_START_AGAIN_S: Final = 1.0
_LOOK_AGAIN_S: Final = 5.0
_LOOK_TIMEOUT_S: Final = 5.0
_LINK_TRIES: Final = 3
"""How often declaring may fail before the connection is made anew."""

READY = metrics.gauge(
    "pixorly_queue_messages",
    "Messages that wait to be taken up, as RabbitMQ said in the last half minute.",
    "queue",
)
RETRIES = metrics.counter("pixorly_retries", "Messages put on the ladder.", "stage", "code")
DEAD = metrics.counter("pixorly_dead_letters", "Messages put aside for a person.", "queue", "reason")
WAITING = metrics.gauge("pixorly_messages_waiting", "Messages that wait for a part that is away.", "queue", "part")


class Held(PixorlyError):
    """Another process is at it."""

    code = "service_unavailable"


@dataclass(frozen=True, slots=True)
class Wait:
    """A part is away: go on when it is back; no retry is used up."""

    part: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Somebody else is at it: look again in a moment; no retry is used up."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again after a delay."""

    delay_s: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Fail:
    """Give up: the slots that the event concerns fail."""

    code: str
    message: str

    @property
    def outcome(self) -> Outcome:
        """What the code means."""
        return outcome_of(self.code)


@dataclass(frozen=True, slots=True)
class Dead:
    """Put it aside for a person."""

    reason: str


Fate = Wait | Hold | Retry | Fail | Dead


def fate(error: Exception, attempt: int, ladder_s: Sequence[int] = LADDER_S) -> Fate:
    """Decide what becomes of a message whose handler raised `error` on its `attempt`-th attempt."""
    match error:
        case OutageError():
            return Wait(error.part)
        case Held():
            return Hold()
        case TransientError():
            retries = min(outcome_of(error.code).retries, len(ladder_s))
            delay_s = step(ladder_s, attempt, error.retry_after_s) if attempt <= retries else None
            if delay_s is None:
                return Fail(error.code, error.message)
            return Retry(delay_s, error.code, error.message)
        case ServerError() | UserError():
            return Fail(error.code, error.message)
        case _:
            return Dead(type(error).__name__)


def step(ladder_s: Sequence[int], attempt: int, retry_after_s: float | None) -> int | None:
    """Return the delay after the `attempt`-th attempt; None where the other side asks for more than we wait."""
    delay_s = ladder_s[attempt - 1]
    if retry_after_s is None or retry_after_s <= delay_s:
        return delay_s
    return next((longer for longer in sorted({*ladder_s, *RETRY_AFTER_S}) if longer >= retry_after_s), None)


@dataclass(frozen=True, slots=True)
class Delivery:
    """How an event came.

    Attributes:
        attempt: 1 for the first, one more for each retry of this stage.
        redelivered: Whether RabbitMQ has handed this very message out before.
    """

    attempt: int = 1
    redelivered: bool = False


Following = Sequence[Event] | Event | None
"""What a handler returns: the events that follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """A work queue and what is done with its events.

    Attributes:
        queue: The queue.
        handler: Takes an event; returns what follows. It must bear the same event again at any time.
        stage: The part of a job that it does, where its failures are retried and end slots.
        on_failure: Takes the event and how it failed for good; returns what follows, `image.failed` in one way or the
            other. Without it, such a failure is a bug.
        prefetch: How many messages it works on at once; the process's setting if None.
        reads: The events it understands, where they are not those it is bound to.
    """

    queue: WorkQueue
    handler: Callable[[Any, Delivery], Awaitable[Following]]
    stage: Stage | None = None
    on_failure: Callable[[Any, Fail], Awaitable[Following]] | None = None
    prefetch: int | None = None
    reads: tuple[type[Event], ...] = ()

    def read(self, kind: str | None, body: bytes) -> Event:
        """Return the event in a message.

        Raises:
            ValueError: It is not one that this queue takes; the message says why, without its content.
        """
        if kind not in {event.type for event in self.reads or self.queue.events}:
            raise ValueError(f"type {str(kind)[:60]!r} is not for this queue")
        try:
            return EVENTS[kind].model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"not a {kind}: {where} {first['msg']}"[:200]) from error


@dataclass(slots=True)
class _Backoff:
    """Waits that double from half a second to ten, for one part that is away."""

    tries: int = 0

    def next_s(self, hint_s: float | None) -> float:
        self.tries += 1
        delay_s = max(min(0.5 * 2.0 ** (self.tries - 1), _LONGEST_BACKOFF_S), hint_s or 0.0)
        return min(delay_s, 30.0) * random.uniform(0.8, 1.0)  # noqa: S311 - spreads callers, hides nothing


@dataclass(slots=True)
class Worker:
    """Does what one subscription says with each of its messages.

    It is apart from the connection so that it can be tried without one.

    Args:
        subscription: What to do.
        publisher: Where to send what follows.
        ladder_s: The delays of the retries.
        stopping: Set when the process is to stop: whoever waits hands back its message.
    """

    subscription: Subscription
    publisher: Publisher
    ladder_s: Sequence[int] = LADDER_S
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _meters: Meters = field(init=False)

    def __post_init__(self) -> None:
        """Look up once what every message is counted by."""
        self._meters = Meters.of(self.subscription.queue.name)

    async def consume(self, message: RabbitMessage) -> None:
        """Handle one message; a return acknowledges it.

        Raises:
            NackMessage: It is handed back.
        """
        name, headers, meters = self.subscription.queue.name, message.headers, self._meters
        attempt = _attempt_of(headers)
        with (
            meters.in_hand.track_inprogress(),
            meters.seconds.time(),
            telemetry.continued(headers),
            telemetry.span(
                f"process {name}",
                "consumer",
                taken_attributes(message, name, attempt) if telemetry.on() else None,
                links=[{"traceparent": headers[EARLIER_HEADER]}] if EARLIER_HEADER in headers else [],
                root=True,
            ),
        ):
            try:
                event = self.subscription.read(message.raw_message.type, message.body)
            except ValueError as error:
                reason = str(error)
                telemetry.failed_here("unreadable")
                await self._insist(lambda: self._bury(message, "unreadable", reason))
                return
            if attempt == 1 and not message.raw_message.redelivered:
                meters.age_s.observe(max(0.0, (utcnow() - event.occurred_at).total_seconds()))
            with structlog.contextvars.bound_contextvars(job_id=str(event.job_id), attempt=attempt):
                await self._handle(event, Delivery(attempt, bool(message.raw_message.redelivered)), message)

    async def _handle(self, event: Event, delivery: Delivery, message: RabbitMessage) -> None:
        handler = self.subscription.queue.handler
        failpoint(f"{handler}.received")
        outcome = await self._insist(lambda: self._decide(event, delivery))
        failpoint(f"{handler}.handled")
        match outcome:
            case Retry():
                await self._insist(lambda: self._retry(event, outcome, delivery, message))
                failpoint(f"{handler}.retried")
                label = "retried"
            case Hold():
                await self._insist(lambda: self._delay(message, HELD_S, delivery.attempt))
                label = "held"
            case Dead():
                await self._insist(lambda: self._bury(message, outcome.reason, outcome.reason))
                label = "dead"
            case following:
                await self._insist(lambda: self._publish(following))
                failpoint(f"{handler}.published")
                label = "done"
        self._meters.fates[label].inc()

    async def _decide(self, event: Event, delivery: Delivery) -> Following | Retry | Hold | Dead:
        """Run the handler; return what follows, or what becomes of the message.

        Raises:
            OutageError: A part is away.
        """
        try:
            return await self.subscription.handler(event, delivery)
        except OutageError:
            raise
        except Exception as error:  # noqa: BLE001 - this is where every error ends
            decided = fate(error, delivery.attempt, self.ladder_s)
            if not isinstance(decided, Hold):
                telemetry.failed_here(error)
            if isinstance(decided, Dead):
                _log.exception("a handler failed", queue=self.subscription.queue.name, exc_info=error)
        match decided:
            case Fail() if self.subscription.on_failure:
                return await self.subscription.on_failure(event, decided)
            case Fail(code=code):
                return Dead(code)
            case Wait(part=part):
                raise OutageError(part)
            case _:
                return decided

    async def _insist(self, action: Callable[[], Awaitable[_T]]) -> _T:
        """Return what `action` returns, waiting for whatever part is away.

        Raises:
            NackMessage: The process is to stop, or has held the message for long.
        """
        backoff, hand_back_at = _Backoff(), 0.0
        while True:
            try:
                return await action()
            except OutageError as error:
                delay_s = backoff.next_s(error.retry_after_s)
                if backoff.tries == 1:
                    hand_back_at = asyncio.get_running_loop().time() + _HAND_BACK_AFTER_S
                    _log.warning("waiting", queue=self.subscription.queue.name, part=error.part, reason=error.message)
                part = error.part
            if asyncio.get_running_loop().time() + delay_s > hand_back_at or await self._stops_within(delay_s, part):
                raise NackMessage(requeue=True)

    async def _stops_within(self, delay_s: float, part: str) -> bool:
        with WAITING.labels(self.subscription.queue.name, part.partition(":")[0]).track_inprogress():
            try:
                async with asyncio.timeout(delay_s):
                    return await self.stopping.wait()
            except TimeoutError:
                return False

    async def _publish(self, following: Following) -> None:
        if isinstance(following, Event):
            await self.publisher.publish(following)
        elif following:
            await asyncio.gather(*(self.publisher.publish(event) for event in following))

    async def _retry(self, event: Event, retry: Retry, delivery: Delivery, message: RabbitMessage) -> None:
        if self.subscription.stage:
            news = JobRetrying.of(
                event.job_id,
                event.user_id,
                stage=self.subscription.stage,
                index=getattr(event, "index", 0),
                attempt=delivery.attempt,
                delay_s=retry.delay_s,
                code=retry.code,
                message=retry.message,
            )
            await self.publisher.publish(news)
        await self._delay(message, retry.delay_s, delivery.attempt + 1)
        RETRIES.labels(self.subscription.stage or "none", retry.code).inc()

    async def _delay(self, message: RabbitMessage, delay_s: int, attempt: int) -> None:
        step_queue = self.subscription.queue.retry(delay_s)
        earlier = telemetry.carried().get("traceparent")
        linked = {EARLIER_HEADER: earlier} if earlier and telemetry.on() else {}
        await self._send_on(RETRY_EXCHANGE, step_queue, message, {ATTEMPT_HEADER: attempt, **linked})

    async def _bury(self, message: RabbitMessage, label: str, reason: str) -> None:
        queue = self.subscription.queue.name
        await self._send_on(DEAD_EXCHANGE, queue, message, {REASON_HEADER: reason})
        DEAD.labels(queue, label).inc()
        _log.error("a message was put aside", queue=queue, reason=reason, message_id=str(message.message_id)[:100])

    async def _send_on(self, exchange: str, key: str, message: RabbitMessage, headers: Mapping[str, Any]) -> None:
        """Publish the same message elsewhere; headers that start with x- belong to RabbitMQ."""
        kept = {name: value for name, value in message.headers.items() if not name.startswith("x-")}
        kept |= telemetry.flagged(kept)
        message_id, job_id = str(message.message_id or ""), str(message.correlation_id or "")
        with telemetry.span(f"publish {key}", "producer", sent_attributes(exchange, key, message_id, job_id)):
            await self.publisher.send(
                exchange,
                key,
                message.body,
                message_id=message_id,
                message_type=message.raw_message.type,
                correlation_id=job_id,
                headers={**kept, **headers},
            )


def _attempt_of(headers: Mapping[str, Any]) -> int:
    attempt = headers.get(ATTEMPT_HEADER, 1)
    return attempt if isinstance(attempt, int) and attempt >= 1 else 1


class Consumer:
    """The consuming side of a process: its connection, its queues and their workers.

    Args:
        settings: Where RabbitMQ is, and how much to take at once.
        service: The service's name, which its queues start with.
        publisher: Where to send what follows.
        subscriptions: What to do.
    """

    def __init__(
        self, settings: AmqpSettings, service: str, publisher: Publisher, subscriptions: Sequence[Subscription]
    ) -> None:
        self._settings = settings
        self._publisher = publisher
        self._name = f"{service}-consumes"
        self._stopping = asyncio.Event()
        self._workers = [
            Worker(subscription, publisher, settings.retry_delays_s, self._stopping) for subscription in subscriptions
        ]
        self._broker: RabbitBroker | None = None
        self._started = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._in_flight: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Begin to consume as soon as RabbitMQ is there, and see to it that the queues stay as they should be."""
        self._running = asyncio.create_task(self._run())

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                with translated():
                    if self._broker is None:
                        await self._consume()
                    else:
                        await self._declare(self._broker)
                failures = 0
            except OutageError as error:
                failures += 1
                _log.warning("rabbitmq is away", reason=error.message, detail=str(error.__cause__)[:200])
            if failures >= _LINK_TRIES and self._broker is not None:
                # A link that met a refusal while it restored itself is closed for good, and tells nobody.
                broker, self._broker = self._broker, None
                self._started.clear()
                await stop(broker)
            if self._broker is None:
                await asyncio.sleep(_START_AGAIN_S)
            else:
                await asyncio.sleep(_LOOK_AGAIN_S if failures else _REASSERT_S)

    async def _consume(self) -> None:
        broker = make_broker(self._settings, self._name)
        try:
            await broker.connect()
            await self._declare(broker)
            for worker in self._workers:
                self._subscribe(broker, worker)
            await broker.start()
        except BaseException:
            await stop(broker)
            raise
        self._broker = broker
        self._started.set()

    async def _declare(self, broker: RabbitBroker) -> None:
        """Declare our queues on a channel of their own: what somebody deleted or unbound comes back."""
        connection = await broker.connect()
        async with asyncio.timeout(20):
            channel = await connection.channel()
            try:
                queues = [worker.subscription.queue for worker in self._workers]
                for name, waiting in (await declare(channel, queues, self._settings.retry_delays_s)).items():
                    READY.labels(name).set(waiting)
            finally:
                await channel.close()

    def _subscribe(self, broker: RabbitBroker, worker: Worker) -> None:
        subscription = worker.subscription
        prefetch = subscription.prefetch or self._settings.prefetch

        async def consume(message: RabbitMessage) -> None:
            task = asyncio.current_task()
            if task is None:
                return
            self._in_flight.add(task)
            try:
                await worker.consume(message)
            finally:
                self._in_flight.discard(task)

        async def as_it_came(message: RabbitMessage) -> RabbitMessage:
            return message

        arguments: Any = {key: value for key, value in subscription.queue.arguments.items() if key != "x-queue-type"}
        broker.subscriber(
            RabbitQueue(
                subscription.queue.name,
                queue_type=QueueType.QUORUM,
                arguments=arguments,
            ),
            channel=Channel(prefetch_count=prefetch, on_return_raises=True),
            ack_policy=AckPolicy.REJECT_ON_ERROR,
            decoder=as_it_came,
            no_reply=True,
        )(consume)

    async def waiting_in(self, queue: WorkQueue) -> int:
        """Return how many messages wait in a queue, another service's perhaps; 0 if it is not there or not to be seen.

        Raises:
            OutageError: RabbitMQ is away, or the process is to stop: a look would connect once more.
        """
        if self._broker is None or self._stopping.is_set():
            raise OutageError("rabbitmq", "rabbitmq is not connected.")
        with translated():
            async with asyncio.timeout(_LOOK_TIMEOUT_S):
                channel = await (await self._broker.connect()).channel()
                try:
                    found = await channel.declare_queue(queue.name, passive=True)
                except ChannelClosed:
                    return 0
                finally:
                    await channel.close()
        return found.declaration_result.message_count or 0

    async def stop(self, grace_s: float) -> None:
        """Take no more, finish what is in hand within `grace_s` seconds, and hand back the rest."""
        if self._running:
            self._running.cancel()
        self._stopping.set()
        if self._broker is None:
            return
        with suppress(TimeoutError, AMQPError, OSError, RuntimeError):
            async with asyncio.timeout(3):
                await asyncio.gather(*(_cancel(subscriber) for subscriber in self._broker.subscribers))
        if self._in_flight:
            await asyncio.wait(self._in_flight, timeout=grace_s)
        await stop(self._broker)

    async def probe(self) -> None:
        """Tell whether messages are being taken, and what follows from them can be published.

        Raises:
            OutageError: They are not, or it can't.
        """
        if not self._started.is_set() or self._broker is None or not await self._broker.ping(timeout=1):
            raise OutageError("rabbitmq", "rabbitmq is not connected.")
        await self._publisher.probe()


async def _cancel(subscriber: Any) -> None:
    """Cancel a consumer before the wait for what is in hand.

    FastStream does it after the wait; each acknowledgement would pull a message that is dropped and counted as a
    delivery. The attributes are private, so a contract test watches them.
    """
    if subscriber._queue_obj is not None and subscriber._consumer_tag is not None:  # noqa: SLF001
        await subscriber._queue_obj.cancel(subscriber._consumer_tag)  # noqa: SLF001
        subscriber._consumer_tag = None  # noqa: SLF001
