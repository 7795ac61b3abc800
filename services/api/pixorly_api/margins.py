"""What was earned and what it cost us upstream, by month and model."""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

from pixorly_api.admin_schemas import Margin

_NOTHING: Final[Mapping[str, Any]] = {}


def margins(
    usage: Iterable[Mapping[str, Any]], costs: Iterable[Mapping[str, Any]], credit_usd: Decimal
) -> list[Margin]:
    """Return a line for each month and model that earned or cost something, in their order.

    Args:
        usage: The ledger's usage by model and month: what was captured is revenue.
        costs: The generator's costs by month, provider and model.
        credit_usd: What a credit is sold for.
    """
    earned = {(str(line["month"]), str(line["model"])): line for line in usage}
    spent: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for line in costs:
        spent.setdefault((str(line["month"]), str(line["model"])), []).append(line)
    return [
        _margin(key, earned.get(key, _NOTHING), spent.get(key, []), credit_usd) for key in sorted({*earned, *spent})
    ]


def total(lines: Iterable[Margin]) -> Margin:
    """Return what all lines come to."""
    rows = list(lines)
    revenue, cost = (
        sum((Decimal(getattr(row, name)) for row in rows), Decimal(0)) for name in ("revenue_usd", "cost_usd")
    )
    return Margin(
        month="all",
        model="all",
        **{name: sum(getattr(row, name) for row in rows) for name in _COUNTS},
        revenue_usd=_usd(revenue),
        cost_usd=_usd(cost),
        margin_usd=_usd(revenue - cost),
        margin_share=_share(revenue, cost),
    )


_COUNTS: Final = ("jobs", "images_uploaded", "credits_captured", "provider_calls", "unpriced_calls")


def _share(revenue: Decimal, cost: Decimal) -> float | None:
    return round(float((revenue - cost) / revenue), 4) if revenue else None


def _margin(
    key: tuple[str, str], earned: Mapping[str, Any], spent: list[Mapping[str, Any]], credit_usd: Decimal
) -> Margin:
    captured = int(earned.get("credits_captured", 0))
    revenue = captured * credit_usd
    cost = sum((Decimal(str(line["cost_usd"])) for line in spent), Decimal(0))
    return Margin(
        month=key[0][:7],
        model=key[1],
        jobs=earned.get("jobs", 0),
        images_uploaded=earned.get("images_uploaded", 0),
        credits_captured=captured,
        revenue_usd=_usd(revenue),
        provider_calls=sum(line["calls"] for line in spent),
        unpriced_calls=sum(line["unpriced_calls"] for line in spent),
        cost_usd=_usd(cost),
        margin_usd=_usd(revenue - cost),
        margin_share=_share(revenue, cost),
    )


def _usd(amount: Decimal) -> str:
    """Return dollars as text, without zeros at their end."""
    return f"{amount.normalize():f}" if amount else "0"
