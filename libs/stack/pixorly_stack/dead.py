"""`pixorly dead`: what was put aside for a person, and what the person does with it."""

import json
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

import typer
from rich.markup import escape
from rich.table import Table

from pixorly_client import Pixorly
from pixorly_client.calls import Call
from pixorly_stack.commands import Dir
from pixorly_stack.connection import Json, connect_as_admin, talking
from pixorly_stack.console import out
from pixorly_stack.showing import moment_in_words, one_line, show_json, show_table, size_in_words, table

app = typer.Typer(help="List, show, replay and discard dead letters.", no_args_is_help=True)

PATH = "/admin/v1/dead"
PATIENCE_S = 60
"""A pass through long queues takes longer than other calls."""

Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="The messages' ids.")]
Queue = Annotated[str | None, typer.Option("--queue", "-q", help="Only those of this queue.")]
Job = Annotated[str | None, typer.Option("--job", "-j", help="Only those of this job.")]
Reason = Annotated[str | None, typer.Option("--reason", "-r", help="Only those whose reason contains this.")]
Everything = Annotated[bool, typer.Option("--all", help="All of them, or of the queue's.")]
Limit = Annotated[int, typer.Option("--limit", "-l", min=1, max=10_000, help="How many at most.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.command("list")
def list_(
    context: typer.Context,
    *,
    queue: Queue = None,
    job: Job = None,
    reason: Reason = None,
    limit: Annotated[int, typer.Option("--limit", "-l", min=1, max=1000, help="How many at most.")] = 50,
    as_json: Json = False,
    dir_: Dir = None,
) -> None:
    """List dead letters: how many in which queue, and what they are."""
    asked = {"queue": queue, "job_id": job, "reason": reason, "limit": str(limit)}
    with _talking(context, dir_, as_json=as_json) as client:
        found = client.ask(_get(PATH, {name: value for name, value in asked.items() if value is not None}))
    if as_json:
        show_json(found)
        return
    if not any(row["waiting"] for row in found["queues"]):
        out.print("There are no dead letters.")
        return
    for row in found["queues"]:
        if row["waiting"]:
            out.print(f"[bold]{escape(row['queue'])}[/]  {row['waiting']:,}")
    out.print()
    show_table(_table_of(found["data"]))
    if found["more"]:
        out.print("[dim]There may be more: --limit, --queue, --job or --reason show others.[/]")


def _table_of(letters: list[dict[str, Any]]) -> Table:
    made = table("ID", "QUEUE", "TYPE", "JOB", "DIED", "SIZE", "REASON", right=("DIED", "SIZE"), cut="REASON")
    for letter in letters:
        made.add_row(
            escape(letter["id"]),
            escape(letter["queue"]),
            escape((letter["type"] or "-")[:40]),
            escape(letter["job_id"] or "-"),
            moment_in_words(_moment(letter["died_at"])),
            size_in_words(letter["size_bytes"]),
            one_line(letter["reason"]),
        )
    return made


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


@app.command()
def show(
    context: typer.Context,
    message_id: Annotated[str, typer.Argument(help="The message's id.")],
    *,
    queue: Queue = None,
    as_json: Json = False,
    dir_: Dir = None,
) -> None:
    """Show a dead letter with its headers and its body, which may hold a user's prompt."""
    with _talking(context, dir_, as_json=as_json) as client:
        found = client.ask(_get(f"{PATH}/{quote(message_id, safe='')}", {"queue": queue} if queue else {}))
    if as_json:
        show_json(found)
        return
    for letter in found["data"]:
        out.print(f"[bold]{escape(letter['id'])}[/]  {escape(letter['queue'])}  [red]{escape(letter['reason'])}[/]")
        for name in ("type", "job_id", "user_id", "attempt", "died_at", "size_bytes"):
            out.print(f"  {name.replace('_', ' '):<12}{escape(str(letter[name] or '-'))}")
        for name, value in letter["headers"].items():
            out.print(f"  [dim]{escape(name)}: {escape(value)}[/]")
        out.print(escape(letter["body"]))
        if letter["truncated"]:
            out.print("[dim]… and more[/]")


@app.command()
def replay(
    context: typer.Context,
    ids: Ids = None,
    *,
    queue: Queue = None,
    job: Job = None,
    reason: Reason = None,
    everything: Everything = False,
    limit: Limit = 1000,
    yes: Yes = False,
    as_json: Json = False,
    dir_: Dir = None,
) -> None:
    """Have dead letters handled again. What belongs to a settled or unknown job is of no use and is discarded."""
    selection = _selection(ids, queue, job, reason, everything=everything)
    with _talking(context, dir_, as_json=as_json) as client:
        _make_sure(
            "Have them handled again? What belongs to a settled or unknown job is destroyed instead.",
            selection,
            yes=yes,
        )
        _show_handled(client.ask(_post("replay", selection | {"limit": limit})), as_json=as_json)


@app.command()
def discard(
    context: typer.Context,
    ids: Ids = None,
    *,
    queue: Queue = None,
    job: Job = None,
    reason: Reason = None,
    everything: Everything = False,
    limit: Limit = 1000,
    yes: Yes = False,
    as_json: Json = False,
    dir_: Dir = None,
) -> None:
    """Destroy dead letters."""
    selection = _selection(ids, queue, job, reason, everything=everything)
    with _talking(context, dir_, as_json=as_json) as client:
        _make_sure("Destroy them?", selection, yes=yes)
        _show_handled(client.ask(_post("discard", selection | {"limit": limit})), as_json=as_json)


def _selection(
    ids: list[str] | None, queue: str | None, job: str | None, reason: str | None, *, everything: bool
) -> dict[str, Any]:
    """Return which are meant, as the API reads it; a queue's name alone means all that is in it."""
    named = {"message_ids": ids or None, "job_id": job, "reason": reason}
    some = {name: value for name, value in named.items() if value is not None}
    if everything and some:
        raise typer.BadParameter("--all goes with --queue only")
    if not (some or everything or queue):
        raise typer.BadParameter("say which: ids, --queue, --job, --reason or --all")
    return some | ({} if some else {"all": True}) | ({"queue": queue} if queue else {})


def _make_sure(question: str, selection: dict[str, Any], *, yes: bool) -> None:
    """Ask before something is destroyed; without an answer nothing is."""
    if yes:
        return
    words = ", ".join(f"{name.replace('_', ' ')} {_in_words(value)}" for name, value in selection.items())
    typer.confirm(f"Dead letters meant: {words}. {question}", abort=True, err=True)


def _in_words(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "of them" if value is True else str(value)


def _show_handled(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(answer)
        return
    for letter in answer["data"]:
        why = {"settled": ": its job is settled", "unknown": ": it belongs to no job", None: ""}[letter["why"]]
        out.print(f"{escape(letter['id'])}  {escape(letter['queue'])}  {escape(letter['fate'])}{why}")
    fates = [letter["fate"] for letter in answer["data"]]
    out.print(f"{fates.count('replayed'):,} replayed, {fates.count('discarded'):,} discarded.")
    if answer["more"]:
        out.print("[dim]There may be more: say it again.[/]")


def _talking(context: typer.Context, folder: Path | None, *, as_json: bool) -> AbstractContextManager[Pixorly]:
    """Talk to the API as its operator."""
    context.obj = context.obj or connect_as_admin
    return talking(context, folder, as_json=as_json)


def _get(path: str, params: dict[str, str]) -> Call[dict[str, Any]]:
    return Call("GET", path, json.loads, params, waits_s=PATIENCE_S)


def _post(what: Literal["replay", "discard"], selection: dict[str, Any]) -> Call[dict[str, Any]]:
    # A repeat would deal with more than the limit.
    return Call("POST", f"{PATH}/{what}", json.loads, json=selection, waits_s=PATIENCE_S, repeatable=False)
