"""What delivery leans on in FastStream, aio-pika and RabbitMQ: one test a fact, so that a change of it is loud.

Each says what the library does; what we make of it is in `pixorly.broker`, `pixorly.delivery` and `pixorly.topology`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue
from aio_pika.exceptions import AMQPError, DeliveryError, PublishError
from aiormq.abc import DeliveredMessage
from aiormq.exceptions import ChannelInvalidStateError
from faststream import AckPolicy
from faststream.rabbit import (
    Channel,
    ExchangeType,
    QueueType,
    RabbitBroker,
    RabbitExchange,
    RabbitMessage,
    RabbitQueue,
)
from pamqp.commands import Basic
from proxies import TcpProxy, tcp_proxy
from quorum import connected, depth, quorum, send, take
from waiting import by_way_of, until

from pixorly.broker import Publisher, make_broker
from pixorly.delivery import Consumer, Delivery, Following, Subscription
from pixorly.errors import OutageError
from pixorly.events import ImageGenerated
from pixorly.ids import new_id
from pixorly.settings import AmqpSettings
from pixorly.topology import EVENTS_EXCHANGE, RETRY_EXCHANGE, declare, queue_named
from pixorly_stack.access import Access
from pixorly_stack.management import Management

STORE = queue_named("uploader.store_image")
AT_LEAST_ONCE = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}


@pytest.fixture
async def channel(amqp_url: str) -> AsyncIterator[AbstractChannel]:
    """A channel to look at queues with."""
    async with await aio_pika.connect(amqp_url) as connection:
        yield await connection.channel(on_return_raises=True)


def death_of(message: AbstractIncomingMessage) -> Any:
    """Return where it was dead-lettered last, and why."""
    deaths: Any = message.headers["x-death"]
    return deaths[0]


def delivery_count(message: AbstractIncomingMessage) -> Any:
    """Return how often RabbitMQ counts it as delivered before; servers leave the header out for none."""
    return message.headers.get("x-delivery-count", 0)


# FastStream: acknowledgement -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"{", "application/json"),
        (b'{"n": "many"}', "application/json"),
        (b"", "application/json"),
        (b"\xff\xfe", "text/plain"),
    ],
)
async def test_a_body_that_does_not_parse_is_rejected_before_the_handler(
    amqp_url: str, channel: AbstractChannel, body: bytes, content_type: str
) -> None:
    """A2. So our own handlers take the message as it came, and read it themselves."""
    graveyard = await quorum(channel, "dead")
    called: list[int] = []
    async with connected(amqp_url) as broker:
        queue = RabbitQueue("work", queue_type=QueueType.QUORUM, arguments=_dead_letters_to("dead"))

        @broker.subscriber(queue)
        async def handle(n: int) -> None:
            called.append(n)

        await broker.start()
        await send(channel, "work", body, content_type=content_type)
        buried = await take(graveyard)

    assert death_of(buried)["reason"] == "rejected"
    assert buried.body == body
    assert called == []


def _dead_letters_to(queue: str) -> Any:
    return {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue, **AT_LEAST_ONCE}


async def test_without_a_word_a_handler_that_raises_rejects_its_message(
    amqp_url: str, channel: AbstractChannel
) -> None:
    """A1. The net below: a message of ours never just vanishes, for its queue has a dead queue."""
    graveyard = await quorum(channel, "dead")
    async with connected(amqp_url) as broker:
        queue = RabbitQueue("work", queue_type=QueueType.QUORUM, arguments=_dead_letters_to("dead"))

        @broker.subscriber(queue)
        async def handle(_: RabbitMessage) -> None:
            raise ZeroDivisionError

        await broker.start()
        await send(channel, "work", b"{}", message_id="m-1")
        buried = await take(graveyard)

    assert buried.message_id == "m-1"
    assert death_of(buried)["reason"] == "rejected"
    assert AckPolicy.REJECT_ON_ERROR in AckPolicy


async def test_a_cancelled_handler_neither_acknowledges_nor_rejects(amqp_url: str, channel: AbstractChannel) -> None:
    """A6. The message hangs on its channel until that closes, and comes back then; a handler of ours lets none out."""
    work = await quorum(channel, "work")
    broker = RabbitBroker(amqp_url, logger=None)
    called = asyncio.Event()

    @broker.subscriber(RabbitQueue("work", queue_type=QueueType.QUORUM))
    async def handle(_: RabbitMessage) -> None:
        called.set()
        raise asyncio.CancelledError

    await broker.connect()
    await broker.start()
    await send(channel, "work", message_id="m-1")
    await called.wait()
    await asyncio.sleep(0.5)
    assert await work.get(fail=False) is None

    await broker.stop()
    assert (await take(work)).redelivered


# Publishing ----------------------------------------------------------------------------------------------------------


async def test_a_message_that_no_queue_takes_is_lost_in_silence_unless_its_channel_says_otherwise(
    amqp_url: str, channel: AbstractChannel
) -> None:
    """P1. Hence `on_return_raises` on every channel."""
    await quorum(channel, "somewhere")
    async with connected(amqp_url) as silent:
        returned = await silent.publish(b"x", queue="nowhere", mandatory=True)
        taken = await silent.publish(b"x", queue="somewhere", mandatory=True)
    async with connected(amqp_url, default_channel=Channel(on_return_raises=True)) as loud:
        with pytest.raises(PublishError):
            await loud.publish(b"x", queue="nowhere", mandatory=True)

    assert isinstance(returned, DeliveredMessage)
    assert isinstance(taken, Basic.Ack)
    assert issubclass(PublishError, DeliveryError)
    assert issubclass(DeliveryError, AMQPError)


async def test_a_full_queue_that_rejects_is_an_error_to_the_publisher(amqp_url: str, channel: AbstractChannel) -> None:
    """P2. So a retry queue that is full never drops a message."""
    await quorum(channel, "small", max_length=1, overflow="reject-publish")
    async with connected(amqp_url, default_channel=Channel(on_return_raises=True)) as broker:

        async def overfill() -> None:
            for _ in range(20):
                await broker.publish(b"x", queue="small", mandatory=True)

        with pytest.raises(DeliveryError):
            await overfill()


async def test_faststreams_own_time_out_does_nothing_and_ours_ends_a_publication_that_may_still_arrive(
    amqp_url: str, channel: AbstractChannel
) -> None:
    """P4 and P5. Hence a deadline of ours, and a repeat with the same id, never a compensation."""
    work = await quorum(channel, "work")
    async with tcp_proxy(amqp_url) as proxy, connected(by_way_of(proxy, amqp_url)) as broker:
        await broker.publish(b"first", queue="work")
        proxy.mode = "stall"
        theirs = asyncio.create_task(broker.publish(b"theirs", queue="work", timeout=0.2))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await broker.publish(b"ours", queue="work")
        assert not theirs.done()
        proxy.mode = "pass"
        await theirs

        assert {(await take(work)).body for _ in range(3)} == {b"first", b"theirs", b"ours"}


async def test_while_the_link_is_away_a_publication_fails_at_once_with_no_amqp_error(amqp_url: str) -> None:
    """P6, the first half: it is a `RuntimeError`."""
    async with tcp_proxy(amqp_url) as proxy, connected(by_way_of(proxy, amqp_url)) as broker:
        await broker.publish(b"x", queue="nowhere")
        proxy.mode = "refuse"
        proxy.cut()
        errors: list[BaseException] = []

        async def fails() -> bool:
            try:
                async with asyncio.timeout(2):
                    await broker.publish(b"x", queue="nowhere")
            except (AMQPError, RuntimeError, OSError) as error:
                errors.append(error)
            return bool(errors) and isinstance(errors[-1], ChannelInvalidStateError)

        await until(fails, 5)
        proxy.mode = "pass"

    assert isinstance(errors[-1], RuntimeError)
    assert not isinstance(errors[-1], AMQPError)


async def test_a_link_that_dies_in_silence_cancels_what_waits_on_it_in_a_task_that_nobody_cancelled(
    amqp_url: str,
) -> None:
    """P6, the second half: `except Exception` misses it. It is found after three times the heartbeat and a second."""
    async with tcp_proxy(amqp_url) as proxy, connected(f"{by_way_of(proxy, amqp_url)}?heartbeat=1") as broker:
        await broker.publish(b"x", queue="nowhere")
        proxy.mode = "stall"
        before = time.monotonic()
        waiting = asyncio.create_task(broker.publish(b"x", queue="nowhere"))
        (ended,) = await asyncio.gather(waiting, return_exceptions=True)
        took_s = time.monotonic() - before
        proxy.mode = "pass"

    assert isinstance(ended, asyncio.CancelledError)
    assert waiting.cancelling() == 0
    assert 3 < took_s < 12


async def test_a_publisher_of_ours_makes_an_outage_of_either_and_works_again_afterwards(
    amqp_url: str, channel: AbstractChannel
) -> None:
    await declare(channel, [STORE])
    async with tcp_proxy(amqp_url) as proxy:
        settings = AmqpSettings.model_validate(
            {"amqp_url": by_way_of(proxy, amqp_url), "amqp_heartbeat_s": 1, "publish_timeout_s": 60}
        )
        publisher = Publisher(settings, "uploader")
        await publisher.start()
        await publisher.publish(image_generated())
        proxy.mode = "stall"
        silent = [asyncio.create_task(publisher.publish(image_generated(index))) for index in range(3)]
        ended = await asyncio.gather(*silent, return_exceptions=True)
        proxy.mode = "refuse"
        proxy.cut()
        with pytest.raises(OutageError):
            await publisher.publish(image_generated())
        proxy.mode = "pass"

        async def works() -> bool:
            try:
                await publisher.publish(image_generated())
            except OutageError:
                return False
            return True

        await until(works, 10)
        await publisher.close()

    assert [type(end) for end in ended] == [OutageError] * 3


def image_generated(index: int = 0) -> ImageGenerated:
    return ImageGenerated.of(
        new_id(),
        "ada",
        index=index,
        image_id=new_id(),
        staged_key="staging/x",
        content_type="image/png",
        sha256="0" * 64,
        bytes=1,
    )


async def test_a_returned_message_is_matched_to_its_publication_by_its_id_alone(
    amqp_url: str, channel: AbstractChannel
) -> None:
    """P9. Two under way with one id: the error may go to the wrong one, and the lost one looks safe."""
    await quorum(channel, "somewhere")
    async with connected(amqp_url, default_channel=Channel(on_return_raises=True)) as broker:
        ended = await asyncio.gather(
            broker.publish(b"x", queue="nowhere", message_id="same", mandatory=True),
            broker.publish(b"x", queue="somewhere", message_id="same", mandatory=True),
            return_exceptions=True,
        )

    assert [isinstance(end, PublishError) for end in ended] == [False, True]


async def test_a_publisher_of_ours_has_one_id_under_way_once_at_a_time_wherever_it_goes(
    amqp_url: str, channel: AbstractChannel
) -> None:
    await declare(channel, [STORE])
    publisher = Publisher(AmqpSettings.model_validate({"amqp_url": amqp_url}), "uploader")
    await publisher.start()

    def sent(key: str) -> Any:
        return publisher.send(
            RETRY_EXCHANGE, key, b"{}", message_id="same", message_type=None, correlation_id=None, headers={}
        )

    for keys in (("uploader.nowhere", STORE.name), (STORE.name, "uploader.nowhere")):
        ended = await asyncio.gather(*(sent(key) for key in keys), return_exceptions=True)
        assert [isinstance(end, OutageError) for end in ended] == [key == "uploader.nowhere" for key in keys]
    assert await depth(channel, STORE.name) == 2
    await publisher.close()


async def test_a_message_is_not_persistent_unless_it_is_said_to_be(amqp_url: str, channel: AbstractChannel) -> None:
    """P10. A quorum queue keeps it all the same, but the mode travels on."""
    work = await quorum(channel, "work")
    async with connected(amqp_url) as broker:
        await broker.publish(b"x", queue="work")
        await broker.publish(b"x", queue="work", persist=True)

    modes = [(await take(work)).delivery_mode for _ in range(2)]
    assert modes == [aio_pika.DeliveryMode.NOT_PERSISTENT, aio_pika.DeliveryMode.PERSISTENT]


# Connections ---------------------------------------------------------------------------------------------------------


async def test_a_connection_that_is_lost_cancels_its_handlers_and_their_messages_come_again(
    amqp_url: str, channel: AbstractChannel
) -> None:
    """K1 and K2. Hence provider calls run in tasks of their own; and consumption goes on about a second later."""
    await quorum(channel, "work")
    seen: list[tuple[bool, float]] = []
    cancelled: list[float] = []
    async with (
        tcp_proxy(amqp_url) as proxy,
        connected(by_way_of(proxy, amqp_url), reconnect_interval=1.0, graceful_timeout=None) as broker,
    ):

        @broker.subscriber(RabbitQueue("work", queue_type=QueueType.QUORUM))
        async def handle(message: RabbitMessage) -> None:
            seen.append((bool(message.raw_message.redelivered), time.monotonic()))
            try:
                await asyncio.sleep(60 if len(seen) == 1 else 0)
            except asyncio.CancelledError:
                cancelled.append(time.monotonic())
                raise

        await broker.start()
        await send(channel, "work")
        await until(lambda: len(seen) == 1)
        proxy.mode = "refuse"
        cut = time.monotonic()
        proxy.cut()
        await until(lambda: len(cancelled) == 1, 5)
        await asyncio.sleep(1)
        proxy.mode = "pass"
        back = time.monotonic()
        await until(lambda: len(seen) == 2)

    assert cancelled[0] - cut < 10  # it would have slept for a minute
    assert [redelivered for redelivered, _ in seen] == [False, True]
    assert seen[1][1] - back < 15


async def test_a_handshake_that_is_never_answered_is_given_up_only_where_a_time_out_is_set(amqp_url: str) -> None:
    """A server or a balancer that accepts and says nothing would hold a process for ever."""
    taken: list[asyncio.StreamWriter] = []

    async def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(writer)

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    deaf = TcpProxy("127.0.0.1", 0, listens_on=server.sockets[0].getsockname()[1])
    patient = asyncio.create_task(RabbitBroker(by_way_of(deaf, amqp_url), logger=None).connect())
    async with asyncio.timeout(5):
        with pytest.raises(OSError):
            await RabbitBroker(by_way_of(deaf, amqp_url), logger=None, timeout=0.5).connect()
    assert not patient.done()

    for writer in taken:
        writer.transport.abort()
    server.close()
    with pytest.raises((AMQPError, OSError)):
        await patient
    ours = make_broker(AmqpSettings.model_validate({"amqp_url": amqp_url}), "test")
    assert ours._connection_kwargs["timeout"] == 10


async def test_prefetch_is_for_each_consumer_by_itself(amqp_url: str, channel: AbstractChannel) -> None:
    """K8. And each message is a task of its own, at once."""
    busy: dict[str, int] = {"one": 0, "two": 0}
    released = asyncio.Event()
    async with connected(amqp_url) as broker:
        shared = Channel(prefetch_count=4)

        def handler(name: str) -> Callable[[RabbitMessage], Any]:
            async def handle(_: RabbitMessage) -> None:
                busy[name] += 1
                await released.wait()

            return handle

        for name in busy:
            broker.subscriber(RabbitQueue(name, queue_type=QueueType.QUORUM), channel=shared)(handler(name))
        await broker.start()
        for name in busy:
            for _ in range(10):
                await send(channel, name)
        await until(lambda: busy == {"one": 4, "two": 4})
        await asyncio.sleep(0.3)
        assert busy == {"one": 4, "two": 4}
        released.set()
        await until(lambda: busy == {"one": 10, "two": 10})


# Shutdown ------------------------------------------------------------------------------------------------------------


async def _stopped_in_mid_work(
    amqp_url: str, channel: AbstractChannel, *, grace_s: float, work_s: float
) -> tuple[list[str], AbstractQueue]:
    """Stop a consumer of ours that has two of ten messages in hand; return what it finished, and its queue."""
    finished: list[str] = []
    begun: list[str] = []

    async def store(event: ImageGenerated, _: Delivery) -> Following:
        begun.append(str(event.event_id))
        await asyncio.sleep(work_s)
        finished.append(str(event.event_id))
        return None

    await declare(channel, [STORE])
    settings = AmqpSettings.model_validate({"amqp_url": amqp_url})
    publisher = Publisher(settings, "uploader")
    await publisher.start()
    for index in range(10):
        await publisher.publish(image_generated(index))
    consumer = Consumer(settings, "uploader", publisher, [Subscription(queue=STORE, handler=store, prefetch=2)])
    await consumer.start()
    await until(lambda: len(begun) == 2)
    await consumer.stop(grace_s)
    await publisher.close()
    return finished, await channel.get_queue(STORE.name)


async def test_a_consumer_that_stops_finishes_what_it_has_and_the_rest_is_as_if_nobody_had_touched_it(
    amqp_url: str, channel: AbstractChannel
) -> None:
    """G1 to G3. Our `_cancel` reaches for FastStream's private `_queue_obj` and `_consumer_tag`: here is its proof."""
    finished, queue = await _stopped_in_mid_work(amqp_url, channel, grace_s=10, work_s=0.7)

    left = [await take(queue) for _ in range(8)]
    assert len(finished) == 2
    assert await depth(channel, STORE.name) == 0
    assert [delivery_count(message) for message in left] == [0] * 8
    assert not any(message.redelivered for message in left)


