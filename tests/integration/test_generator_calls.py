"""Leased calls on a real PostgreSQL: each is made once, whatever is repeated, cancelled, late or away."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal

import asyncpg
import pytest
from outboxes import UncertainOutbox
from typing_extensions import override

from pixorly import catalogue
from pixorly.blobs import MemoryBlobs
from pixorly.db import Database, migrate
from pixorly.delivery import Held
from pixorly.errors import (
    ContentRejected,
    ModelUnavailable,
    OutageError,
    PixorlyError,
    ProviderUnavailable,
    StorageUnavailable,
)
from pixorly.events import Event, ImageFailed, ImageGenerated, ImageParams, JobCreated, JobStarted, utcnow
from pixorly.ids import new_id
from pixorly.outbox import Bus, Outbox
from pixorly_generator.calls import Calls
from pixorly_generator.intake import Intake
from pixorly_generator.pauses import Pauses
from pixorly_generator.providers import GeneratedImage, ImageProvider, ProviderAnswer, ProviderRequest
from pixorly_generator.upstream import Upstream

PNG = b"\x89PNG\r\n\x1a\n" + b"picture"


@dataclass
class Recorder(Bus):
    """A bus that remembers."""

    events: list[Event] = field(default_factory=list)

    @override
    async def publish(self, event: Event, headers: dict[str, str] | None = None) -> None:
        self.events.append(event)

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


@dataclass
class Provider(ImageProvider):
    """A provider that does what it is told, and counts."""

    raises: list[PixorlyError] = field(default_factory=list)
    images: list[bytes] = field(default_factory=lambda: [PNG] * 10)
    gate: asyncio.Event | None = None
    requests: list[ProviderRequest] = field(default_factory=list)

    @property
    @override
    def name(self) -> str:
        return "sandbox"

    @override
    async def generate(self, request: ProviderRequest) -> ProviderAnswer:
        self.requests.append(request)
        if self.gate:
            await self.gate.wait()
        if self.raises:
            raise self.raises.pop(0)
        images = [GeneratedImage(data) for data in self.images[: request.n]]
        return ProviderAnswer(images=images, provider="sandbox", model=request.model.id, cost_usd=Decimal("0.039"))

    @override
    async def close(self) -> None:
        return


@dataclass
class Generator:
    """One generator process without RabbitMQ."""

    calls: Calls
    provider: Provider
    bus: Recorder
    blobs: MemoryBlobs
    url: str

    async def row(self, sql: str, *args: object) -> asyncpg.Record:
        connection = await asyncpg.connect(self.url)
        try:
            row = await connection.fetchrow(sql, *args)
            assert row is not None
            return row
        finally:
            await connection.close()


Make = Callable[..., Awaitable[Generator]]


@pytest.fixture
async def make(database_url: str) -> AsyncIterator[Make]:
    await migrate(database_url, "pixorly", "pixorly_generator")
    databases = []
    bus, blobs = Recorder(), MemoryBlobs()

    async def generator(provider: Provider | None = None, lease_s: float = 20) -> Generator:
        database = Database(database_url, max_size=5)
        await database.open()
        databases.append(database)
        provider = provider or Provider()
        outbox = Outbox(database, bus)
        upstream = Upstream({"sandbox": provider}, catalogue.load(), Pauses(database))
        calls = Calls(outbox, blobs, upstream, Intake(512), lease_s=lease_s, ladder_s=(1, 1, 1))
        return Generator(calls, provider, bus, blobs, database_url)

    yield generator
    for database in databases:
        await database.close()


def job(n: int = 1, model: str = "sandbox/aurora", **changes: object) -> JobCreated:
    event = JobCreated.of(
        new_id(),
        "ada",
        model=model,
        prompt="a fox",
        params=ImageParams(width=64, height=64),
        n=n,
        plan="pro",
        deadline=utcnow() + timedelta(minutes=30),
        image_ids=tuple(new_id() for _ in range(n)),
        calls=catalogue.load().find(model).calls(n),
    )
    return event.model_copy(update=changes)


async def settled(bus: Recorder, kind: type[Event], count: int) -> list[Event]:
    async with asyncio.timeout(10):
        while len(bus.of(kind)) < count:
            await asyncio.sleep(0.01)
    return bus.of(kind)


async def test_a_call_stages_its_images_and_tells_of_each(make: Make) -> None:
    generator = await make()
    event = job(n=2)
    await generator.calls.make_all(event)

    generated = await settled(generator.bus, ImageGenerated, 2)
    assert [image.image_id for image in generated if isinstance(image, ImageGenerated)] == list(event.image_ids)
    assert {image.staged_key for image in generated if isinstance(image, ImageGenerated)} == set(
        generator.blobs.objects
    )
    assert len(await settled(generator.bus, JobStarted, 1)) == 1
    row = await generator.row("select state, attempts, owner from calls")
    assert tuple(row) == ("done", 1, None)
    row = await generator.row("select cost_usd, code, late, ended_at is not null as ended from attempts")
    assert tuple(row) == (Decimal("0.039"), None, False, True)


async def test_a_repeat_calls_nobody_and_publishes_the_same_again(make: Make) -> None:
    generator = await make()
    event = job()
    await generator.calls.make_all(event)
    first = (await settled(generator.bus, ImageGenerated, 1))[0]
    for _ in range(20):
        await generator.calls.make_all(event)

    again = await settled(generator.bus, ImageGenerated, 21)
    assert {repeat.event_id for repeat in again} == {first.event_id}
    assert len(generator.provider.requests) == 1


async def test_a_hundred_deliveries_at_once_make_one_call(make: Make) -> None:
    generator = await make(Provider(gate=asyncio.Event()))
    event = job()
    tasks = [asyncio.create_task(generator.calls.make_all(event)) for _ in range(100)]
    await asyncio.sleep(0.2)
    assert generator.provider.gate
    generator.provider.gate.set()
    await asyncio.gather(*tasks)

    assert len(generator.provider.requests) == 1


async def test_two_generators_with_the_same_job_make_one_call(make: Make) -> None:
    gate = asyncio.Event()
    one, other = await make(Provider(gate=gate)), await make()
    event = job()
    making = asyncio.create_task(one.calls.make_all(event))
    while not one.provider.requests:
        await asyncio.sleep(0.01)
    with pytest.raises(Held):
        await other.calls.make_all(event)
    gate.set()
    await making
    await other.calls.make_all(event)

    assert (len(one.provider.requests), len(other.provider.requests)) == (1, 0)


async def test_losing_the_broker_in_mid_call_makes_no_second_call(make: Make) -> None:
    generator = await make(Provider(gate=asyncio.Event()))
    event = job()
    handler = asyncio.create_task(generator.calls.make_all(event))
    while not generator.provider.requests:
        await asyncio.sleep(0.01)
    handler.cancel()
    with suppress(asyncio.CancelledError):
        await handler
    redelivered = asyncio.create_task(generator.calls.make_all(event))
    await asyncio.sleep(0.05)
    assert generator.provider.gate
    generator.provider.gate.set()
    await redelivered

    assert len(generator.provider.requests) == 1
    assert len(await settled(generator.bus, ImageGenerated, 1)) == 1


async def test_a_dead_process_is_taken_over_at_the_second_look_after_its_lease_ran_out(make: Make) -> None:
    dead, heir = await make(Provider(gate=asyncio.Event()), lease_s=1.5), await make(lease_s=2)
    event = job()
    making = asyncio.create_task(dead.calls.make_all(event))
    while not dead.provider.requests:
        await asyncio.sleep(0.01)
    with pytest.raises(Held):
        await heir.calls.make_all(event)
    await asyncio.sleep(1.7)
    for _ in range(2):
        with pytest.raises(Held):
            await heir.calls.make_all(event)
    await asyncio.sleep(1.7)
    await heir.calls.make_all(event)
    assert len(heir.provider.requests) == 1
    assert dead.provider.gate
    dead.provider.gate.set()
    await making

    assert len(heir.bus.of(ImageGenerated)) == 1
    row = await heir.row("select count(*) filter (where late) as late, count(*) as all from attempts")
    assert tuple(row) == (1, 2)


async def test_a_lease_is_renewed_while_its_call_runs(make: Make) -> None:
    slow, other = await make(Provider(gate=asyncio.Event()), lease_s=1.5), await make()
    event = job()
    renewing = asyncio.create_task(slow.calls.renew())
    making = asyncio.create_task(slow.calls.make_all(event))
    await asyncio.sleep(3)
    with pytest.raises(Held):
        await other.calls.make_all(event)
    assert slow.provider.gate
    slow.provider.gate.set()
    await making
    renewing.cancel()

    assert other.provider.requests == []


async def test_an_outage_longer_than_a_lease_takes_no_call_from_a_process_that_lives(make: Make) -> None:
    cut_off, other = await make(Provider(gate=asyncio.Event()), lease_s=1), await make(lease_s=4)
    event = job()
    making = asyncio.create_task(cut_off.calls.make_all(event))
    # As long as nobody renews, PostgreSQL may as well be away.
    await asyncio.sleep(1.5)
    with pytest.raises(Held):
        await other.calls.make_all(event)
    renewing = asyncio.create_task(cut_off.calls.renew())
    await asyncio.sleep(4)
    with pytest.raises(Held):
        await other.calls.make_all(event)
    assert cut_off.provider.gate
    cut_off.provider.gate.set()
    await making
    renewing.cancel()

    assert other.provider.requests == []
    assert len(await settled(cut_off.bus, ImageGenerated, 1)) == 1


async def test_a_result_whose_commit_was_not_confirmed_is_not_late(make: Make, database_url: str) -> None:
    generator = await make(Provider(gate=asyncio.Event()))
    database = Database(database_url, max_size=2)
    await database.open()
    outbox = UncertainOutbox(database, generator.bus)
    upstream = Upstream({"sandbox": generator.provider}, catalogue.load(), Pauses(database))
    calls = Calls(outbox, generator.blobs, upstream, Intake(512))
    making = asyncio.create_task(calls.make_all(job()))
    while not generator.provider.requests:
        await asyncio.sleep(0.01)
    outbox.uncertain = 1
    assert generator.provider.gate
    generator.provider.gate.set()
    await making
    await database.close()

    row = await generator.row("select late, cost_usd, ended_at is not null as ended from attempts")
    assert tuple(row) == (False, Decimal("0.039"), True)


async def test_a_transient_failure_leaves_the_call_open_and_not_before_its_time(make: Make) -> None:
    generator = await make(Provider(raises=[ProviderUnavailable()]))
    event = job()
    with pytest.raises(ProviderUnavailable):
        await generator.calls.make_all(event)
    with pytest.raises(Held):
        await generator.calls.make_all(event)
    await asyncio.sleep(0.6)
    await generator.calls.make_all(event)

    assert [request.attempt for request in generator.provider.requests] == [1, 2]
    assert len(await settled(generator.bus, ImageGenerated, 1)) == 1


async def test_an_outage_uses_up_no_attempt(make: Make) -> None:
    generator = await make(Provider(raises=[OutageError("provider:sandbox")] * 3))
    event = job()
    for _ in range(3):
        with pytest.raises(OutageError):
            await generator.calls.make_all(event)
    await generator.calls.make_all(event)

    assert tuple(await generator.row("select state, attempts from calls")) == ("done", 1)


async def test_a_users_fault_fails_every_slot_of_the_call_for_good(make: Make) -> None:
    generator = await make(Provider(raises=[ContentRejected()]))
    event = job(n=2)
    await generator.calls.make_all(event)
    await generator.calls.make_all(event)

    failed = await settled(generator.bus, ImageFailed, 4)
    assert {(e.index, e.code, e.fault) for e in failed if isinstance(e, ImageFailed)} == {
        (0, "content_rejected", "user"),
        (1, "content_rejected", "user"),
    }
    assert len({e.event_id for e in failed}) == 2
    assert len(generator.provider.requests) == 1


async def test_fewer_images_than_asked_for_fail_the_slots_that_got_none(make: Make) -> None:
    generator = await make(Provider(images=[PNG, b"<html>", PNG]))
    event = job(n=4)
    await generator.calls.make_all(event)

    generated = await settled(generator.bus, ImageGenerated, 2)
    assert [e.index for e in generated if isinstance(e, ImageGenerated)] == [0, 2]
    failed = await settled(generator.bus, ImageFailed, 2)
    assert {(e.index, e.code) for e in failed if isinstance(e, ImageFailed)} == {
        (1, "invalid_image"),
        (3, "missing_image"),
    }


async def test_a_paid_image_waits_for_the_object_store(make: Make) -> None:
    class Flaky(MemoryBlobs):
        failures: list[PixorlyError]

        @override
        async def put(self, *args: object, **kwargs: object) -> None:
            if self.failures:
                raise self.failures.pop(0)
            await super().put(*args, **kwargs)  # type: ignore[arg-type]

    generator = await make()
    blobs = Flaky()
    blobs.failures = [OutageError("s3"), StorageUnavailable(), OutageError("s3")]
    generator.calls._blobs = blobs
    await generator.calls.make_all(job())

    assert len(blobs.objects) == 1
    assert len(generator.provider.requests) == 1
    assert len(await settled(generator.bus, ImageGenerated, 1)) == 1


async def test_a_settled_job_is_never_bought(make: Make) -> None:
    generator = await make()
    event = job()
    await generator.calls.close(event.job_id)
    await generator.calls.make_all(event)

    assert generator.provider.requests == []


async def test_a_job_settled_in_mid_call_takes_no_result_but_counts_its_cost(make: Make) -> None:
    generator = await make(Provider(gate=asyncio.Event()))
    event = job()
    making = asyncio.create_task(generator.calls.make_all(event))
    while not generator.provider.requests:
        await asyncio.sleep(0.01)
    await generator.calls.close(event.job_id)
    assert generator.provider.gate
    generator.provider.gate.set()
    await making

    assert generator.bus.of(ImageGenerated) == []
    assert tuple(await generator.row("select late, cost_usd from attempts")) == (True, Decimal("0.039"))


async def test_a_job_past_its_deadline_is_not_bought(make: Make) -> None:
    generator = await make()
    await generator.calls.make_all(job(deadline=utcnow() - timedelta(seconds=1)))

    assert generator.provider.requests == []


async def test_used_up_retries_fail_what_is_open_only(make: Make) -> None:
    generator = await make()
    event = job(n=2, model="sandbox/mosaic")
    await generator.calls.make_all(replace_calls(event, 0))
    await generator.calls.give_up(event, "provider_timeout")

    failed = await settled(generator.bus, ImageFailed, 1)
    assert [(e.index, e.code) for e in failed if isinstance(e, ImageFailed)] == [(1, "provider_timeout")]


def replace_calls(event: JobCreated, *numbers: int) -> JobCreated:
    return event.model_copy(update={"calls": tuple(event.calls[number] for number in numbers)})


async def test_a_call_that_kills_its_process_again_and_again_is_given_up(make: Make) -> None:
    generator = await make()
    event = job()
    await generator.calls.make_all(event)
    connection = await asyncpg.connect(generator.url)
    await connection.execute("update calls set state = 'open', attempts = 12, images = '[]'")
    await connection.close()
    await generator.calls.make_all(event)

    failed = await settled(generator.bus, ImageFailed, 1)
    assert [e.code for e in failed if isinstance(e, ImageFailed)] == ["internal_error"]
    assert len(generator.provider.requests) == 1


async def test_a_fallback_makes_the_image_when_the_model_is_away(make: Make) -> None:
    generator = await make(Provider(raises=[OutageError("provider:sandbox/sandbox/aurora")]))
    await generator.calls.make_all(job(fallback_models=("sandbox/mosaic",)))

    assert [request.model.id for request in generator.provider.requests] == ["sandbox/aurora", "sandbox/mosaic"]
    assert (await generator.row("select model from attempts"))["model"] == "sandbox/mosaic"
    made = await settled(generator.bus, ImageGenerated, 1)
    assert [e.model for e in made if isinstance(e, ImageGenerated)] == ["sandbox/mosaic"]
    told = await settled(generator.bus, JobStarted, 2)
    assert [e.model for e in told if isinstance(e, JobStarted)] == ["sandbox/aurora", "sandbox/mosaic"]


async def test_a_model_that_there_is_no_key_for_fails_the_job_at_once(make: Make) -> None:
    generator = await make(Provider())
    await generator.calls.make_all(job(model="google/gemini-3.1-flash-image"))

    failed = await settled(generator.bus, ImageFailed, 1)
    assert [e.code for e in failed if isinstance(e, ImageFailed)] == ["model_unavailable"]


async def test_a_fallback_makes_the_image_where_there_is_no_key_for_the_model(make: Make) -> None:
    generator = await make(Provider())
    await generator.calls.make_all(job(model="google/gemini-3.1-flash-image", fallback_models=("sandbox/mosaic",)))

    made = await settled(generator.bus, ImageGenerated, 1)
    assert [e.model for e in made if isinstance(e, ImageGenerated)] == ["sandbox/mosaic"]


async def test_a_job_waits_for_a_model_that_is_away_though_its_fallback_is_gone(make: Make) -> None:
    generator = await make(Provider(raises=[OutageError("provider:sandbox/sandbox/aurora"), ModelUnavailable()]))
    event = job(fallback_models=("sandbox/mosaic",))
    with pytest.raises(OutageError):
        await generator.calls.make_all(event)
    await generator.calls.make_all(event)

    assert [request.model.id for request in generator.provider.requests] == [
        "sandbox/aurora",
        "sandbox/mosaic",
        "sandbox/aurora",
    ]
    assert len(await settled(generator.bus, ImageGenerated, 1)) == 1
