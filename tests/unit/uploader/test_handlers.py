"""What the uploader does with events, on blobs in memory and a ledger in memory."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal
from uuid import UUID

import pytest
from pictures import encoded, picture
from typing_extensions import override

from pixorly.blobs import MemoryBlobs
from pixorly.budget import Budget
from pixorly.delivery import Delivery, Fail
from pixorly.errors import InvalidImage, OutageError, StagedBytesMissing, StorageUnavailable
from pixorly.events import ImageDeleted, ImageGenerated, ImageMoving, ImageUploaded, ImageVacated, StoredKeys
from pixorly.formats.limits import Limits
from pixorly.keys import moved_keys
from pixorly_uploader.cdn import Cdn
from pixorly_uploader.handlers import Uploader, delete_image, fail_image, move_image, store_image
from pixorly_uploader.images import Recipe
from pixorly_uploader.ledger import Ledger
from pixorly_uploader.workshop import Workshop

JOB, IMAGE = UUID(int=7), UUID(int=70)
PREFIX = f"users/demo/{JOB}/2-{IMAGE}"
FIRST = Delivery()


class Diary:
    """What was done, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []


class RecordingBlobs(MemoryBlobs):
    def __init__(self, diary: Diary) -> None:
        super().__init__()
        self.diary = diary
        self.fails_on = ""
        self.pause_s = 0.0
        self.putting = self.most_at_once = 0

    @override
    async def put(
        self,
        key: str,
        data: bytes,
        *,
        content_type: str,
        cache_control: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.diary.lines.append(f"put {key}")
        self.putting += 1
        self.most_at_once = max(self.most_at_once, self.putting)
        try:
            await asyncio.sleep(self.pause_s)
            if self.fails_on and key.endswith(self.fails_on):
                raise StorageUnavailable
            await super().put(key, data, content_type=content_type, cache_control=cache_control, metadata=metadata)
        finally:
            self.putting -= 1

    @override
    async def delete(self, keys: Sequence[str]) -> None:
        self.diary.lines.append(f"delete {' '.join(keys)}")
        await super().delete(keys)


class FakeLedger(Ledger):
    def __init__(self, diary: Diary) -> None:
        self.diary = diary
        self.state: Literal["stored", "closed"] = "stored"
        self.is_away = False
        self.stored_bytes: dict[UUID, int] = {}

    @override
    async def true_up(
        self, image_id: UUID, *, size_bytes: int, user_id: str, job_id: UUID
    ) -> Literal["stored", "closed"]:
        if self.is_away:
            raise OutageError("ledger")
        assert (user_id, job_id) == ("demo", JOB)
        self.diary.lines.append("true up")
        self.stored_bytes[image_id] = size_bytes
        return self.state

    @override
    async def release(self, image_ids: Sequence[UUID]) -> None:
        if self.is_away:
            raise OutageError("ledger")
        self.diary.lines.append("release")
        for image_id in image_ids:
            self.stored_bytes.pop(image_id, None)


class World:
    """An uploader, and everything around it."""

    def __init__(self) -> None:
        self.diary = Diary()
        self.blobs = RecordingBlobs(self.diary)
        self.ledger = FakeLedger(self.diary)
        self.workshop = Workshop(Limits(), threads=2)
        self.uploader = Uploader(
            blobs=self.blobs,
            ledger=self.ledger,
            workshop=self.workshop,
            staged=Budget(1 << 20),
            max_bytes=1 << 20,
            recipe=Recipe(),
        )

    def staged(self, data: bytes, **changes: Any) -> ImageGenerated:
        """Return the event for an image that lies in staging."""
        key = f"staging/{JOB}/2-x"
        self.blobs.objects[key] = data
        facts: dict[str, Any] = {
            "index": 2,
            "image_id": IMAGE,
            "staged_key": key,
            "content_type": "text/html",
            "sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
            "model": "sandbox/aurora",
        }
        return ImageGenerated.of(JOB, "demo", **{**facts, **changes})

    def stored(self) -> list[str]:
        return sorted(key for key in self.blobs.objects if not key.startswith("staging/"))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    world.workshop.close()


PNG = encoded(picture(900, 600), "PNG")


async def test_an_image_is_stored_with_its_thumbnails_under_one_prefix(world: World) -> None:
    event = await store_image(world.uploader, world.staged(PNG), FIRST)

    assert isinstance(event, ImageUploaded)
    assert world.stored() == [f"{PREFIX}.png", f"{PREFIX}_256.webp", f"{PREFIX}_768.webp"]
    assert event.keys.original == f"{PREFIX}.png"
    assert event.keys.thumbnails == {"256": f"{PREFIX}_256.webp", "768": f"{PREFIX}_768.webp"}
    assert world.blobs.objects[event.keys.original] == PNG
    assert (event.width, event.height, event.bytes, event.content_type) == (900, 600, len(PNG), "image/png")
    assert event.sha256 == hashlib.sha256(PNG).hexdigest()
    assert event.thumbnail_bytes == sum(len(world.blobs.objects[key]) for key in event.keys.thumbnails.values())


async def test_the_type_comes_from_the_bytes_and_the_attributes_say_whose_they_are(world: World) -> None:
    await store_image(world.uploader, world.staged(encoded(picture(), "JPEG")), FIRST)

    assert world.blobs.attributes[f"{PREFIX}.jpg"] == {
        "Content-Type": "image/jpeg",
        "Cache-Control": "private, max-age=31536000, immutable",
        "job-id": str(JOB),
        "index": "2",
    }
    assert world.blobs.attributes[f"{PREFIX}_256.webp"]["Content-Type"] == "image/webp"


async def test_the_bytes_are_counted_before_they_are_stored(world: World) -> None:
    event = await store_image(world.uploader, world.staged(PNG), FIRST)

    assert event
    assert world.diary.lines[0] == "true up"
    assert world.ledger.stored_bytes == {IMAGE: event.bytes + event.thumbnail_bytes}


async def test_a_closed_image_is_not_stored(world: World) -> None:
    world.ledger.state = "closed"

    assert await store_image(world.uploader, world.staged(PNG), FIRST) is None
    assert world.stored() == []


async def test_a_repeat_gives_the_same_keys_bytes_and_event_id(world: World) -> None:
    event = world.staged(PNG)

    first = await store_image(world.uploader, event, FIRST)
    objects = dict(world.blobs.objects)
    second = await store_image(world.uploader, event, Delivery(attempt=2, redelivered=True))

    assert first
    assert second
    assert second.model_copy(update={"occurred_at": first.occurred_at}) == first
    assert world.blobs.objects == objects


async def test_originals_and_thumbnails_are_put_at_once(world: World) -> None:
    world.blobs.pause_s = 0.01

    await store_image(world.uploader, world.staged(PNG), FIRST)

    assert world.blobs.most_at_once == 3


@pytest.mark.parametrize("key", [".png", "_256.webp"])
async def test_one_object_that_fails_is_tried_again_when_the_others_are_done(world: World, key: str) -> None:
    world.blobs.fails_on = key
    world.blobs.pause_s = 0.01

    with pytest.raises(StorageUnavailable):
        await store_image(world.uploader, world.staged(PNG), FIRST)

    assert world.blobs.putting == 0
    assert len(world.stored()) == 2


async def test_missing_staged_bytes_fail_the_image(world: World) -> None:
    event = world.staged(PNG)
    await world.blobs.delete([event.staged_key])

    with pytest.raises(StagedBytesMissing):
        await store_image(world.uploader, event, FIRST)


async def test_other_bytes_than_announced_fail_the_image(world: World) -> None:
    event = world.staged(PNG)
    world.blobs.objects[event.staged_key] = encoded(picture(), "PNG")

    with pytest.raises(StagedBytesMissing, match="not those that were announced"):
        await store_image(world.uploader, event, FIRST)
    assert world.ledger.stored_bytes == {}


async def test_a_hostile_image_is_refused_before_it_costs_anything(world: World) -> None:
    with pytest.raises(InvalidImage):
        await store_image(world.uploader, world.staged(b"<svg onload='alert(1)'/>"), FIRST)

    assert world.diary.lines == []


async def test_an_image_with_too_many_bytes_is_not_even_fetched(world: World) -> None:
    event = world.staged(PNG, bytes=(1 << 20) + 1, staged_key="staging/not-there")

    with pytest.raises(InvalidImage, match="1048577 bytes"):
        await store_image(world.uploader, event, FIRST)


async def test_a_ledger_that_is_away_stores_nothing(world: World) -> None:
    world.ledger.is_away = True

    with pytest.raises(OutageError):
        await store_image(world.uploader, world.staged(PNG), FIRST)

    assert world.stored() == []


async def test_a_final_failure_fails_the_slot_in_the_upload_stage(world: World) -> None:
    event = await fail_image(world.staged(PNG), Fail("invalid_image", "The image is cut off."))

    assert (event.index, event.image_id, event.job_id) == (2, IMAGE, JOB)
    assert (event.code, event.fault, event.stage) == ("invalid_image", "server", "upload")
    assert event.message == "The image is cut off."


def deletion(**changes: Any) -> ImageDeleted:
    facts: dict[str, Any] = {"image_id": IMAGE, "prefix": PREFIX, "reason": "user", "keys": ()}
    return ImageDeleted.of(JOB, "demo", **{**facts, **changes})


async def test_a_deletion_takes_everything_of_the_image_and_nothing_else(world: World) -> None:
    await store_image(world.uploader, world.staged(PNG), FIRST)
    other = f"users/demo/{JOB}/3-{UUID(int=71)}.png"
    world.blobs.objects |= {other: b"x", f"{PREFIX}_4096.webp": b"an older size"}

    await delete_image(world.uploader, deletion(), FIRST)

    assert world.stored() == [other]
    assert world.ledger.stored_bytes == {}
    assert [line.split()[0] for line in world.diary.lines[-2:]] == ["delete", "release"]


async def test_a_deletion_is_the_same_the_second_time(world: World) -> None:
    await store_image(world.uploader, world.staged(PNG), FIRST)

    await delete_image(world.uploader, deletion(), FIRST)
    await delete_image(world.uploader, deletion(), FIRST)

    assert world.stored() == []
    assert world.diary.lines[-2:] == ["release", "release"]


async def test_a_deletion_takes_keys_that_lie_elsewhere_if_they_are_the_images_own(world: World) -> None:
    public, foreign = f"public/{JOB}/2-{IMAGE}.png", "users/somebody/else.png"
    world.blobs.objects |= {public: b"x", foreign: b"y"}

    await delete_image(world.uploader, deletion(keys=(public, foreign)), FIRST)

    assert world.stored() == [foreign]


@pytest.mark.parametrize(
    "prefix", ["", "users/", "users/demo", f"users/demo/{JOB}/", f"users/demo/{JOB}", f"x/2-{IMAGE}"]
)
async def test_a_deletion_that_reaches_too_far_is_refused(world: World, prefix: str) -> None:
    await store_image(world.uploader, world.staged(PNG), FIRST)

    with pytest.raises(ValueError):
        await delete_image(world.uploader, deletion(prefix=prefix), FIRST)

    assert len(world.stored()) == 3


def moving(source: StoredKeys, move: int = 1, **changes: Any) -> ImageMoving:
    visibility = "private" if source.original.startswith("public/") else "public"
    facts: dict[str, Any] = {
        "index": 2,
        "image_id": IMAGE,
        "move": move,
        "source": source,
        "target": moved_keys(source, PREFIX, visibility, move),
        "content_type": "image/png",
        "bytes": 10_000,
    }
    return ImageMoving.of(JOB, "demo", **{**facts, **changes})


OWN = StoredKeys(original=f"{PREFIX}.png")


def vacated(keys: StoredKeys, move: int = 1) -> ImageVacated:
    return ImageVacated.of(JOB, "demo", image_id=IMAGE, move=move, keys=tuple(keys.all()))


async def test_a_public_image_is_stored_where_everybody_may_read_it(world: World) -> None:
    stored = await store_image(world.uploader, world.staged(PNG, visibility="public"), FIRST)

    assert stored
    assert stored.keys.original == f"public/{PREFIX}.png"
    assert world.stored() == sorted(stored.keys.all())
    assert {world.blobs.attributes[key]["Cache-Control"] for key in world.stored()} == {
        "public, max-age=31536000, immutable"
    }


async def test_a_move_copies_and_leaves_the_old_until_it_is_told_to_clear_up(world: World) -> None:
    stored = await store_image(world.uploader, world.staged(PNG), FIRST)
    assert stored
    event = moving(stored.keys)

    for _ in range(2):
        moved = await move_image(world.uploader, event, FIRST)
        assert moved
        assert moved.move == 1
        assert world.stored() == sorted([*event.source.all(), *event.target.all()])
    for _ in range(2):
        assert await move_image(world.uploader, vacated(event.source), FIRST) is None
        assert world.stored() == sorted(event.target.all())

    assert event.target.original == f"public/{PREFIX}-1.png"
    assert world.blobs.objects[event.target.original] == PNG
    assert world.blobs.attributes[event.target.original] == {
        "Content-Type": "image/png",
        "Cache-Control": "public, max-age=31536000, immutable",
        "job-id": str(JOB),
        "index": "2",
    }
    assert {world.blobs.attributes[key]["Content-Type"] for key in event.target.thumbnails.values()} == {"image/webp"}


async def test_a_way_back_ends_under_a_name_that_was_never_used(world: World) -> None:
    stored = await store_image(world.uploader, world.staged(PNG, visibility="public"), FIRST)
    assert stored
    there = moving(stored.keys)
    back = moving(there.target, 2)

    assert there.target.original == f"{PREFIX}-1.png"
    assert back.target.original == f"public/{PREFIX}-2.png"
    assert back.target.thumbnails["256"] == f"public/{PREFIX}-2_256.webp"


async def test_an_old_move_that_comes_again_does_nothing(world: World) -> None:
    stored = await store_image(world.uploader, world.staged(PNG), FIRST)
    assert stored
    first = moving(stored.keys)
    await move_image(world.uploader, first, FIRST)
    await move_image(world.uploader, vacated(first.source), FIRST)

    assert await move_image(world.uploader, first, FIRST) is None
    assert world.stored() == sorted(first.target.all())


async def test_a_move_of_something_else_is_put_aside(world: World) -> None:
    foreign = StoredKeys(original=f"users/demo/{JOB}/9-{UUID(int=9)}.png")
    with pytest.raises(ValueError, match="not its own"):
        await move_image(world.uploader, moving(OWN, target=foreign), FIRST)
    with pytest.raises(ValueError, match="not its own"):
        await move_image(world.uploader, vacated(foreign), FIRST)


async def test_a_deletion_takes_the_public_part_too_and_has_the_cdn_forget_it(world: World) -> None:
    stored = await store_image(world.uploader, world.staged(PNG, visibility="public"), FIRST)
    assert stored
    cdn = MemoryCdn()
    event = deletion()

    for _ in range(2):
        await delete_image(replace(world.uploader, cdn=cdn), event, FIRST)

    assert world.stored() == []
    assert cdn.asked[0] == (sorted(stored.keys.all()), event.event_id)


class MemoryCdn(Cdn):
    def __init__(self) -> None:
        self.asked: list[tuple[list[str], UUID]] = []

    @override
    async def open(self) -> None:
        return

    @override
    async def close(self) -> None:
        return

    @override
    async def forget(self, keys: Sequence[str], reference: UUID) -> None:
        self.asked.append((list(keys), reference))