async def test_what_does_not_end_within_the_grace_is_handed_back(amqp_url: str, channel: AbstractChannel) -> None:
    before = time.monotonic()
    finished, queue = await _stopped_in_mid_work(amqp_url, channel, grace_s=0.3, work_s=30)

    left = [await take(queue) for _ in range(10)]
    assert time.monotonic() - before < 15
    assert finished == []
    assert sorted(bool(message.redelivered) for message in left) == [False] * 8 + [True] * 2


async def test_faststream_by_itself_counts_a_delivery_of_what_it_never_handled(
    amqp_url: str, channel: AbstractChannel
) -> None:
    """G2. Why `_cancel` is there. When this fails, FastStream cancels first by itself, and ours may go."""
    work = await quorum(channel, "work")
    begun: list[None] = []
    broker = RabbitBroker(amqp_url, logger=None, graceful_timeout=10)

    @broker.subscriber(RabbitQueue("work", queue_type=QueueType.QUORUM), channel=Channel(prefetch_count=2))
    async def handle(_: RabbitMessage) -> None:
        begun.append(None)
        await asyncio.sleep(0.7)

    for _ in range(10):
        await send(channel, "work")
    await broker.connect()
    await broker.start()
    await until(lambda: len(begun) == 2)
    await broker.stop()

    left = [await take(work) for _ in range(8)]
    assert sum(bool(delivery_count(message)) for message in left) == 2


