"""A provider's bill as a file: CSV or JSON, whose columns have one of several names."""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

from pixorly_stack.errors import StackError

_GENERATION: Final = ("generation_id", "id")
_SESSION: Final = ("session_id", "job_id")
_AMOUNT: Final = ("amount", "amount_usd", "usd", "cost", "cost_usd", "total_cost")
_LISTS: Final = ("data", "calls", "lines", "items")


@dataclass(frozen=True, slots=True)
class Line:
    """What was billed.

    Attributes:
        generation_id: The provider's id of the call, or nothing.
        session_id: The job that it names, or nothing.
    """

    generation_id: str
    session_id: str
    amount_usd: Decimal


def read_bill(file: Path) -> list[Line]:
    """Return the lines of a bill.

    Raises:
        StackError: It can't be read; the message says where.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise StackError(f"{file} can't be read: {error}") from error
    rows = _from_json(file, text) if text.lstrip()[:1] in {"[", "{"} else list(csv.DictReader(text.splitlines()))
    return [_line(file, number, row) for number, row in enumerate(rows, 1)]


def _from_json(file: Path, text: str) -> list[Mapping[str, Any]]:
    try:
        # An amount keeps every digit.
        found = json.loads(text, parse_float=Decimal)
    except ValueError as error:
        raise StackError(f"{file} is not valid JSON: {error}") from error
    if isinstance(found, dict):
        found = next((found[name] for name in _LISTS if isinstance(found.get(name), list)), [found])
    return [row if isinstance(row, dict) else {} for row in found]


def _line(file: Path, number: int, row: Mapping[str, Any]) -> Line:
    told = {str(name).strip().lower(): str(value).strip() for name, value in row.items() if value is not None}
    generation, session, amount = (
        next((told[name] for name in names if told.get(name)), "") for names in (_GENERATION, _SESSION, _AMOUNT)
    )
    if not (generation or session):
        raise StackError(f"{file}: line {number} of the bill names neither {' nor '.join((*_GENERATION, *_SESSION))}")
    try:
        return Line(generation, session, Decimal(amount.removeprefix("$")))
    except InvalidOperation as error:
        raise StackError(
            f"{file}: line {number} of the bill has no amount; one of {', '.join(_AMOUNT)} is meant"
        ) from error
