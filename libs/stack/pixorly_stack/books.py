"""What the commands of the operator's books share: asking as the operator, CSV, and answers in lines."""

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote

import httpx
import typer

from pixorly_client import ConnectionTrouble, Pixorly
from pixorly_client.answers import error_of
from pixorly_client.calls import Call
from pixorly_client.flows import Flow, Hear, Listen
from pixorly_stack.connection import connect_as_admin, talking
from pixorly_stack.errors import StackError

ADMIN: Final = "/admin/v1"
PATIENCE_S: Final = 60
"""A report over many users takes longer than other calls."""
SILENCE_S: Final = 620
"""The longest that one check of an audit may take."""

Params = Mapping[str, str | int | None]

Csv = Annotated[bool, typer.Option("--csv", help="As CSV, for a spreadsheet.")]
User = Annotated[str, typer.Argument(metavar="USER", help="The user's id.")]
_DAYS = ["%Y-%m-%d"]
First = Annotated[datetime | None, typer.Option("--from", formats=_DAYS, help="The first day (UTC).")]
Last = Annotated[datetime | None, typer.Option("--to", formats=_DAYS, help="The last day (UTC); today without it.")]


def as_operator(
    context: typer.Context, folder: Path | None, *, as_json: bool = False
) -> AbstractContextManager[Pixorly]:
    """Talk to the API as its operator."""
    context.obj = context.obj or connect_as_admin
    return talking(context, folder, as_json=as_json)


def part(text: str) -> str:
    """Return a text as a part of a path."""
    return quote(text, safe="")


def day_of(moment: datetime | None) -> str | None:
    """Return the day of an option."""
    return moment.replace(tzinfo=UTC).date().isoformat() if moment else None


def get(path: str, params: Params | None = None) -> Call[dict[str, Any]]:
    """Ask for something."""
    return Call("GET", path, json.loads, _given(params), waits_s=PATIENCE_S)


def send(method: str, path: str, body: Mapping[str, Any], *, repeatable: bool = True) -> Call[dict[str, Any]]:
    """Ask for a change."""
    return Call(method, path, json.loads, json=body, repeatable=repeatable)


def get_csv(path: str, params: Params | None = None) -> Call[str]:
    """Ask for something as CSV."""
    return Call("GET", path, bytes.decode, {**_given(params), "format": "csv"}, waits_s=10 * PATIENCE_S)


def show_csv(text: str) -> None:
    """Show CSV as it came."""
    sys.stdout.write(text)


def _given(params: Params | None) -> dict[str, str]:
    return {name: str(value) for name, value in (params or {}).items() if value is not None}


def all_of(client: Pixorly, path: str, params: Params | None = None) -> list[dict[str, Any]]:
    """Return all pages of a list in one."""
    rows, cursor = list[dict[str, Any]](), None
    while True:
        page = client.ask(get(path, {**(params or {}), "cursor": cursor}))
        rows += page["data"]
        cursor = page.get("next_cursor")
        if cursor is None:
            return rows


def told(path: str, params: Params, on_line: Callable[[dict[str, Any]], None]) -> Flow[dict[str, Any]]:
    """Hear an answer of many lines of JSON, tell each as it comes, and return the last.

    Raises:
        ConnectionTrouble: There was no answer, or it broke off.
        PixorlyAPIError: It was refused.
        StackError: It ended too soon.
    """
    rest, last = b"", dict[str, Any]()
    try:
        response = yield Listen(Call("GET", path, json.loads, _given({**params, "stream": "true"})), SILENCE_S)
        if response.is_error:
            raise error_of(response)
        while chunk := (yield Hear()):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                last = json.loads(line)
                on_line(last)
    except httpx.RequestError as trouble:
        raise ConnectionTrouble.of(trouble) from trouble
    if "clean" not in last:
        raise StackError("the answer broke off; try again")
    return last