# Queues --------------------------------------------------------------------------------------------------------------


async def test_messages_leave_a_queue_with_a_fixed_time_to_live_in_time_and_one_by_one_they_wait_for_each_other(
    channel: AbstractChannel,
) -> None:
    """T3. Hence a queue for each step."""
    await quorum(channel, "work")
    back = {"dead_letter_exchange": "", "dead_letter_routing_key": "work"}
    for delay_ms in (300, 1500):
        await quorum(channel, f"step.{delay_ms}", message_ttl=delay_ms, **back)
    await quorum(channel, "mixed", **back)
    arrived: dict[bytes, float] = {}

    async def note(message: AbstractIncomingMessage) -> None:
        arrived[message.body] = time.monotonic()
        await message.ack()

    await (await channel.get_queue("work")).consume(note)
    begun = time.monotonic()
    await send(channel, "step.1500", b"fixed-long")
    await send(channel, "step.300", b"fixed-short")
    await send(channel, "mixed", b"mixed-long", expiration=1.5)
    await send(channel, "mixed", b"mixed-short", expiration=0.3)
    await until(lambda: len(arrived) == 4)

    assert arrived[b"fixed-short"] < arrived[b"fixed-long"]
    assert arrived[b"fixed-long"] - begun > 1.4
    assert arrived[b"mixed-short"] - begun > 1.4


