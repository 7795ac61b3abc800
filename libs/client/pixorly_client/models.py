"""What the API answers with, as typed values; members that this version does not know are kept."""

from datetime import date
from typing import Any, Final, Generic, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

T = TypeVar("T")

SETTLED: Final = frozenset({"completed", "failed", "canceled"})
"""The states of a job in which nothing more happens."""

_EXTENSIONS: Final = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}


class Answer(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())


class Image(Answer):
    """A stored image and its links.

    Attributes:
        model: The model that made it.
        url: A link to the bytes; it may expire at `url_expires_at`, and a fresh one comes with each read.
        thumbnails: Links to small versions, by the length of the long side in pixels.
        bytes: The size.
        sha256: The checksum of the bytes, in hexadecimal.
        visibility: Who may read it: `private` or `public`.
        moving: Whether it is still on its way to where its visibility wants it.
    """

    id: str
    index: int = 0
    model: str | None = None
    generation_id: str | None = None
    url: str
    url_expires_at: AwareDatetime | None = None
    thumbnails: dict[str, str] = Field(default_factory=dict)
    width: int | None = None
    height: int | None = None
    bytes: int | None = None
    content_type: str | None = None
    sha256: str | None = None
    thumbhash: str | None = None
    created_at: AwareDatetime | None = None
    visibility: str = "private"
    moving: bool = False

    @property
    def extension(self) -> str:
        """The ending of a file with these bytes, without the dot."""
        return _EXTENSIONS.get(self.content_type or "", "bin")


class DeletedImages(Answer):
    """What became of a call to delete images."""

    deleted: list[str]
    not_found: list[str]


class Failure(Answer):
    """An image that could not be delivered, and whose fault that is."""

    index: int
    code: str
    message: str = ""
    fault: str = "server"
    stage: str | None = None


class Slot(Answer):
    """How far one image is: `pending`, `generated`, `uploaded` or `failed`."""

    index: int
    image_id: str | None = None
    state: str


class Generation(Answer):
    """A job: what was asked for, how far it is, and what came of it.

    Attributes:
        status: `pending`, `processing`, `uploading`, and then one of `SETTLED`.
        credits_remaining: What the account had left; only in the answer that created the job.
    """

    id: str
    status: str
    model: str
    fallback_models: list[str] = Field(default_factory=list)
    prompt: str = ""
    n: int = 1
    params: dict[str, Any] = Field(default_factory=dict)
    credits_used: int = 0
    credits_refunded: int = 0
    credits_remaining: int | None = None
    created_at: AwareDatetime
    started_at: AwareDatetime | None = None
    settled_at: AwareDatetime | None = None
    processing_time_ms: int | None = None
    retry_count: int = 0
    images: list[Image] = Field(default_factory=list)
    failures: list[Failure] = Field(default_factory=list)
    slots: list[Slot] = Field(default_factory=list)
    metadata: dict[str, Any] = Field(default_factory=dict)

    @property
    def settled(self) -> bool:
        """Whether nothing more happens to it."""
        return self.status in SETTLED


class Page(Answer, Generic[T]):
    """A part of a list; `next_cursor` asks for the part after it, and is None at the end."""

    data: list[T]
    next_cursor: str | None = None


class Storage(Answer):
    """How much of an account's storage is taken."""

    used_bytes: int = 0
    reserved_bytes: int = 0
    quota_bytes: int = 0


class Account(Answer):
    """The caller's account."""

    user_id: str
    plan: str
    credits_remaining: int
    storage: Storage = Field(default_factory=Storage)
    status: str = "active"


class Transaction(Answer):
    """One movement of credits; `amount_credits` is negative where they left the account."""

    id: str
    kind: str
    amount_credits: int
    balance_credits: int | None = None
    job_id: str | None = None
    reason: str | None = None
    created_at: AwareDatetime


class Model(Answer):
    """A model on offer, what it costs, and what it makes."""

    id: str
    name: str = ""
    description: str = ""
    credits_per_image: int = 0
    quality_credits: dict[str, int] = Field(default_factory=dict)
    max_n: int | None = None
    min_px: int | None = None
    max_px: int | None = None
    default_width: int | None = None
    default_height: int | None = None
    aspect_ratios: dict[str, tuple[int, int]] = Field(default_factory=dict)
    output_formats: list[str] = Field(default_factory=list)
    qualities: list[str] = Field(default_factory=list)
    transparent: bool = False
    seed: bool = False
    typical_s: float | None = None


class TimelineEntry(Answer):
    """Something that happened to a job.

    Attributes:
        index: The image, or for the stage `generate` the provider call.
    """

    at: AwareDatetime
    what: str
    index: int | None = None
    stage: str | None = None
    attempt: int | None = None
    provider: str | None = None
    code: str | None = None
    message: str | None = None
    delay_s: float | None = None


class Timeline(Answer):
    """What happened to a job, in order."""

    generation_id: str
    trace_id: str | None = None
    data: list[TimelineEntry] = Field(default_factory=list)


class Paid(Answer):
    """What became of the credits of one image, and who paid."""

    index: int
    image_id: str | None = None
    amount_credits: int = 0
    code: str | None = None
    paid_by: str | None = None


class Receipt(Answer):
    """What a job took, and what became of it."""

    generation_id: str
    status: str
    amount_credits: int = 0
    captured_credits: int = 0
    refunded_credits: int = 0
    created_at: AwareDatetime | None = None
    closed_at: AwareDatetime | None = None
    images: list[Paid] = Field(default_factory=list)
    transfers: list[dict[str, Any]] = Field(default_factory=list)


class Times(Answer):
    """How long jobs took, in milliseconds, from created to settled."""

    count: int = 0
    average: int | None = None
    p50: int | None = None
    p95: int | None = None
    p99: int | None = None


class UsageLine(Answer):
    """What jobs came to: those of one day, month or model, or all of them.

    Attributes:
        success_rate: The share of the completed among those that ended by themselves, from 0 to 1.
        failures: How many images failed, by code.
    """

    day: date | None = None
    month: str | None = None
    model: str | None = None
    jobs: int = 0
    completed: int = 0
    failed: int = 0
    canceled: int = 0
    images: int = 0
    images_uploaded: int = 0
    credits_used: int = 0
    credits_refunded: int = 0
    retries: int = 0
    success_rate: float | None = None
    failures: dict[str, int] = Field(default_factory=dict)
    processing_time_ms: Times = Field(default_factory=Times)
    storage_bytes: int | None = None


class Usage(Answer):
    """What the caller used from one day to another, both included."""

    from_: date | None = Field(default=None, alias="from")
    to: date | None = None
    data: list[UsageLine] = Field(default_factory=list)
    totals: UsageLine = Field(default_factory=UsageLine)
