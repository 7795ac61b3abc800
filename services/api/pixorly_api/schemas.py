"""Request and response bodies: the public contract. Fields may be added, never renamed."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pixorly.events import Visibility
from pixorly.outcomes import Fault
from pixorly_api.fields import In, Out, Page, Text, not_blank

Status = Literal["pending", "processing", "uploading", "completed", "failed", "canceled"]

MAX_N: Final = 10
_METADATA_KEYS: Final = 16
ModelId = Annotated[Text, Field(min_length=1, max_length=128)]


class CreateGeneration(In):
    """What to draw."""

    model_config = ConfigDict(
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "model": "sandbox/aurora",
                    "prompt": "Northern lights over a quiet fjord",
                    "n": 2,
                    "width": 1024,
                    "height": 1024,
                }
            ]
        },
    )

    model: ModelId
    fallback_models: list[ModelId] = Field(default_factory=list, max_length=3)
    """What may make the images where the model is gone or away, in this order: other models that make the very same
    and cost no more. The price stays the first model's."""
    prompt: Annotated[Text, Field(min_length=1, max_length=32_000), AfterValidator(not_blank)]
    """At most as many code points as the server's setting allows: 4,000 by default."""
    n: int = Field(default=1, ge=1, le=MAX_N)
    width: int | None = Field(default=None, ge=1, le=65_536)
    height: int | None = Field(default=None, ge=1, le=65_536)
    aspect_ratio: Annotated[Text, Field(min_length=1, max_length=16)] | None = None
    quality: Annotated[Text, Field(min_length=1, max_length=32)] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    background: Literal["auto", "transparent", "opaque"] | None = None
    seed: int | None = Field(default=None, ge=0, le=2**32 - 1)
    deadline_s: int | None = Field(default=None, ge=1, le=86_400)
    """After how many seconds to give up and give the credits back; at most the server's own deadline."""
    visibility: Visibility = "private"
    """Who may read the images: their owner and whom they give a link, or everybody through the CDN."""
    metadata: dict[Annotated[Text, Field(min_length=1, max_length=64)], Annotated[Text, Field(max_length=512)]] = Field(
        default_factory=dict, max_length=_METADATA_KEYS
    )
    quote_id: Annotated[UUID, Field(strict=False)] | None = None
    """The quote whose price is to be kept to: `POST /v1/quotes` told it for this very order a while ago."""


class ChangeImage(In):
    """What to change of an image."""

    visibility: Visibility


class DeleteImages(In):
    """Which images to delete."""

    ids: list[UUID] = Field(min_length=1, max_length=100)


class FieldError(Out):
    """What is wrong with one field."""

    field: str
    message: str


class Problem(BaseModel):
    """Why a call was refused or failed (RFC 9457). `code` is stable; facts such as `needed_credits` stand beside it."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:pixorly:error:insufficient_credits",
                    "title": "There are not enough credits for this job.",
                    "status": 402,
                    "detail": "There are not enough credits for this job.",
                    "code": "insufficient_credits",
                    "request_id": "0199b1f4-6f0e-7c1e-8a53-0d5d5f0b9a11",
                    "needed_credits": 10,
                    "available_credits": 4,
                }
            ]
        },
    )

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[FieldError] | None = None


class ImageOut(Out):
    """An image of a job, with links."""

    id: UUID
    index: int
    model: str
    """The one that made it: the job's, or one of its fallbacks."""
    visibility: Visibility
    moving: bool
    """Whether it is still on its way to where its visibility wants it."""
    url: str
    url_expires_at: datetime | None
    thumbnails: dict[str, str]
    width: int
    height: int
    bytes: int
    content_type: str
    sha256: str
    thumbhash: str


class StoredImageOut(ImageOut):
    """An image by itself."""

    object: Literal["image"] = "image"
    generation_id: UUID
    created_at: datetime


class DeletedImages(Out):
    """What became of a call to delete images."""

    deleted: list[UUID]
    """Those that are gone now, or were before."""
    not_found: list[UUID]


class FailureOut(Out):
    """Why one image could not be delivered."""

    index: int
    code: str
    message: str
    fault: Fault
    stage: str


class SlotOut(Out):
    """How far one image is."""

    index: int
    image_id: UUID
    state: Literal["pending", "generated", "uploaded", "failed"]