async def test_the_limit_of_deliveries_lets_one_more_through_than_it_says_and_then_dead_letters(
    channel: AbstractChannel,
) -> None:
    """T5. The fuse: 50 deliveries and one, and then the dead queue."""
    graveyard = await quorum(channel, "dead")
    work = await quorum(
        channel, "work", delivery_limit=3, dead_letter_exchange="", dead_letter_routing_key="dead", **_strict()
    )
    await send(channel, "work", message_id="m-1")
    counts = []
    for _ in range(4):
        message = await take(work)
        counts.append(delivery_count(message))
        await message.reject(requeue=True)
    buried = await take(graveyard)

    assert counts == [0, 1, 2, 3]
    assert death_of(buried)["reason"] == "delivery_limit"
    assert buried.message_id == "m-1"
    assert await work.get(fail=False) is None


def _strict() -> dict[str, Any]:
    return {"dead_letter_strategy": "at-least-once", "overflow": "reject-publish"}


async def test_a_cycle_of_dead_letters_eats_a_message_that_nobody_rejected(channel: AbstractChannel) -> None:
    """T6. Hence a worker publishes to the ladder, and the dead queue of a work queue leads nowhere."""
    work = await quorum(
        channel, "work", delivery_limit=1, dead_letter_exchange="", dead_letter_routing_key="later", **_strict()
    )
    await quorum(
        channel, "later", message_ttl=200, dead_letter_exchange="", dead_letter_routing_key="work", **_strict()
    )
    await send(channel, "work", b"worn out")
    for _ in range(2):
        await (await take(work)).reject(requeue=True)
    await send(channel, "work", b"rejected")
    await (await take(work)).reject(requeue=False)

    found = await take(work)
    await asyncio.sleep(0.7)

    assert found.body == b"rejected"
    assert await work.get(fail=False) is None
    assert await depth(channel, "later") == 0


