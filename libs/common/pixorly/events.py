"""Every event: the table of contents of the system.

An event is a fact: it happened, it never changes. Its id follows from what it is about, so a repeat has the same id.
Adding an optional field is no new version; readers ignore what they do not know. No event carries image bytes.
"""

from datetime import UTC, datetime
from typing import Any, ClassVar, Final, Literal, Self
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from pixorly.ids import derived_id

UserId = str
Stage = Literal["generate", "upload", "settle"]
Visibility = Literal["private", "public"]


def utcnow() -> datetime:
    """Return the time now, in UTC."""
    return datetime.now(UTC)


class Event(BaseModel):
    """A fact about one job."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    type: ClassVar[str]
    """The stable name: also the routing key and the AMQP `type`."""
    schema_version: ClassVar[int] = 1
    identity: ClassVar[tuple[str, ...]] = ()
    """Which fields, besides job and type, tell one event of this type from another of the same job."""

    event_id: UUID
    occurred_at: AwareDatetime
    job_id: UUID
    user_id: UserId = Field(min_length=1, max_length=128)

    @classmethod
    def of(cls, job_id: UUID, user_id: UserId, *, occurred_at: datetime | None = None, **fields: Any) -> Self:
        """Return the event with the id that follows from its job, its type and its `identity` fields."""
        event_id = derived_id(job_id, cls.type, *(fields.get(name, 0) for name in cls.identity))
        return cls(event_id=event_id, occurred_at=occurred_at or utcnow(), job_id=job_id, user_id=user_id, **fields)

    def to_json(self) -> bytes:
        """Return the body as it travels."""
        return self.model_dump_json().encode()


class Frozen(BaseModel):
    """A part of an event."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class ImageParams(Frozen):
    """What was asked of the images, besides model, prompt and number; None is the model's default."""

    width: int
    height: int
    aspect_ratio: str | None = None
    quality: str | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    background: Literal["auto", "transparent", "opaque"] | None = None
    seed: int | None = None


class PlannedCall(Frozen):
    """One provider call of a job and the slots that it serves."""

    call_no: int = Field(ge=0)
    indexes: tuple[int, ...] = Field(min_length=1)


class SlotResult(Frozen):
    """How one slot of a settled job ended."""

    index: int = Field(ge=0)
    image_id: UUID
    state: Literal["uploaded", "failed"]
    code: str | None = None
    """The code in the table of outcomes, which says who pays; None for an uploaded slot."""
    stage: Stage | None = None


class StoredKeys(Frozen):
    """Where an image lies in the bucket."""

    original: str
    thumbnails: dict[str, str] = Field(default_factory=dict)
    """From the long side in pixels (as text) to the key."""

    def all(self) -> list[str]:
        """Return every key."""
        return [self.original, *self.thumbnails.values()]


class JobCreated(Event):
    """Credits are taken and the job is stored."""

    type = "job.created"

    model: str
    prompt: str
    params: ImageParams
    n: int = Field(ge=1, le=10)
    plan: str
    deadline: AwareDatetime
    image_ids: tuple[UUID, ...]
    calls: tuple[PlannedCall, ...]
    fallback_models: tuple[str, ...] = ()
    visibility: Visibility = "private"
    """Who may read the images, until their owner changes it."""


class JobStarted(Event):
    """The provider is about to be called."""

    type = "job.started"
    identity = ("call_no", "attempt")

    call_no: int = 0
    attempt: int = Field(ge=1)
    provider: str
    model: str | None = None


class JobRetrying(Event):
    """A transient failure was put on the ladder."""

    type = "job.retrying"
    identity = ("stage", "index", "attempt")

    stage: Stage
    index: int = 0
    attempt: int = Field(ge=1)
    """The attempt that failed."""
    delay_s: float
    code: str
    message: str = ""


class ImageGenerated(Event):
    """An image is staged: its bytes are durable."""

    type = "image.generated"
    identity = ("index",)

    index: int = Field(ge=0)
    image_id: UUID
    staged_key: str
    content_type: str
    sha256: str
    bytes: int = Field(ge=0)
    model: str | None = None
    prompt_revised: str | None = None
    visibility: Visibility = "private"
    """Who may read the image when it is stored, as job.created said."""


class ImageUploaded(Event):
    """Original and thumbnails are in the bucket."""

    type = "image.uploaded"
    identity = ("index",)

    index: int = Field(ge=0)
    image_id: UUID
    keys: StoredKeys
    bytes: int = Field(ge=0)
    """Of the original."""
    thumbnail_bytes: int = Field(default=0, ge=0)
    """Of all thumbnails together."""
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    content_type: str
    sha256: str
    thumbhash: str
    """Base64."""
    model: str | None = None
    """The one that made it, as image.generated said."""


class ImageFailed(Event):
    """A slot can't be delivered."""

    type = "image.failed"
    identity = ("index", "stage")

    index: int = Field(ge=0)
    image_id: UUID
    code: str
    message: str
    fault: Literal["server", "user"]
    stage: Stage


class JobSettled(Event):
    """Every slot of the job is terminal: what the three endings have in common."""

    type = "job.settled"

    model: str
    n: int
    credits_per_image: int = Field(ge=0)
    slots: tuple[SlotResult, ...]
    created_at: AwareDatetime
    started_at: AwareDatetime | None = None
    settled_at: AwareDatetime
    retry_count: int = 0


class JobCompleted(JobSettled):
    """The job is settled with at least one image."""

    type = "job.completed"


class JobFailed(JobSettled):
    """The job is settled without an image."""

    type = "job.failed"


class JobCanceled(JobSettled):
    """The job was canceled before it was started."""

    type = "job.canceled"


class ImageDeleted(Event):
    """The image was deleted by the user, or must not exist."""

    type = "image.deleted"
    identity = ("image_id",)

    image_id: UUID
    prefix: str
    """Everything of the image lies under it."""
    keys: tuple[str, ...] = ()
    reason: str


class ImageMoving(Event):
    """The image's visibility was changed: it is to be copied to where it belongs now."""

    type = "image.moving"
    identity = ("image_id", "move")

    index: int = Field(ge=0)
    image_id: UUID
    move: int = Field(ge=1)
    """Counts the moves of one image."""
    source: StoredKeys
    target: StoredKeys
    """Names that were never used before."""
    content_type: str
    """Of the original."""
    bytes: int = Field(ge=0)
    """Original and thumbnails together."""


class ImageMoved(Event):
    """The image lies at the target of a move, too."""

    type = "image.moved"
    identity = ("image_id", "move")

    image_id: UUID
    move: int = Field(ge=1)


class ImageVacated(Event):
    """The image lies elsewhere: what is left under these names must go. They are never used again."""

    type = "image.vacated"
    identity = ("image_id", "move")

    image_id: UUID
    move: int = Field(default=0, ge=0)
    """The move that left them behind; 0 for an upload that came again after the image had moved."""
    keys: tuple[str, ...] = Field(min_length=1)


EVENTS: Final[dict[str, type[Event]]] = {
    event.type: event
    for event in (
        JobCreated,
        JobStarted,
        JobRetrying,
        ImageGenerated,
        ImageUploaded,
        ImageFailed,
        JobCompleted,
        JobFailed,
        JobCanceled,
        ImageDeleted,
        ImageMoving,
        ImageMoved,
        ImageVacated,
    )
}
"""By type."""