class GenerationOut(Out):
    """A job."""

    id: UUID
    object: Literal["generation"] = "generation"
    status: Status
    model: str
    """The one that was asked for."""
    fallback_models: list[str]
    models_used: list[str]
    """Those that made its images."""
    prompt: str
    n: int
    visibility: Visibility
    params: dict[str, Any]
    credits_used: int
    credits_refunded: int
    created_at: datetime
    deadline: datetime
    started_at: datetime | None
    settled_at: datetime | None
    processing_time_ms: int | None
    retry_count: int
    images: list[ImageOut]
    failures: list[FailureOut]
    slots: list[SlotOut]
    metadata: dict[str, str]
    retry_of: UUID | None
    """The failed job that it is another try of."""


class Refusal(Out):
    """Why an order would be refused as things are."""

    code: str
    message: str


class Quote(Out):
    """What an order would cost, and what would come of it now."""

    quote_id: UUID
    """Give it with the order to pay this price."""
    expires_at: datetime
    model: str
    n: int
    params: dict[str, Any]
    credits_per_image: int
    credits: int
    credits_remaining: int
    """What there is now."""
    storage_bytes: int
    """The room that is kept for the images until their sizes are known."""
    expected_s: float
    """How long such a job typically takes."""
    refusals: list[Refusal]
    """Empty where it would be taken."""


class CreatedGenerationOut(GenerationOut):
    """A job as the call that made it answers."""

    credits_remaining: int


class GenerationList(Page[GenerationOut]):
    """Jobs, newest first."""


class ImageList(Page[StoredImageOut]):
    """Images, newest first."""


class TimelineEntry(Out):
    """Something that happened to a job."""

    at: datetime
    what: str
    index: int | None = None
    """The image, or for the stage `generate` the provider call."""
    stage: str | None = None
    attempt: int | None = None
    provider: str | None = None
    model: str | None = None
    code: str | None = None
    message: str | None = None
    delay_s: float | None = None


class StreamToken(Out):
    """What opens the streams of its user, as `?token=…`."""

    token: str
    expires_at: datetime


class Timeline(Out):
    """What happened to a job, in order."""

    generation_id: UUID
    trace_id: str | None
    data: list[TimelineEntry]


class Paid(Out):
    """What became of the credits of one image."""

    index: int
    image_id: UUID
    amount_credits: int
    code: str | None = None
    paid_by: Literal["user", "pixorly"] | None = None


class Movement(Out):
    """A transfer of a job's credits."""

    id: UUID
    kind: str
    from_account: str
    to_account: str
    amount_credits: int
    reason: str | None = None
    created_at: datetime


class Receipt(Out):
    """What a job took, and what became of it."""

    generation_id: UUID
    status: Literal["open", "settled", "voided"]
    amount_credits: int
    captured_credits: int
    refunded_credits: int
    created_at: datetime
    closed_at: datetime | None = None
    images: list[Paid]
    transfers: list[Movement]


class ModelOut(Out):
    """A model on offer."""

    id: str
    object: Literal["model"] = "model"
    name: str
    description: str
    credits_per_image: int
    """Where no quality is asked for."""
    quality_credits: dict[str, int]
    """The credits of an image by quality, for each of `qualities`."""
    max_n: int
    """The most images of one job."""
    min_px: int
    max_px: int
    default_width: int
    default_height: int
    aspect_ratios: dict[str, tuple[int, int]]
    output_formats: list[str]
    qualities: list[str]
    transparent: bool
    """Whether it can leave the background out."""
    seed: bool
    typical_s: float


class ModelList(Page[ModelOut]):
    """The models on offer."""


class OutcomeOut(Out):
    """What a code means."""

    code: str
    status: int
    fault: Fault | None
    refunded: bool
    retries: int
    message: str


class OutcomeList(Page[OutcomeOut]):
    """The table of outcomes."""


class Storage(Out):
    """Room in the bucket."""

    used_bytes: int
    reserved_bytes: int
    quota_bytes: int


class Expiring(Out):
    """Credits that expire."""

    grant_id: str
    credits: int
    expires_at: datetime


class Account(Out):
    """An account."""

    user_id: str
    plan: str
    credits_remaining: int
    storage: Storage
    status: Literal["active", "suspended"]
    expiring: list[Expiring] = Field(default_factory=list)


class Transaction(Out):
    """A change of a balance."""

    id: UUID
    kind: str
    amount_credits: int
    balance_credits: int
    job_id: UUID | None = None
    grant_id: str | None = None
    reason: str | None = None
    created_at: datetime


class TransactionList(Page[Transaction]):
    """Changes of a balance, newest first; the sum of all is the balance."""
