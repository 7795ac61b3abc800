"""`pixorly trace`: the way of a job through the system, span by span, in the terminal."""

import time
from collections.abc import Mapping
from typing import Annotated, Any, Final

import httpx
import typer
from rich.table import Table
from rich.text import Text

from pixorly_stack.commands import Dir, settings_for
from pixorly_stack.connection import Json
from pixorly_stack.console import COLOURS, out
from pixorly_stack.errors import StackError
from pixorly_stack.files import read_json
from pixorly_stack.folder import Folder
from pixorly_stack.showing import show_json, show_table

ARRIVES_WITHIN_S: Final = 4.0
"""Spans are sent every second."""
_LOOK_EVERY_S: Final = 0.3
_WIDTH: Final = 40
_PREFIX: Final = "pixorly-"


def trace(
    job_id: Annotated[str | None, typer.Argument(help="The job's id, or its end; the newest job without it.")] = None,
    *,
    as_json: Json = False,
    dir_: Dir = None,
) -> None:
    """Show the way of a job through the system, from a stack that runs with `--observe`."""
    folder = Folder(settings_for(dir_).dir)
    found = fetch(observe_url(folder), job_id)
    if as_json:
        show_json(found)
    else:
        show(found)


def observe_url(folder: Folder) -> str:
    """Return where the observer of the stack in `folder` is.

    Raises:
        StackError: There is none.
    """
    dev: dict[str, Any] = (read_json(folder.dev) if folder.runs() else None) or {}
    if not dev:
        raise StackError(f"no Pixorly runs in {folder.root}. Start one that keeps traces with `pixorly up --observe`")
    if not dev.get("observe_url"):
        raise StackError(
            f"the Pixorly in {folder.root} keeps no traces: stop it with `pixorly down`, "
            "and start it with `pixorly up --observe`"
        )
    return str(dev["observe_url"])


def fetch(url: str, job_id: str | None) -> dict[str, Any]:
    """Return a job's trace, waiting a moment for one whose job has just begun.

    Raises:
        StackError: There is none, or the observer does not answer.
    """
    deadline = time.monotonic() + ARRIVES_WITHIN_S
    try:
        with httpx.Client(base_url=url, timeout=10, trust_env=False) as client:
            while True:
                newest = client.get("/api/traces").json()["data"] if job_id is None else []
                wanted = job_id or (newest[0]["job_id"] if newest else None)
                if wanted:
                    answer = client.get(f"/api/jobs/{wanted}")
                    if answer.is_success:
                        found: dict[str, Any] = answer.json()
                        return found
                if time.monotonic() > deadline:
                    raise StackError(f"there is no trace of {job_id or 'any job'} here, or not any more")
                time.sleep(_LOOK_EVERY_S)
    except httpx.HTTPError as error:
        raise StackError(f"the observer at {url} does not answer: {type(error).__name__}") from error


def show(found: Mapping[str, Any]) -> None:
    """Draw a trace."""
    jobs = ", ".join(found["job_ids"])
    failed = f", [red]{found['errors']} with errors[/]" if found["errors"] else ""
    out.print(f"[bold]{jobs}[/]  {_took(found['duration_ms'])}, {len(found['spans'])} spans{failed}")
    out.print(f"[dim]trace {found['trace_id']}[/]\n")
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("SPAN", "SERVICE", "TOOK", ""):
        made.add_column(heading, justify="right" if heading == "TOOK" else "left", no_wrap=True)
    colours = {service: COLOURS[place % len(COLOURS)] for place, service in enumerate(found["services"])}
    for span in found["spans"]:
        made.add_row(*_row(span, found["duration_ms"], colours[span["service"]]))
    show_table(made)


def _row(span: Mapping[str, Any], whole_ms: float, colour: str) -> tuple[Text, Text, str, Text]:
    attributes = span["attributes"]
    name = Text("  " * span["depth"] + span["name"], style="red" if span["error"] else "")
    if (attempt := attributes.get("pixorly.attempt", 1)) != 1:
        name.append(f"  attempt {attempt}", style="dim")
    if span["error"]:
        name.append(f"  {attributes.get('error.type', 'error')}", style="bold red")
    if span["orphan"]:
        name.append("  its parent is missing", style="yellow")
    service = Text(span["service"].removeprefix(_PREFIX), style=colour)
    return name, service, _took(span["duration_ms"]), _bar(span, whole_ms, "red" if span["error"] else colour)


def _bar(span: Mapping[str, Any], whole_ms: float, colour: str) -> Text:
    """Return where a span lies in the whole, a character being the least that is seen."""
    scale = _WIDTH / whole_ms if whole_ms else 0.0
    before = min(_WIDTH - 1, int(span["start_ms"] * scale))
    length = max(1, min(_WIDTH - before, round(span["duration_ms"] * scale)))
    return Text.assemble(" " * before, ("█" * length, colour))


def _took(milliseconds: float) -> str:
    return f"{milliseconds / 1000:.2f} s" if milliseconds >= 1000 else f"{milliseconds:.1f} ms"  # noqa: PLR2004 - a second
