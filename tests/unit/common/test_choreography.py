"""The choreography of a job in memory: trivial handlers, the real topology, delivery and events."""

import random
from dataclasses import dataclass, field
from typing import cast
from uuid import UUID

import pytest
from bus import MemoryBus
from samples import JOB, SAMPLES, USER

from pixorly.delivery import Delivery, Fail, Following, Subscription
from pixorly.errors import ContentRejected, ProviderUnavailable, StorageUnavailable
from pixorly.events import (
    Event,
    ImageDeleted,
    ImageFailed,
    ImageGenerated,
    ImageUploaded,
    JobCompleted,
    JobCreated,
    JobFailed,
    JobSettled,
    JobStarted,
    SlotResult,
    StoredKeys,
    utcnow,
)
from pixorly.outcomes import outcome_of
from pixorly.topology import QUEUES, queue_named

CREATED = cast("JobCreated", SAMPLES["job.created"])


@dataclass
class Toy:
    """The four services in a few lines each: enough to see that the events lead from one to the next.

    Attributes:
        generator_raises: What the generator meets, in order.
        uploader_raises: What the uploader meets, in order.
        slots: How each slot ended, the first word counting.
        settled: The events that settled the job at the ledger.
    """

    generator_raises: list[Exception] = field(default_factory=list)
    uploader_raises: list[Exception] = field(default_factory=list)
    slots: dict[int, SlotResult] = field(default_factory=dict)
    settled: dict[UUID, JobSettled] = field(default_factory=dict)
    deleted: set[UUID] = field(default_factory=set)

    def subscribe(self, bus: MemoryBus) -> None:
        bus.subscribe(
            Subscription(
                queue=queue_named("generator.generate_image"),
                handler=self.generate_image,
                on_failure=self.fail_job,
                stage="generate",
            ),
            Subscription(
                queue=queue_named("uploader.store_image"),
                handler=self.store_image,
                on_failure=self.fail_image,
                stage="upload",
            ),
        )
        bus.on("api.follow_job", self.follow_job)
        bus.on("ledger.settle_job", self.settle_job)
        bus.on("generator.close_job", self.close_job)
        bus.on("uploader.delete_image", self.delete_image)
        bus.subscribe(
            Subscription(
                queue=queue_named("api.settle_dead"), handler=self.settle_dead, reads=(JobCreated, ImageGenerated)
            )
        )

    async def generate_image(self, event: JobCreated, delivery: Delivery) -> Following:
        if self.generator_raises:
            raise self.generator_raises.pop(0)
        images = [
            ImageGenerated.of(
                event.job_id,
                event.user_id,
                index=index,
                image_id=image_id,
                staged_key=f"staging/{index}",
                content_type="image/png",
                sha256="0",
                bytes=1,
            )
            for index, image_id in enumerate(event.image_ids)
        ]
        return [JobStarted.of(event.job_id, event.user_id, attempt=delivery.attempt, provider="toy"), *images]

    async def fail_job(self, event: JobCreated, failure: Fail) -> Following:
        return [_failed(event, index, image_id, failure.code) for index, image_id in enumerate(event.image_ids)]

    async def store_image(self, event: ImageGenerated, _: Delivery) -> Following:
        if self.uploader_raises:
            raise self.uploader_raises.pop(0)
        return ImageUploaded.of(
            event.job_id,
            event.user_id,
            index=event.index,
            image_id=event.image_id,
            keys=StoredKeys(original=f"users/{event.index}"),
            bytes=event.bytes,
            width=1,
            height=1,
            content_type=event.content_type,
            sha256=event.sha256,
            thumbhash="",
        )

    async def fail_image(self, event: ImageGenerated, failure: Fail) -> Following:
        return _failed(event, event.index, event.image_id, failure.code)

    async def follow_job(self, event: Event) -> Following:
        if isinstance(event, ImageUploaded) and self._state(event.index) == "failed":
            return ImageDeleted.of(JOB, USER, image_id=event.image_id, prefix="users/", reason="slot_failed")
        if isinstance(event, ImageUploaded):
            self.slots.setdefault(event.index, _slot(event, "uploaded"))
        elif isinstance(event, ImageFailed):
            self.slots.setdefault(event.index, _slot(event, "failed", event.code))
        else:
            return None
        return self._settled()

    def _state(self, index: int) -> str | None:
        return self.slots[index].state if index in self.slots else None

    def _settled(self) -> Following:
        if len(self.slots) < CREATED.n:
            return None
        delivered = any(slot.state == "uploaded" for slot in self.slots.values())
        return (JobCompleted if delivered else JobFailed).of(
            JOB,
            USER,
            model=CREATED.model,
            n=CREATED.n,
            credits_per_image=5,
            slots=tuple(slot for _, slot in sorted(self.slots.items())),
            created_at=utcnow(),
            settled_at=utcnow(),
        )

    async def settle_job(self, event: JobSettled) -> Following:
        self.settled.setdefault(event.job_id, event)
        return None

    async def close_job(self, _: JobSettled) -> Following:
        return None

    async def delete_image(self, event: ImageDeleted) -> Following:
        self.deleted.add(event.image_id)
        return None

    async def settle_dead(self, event: Event, _: Delivery) -> Following:
        concerned = (
            list(enumerate(event.image_ids)) if isinstance(event, JobCreated) else [(event.index, event.image_id)]  # type: ignore[attr-defined]
        )
        for index, image_id in concerned:
            await self.follow_job(_failed(event, index, image_id, "internal_error"))
        return self._settled()


