"""A worker turns what its handler returns or raises into messages: which, where to, and with what in them."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import structlog
from bus import MemoryBus, Sent
from clock import now_s, virtual_time
from faststream.exceptions import NackMessage
from messages import incoming, incoming_event
from samples import JOB, SAMPLES, USER

from pixorly import telemetry
from pixorly.delivery import Delivery, Fail, Following, Held, Subscription, Worker
from pixorly.errors import (
    ContentRejected,
    NoImage,
    OutageError,
    ProviderTimeout,
    ServerError,
    StorageUnavailable,
    UserError,
)
from pixorly.events import Event, ImageFailed, ImageGenerated, ImageUploaded, JobRetrying, Stage
from pixorly.meters import MESSAGES
from pixorly.topology import DEAD_EXCHANGE, EVENTS_EXCHANGE, RETRY_EXCHANGE, queue_named

QUEUE = queue_named("uploader.store_image")
GENERATED = SAMPLES["image.generated"]
UPLOADED = SAMPLES["image.uploaded"]
FAILED = SAMPLES["image.failed"]
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
HEADERS = {
    "traceparent": TRACEPARENT,
    "pixorly-schema": 1,
    "cloudEvents_id": str(GENERATED.event_id),
    "x-death": [{"queue": "elsewhere", "count": 3}],
    "x-delivery-count": 2,
    "x-first-death-reason": "expired",
}


@dataclass
class Upload:
    """A stand-in for the uploader: raises what it is told to, then returns what it is told to."""

    raises: list[Exception] = field(default_factory=list)
    returns: Following = None
    fails: list[Exception] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    failures: list[Fail] = field(default_factory=list)
    seen: dict[str, Any] = field(default_factory=dict)

    async def store(self, event: ImageGenerated, delivery: Delivery) -> Following:
        assert event == GENERATED
        self.deliveries.append(delivery)
        self.seen = {**telemetry.carried(), **structlog.contextvars.get_contextvars()}
        if self.raises:
            raise self.raises.pop(0)
        return self.returns

    async def fail(self, event: ImageGenerated, failure: Fail) -> Following:
        assert event == GENERATED
        self.failures.append(failure)
        if self.fails:
            raise self.fails.pop(0)
        return FAILED


def worker(
    upload: Upload, bus: MemoryBus, *, gives_up: bool = True, stage: Stage | None = "upload", **more: Any
) -> Worker:
    on_failure = upload.fail if gives_up else None
    return Worker(Subscription(queue=QUEUE, handler=upload.store, on_failure=on_failure, stage=stage), bus, **more)


def sent_to(bus: MemoryBus, exchange: str) -> list[Sent]:
    return [message for message in bus.sent if message.exchange == exchange]


@pytest.mark.parametrize(
    ("returned", "events"), [(None, []), ([], []), (UPLOADED, [UPLOADED]), ([UPLOADED, FAILED], [UPLOADED, FAILED])]
)
async def test_what_a_handler_returns_is_published_and_the_message_is_done(
    returned: Following, events: list[Event]
) -> None:
    bus, upload = MemoryBus(), Upload(returns=returned)

    await worker(upload, bus).consume(await incoming_event(GENERATED))

    assert bus.events == events
    assert len(bus.sent) == len(events)
    assert upload.deliveries == [Delivery(attempt=1, redelivered=False)]


async def test_a_handler_is_told_how_its_event_came() -> None:
    upload = Upload()

    message = await incoming_event(GENERATED, headers={"pixorly-attempt": 3}, redelivered=True)
    await worker(upload, MemoryBus()).consume(message)

    assert upload.deliveries == [Delivery(attempt=3, redelivered=True)]


@pytest.mark.parametrize("header", ["2", 0, -1, 2.0, None, b"3", [2]])
async def test_an_attempt_that_makes_no_sense_is_the_first(header: object) -> None:
    upload = Upload()

    await worker(upload, MemoryBus()).consume(await incoming_event(GENERATED, headers={"pixorly-attempt": header}))

    assert upload.deliveries == [Delivery(attempt=1)]


async def test_a_handler_works_within_the_trace_and_the_job_of_its_message() -> None:
    upload = Upload()

    await worker(upload, MemoryBus()).consume(await incoming_event(GENERATED, headers={"traceparent": TRACEPARENT}))

    assert upload.seen == {"traceparent": TRACEPARENT, "job_id": str(JOB), "attempt": 1}
    assert structlog.contextvars.get_contextvars() == {}
    assert telemetry.carried() == {}


async def test_what_follows_is_published_in_the_trace_of_what_it_follows_from() -> None:
    bus, upload = MemoryBus(), Upload(returns=UPLOADED)

    await worker(upload, bus).consume(await incoming_event(GENERATED, headers={"traceparent": TRACEPARENT}))

    assert bus.sent[0].headers["traceparent"] == TRACEPARENT


@pytest.mark.parametrize(("attempt", "delay_s"), [(1, 2), (2, 4), (3, 8)])
async def test_a_transient_error_puts_the_same_message_on_the_next_step_and_says_so(attempt: int, delay_s: int) -> None:
    bus, upload = MemoryBus(), Upload(raises=[StorageUnavailable("the store said 503")])

    await worker(upload, bus).consume(await incoming_event(GENERATED, headers={**HEADERS, "pixorly-attempt": attempt}))

    news, retry = bus.sent
    assert news.exchange == EVENTS_EXCHANGE
    assert news.event == JobRetrying.of(
        JOB,
        USER,
        occurred_at=news.event.occurred_at,
        stage="upload",
        index=1,
        attempt=attempt,
        delay_s=delay_s,
        code="storage_unavailable",
        message="the store said 503",
    )
    assert (retry.exchange, retry.routing_key) == (RETRY_EXCHANGE, f"uploader.store_image.retry.{delay_s}s")
    assert_same_message(retry, {"pixorly-attempt": attempt + 1})


def assert_same_message(message: Sent, added: dict[str, object]) -> None:
    assert message.body == GENERATED.to_json()
    assert message.message_id == str(GENERATED.event_id)
    assert message.message_type == "image.generated"
    assert message.correlation_id == str(JOB)
    assert dict(message.headers) == {
        "traceparent": TRACEPARENT,
        "pixorly-schema": 1,
        "cloudEvents_id": str(GENERATED.event_id),
        **added,
    }


async def test_a_longer_wait_that_the_other_side_asks_for_is_honoured_and_counts_as_one_retry() -> None:
    bus, upload = MemoryBus(), Upload(raises=[ProviderTimeout(retry_after_s=16)])

    await worker(upload, bus).consume(await incoming_event(GENERATED))

    news, retry = bus.sent
    assert isinstance(news.event, JobRetrying)
    assert news.event.delay_s == 30
    assert retry.routing_key == "uploader.store_image.retry.30s"
    assert retry.headers["pixorly-attempt"] == 2


async def test_a_queue_that_is_no_stage_of_a_job_retries_without_news() -> None:
    bus, upload = MemoryBus(), Upload(raises=[ProviderTimeout()])

    await worker(upload, bus, stage=None).consume(await incoming_event(GENERATED))

    assert [message.exchange for message in bus.sent] == [RETRY_EXCHANGE]


async def test_a_ladder_of_other_steps_is_used() -> None:
    bus, upload = MemoryBus(ladder_s=(7,)), Upload(raises=[ProviderTimeout()])

    await worker(upload, bus, ladder_s=(7,)).consume(await incoming_event(GENERATED))

    assert bus.sent[-1].routing_key == "uploader.store_image.retry.7s"


async def test_what_somebody_else_holds_comes_back_with_the_same_attempt_and_no_news() -> None:
    bus, upload = MemoryBus(), Upload(raises=[Held()])

    await worker(upload, bus).consume(await incoming_event(GENERATED, headers={**HEADERS, "pixorly-attempt": 2}))

    (held,) = bus.sent
    assert (held.exchange, held.routing_key) == (RETRY_EXCHANGE, "uploader.store_image.retry.2s")
    assert_same_message(held, {"pixorly-attempt": 2})


@pytest.mark.parametrize(
    ("error", "attempt", "code"),
    [
        (ContentRejected(), 1, "content_rejected"),
        (ServerError("x"), 1, "internal_error"),
        (UserError("x"), 2, "invalid_request"),
        (StorageUnavailable(), 4, "storage_unavailable"),
        (StorageUnavailable(), 99, "storage_unavailable"),
        (NoImage(), 2, "no_image"),
        (ProviderTimeout(retry_after_s=61), 1, "provider_timeout"),
    ],
)
async def test_what_fails_for_good_fails_the_slots_and_nothing_else_happens(
    error: Exception, attempt: int, code: str
) -> None:
    bus, upload = MemoryBus(), Upload(raises=[error])

    await worker(upload, bus).consume(await incoming_event(GENERATED, headers={"pixorly-attempt": attempt}))

    assert [failure.code for failure in upload.failures] == [code]
    assert bus.events == [FAILED]
    assert len(bus.sent) == 1


async def test_a_failure_where_none_is_foreseen_is_put_aside_under_its_code() -> None:
    bus, upload = MemoryBus(), Upload(raises=[ContentRejected()])

    await worker(upload, bus, gives_up=False).consume(await incoming_event(GENERATED, headers=HEADERS))

    (dead,) = bus.sent
    assert (dead.exchange, dead.routing_key) == (DEAD_EXCHANGE, "uploader.store_image")
    assert_same_message(dead, {"pixorly-reason": "content_rejected"})


async def test_a_bug_is_put_aside_under_its_name_and_not_its_words() -> None:
    bus, upload = MemoryBus(), Upload(raises=[KeyError("a secret prompt")])

    await worker(upload, bus).consume(await incoming_event(GENERATED, headers=HEADERS))

    (dead,) = bus.sent
    assert (dead.exchange, dead.routing_key) == (DEAD_EXCHANGE, "uploader.store_image")
    assert_same_message(dead, {"pixorly-reason": "KeyError"})
    assert upload.failures == []


@pytest.mark.parametrize(
    ("kind", "body", "reason"),
    [
        ("image.generated", b"\x00\xff secret", "not a image.generated"),
        ("image.generated", b"", "not a image.generated"),
        ("image.generated", b'{"user_id": "secret"}', "not a image.generated: event_id Field required"),
        ("image.generated", b'["secret"]', "not a image.generated"),
        ("image.generated", b"[" * 100_000, "not a image.generated"),
        ("job.created", SAMPLES["job.created"].to_json(), "type 'job.created' is not for this queue"),
        (None, GENERATED.to_json(), "type 'None' is not for this queue"),
        ("x" * 255, b"{}", f"type '{'x' * 60}' is not for this queue"),
        ("image.generated", SAMPLES["job.created"].to_json(), "not a image.generated"),
    ],
)
async def test_what_cannot_be_read_is_put_aside_as_it_came_with_the_reason_but_not_its_content(
    kind: str | None, body: bytes, reason: str
) -> None:
    bus, upload = MemoryBus(), Upload()
    before = MESSAGES.labels(QUEUE.name, "done")._value.get()

    await worker(upload, bus).consume(await incoming(body, kind=kind, message_id="m-7", correlation_id="c-7"))

    (dead,) = bus.sent
    assert (dead.exchange, dead.routing_key, dead.body) == (DEAD_EXCHANGE, "uploader.store_image", body)
    assert (dead.message_id, dead.message_type, dead.correlation_id) == ("m-7", kind, "c-7")
    assert dead.headers["pixorly-reason"].startswith(reason)
    assert "secret" not in dead.headers["pixorly-reason"]
    assert len(dead.headers["pixorly-reason"]) <= 200
    assert upload.deliveries == []
    assert MESSAGES.labels(QUEUE.name, "done")._value.get() == before


def test_a_reason_stays_one_line() -> None:
    subscription = Subscription(queue=QUEUE, handler=Upload().store)

    with pytest.raises(ValueError) as refused:
        subscription.read("a\nb", b"{}")

    assert "\n" not in str(refused.value)


def test_a_reason_stays_short_whatever_somebody_sends() -> None:
    uploaded = {**UPLOADED.model_dump(mode="json"), "keys": {"original": "x", "thumbnails": {"k" * 9000: 1}}}
    subscription = Subscription(queue=queue_named("api.follow_job"), handler=Upload().store)

    with pytest.raises(ValueError) as refused:
        subscription.read("image.uploaded", json.dumps(uploaded).encode())

    assert len(str(refused.value)) <= 200


async def test_a_queue_may_read_other_events_than_those_it_is_bound_to() -> None:
    subscription = Subscription(queue=queue_named("api.settle_dead"), handler=Upload().store, reads=(ImageGenerated,))

    assert subscription.read("image.generated", GENERATED.to_json()) == GENERATED
    with pytest.raises(ValueError, match="not for this queue"):
        subscription.read("image.uploaded", UPLOADED.to_json())


@virtual_time
async def test_an_outage_is_waited_for_with_longer_and_longer_pauses_and_no_retry_is_used_up() -> None:
    bus, upload = MemoryBus(), Upload(raises=[OutageError("s3") for _ in range(8)], returns=UPLOADED)

    await worker(upload, bus).consume(await incoming_event(GENERATED, headers={"pixorly-attempt": 2}))

    assert [delivery.attempt for delivery in upload.deliveries] == [2] * 9
    assert bus.events == [UPLOADED]
    longest_s = 0.5 + 1 + 2 + 4 + 8 + 10 + 10 + 10
    assert 0.8 * longest_s <= now_s() <= longest_s


@virtual_time
async def test_an_outage_that_says_how_long_it_lasts_is_believed_up_to_half_a_minute() -> None:
    upload = Upload(raises=[OutageError("provider:x", retry_after_s=20), OutageError("provider:x", retry_after_s=3600)])

    await worker(upload, MemoryBus()).consume(await incoming_event(GENERATED))

    assert 0.8 * (20 + 30) <= now_s() <= 20 + 30


@virtual_time
async def test_a_bus_that_is_away_is_waited_for_and_the_work_is_not_done_again() -> None:
    bus, upload = MemoryBus(), Upload(returns=[UPLOADED])
    bus.away = True

    working = asyncio.create_task(worker(upload, bus).consume(await incoming_event(GENERATED)))
    await asyncio.sleep(60)
    assert not working.done()
    bus.away = False
    await working

    assert bus.events == [UPLOADED]
    assert len(upload.deliveries) == 1


@virtual_time
async def test_a_bus_that_goes_away_between_the_news_and_the_ladder_gets_both() -> None:
    bus = MemoryBus()
    upload = Upload(raises=[StorageUnavailable()])
    bus.away = True

    working = asyncio.create_task(worker(upload, bus).consume(await incoming_event(GENERATED)))
    await asyncio.sleep(5)
    bus.away = False
    await working

    assert [message.exchange for message in bus.sent] == [EVENTS_EXCHANGE, RETRY_EXCHANGE]
    assert len(upload.deliveries) == 1


@virtual_time
async def test_a_failure_that_cannot_be_recorded_yet_is_recorded_later() -> None:
    bus, upload = MemoryBus(), Upload(raises=[ContentRejected(), ContentRejected()], fails=[OutageError("postgres")])

    await worker(upload, bus).consume(await incoming_event(GENERATED))

    assert [failure.code for failure in upload.failures] == ["content_rejected"] * 2
    assert bus.events == [FAILED]


def stopped() -> asyncio.Event:
    stopping = asyncio.Event()
    stopping.set()
    return stopping


@virtual_time
async def test_whoever_waits_when_the_process_stops_hands_its_message_back_at_once() -> None:
    upload = Upload(raises=[OutageError("s3") for _ in range(99)])
    stopping = asyncio.Event()

    working = asyncio.create_task(
        worker(upload, MemoryBus(), stopping=stopping).consume(await incoming_event(GENERATED))
    )
    await asyncio.sleep(60)
    before_s = now_s()
    stopping.set()

    with pytest.raises(NackMessage) as handed_back:
        await working
    assert handed_back.value.extra_options == {"requeue": True}
    assert now_s() == before_s


@virtual_time
async def test_whoever_works_when_the_process_stops_ends_its_work() -> None:
    bus, upload = MemoryBus(), Upload(returns=UPLOADED)

    await worker(upload, bus, stopping=stopped()).consume(await incoming_event(GENERATED))

    assert bus.events == [UPLOADED]


@virtual_time
async def test_what_cannot_be_sent_on_when_the_process_stops_is_handed_back_and_not_lost() -> None:
    for upload in (
        Upload(returns=UPLOADED),
        Upload(raises=[StorageUnavailable()]),
        Upload(raises=[KeyError()]),
        Upload(raises=[Held()]),
    ):
        bus = MemoryBus()
        bus.away = True
        with pytest.raises(NackMessage):
            await worker(upload, bus, stopping=stopped()).consume(await incoming_event(GENERATED))
        assert bus.sent == []


@virtual_time
async def test_what_cannot_be_put_aside_when_the_process_stops_is_handed_back() -> None:
    bus = MemoryBus()
    bus.away = True

    with pytest.raises(NackMessage):
        await worker(Upload(), bus, stopping=stopped()).consume(await incoming(b"garbage", kind="image.generated"))


@virtual_time
async def test_a_message_that_has_waited_ten_minutes_is_handed_back_before_rabbitmq_loses_patience() -> None:
    upload = Upload(raises=[OutageError("s3") for _ in range(999)])

    with pytest.raises(NackMessage):
        await worker(upload, MemoryBus()).consume(await incoming_event(GENERATED))

    assert 590 <= now_s() <= 600


async def test_a_cancelled_handler_is_no_failure_of_the_job() -> None:
    bus = MemoryBus()
    begun = asyncio.Event()

    async def hang(_: Event, __: Delivery) -> Following:
        begun.set()
        await asyncio.Event().wait()
        return None

    work = Worker(Subscription(queue=QUEUE, handler=hang, stage="upload"), bus)
    working = asyncio.create_task(work.consume(await incoming_event(GENERATED)))
    await begun.wait()
    working.cancel()

    with pytest.raises(asyncio.CancelledError):
        await working
    assert bus.sent == []


@pytest.mark.parametrize(
    ("make", "label"),
    [
        (lambda: Upload(returns=UPLOADED), "done"),
        (lambda: Upload(raises=[ProviderTimeout()]), "retried"),
        (lambda: Upload(raises=[Held()]), "held"),
        (lambda: Upload(raises=[KeyError()]), "dead"),
        (lambda: Upload(raises=[ContentRejected()]), "done"),
    ],
)
async def test_a_message_is_counted_by_what_became_of_it(make: Callable[[], Upload], label: str) -> None:
    counted = MESSAGES.labels(QUEUE.name, label)
    before = counted._value.get()

    await worker(make(), MemoryBus()).consume(await incoming_event(GENERATED))

    assert counted._value.get() == before + 1


def test_the_samples_are_what_the_handlers_take() -> None:
    assert isinstance(UPLOADED, ImageUploaded)
    assert isinstance(FAILED, ImageFailed)