async def test_a_dead_letter_keeps_its_properties_and_says_where_it_was(channel: AbstractChannel) -> None:
    """T4."""
    graveyard = await quorum(channel, "dead")
    work = await quorum(channel, "work", dead_letter_exchange="", dead_letter_routing_key="dead")
    headers: Any = {"traceparent": "00-a-b-01", "pixorly-attempt": 3}
    await send(channel, "work", message_id="m", correlation_id="c", type="image.generated", headers=headers)
    await (await take(work)).reject(requeue=False)

    buried = await take(graveyard)

    assert (buried.message_id, buried.correlation_id, buried.type) == ("m", "c", "image.generated")
    assert buried.headers["pixorly-attempt"] == 3
    assert buried.headers["traceparent"] == "00-a-b-01"
    death = death_of(buried)
    assert (death["queue"], death["reason"], death["count"]) == ("work", "rejected", 1)
    assert buried.delivery_mode == aio_pika.DeliveryMode.PERSISTENT


async def test_dead_letters_whose_target_is_away_are_kept_only_with_both_arguments(
    channel: AbstractChannel, amqp_url: str, servers: Access
) -> None:
    """T7 and T8. At-least-once without `reject-publish` falls back to at-most-once, with no more than a warning."""
    to_target = {"message_ttl": 200, "dead_letter_exchange": "", "dead_letter_routing_key": "target"}
    await quorum(channel, "both", **to_target, **_strict())
    await quorum(channel, "one", **to_target, dead_letter_strategy="at-least-once")
    await quorum(channel, "neither", **to_target)
    for name in ("both", "one", "neither"):
        await send(channel, name, name.encode())
    await asyncio.sleep(1.5)

    target = await quorum(channel, "target")
    kept = await take(target, within_s=await _patience_s(servers))
    await asyncio.sleep(0.5)

    assert kept.body == b"both"
    assert await target.get(fail=False) is None