def _failed(event: Event, index: int, image_id: UUID, code: str) -> ImageFailed:
    return ImageFailed.of(
        event.job_id,
        event.user_id,
        index=index,
        image_id=image_id,
        code=code,
        message=outcome_of(code).message,
        fault=outcome_of(code).fault or "server",
        stage="generate",
    )


def _slot(event: ImageUploaded | ImageFailed, state: str, code: str | None = None) -> SlotResult:
    return SlotResult.model_validate(
        {"index": event.index, "image_id": event.image_id, "state": state, "code": code, "stage": None}
    )


async def perform(toy: Toy, bus: MemoryBus) -> JobSettled:
    """Create the job, let everything happen, and return how it was settled."""
    toy.subscribe(bus)
    await bus.publish(CREATED)
    await bus.run()
    return toy.settled[JOB]


async def test_a_job_goes_from_created_to_completed() -> None:
    bus = MemoryBus()

    settled = await perform(Toy(), bus)

    assert isinstance(settled, JobCompleted)
    assert [slot.state for slot in settled.slots] == ["uploaded", "uploaded"]
    assert bus.types == [
        "job.created",
        "job.started",
        "image.generated",
        "image.generated",
        "image.uploaded",
        "image.uploaded",
        "job.completed",
    ]
    assert bus.now_s == 0
    assert sum(bus.depth(queue.name) for queue in QUEUES) == 0


async def test_a_provider_that_fails_three_times_is_asked_after_two_six_and_fourteen_seconds() -> None:
    bus, toy = MemoryBus(), Toy(generator_raises=[ProviderUnavailable() for _ in range(3)])

    settled = await perform(toy, bus)

    assert isinstance(settled, JobCompleted)
    assert bus.attempts("generator.generate_image") == [(0, 2), (2, 3), (6, 4)]
    assert bus.now_s == 14
    assert bus.types.count("job.retrying") == 3


async def test_a_provider_that_fails_four_times_fails_the_job() -> None:
    bus, toy = MemoryBus(), Toy(generator_raises=[ProviderUnavailable() for _ in range(4)])

    settled = await perform(toy, bus)

    assert isinstance(settled, JobFailed)
    assert {slot.code for slot in settled.slots} == {"provider_unavailable"}
    assert bus.now_s == 14


async def test_rejected_content_fails_the_job_at_once() -> None:
    bus = MemoryBus()

    settled = await perform(Toy(generator_raises=[ContentRejected()]), bus)

    assert {slot.code for slot in settled.slots} == {"content_rejected"}
    assert bus.now_s == 0
    assert "job.retrying" not in bus.types


async def test_each_image_has_a_ladder_of_its_own() -> None:
    bus, toy = MemoryBus(), Toy(uploader_raises=[StorageUnavailable(), StorageUnavailable()])

    settled = await perform(toy, bus)

    assert isinstance(settled, JobCompleted)
    assert bus.attempts("uploader.store_image") == [(0, 2), (0, 2)]
    assert bus.now_s == 2


async def test_a_bug_in_the_uploader_settles_the_slot_in_the_users_favour_and_keeps_the_message() -> None:
    bus, toy = MemoryBus(), Toy(uploader_raises=[ZeroDivisionError()])

    settled = await perform(toy, bus)

    assert isinstance(settled, JobCompleted)
    assert sorted((slot.state, slot.code) for slot in settled.slots) == [
        ("failed", "internal_error"),
        ("uploaded", None),
    ]
    assert len(bus.dead("uploader.store_image")) == 1
    assert bus.depth("uploader.store_image.dead") == 1


@pytest.mark.parametrize("seed", range(20))
async def test_repeats_in_any_order_end_in_the_same_state(seed: int) -> None:
    chance = random.Random(seed)
    bus = MemoryBus(shuffle=chance, copies=chance.randint(1, 3))
    toy = Toy(
        generator_raises=[ProviderUnavailable()] * chance.randint(0, 2),
        uploader_raises=[StorageUnavailable()] * chance.randint(0, 2),
    )

    settled = await perform(toy, bus)

    assert isinstance(settled, JobCompleted)
    assert [slot.state for slot in settled.slots] == ["uploaded", "uploaded"]
    assert len({event.event_id for event in bus.events if isinstance(event, JobSettled)}) == 1
    assert toy.deleted == set()


async def test_an_image_that_comes_after_its_slot_failed_is_deleted() -> None:
    bus, toy = MemoryBus(), Toy()
    toy.subscribe(bus)
    await bus.publish(_failed(CREATED, 0, CREATED.image_ids[0], "deadline_exceeded"))
    await bus.publish(CREATED)

    await bus.run()

    assert toy.deleted == {CREATED.image_ids[0]}
    assert [slot.state for slot in toy.settled[JOB].slots] == ["failed", "uploaded"]


async def test_what_nobody_listens_to_stays_in_its_queue() -> None:
    bus = MemoryBus()

    await bus.publish(CREATED)
    await bus.run()

    assert bus.depth("generator.generate_image") == 1
    assert bus.depth("uploader.store_image") == 0
