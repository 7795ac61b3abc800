"""How the `pixorly` command shows credits, sizes, times, tables and JSON."""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final, Literal

from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pixorly_stack.console import out

WIDTH_OF_FILES: Final = 200
"""A table that goes to a file or another program is not cut to the width of a terminal."""
_UNITS: Final = ("B", "kB", "MB", "GB", "TB")
_STEP: Final = 1000
_EIGHTHS: Final = " ▏▎▍▌▋▊▉"
STATUS_COLOURS: Final = {
    "completed": "green",
    "failed": "red",
    "canceled": "yellow",
    "pending": "dim",
    "processing": "cyan",
    "uploading": "blue",
}


def credits_in_words(count: int) -> str:
    """Return a number of credits."""
    return f"{count:,} credit{'' if abs(count) == 1 else 's'}"


def size_in_words(count: int | None) -> str:
    """Return a number of bytes in the unit that suits it."""
    if count is None:
        return "-"
    value, unit = float(count), 0
    while value >= _STEP and unit < len(_UNITS) - 1:
        value, unit = value / _STEP, unit + 1
    return f"{value:.0f} {_UNITS[unit]}" if unit == 0 or value >= 100 else f"{value:.1f} {_UNITS[unit]}"  # noqa: PLR2004 - three digits say enough


def seconds_in_words(milliseconds: float | None) -> str:
    """Return a length of time."""
    return "-" if milliseconds is None else f"{milliseconds / 1000:.1f} s"


def moment_in_words(moment: datetime | None, now: datetime | None = None) -> str:
    """Return a time as the clock on the wall here has it: the time of today, the date of another day."""
    if moment is None:
        return "-"
    here, today = moment.astimezone(), (now or datetime.now().astimezone()).astimezone()
    return here.strftime("%H:%M:%S" if here.date() == today.date() else "%Y-%m-%d")


def status_in_colour(status: str) -> str:
    """Return a job's status as markup."""
    return f"[{STATUS_COLOURS.get(status, 'default')}]{escape(status)}[/]"


def short_id(whole: str) -> str:
    """Return the end of an id, which is what tells it from others of the same minute."""
    return whole.replace("-", "")[-8:]


def bar(value: float, largest: float, width: int = 30) -> str:
    """Return a bar whose length says how large `value` is, to an eighth of a character."""
    eighths = round(8 * width * value / largest) if largest > 0 else 0
    if value > 0:
        eighths = max(1, eighths)
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")


def table(*headings: str, right: Sequence[str] = (), cut: str = "") -> Table:
    """Return an empty table; columns named in `right` hold numbers, the one named in `cut` gives way to the others."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in headings:
        justify: Literal["left", "right"] = "right" if heading in right else "left"
        made.add_column(heading, justify=justify, no_wrap=heading != cut, overflow="fold")
    return made


def lines(rows: Iterable[Sequence[str]], right: int | None = None) -> Table:
    """Return rows without headings, a little to the right; the column numbered `right` holds numbers."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    for place, row in enumerate(rows):
        if place == 0:
            for column in range(len(row)):
                grid.add_column(justify="right" if column == right else "left", no_wrap=True, overflow="fold")
        first, *others = row
        grid.add_row(f"  {first}", *others)
    return grid


def one_line(text: str) -> Text:
    """Return a text that may lose its end where a table is too wide."""
    return Text(" ".join(text.split()), overflow="ellipsis", no_wrap=True)


def show_table(made: Table) -> None:
    """Show a table, whole where it does not go to a terminal."""
    wide = out if out.is_terminal else Console(width=WIDTH_OF_FILES, highlight=False)
    wide.print(made)


def show_json(value: BaseModel | dict[str, Any] | list[Any]) -> None:
    """Show a value as JSON, and nothing else."""
    plain = value.model_dump(mode="json", by_alias=True) if isinstance(value, BaseModel) else value
    sys.stdout.write(json.dumps(plain, indent=2, ensure_ascii=False) + "\n")
