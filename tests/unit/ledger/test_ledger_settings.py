"""The ledger's settings: plans above all."""

import pytest
from pydantic import ValidationError

from pixorly_ledger.settings import LedgerSettings


def settings(**given: object) -> LedgerSettings:
    return LedgerSettings(ledger_database_url="postgresql://x", service_token="long-enough", **given)  # type: ignore[arg-type]


def test_the_plans_are_those_of_the_design() -> None:
    plans = {name: (plan.quota_bytes, plan.allowance_credits) for name, plan in settings().plans.items()}

    assert plans == {
        "free": (1_000_000_000, 50),
        "pro": (100_000_000_000, 2_000),
        "enterprise": (500_000_000_000, 20_000),
    }


def test_a_setting_for_one_plan_leaves_the_others() -> None:
    changed = settings(plans={"pro": {"quota_bytes": 5, "allowance_credits": 7}}).plans

    assert (changed["pro"].quota_bytes, changed["free"].allowance_credits) == (5, 50)


@pytest.mark.parametrize("plans", [{"pro": {"quota_bytes": -1, "allowance_credits": 7}}, {"pro": {"quota_bytes": 1}}])
def test_a_plan_that_makes_no_sense_is_refused(plans: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        settings(plans=plans)


def test_there_is_no_ledger_without_a_service_token() -> None:
    with pytest.raises(ValidationError):
        LedgerSettings(ledger_database_url="postgresql://x", service_token="")


def test_secrets_are_not_shown() -> None:
    assert "long-enough" not in repr(settings())
