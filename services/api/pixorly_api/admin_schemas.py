"""Request and response bodies of the operator's calls."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import ConfigDict, Field

from pixorly_api.fields import In, Moment, Name, Out, Page, Scope, Text
from pixorly_api.schemas import Account


class AdminAccount(Account):
    """An account as the operator sees it."""

    allowance: bool | None = None


class AccountList(Page[AdminAccount]):
    """Accounts, by user id."""


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
