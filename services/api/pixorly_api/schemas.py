"""Request and response bodies: the public contract. Fields may be added, never renamed."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from pixorly.outcomes import Fault

Status = Literal["pending", "processing", "uploading", "completed", "failed", "canceled"]

Scope = Literal["generate", "read", "admin"]

USER_ID: Final = r"^[A-Za-z0-9_.@:-]{1,64}$"
"""A user id becomes a part of object keys."""
_METADATA_KEYS: Final = 16
_FIRST: Final = datetime(2000, 1, 1, tzinfo=UTC)
_LAST: Final = datetime(2200, 1, 1, tzinfo=UTC)


def _storable(text: str) -> str:
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("holds a character that can't be stored (NUL or half of a surrogate pair)")
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


def _with_plus(text: Any) -> Any:
    """Read the space that a bare plus becomes in an address as the plus that was meant."""
    return text.replace(" ", "+") if isinstance(text, str) else text


def _in_reach(time: datetime) -> datetime:
    if not _FIRST <= time <= _LAST:
        raise ValueError("must lie between the years 2000 and 2200")
    return time


Text = Annotated[str, AfterValidator(_storable)]
Moment = Annotated[AwareDatetime, BeforeValidator(_with_plus), AfterValidator(_in_reach)]
Name = Annotated[Text, Field(min_length=1, max_length=100)]


class In(BaseModel):
    """A request body: what it does not know it refuses."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Out(BaseModel):
    """A response body."""

    model_config = ConfigDict(extra="ignore")


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

    model: Annotated[Text, Field(min_length=1, max_length=128)]
    prompt: Annotated[Text, Field(min_length=1, max_length=32_000), AfterValidator(_not_blank)]
    """At most as many code points as the server's setting allows: 4,000 by default."""
    n: int = Field(default=1, ge=1, le=10)
    width: int | None = Field(default=None, ge=1, le=65_536)
    height: int | None = Field(default=None, ge=1, le=65_536)
    aspect_ratio: Annotated[Text, Field(min_length=1, max_length=16)] | None = None
    quality: Annotated[Text, Field(min_length=1, max_length=32)] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    background: Literal["auto", "transparent", "opaque"] | None = None
    seed: int | None = Field(default=None, ge=0, le=2**32 - 1)
    deadline_s: int | None = Field(default=None, ge=1, le=86_400)
    """After how many seconds to give up and give the credits back; at most the server's own deadline."""
    metadata: dict[Annotated[Text, Field(min_length=1, max_length=64)], Annotated[Text, Field(max_length=512)]] = Field(
        default_factory=dict, max_length=_METADATA_KEYS
    )


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
    model: str
    created_at: datetime


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
    prompt: str
    n: int
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


class CreatedGenerationOut(GenerationOut):
    """A job as the call that made it answers."""

    credits_remaining: int


class Page(Out):
    """What every list has."""

    next_cursor: str | None = None
    """Give it as `cursor` to get what follows; null at the end."""


class GenerationList(Page):
    """Jobs, newest first."""

    data: list[GenerationOut]


class ImageList(Page):
    """Images, newest first."""

    data: list[StoredImageOut]


class TimelineEntry(Out):
    """Something that happened to a job."""

    at: datetime
    what: str
    index: int | None = None
    """The image, or for the stage `generate` the provider call."""
    stage: str | None = None
    attempt: int | None = None
    provider: str | None = None
    code: str | None = None
    message: str | None = None
    delay_s: float | None = None


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
    quality_credits: dict[str, int]
    min_px: int
    max_px: int
    default_width: int
    default_height: int
    aspect_ratios: dict[str, tuple[int, int]]
    output_formats: list[str]
    qualities: list[str]
    seed: bool
    typical_s: float


class ModelList(Page):
    """The models on offer."""

    data: list[ModelOut]


class OutcomeOut(Out):
    """What a code means."""

    code: str
    status: int
    fault: Fault | None
    refunded: bool
    retries: int
    message: str


class OutcomeList(Page):
    """The table of outcomes."""

    data: list[OutcomeOut]


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


class AdminAccount(Account):
    """An account as the operator sees it."""

    allowance: bool | None = None


class AccountList(Page):
    """Accounts, by user id."""

    data: list[AdminAccount]


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


class TransactionList(Page):
    """Changes of a balance, newest first; the sum of all is the balance."""

    data: list[Transaction]


class PutUser(In):
    """What an account is to be; what is left out stays."""

    plan: Annotated[Text, Field(min_length=1, max_length=64)] | None = None
    status: Literal["active", "suspended"] | None = None
    allowance: bool | None = None
    """Whether the plan's monthly credits are given."""


class PostGrant(In):
    """Credits for a user."""

    amount_credits: int = Field(ge=1, le=10**12)
    reason: Annotated[Text, Field(max_length=500)] | None = None
    grant_id: Annotated[Text, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")] | None = None
    """A repeat with the same id gives nothing more."""
    expires_at: Moment | None = None
    kind: Literal["grant", "purchase"] = "grant"


class Grant(Out):
    """Credits that were given."""

    grant_id: str
    amount_credits: int
    balance_credits: int
    expires_at: datetime | None = None


class PostKey(In):
    """A key for a user."""

    name: Name = "default"
    scopes: tuple[Scope, ...] = Field(default=("generate", "read"), min_length=1, max_length=3)
    expires_at: Moment | None = None


class KeyOut(Out):
    """A key, without its secret."""

    id: UUID
    user_id: str
    name: str
    prefix: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class CreatedKey(KeyOut):
    """A key, this one time with its secret."""

    key: str


class KeyList(Page):
    """A user's keys, newest first."""

    data: list[KeyOut]


class Check(Out):
    """One thing that must add up."""

    model_config = ConfigDict(extra="allow")

    name: str
    ok: bool
    found: list[Any]


class Audit(Out):
    """Whether everything adds up."""

    model_config = ConfigDict(extra="allow")

    clean: bool
    checks: list[Check]