async def _patience_s(servers: Access) -> float:
    """Return how long a held dead letter may take: 5 s where RabbitMQ is set up as we do, else three minutes."""
    async with Management(servers.management_url) as management:
        overview = await management.overview()
    return 20 if str(overview.get("node", "")).startswith("pixorly") else 110


async def test_what_our_own_ladder_holds_comes_back_when_its_queue_does(
    channel: AbstractChannel, servers: Access
) -> None:
    """T7 on our topology: somebody unbinds the work queue while a message is on its way to it."""
    await declare(channel, [STORE], ladder_s=(1,))
    work = await channel.get_queue(STORE.name)
    await work.unbind(RETRY_EXCHANGE, STORE.name)
    retry = await channel.get_exchange(RETRY_EXCHANGE)
    await retry.publish(aio_pika.Message(b"held", message_id="m-1"), STORE.retry(1), mandatory=True)
    await asyncio.sleep(2)
    assert await depth(channel, STORE.name) == 0

    await declare(channel, [STORE], ladder_s=(1,))

    assert (await take(work, within_s=await _patience_s(servers))).body == b"held"


async def test_a_queue_that_is_declared_by_faststream_is_the_one_that_we_declare(
    channel: AbstractChannel, amqp_url: str
) -> None:
    """T1 and K13. Both declare it; other arguments would be refused at the start."""
    await declare(channel, [STORE])
    arguments: Any = {key: value for key, value in STORE.arguments.items() if key != "x-queue-type"}
    async with connected(amqp_url) as broker:
        await broker.declare_queue(RabbitQueue(STORE.name, queue_type=QueueType.QUORUM, arguments=arguments))
        await broker.declare_exchange(RabbitExchange(EVENTS_EXCHANGE, type=ExchangeType.TOPIC, durable=True))


