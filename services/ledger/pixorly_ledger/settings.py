"""The ledger's settings."""

from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from pixorly.settings import AmqpSettings, ProcessSettings

GB: Final = 10**9


class Plan(BaseModel):
    """What a plan gives."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    quota_bytes: int = Field(ge=0)
    allowance_credits: int = Field(ge=0)
    """Given once per calendar month, to be used within it."""


PLANS: Final[Mapping[str, Plan]] = {
    "free": Plan(quota_bytes=1 * GB, allowance_credits=50),
    "pro": Plan(quota_bytes=100 * GB, allowance_credits=2_000),
    "enterprise": Plan(quota_bytes=500 * GB, allowance_credits=20_000),
}


_NO_PLAN: Final = Plan(quota_bytes=0, allowance_credits=0)


def plan_of(plans: Mapping[str, Plan], name: str) -> Plan:
    """Return what a plan gives; one that is not offered any more gives nothing."""
    return plans.get(name, _NO_PLAN)


def _with_defaults(given: object) -> object:
    """Let a setting that names one plan leave the others as they are."""
    return {**PLANS, **given} if isinstance(given, Mapping) else given


Plans = Annotated[dict[str, Plan], BeforeValidator(_with_defaults)]


class LedgerSettings(ProcessSettings, AmqpSettings):
    """What the ledger takes."""

    ledger_database_url: SecretStr
    service_token: SecretStr = Field(min_length=8)
    """What the other services show; they have the same setting."""
    service_token_also: SecretStr | None = Field(default=None, min_length=8)
    """Another one that is taken, too: the old one or the new one, while it is changed."""
    plans: Plans = Field(default_factory=lambda: dict(PLANS))
    """JSON; a plan that is left out keeps its default."""
    default_plan: str = "free"
    """The plan of an account that is opened without one; one of those above."""
    max_group: int = Field(default=256, ge=1)
    """The most charges, or settlements, that share a transaction."""
    upkeep_s: float = Field(default=15, gt=0)
    """How often to look for expired lots and allowances that are due."""
