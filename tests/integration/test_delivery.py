"""The mechanism of delivery on a real RabbitMQ: what a handler raises decides what becomes of its message."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from uuid import UUID

import aio_pika
import pytest

from pixorly.broker import Publisher
from pixorly.delivery import Consumer, Delivery, Fail, Following, Held, Subscription
from pixorly.errors import ContentRejected, NoImage, OutageError, ProviderUnavailable
from pixorly.events import Event, ImageFailed, ImageGenerated, JobRetrying
from pixorly.ids import new_id
from pixorly.settings import AmqpSettings
from pixorly.topology import DEAD_EXCHANGE, EVENTS_EXCHANGE, RETRY_EXCHANGE, declare, queue_named

STORE = queue_named("uploader.store_image")
FOLLOW = queue_named("api.follow_job")


def image_generated(job_id: UUID | None = None, index: int = 0) -> ImageGenerated:
    return ImageGenerated.of(
        job_id or new_id(),
        "ada",
        index=index,
        image_id=new_id(),
        staged_key="staging/x",
        content_type="image/png",
        sha256="0" * 64,
        bytes=1,
    )


def image_failed(event: ImageGenerated, failure: Fail) -> ImageFailed:
    return ImageFailed.of(
        event.job_id,
        event.user_id,
        index=event.index,
        image_id=event.image_id,
        code=failure.code,
        message=failure.message,
        fault=failure.outcome.fault or "server",
        stage="upload",
    )


@dataclass
class Upload:
    """A stand-in for the uploader: raises what it is told to, then works; remembers when it was called."""

    raises: list[BaseException] = field(default_factory=list)
    calls: list[tuple[float, int, UUID]] = field(default_factory=list)

    async def store(self, event: ImageGenerated, delivery: Delivery) -> Following:
        self.calls.append((time.monotonic(), delivery.attempt, event.event_id))
        if self.raises:
            raise self.raises.pop(0)
        return None

    async def fail(self, event: ImageGenerated, failure: Fail) -> Following:
        return image_failed(event, failure)


@dataclass
class Bench:
    """A RabbitMQ with our topology, a publisher, and what reached the api."""

    publisher: Publisher
    channel: aio_pika.abc.AbstractChannel
    settings: AmqpSettings
    news: list[Event] = field(default_factory=list)

    async def depth(self, queue: str) -> int:
        declared = await self.channel.declare_queue(queue, passive=True)
        return declared.declaration_result.message_count or 0

    async def dead(self, queue: str) -> list[aio_pika.abc.AbstractIncomingMessage]:
        graveyard = await self.channel.declare_queue(queue, passive=True)
        found = []
        while (message := await graveyard.get(fail=False)) is not None:
            found.append(message)
        return found


@pytest.fixture
async def bench(amqp_url: str) -> AsyncIterator[Bench]:
    settings = AmqpSettings(amqp_url=amqp_url)
    connection = await aio_pika.connect(amqp_url)
    channel = await connection.channel()
    await declare(channel, [STORE, FOLLOW, queue_named("api.settle_dead")])
    publisher = Publisher(settings, "api")
    await publisher.start()
    yield Bench(publisher, channel, settings)
    await publisher.close()
    await connection.close()


@asynccontextmanager
async def consuming(bench: Bench, upload: Upload) -> AsyncIterator[None]:
    async def follow(event: Event, _: Delivery) -> None:
        bench.news.append(event)

    consumer = Consumer(
        bench.settings,
        "uploader",
        bench.publisher,
        [
            Subscription(queue=STORE, handler=upload.store, on_failure=upload.fail, stage="upload"),
            Subscription(queue=FOLLOW, handler=follow),
        ],
    )
    await consumer.start()
    try:
        yield
    finally:
        await consumer.stop(5)


async def until(condition: Callable[[], bool | Awaitable[bool]], within_s: float = 30) -> None:
    async with asyncio.timeout(within_s):
        while True:
            found = condition()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.02)


async def test_three_retries_come_after_two_four_and_eight_seconds(bench: Bench) -> None:
    upload = Upload(raises=[ProviderUnavailable() for _ in range(3)])
    async with consuming(bench, upload):
        await bench.publisher.publish(image_generated())
        await until(lambda: len(upload.calls) == 4)
        times = [at for at, _, _ in upload.calls]
        delays = [later - earlier for earlier, later in itertools.pairwise(times)]
        await until(lambda: sum(isinstance(event, JobRetrying) for event in bench.news) == 3)

    assert [attempt for _, attempt, _ in upload.calls] == [1, 2, 3, 4]
    assert delays == [pytest.approx(2, abs=0.7), pytest.approx(4, abs=0.7), pytest.approx(8, abs=0.7)]
    told = [(event.attempt, event.delay_s, event.stage) for event in bench.news if isinstance(event, JobRetrying)]
    assert told == [(1, 2, "upload"), (2, 4, "upload"), (3, 8, "upload")]


async def test_a_used_up_ladder_fails_the_slot(bench: Bench) -> None:
    upload = Upload(raises=[NoImage(), NoImage()])
    async with consuming(bench, upload):
        event = image_generated()
        await bench.publisher.publish(event)
        await until(lambda: any(isinstance(news, ImageFailed) for news in bench.news))

    failed = next(news for news in bench.news if isinstance(news, ImageFailed))
    assert (failed.code, failed.fault, failed.job_id) == ("no_image", "server", event.job_id)
    assert len(upload.calls) == 2


async def test_a_users_fault_fails_at_once(bench: Bench) -> None:
    upload = Upload(raises=[ContentRejected()])
    async with consuming(bench, upload):
        await bench.publisher.publish(image_generated())
        await until(lambda: any(isinstance(news, ImageFailed) for news in bench.news))

    failed = next(news for news in bench.news if isinstance(news, ImageFailed))
    assert (failed.code, failed.fault) == ("content_rejected", "user")
    assert len(upload.calls) == 1


async def test_an_outage_waits_and_uses_up_no_retry(bench: Bench) -> None:
    upload = Upload(raises=[OutageError("s3") for _ in range(3)])
    async with consuming(bench, upload):
        await bench.publisher.publish(image_generated())
        await until(lambda: len(upload.calls) == 4)

    assert [attempt for _, attempt, _ in upload.calls] == [1, 1, 1, 1]
    assert not any(isinstance(event, JobRetrying) for event in bench.news)


async def test_what_somebody_else_holds_comes_back_without_a_retry(bench: Bench) -> None:
    upload = Upload(raises=[Held()])
    async with consuming(bench, upload):
        await bench.publisher.publish(image_generated())
        await until(lambda: len(upload.calls) == 2)

    assert [attempt for _, attempt, _ in upload.calls] == [1, 1]


async def test_a_bug_is_put_aside_with_its_reason_and_told_to_the_api(bench: Bench) -> None:
    upload = Upload(raises=[ZeroDivisionError("planted")])
    async with consuming(bench, upload):
        await bench.publisher.publish(image_generated())

        async def buried() -> bool:
            return await bench.depth(STORE.dead) == 1 and await bench.depth("api.settle_dead") == 1

        await until(buried)
        (dead,) = await bench.dead(STORE.dead)

    assert dead.headers["pixorly-reason"] == "ZeroDivisionError"
    assert dead.type == "image.generated"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"\x00\xff\xfe", "image.generated"),
        (b"", "image.generated"),
        (b"{}", "image.generated"),
        (b"[1, 2]", "image.generated"),
        (b'{"event_id": 1}', "job.created"),
        (b"{" * 100_000, "image.generated"),
        (b"x" * 5_000_000, None),
    ],
)
async def test_what_cannot_be_read_is_put_aside_and_harms_no_neighbour(
    bench: Bench, body: bytes, kind: str | None
) -> None:
    upload = Upload()
    async with consuming(bench, upload):
        await bench.publisher.send(
            RETRY_EXCHANGE, STORE.name, body, message_id="m", message_type=kind, correlation_id=None, headers={}
        )
        await bench.publisher.publish(image_generated())
        await until(lambda: len(upload.calls) == 1)

        async def buried() -> bool:
            return await bench.depth(STORE.dead) == 1

        await until(buried)
        (dead,) = await bench.dead(STORE.dead)

    assert dead.body == body
    assert dead.headers["pixorly-reason"]


async def test_an_event_that_no_queue_takes_is_an_outage_and_not_lost_in_silence(bench: Bench) -> None:
    queue = await bench.channel.declare_queue(STORE.name, passive=True)
    await queue.unbind(EVENTS_EXCHANGE, "image.generated")
    follow = await bench.channel.declare_queue(FOLLOW.name, passive=True)
    await follow.unbind(EVENTS_EXCHANGE, "image.generated")

    with pytest.raises(OutageError):
        await bench.publisher.publish(image_generated())


async def test_a_message_of_ours_that_is_rejected_ends_in_the_dead_queue(bench: Bench) -> None:
    await bench.publisher.publish(image_generated())
    queue = await bench.channel.declare_queue(STORE.name, passive=True)
    message = await queue.get()
    assert message is not None
    await message.reject(requeue=False)

    async def buried() -> bool:
        return await bench.depth(STORE.dead) == 1

    await until(buried)
    assert DEAD_EXCHANGE == "pixorly.dead"


async def test_a_queue_is_looked_at_until_its_process_stops(bench: Bench) -> None:
    """A look after the stop would connect again, and nobody would close that connection."""
    upload, elsewhere = Upload(), replace(STORE, name="uploader.nowhere")
    consumer = Consumer(bench.settings, "uploader", bench.publisher, [Subscription(queue=FOLLOW, handler=upload.store)])
    with pytest.raises(OutageError):
        await consumer.waiting_in(STORE)

    await consumer.start()
    await until(lambda: _is_ready(consumer))
    assert await consumer.waiting_in(elsewhere) == 0
    assert await consumer.waiting_in(FOLLOW) == 0

    await consumer.stop(5)
    with pytest.raises(OutageError):
        await consumer.waiting_in(FOLLOW)


async def _is_ready(consumer: Consumer) -> bool:
    with suppress(OutageError):
        await consumer.probe()
        return True
    return False
