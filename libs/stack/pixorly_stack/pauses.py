"""`pixorly pause` and `resume`: a model or a provider that is not to be asked for the time being."""

from typing import Annotated

import typer
from rich.markup import escape

from pixorly_stack.books import ADMIN, as_operator, get, send
from pixorly_stack.commands import Dir
from pixorly_stack.connection import Json
from pixorly_stack.console import out
from pixorly_stack.showing import show_json, show_table, table

_PATH = f"{ADMIN}/pauses"


def pause(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="A model's id or a provider; what is paused without it.")] = None,
    *,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why, for other operators.")] = "",
    as_json: Json = False,
    dir_: Dir = None,
) -> None:
    """Take no new jobs for a model or a provider; those that were taken wait, or go to a fallback."""
    _put(context, name, paused=True, reason=reason, as_json=as_json, dir_=dir_)


def resume(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A model's id or a provider.")],
    *,
    as_json: Json = False,
    dir_: Dir = None,
) -> None:
    """Go on with a model or a provider that was paused."""
    _put(context, name, paused=False, reason="", as_json=as_json, dir_=dir_)


def _put(context: typer.Context, name: str | None, *, paused: bool, reason: str, as_json: bool, dir_: Dir) -> None:
    asked = {"name": name, "paused": paused, "reason": reason}
    with as_operator(context, dir_, as_json=as_json) as client:
        # A repeat does no harm. But whoever stops a model wants to know at once that it goes on.
        found = client.ask(send("PUT", _PATH, asked, repeatable=False) if name else get(_PATH))
    if as_json:
        show_json(found)
        return
    made = table("PAUSED", "SINCE", "REASON")
    for row in found["data"]:
        made.add_row(*map(escape, (row["name"], row["since"], row["reason"])))
    if found["data"]:
        show_table(made)
    else:
        out.print("Nothing is paused.")
