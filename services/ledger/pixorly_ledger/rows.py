"""The rows of the tables, as the rules need them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal, NamedTuple
from uuid import UUID

Place = Literal["issued", "available", "escrow", "revenue"]
"""The accounts that credits move between; `available` and `escrow` are the user's."""
Kind = Literal["grant", "purchase", "allowance", "expiry", "charge", "capture", "refund"]
GrantKind = Literal["grant", "purchase", "allowance"]
ChargeStatus = Literal["open", "settled", "voided"]
Outcome = Literal["completed", "failed", "canceled"]
ImageState = Literal["reserved", "stored", "released"]


@dataclass(slots=True)
class Account:
    """A user's account, as it was read: in most transactions locked for as long as they last.

    Attributes:
        version: Another one after every change of the row; known where charges need it.
    """

    user_id: str
    plan: str
    status: str
    balance_credits: int
    expiring_credits: int
    transfer_count: int
    used_bytes: int
    reserved_bytes: int
    takes_allowance: bool
    allowance_month: date
    allowance_credits: int
    version: int = 0


@dataclass(slots=True)
class Lot:
    """What is left of a grant that expires."""

    user_id: str
    lot_id: UUID
    grant_id: str
    granted_credits: int
    remaining_credits: int
    expired_credits: int
    expires_at: datetime


class Transfer(NamedTuple):
    """An amount that moves from one account to another."""

    id: UUID
    user_id: str
    seq: int | None
    kind: Kind
    from_account: Place
    to_account: Place
    amount_credits: int
    balance_credits: int | None
    job_id: UUID | None
    grant_id: str | None
    reason: str | None
    created_at: datetime


class Grant(NamedTuple):
    """What was given to a user."""

    user_id: str
    grant_id: str
    kind: GrantKind
    amount_credits: int
    balance_credits: int
    reason: str | None
    expires_at: datetime | None
    created_at: datetime


class GrantRequest(NamedTuple):
    """What a user is to be given, under an id of the giver's own."""

    grant_id: str
    amount_credits: int
    reason: str | None = None
    expires_at: datetime | None = None
    kind: GrantKind = "grant"


class Charge(NamedTuple):
    """What a job took from its user."""

    job_id: UUID
    status: ChargeStatus
    user_id: str | None
    plan: str | None
    amount_credits: int
    lot_credits: int
    balance_credits: int
    image_ids: list[UUID]
    created_at: datetime

    @property
    def image_credits(self) -> int:
        """What one image costs."""
        return self.amount_credits // max(1, len(self.image_ids))


class NewCharge(NamedTuple):
    """A charge as it is made, with its images and its transfer; a free job has none, and no place on the statement."""

    job_id: UUID
    user_id: str
    plan: str
    amount_credits: int
    lot_credits: int
    balance_credits: int
    images: Sequence[tuple[UUID, int]]
    transfer_id: UUID
    seq: int | None

    @property
    def status(self) -> ChargeStatus:
        """What it is as long as nobody has settled it."""
        return "open"


class Closing(NamedTuple):
    """How a charge ends."""

    job_id: UUID
    status: Literal["settled", "voided"]
    slot_codes: list[str | None] | None
    slot_refunded: list[bool] | None
    captured_credits: int
    refunded_credits: int
    outcome: Outcome | None
    model: str | None
    closed_at: datetime


class Draw(NamedTuple):
    """What a charge took out of a lot."""

    job_id: UUID
    ordinal: int
    user_id: str
    lot_id: UUID
    amount_credits: int


class Return(NamedTuple):
    """What a refund put back into a lot."""

    job_id: UUID
    ordinal: int
    returned_credits: int


class Posting(NamedTuple):
    """All that is written with charges; accounts and lots as they are to be."""

    charges: Sequence[NewCharge]
    accounts: Sequence[Account]
    lots: Sequence[Lot]
    draws: Sequence[Draw]
    now: datetime


class Released(NamedTuple):
    """An image that takes no room any more, and what it took."""

    image_id: UUID
    user_id: str
    state: str
    bytes: int


@dataclass(slots=True)
class UsageDay:
    """What a user's jobs of one day and model came to."""

    jobs: int = 0
    completed: int = 0
    failed: int = 0
    canceled: int = 0
    images: int = 0
    images_uploaded: int = 0
    credits_charged: int = 0
    credits_captured: int = 0
    credits_refunded: int = 0
    retries: int = 0
    processed: int = 0
    processing_time_ms: int = 0


UsageKey = tuple[str, date, str]
"""User, day and model."""
UsageDays = Mapping[UsageKey, UsageDay]


class Scope(NamedTuple):
    """What a report is about.

    Attributes:
        user_id: None for all users.
        first: The first day.
        last: The last day, which is in it.
        dimensions: What to add up by: `user`, `day`, `month`, `model`; by nothing where empty.
    """

    user_id: str | None
    first: date
    last: date
    dimensions: list[str]
