"""Request and response bodies of the operator's calls."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import ConfigDict, Field, model_validator

from pixorly_api.fields import In, Moment, Name, Out, Page, Scope, Text
from pixorly_api.schemas import Account


class AdminAccount(Account):
    """An account as the operator sees it."""

    allowance: bool | None = None


class AccountList(Page[AdminAccount]):
    """Accounts, by user id."""


class PlanOut(Out):
    """What a plan gives."""

    plan: str
    quota_bytes: int
    allowance_credits: int
    """Given once per calendar month, to be used within it."""


class PlanList(Page[PlanOut]):
    """The plans."""


class PutUser(In):
    """What an account is to be; what is left out stays."""

    plan: Annotated[Text, Field(min_length=1, max_length=64)] | None = None
    status: Literal["active", "suspended"] | None = None
    allowance: bool | None = None
    """Whether the plan's monthly credits are given."""


class ErasureOut(Out):
    """How far the erasure of a user is."""

    user_id: str
    requested_at: Moment
    finished_at: Moment | None
    """When nothing was left but transfers."""
    images: int
    """How many were deleted."""
    jobs: int
    """How many prompts and notes were blanked."""


class PutPause(In):
    """A model or a provider that is to be paused, or to go on."""

    name: Annotated[Text, Field(min_length=1, max_length=128)]
    """A model's id, or the name of a provider."""
    paused: bool
    reason: Annotated[Text, Field(max_length=500)] = ""


class PauseOut(Out):
    """Something that is paused."""

    name: str
    reason: str
    since: Moment


class PauseList(Page[PauseOut]):
    """What is paused."""


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


_Number = Annotated[int, Field(ge=0, le=1_000_000, strict=True)]


class PutLimits(In):
    """What one user may do, other than the plan and the settings say; what is left out stays, null is taken back."""

    jobs_at_once: _Number | None = None
    """Jobs under way at a time; 0 is any number."""
    requests_per_minute: _Number | None = None
    """Requests of each of the user's keys in a minute; 0 is any number."""


class OverridesOut(Out):
    """What the operator said for one user; null is as for everybody."""

    jobs_at_once: int | None
    requests_per_minute: int | None


class UserLimits(Out):
    """What a user may do; 0 is any number."""

    user_id: str
    plan: str
    jobs_at_once: int
    """Jobs under way at a time."""
    jobs_under_way: int
    """Now."""
    requests_per_minute: int
    """Requests of each of the user's keys in a minute."""
    overrides: OverridesOut


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


class KeyList(Page[KeyOut]):
    """A user's keys, newest first."""


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


class Margin(Out):
    """What one model earned and cost in one month (UTC)."""

    month: str
    """`2026-01`: of the settlement for what was earned, of the provider call for what it cost."""
    model: str
    jobs: int
    images_uploaded: int
    credits_captured: int
    revenue_usd: str
    """The captured credits at the price that the server's setting `credit_usd` gives them."""
    provider_calls: int
    unpriced_calls: int
    """Calls for which the provider named no price, or whose process died before it could be noted."""
    cost_usd: str
    margin_usd: str
    margin_share: float | None
    """Of the revenue; null where there is none."""


class MarginList(Page[Margin]):
    """Revenue, upstream cost and margin, by month and model."""

    totals: Margin


class ProviderCall(Out):
    """One call of a provider, as it was recorded."""

    job_id: UUID
    call_no: int
    attempt: int
    provider: str
    model: str
    started_at: datetime
    ended_at: datetime | None
    """Null where the process died in the middle."""
    code: str | None
    late: bool
    cost_usd: str | None
    generation_id: str | None
    """The provider's id of it."""


class ProviderCallList(Page[ProviderCall]):
    """Provider calls, by job."""


class DeadQueue(Out):
    """How many messages of a work queue wait for a person."""

    queue: str
    waiting: int


class DeadLetterOut(Out):
    """A message that was put aside, without its body."""

    id: str
    queue: str
    """The work queue that it died in."""
    type: str | None
    job_id: UUID | None
    user_id: str | None
    reason: str
    attempt: int
    died_at: datetime | None
    size_bytes: int


class DeadList(Page[DeadLetterOut]):
    """Dead letters."""

    queues: list[DeadQueue]
    more: bool
    """Whether there may be more than were looked at."""


class DeadMessage(DeadLetterOut):
    """A message that was put aside."""

    headers: dict[str, str]
    body: str
    body_encoding: Literal["utf-8", "base64"]
    truncated: bool


class DeadMessages(Page[DeadMessage]):
    """Dead letters of one id."""


class SelectDead(In):
    """Which dead letters are meant: those that everything said here fits."""

    queue: Annotated[Text, Field(min_length=1, max_length=100)] | None = None
    message_ids: (
        Annotated[list[Annotated[Text, Field(min_length=1, max_length=100)]], Field(max_length=1000)] | None
    ) = None
    job_id: UUID | None = None
    reason: Annotated[Text, Field(min_length=1, max_length=300)] | None = None
    """A part of the reason."""
    all: bool = False
    """Needed where neither messages, a job nor a reason are named."""
    limit: int = Field(default=1000, ge=1, le=10_000)

    @model_validator(mode="after")
    def _says_which(self) -> Self:
        named = any(part is not None for part in (self.message_ids, self.job_id, self.reason))
        if named == self.all:
            raise ValueError("name `message_ids`, a `job_id` or a `reason`, or say `all`")
        return self


class HandledLetter(Out):
    """What became of a dead letter."""

    id: str
    queue: str
    job_id: UUID | None
    fate: Literal["replayed", "discarded"]
    why: Literal["settled", "unknown"] | None = None
    """Why it was discarded instead of replayed: its job is settled, or there is none."""


class HandledLetters(Page[HandledLetter]):
    """What became of dead letters."""

    more: bool
    """Whether there may be more that are meant."""
