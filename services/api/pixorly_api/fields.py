"""What request and response bodies are made of."""

import re
from datetime import UTC, date, datetime
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

Scope = Literal["generate", "read", "admin"]

USER_ID: Final = r"^[A-Za-z0-9_@:-][A-Za-z0-9_.@:-]{0,63}$"
"""A user id becomes a part of object keys, so it is no dot and no pair of dots."""
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d")
_SPACE_OF_PLUS: Final = re.compile(r" (?=\d\d:?\d\d$)")
_FIRST: Final = datetime(2000, 1, 1, tzinfo=UTC)
_LAST: Final = datetime(2200, 1, 1, tzinfo=UTC)


def _storable(text: str) -> str:
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("holds a character that can't be stored (NUL or half of a surrogate pair)")
    return text


def not_blank(text: str) -> str:
    """Return a text that says something."""
    if not text.strip():
        raise ValueError("must not be blank")
    return text


def _written(text: Any) -> Any:
    """Refuse numbers, and read the space that a bare plus becomes in an address as the plus that was meant."""
    if isinstance(text, str):
        if not _DAY.match(text):
            raise ValueError("is written like 2026-01-31, a time like 2026-01-31T12:00:00Z")
        return _SPACE_OF_PLUS.sub("+", text)
    return text


def _in_reach(time: datetime) -> datetime:
    if not _FIRST <= time <= _LAST:
        raise ValueError("must lie between the years 2000 and 2200")
    return time


def _day_in_reach(day: date) -> date:
    if not _FIRST.date() <= day < _LAST.date():
        raise ValueError("must lie between the years 2000 and 2200")
    return day


Text = Annotated[str, AfterValidator(_storable)]
Moment = Annotated[AwareDatetime, BeforeValidator(_written), AfterValidator(_in_reach)]
Day = Annotated[date, BeforeValidator(_written), AfterValidator(_day_in_reach)]
Name = Annotated[Text, Field(min_length=1, max_length=100)]


Item = TypeVar("Item")


class In(BaseModel):
    """A request body: what it does not know it refuses."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True)


class Out(BaseModel):
    """A response body."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)


class Page(Out, Generic[Item]):
    """What every list is."""

    data: list[Item]
    next_cursor: str | None = None
    """Give it as `cursor` to get what follows; null at the end."""
