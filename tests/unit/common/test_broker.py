"""What a lost link raises, in our words; and the publisher's side that needs no server."""

import asyncio
from urllib.parse import parse_qs, urlsplit

import pytest
from aio_pika.exceptions import AMQPConnectionError, DeliveryError
from aiormq.exceptions import ChannelInvalidStateError
from bus import MemoryBus
from clock import now_s, virtual_time
from pamqp.commands import Basic
from samples import JOB, NOON, SAMPLES

from pixorly import telemetry
from pixorly.broker import Publisher, make_broker, translated
from pixorly.errors import OutageError
from pixorly.settings import AmqpSettings

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
GENERATED = SAMPLES["image.generated"]


@pytest.mark.parametrize(
    "error",
    [AMQPConnectionError(), DeliveryError(None, Basic.Nack()), ChannelInvalidStateError(), OSError(), TimeoutError()],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_lost_link_raises_is_an_outage(error: Exception) -> None:
    with pytest.raises(OutageError) as away, translated():
        raise error

    assert away.value.part == "rabbitmq"
    assert away.value.__cause__ is error


async def test_a_cancellation_that_nobody_asked_for_is_an_outage() -> None:
    with pytest.raises(OutageError), translated():
        raise asyncio.CancelledError


async def test_a_cancellation_that_somebody_asked_for_stays_one() -> None:
    async def wait() -> None:
        with translated():
            await asyncio.sleep(60)

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    waiting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await waiting


@pytest.mark.parametrize("error", [ValueError(), KeyError(), OutageError("s3")], ids=lambda error: type(error).__name__)
def test_what_is_no_lost_link_is_left_alone(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, translated():
        raise error

    assert raised.value is error


async def test_an_event_goes_out_under_its_type_with_its_id_its_job_and_its_headers() -> None:
    bus = MemoryBus()

    await bus.publish(GENERATED)

    (sent,) = bus.sent
    assert (sent.exchange, sent.routing_key, sent.message_type) == ("pixorly.events", *["image.generated"] * 2)
    assert (sent.message_id, sent.correlation_id) == (str(GENERATED.event_id), str(JOB))
    assert sent.body == GENERATED.to_json()
    assert dict(sent.headers) == {
        "pixorly-schema": 1,
        "pixorly-attempt": 1,
        "cloudEvents_specversion": "1.0",
        "cloudEvents_id": str(GENERATED.event_id),
        "cloudEvents_type": "image.generated",
        "cloudEvents_source": "/pixorly",
        "cloudEvents_subject": str(JOB),
        "cloudEvents_time": NOON.isoformat(),
    }


async def test_an_event_goes_out_in_the_trace_it_was_written_in() -> None:
    bus = MemoryBus()

    await bus.publish(GENERATED, {"traceparent": TRACEPARENT})
    with telemetry.continued({"traceparent": TRACEPARENT}):
        await bus.publish(GENERATED)

    assert [sent.headers["traceparent"] for sent in bus.sent] == [TRACEPARENT] * 2


@virtual_time
async def test_without_a_connection_a_publication_is_an_outage_after_its_time_and_probes_are_too() -> None:
    publisher = Publisher(AmqpSettings(publish_timeout_s=3), "api")

    with pytest.raises(OutageError):
        await publisher.publish(GENERATED)
    assert now_s() == pytest.approx(3)
    with pytest.raises(OutageError):
        await publisher.probe()
    assert now_s() == pytest.approx(5)


@pytest.mark.parametrize("url", ["amqp://a:b@c/d", "amqp://a:b@c/d?x=1"])
def test_a_connection_has_our_heartbeat_our_name_and_a_deadline(url: str) -> None:
    settings = AmqpSettings.model_validate({"amqp_url": url, "amqp_heartbeat_s": 7})

    connection = make_broker(settings, "api-publishes")._connection_kwargs

    query = parse_qs(urlsplit(str(connection["url"])).query)
    assert (query["heartbeat"], query["name"]) == (["7"], ["api-publishes"])
    assert connection["timeout"] == 10
