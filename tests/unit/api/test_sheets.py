"""Reports as CSV, and what was earned beside what it cost."""

import csv
import io
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

from pixorly_api.margins import margins, total
from pixorly_api.sheets import long_sheet, sheet


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_what_is_nested_becomes_columns_and_what_a_row_lacks_stays_empty() -> None:
    rows = [{"day": "2026-01-01", "failures": {"no_image": 2}}, {"day": "2026-01-02", "failures": {}, "jobs": 1}]

    assert read(bytes(sheet(rows, "usage").body).decode()) == [
        {"day": "2026-01-01", "failures.no_image": "2", "jobs": ""},
        {"day": "2026-01-02", "failures.no_image": "", "jobs": "1"},
    ]


async def test_words_that_a_spreadsheet_would_run_are_words() -> None:
    async def pages() -> AsyncIterator[list[dict[str, Any]]]:
        yield [{"reason": '=HYPERLINK("x")', "amount_credits": -5}]
        yield [{"reason": 'two\nlines, "quoted"', "amount_credits": 5}]

    answer = long_sheet(pages(), ["reason", "amount_credits"], "transactions")
    text = "".join([str(part) async for part in answer.body_iterator])  # type: ignore[attr-defined]

    assert [(row["reason"], row["amount_credits"]) for row in read(text)] == [
        ('\'=HYPERLINK("x")', "-5"),
        ('two\nlines, "quoted"', "5"),
    ]
    assert answer.headers["content-disposition"] == 'attachment; filename="transactions.csv"'


def cost(month: str, model: str, usd: str, provider: str = "openrouter") -> dict[str, Any]:
    return {"month": month, "model": model, "provider": provider, "calls": 2, "unpriced_calls": 1, "cost_usd": usd}


def test_a_margin_is_what_was_captured_less_what_it_cost_to_the_last_digit() -> None:
    usage = [
        {"month": "2026-01-01", "model": "a", "jobs": 3, "images_uploaded": 2, "credits_captured": 24},
        {"month": "2026-02-01", "model": "a", "jobs": 1, "images_uploaded": 0, "credits_captured": 0},
    ]
    costs = [
        cost("2026-01-01", "a", "0.039"),
        cost("2026-01-01", "a", "0.0000001", "openai"),
        cost("2026-01-01", "b", "1"),
    ]

    lines = margins(usage, costs, Decimal("0.01"))

    shown = [(line.month, line.model, line.revenue_usd, line.cost_usd, line.margin_usd) for line in lines]
    assert shown == [
        ("2026-01", "a", "0.24", "0.0390001", "0.2009999"),
        ("2026-01", "b", "0", "1", "-1"),
        ("2026-02", "a", "0", "0", "0"),
    ]
    assert [line.margin_share for line in lines] == [0.8375, None, None]
    whole = total(lines)
    assert (whole.credits_captured, whole.provider_calls, whole.margin_usd) == (24, 6, "-0.7990001")