async def test_a_connection_that_an_operator_closes_is_made_again(
    amqp_url: str, channel: AbstractChannel, servers: Access
) -> None:
    """K1 by another hand: the server says goodbye, and our consumer is back by itself."""
    seen: list[str] = []

    async def store(event: ImageGenerated, _: Delivery) -> Following:
        seen.append(str(event.event_id))
        return None

    await declare(channel, [STORE])
    name = f"uploader-{uuid4().hex[:8]}"
    settings = AmqpSettings.model_validate({"amqp_url": amqp_url})
    publisher = Publisher(settings, name)
    consumer = Consumer(settings, name, publisher, [Subscription(queue=STORE, handler=store)])
    await publisher.start()
    await consumer.start()
    await publisher.publish(image_generated())
    await until(lambda: len(seen) == 1)

    await _close_connections(servers, amqp_url, name)

    async def published() -> bool:
        try:
            await publisher.publish(image_generated())
        except OutageError:
            return False
        return True

    await until(published)
    await until(lambda: len(seen) == 2, 15)
    await consumer.stop(1)
    await publisher.close()


async def _close_connections(servers: Access, amqp_url: str, name: str) -> None:
    vhost = urlsplit(amqp_url).path.removeprefix("/")
    closed = 0
    async with Management(servers.management_url) as management:

        async def both() -> bool:
            nonlocal closed
            open_now = (await management._call("GET", f"vhosts/{vhost}/connections")).json()
            for connection in open_now:
                if str(connection.get("client_properties", {}).get("connection_name", "")).startswith(name):
                    await management._call("DELETE", f"connections/{quote(connection['name'], safe='')}")
                    closed += 1
            return closed >= 2

        # The management API learns of connections every few seconds.
        await until(both, 20)


async def test_the_ladders_steps_are_exact(channel: AbstractChannel) -> None:
    """T3 on our topology, in its shortest steps."""
    await declare(channel, [STORE], ladder_s=(1, 2))
    arrived: list[float] = []

    async def note(message: AbstractIncomingMessage) -> None:
        arrived.append(time.monotonic())
        await message.ack()

    await (await channel.get_queue(STORE.name)).consume(note)
    retry = await channel.get_exchange(RETRY_EXCHANGE)
    begun = time.monotonic()
    for delay_s in (2, 1):
        await retry.publish(aio_pika.Message(b"x"), STORE.retry(delay_s), mandatory=True)
    await until(lambda: len(arrived) == 2)

    assert [at - begun for at in arrived] == [pytest.approx(1, abs=0.5), pytest.approx(2, abs=0.5)]
    assert all(later > earlier for earlier, later in pairwise(arrived))
