"""`pixorly bill`: what providers charged, what was earned, and whether a provider's bill is what was recorded."""

from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from pixorly_stack.bill_file import Line, read_bill
from pixorly_stack.books import ADMIN, Csv, First, Last, all_of, as_operator, day_of, get, get_csv, show_csv
from pixorly_stack.commands import Dir
from pixorly_stack.connection import FAILED, Json
from pixorly_stack.console import out
from pixorly_stack.showing import show_json, show_table, table

app = typer.Typer(help="Revenue, cost and margin, and a provider's bill against our records.", no_args_is_help=True)

_OFTEN_WRONG = 50
"""So many differences are shown as a table; --json has all."""


@app.command()
def margins(
    context: typer.Context,
    *,
    first: First = None,
    last: Last = None,
    as_json: Json = False,
    as_csv: Csv = False,
    dir_: Dir = None,
) -> None:
    """Show what was earned and what it cost upstream, by month and model; the last twelve months without --from."""
    asked = {"from": day_of(first), "to": day_of(last)}
    with as_operator(context, dir_, as_json=as_json) as client:
        if as_csv:
            show_csv(client.ask(get_csv(f"{ADMIN}/margins", asked)))
            return
        found = client.ask(get(f"{ADMIN}/margins", asked))
    if as_json:
        show_json(found)
    else:
        show_table(_margins([*found["data"], found["totals"]]))


def _margins(lines: list[dict[str, Any]]) -> Table:
    right = ("JOBS", "IMAGES", "CREDITS", "REVENUE $", "CALLS", "COST $", "MARGIN $", "")
    made = table("MONTH", "MODEL", *right, right=right)
    for line in lines:
        share = line["margin_share"]
        made.add_row(
            escape(line["month"]),
            escape(line["model"]),
            *(f"{line[name]:,}" for name in ("jobs", "images_uploaded", "credits_captured")),
            line["revenue_usd"],
            f"{line['provider_calls']:,}",
            line["cost_usd"],
            line["margin_usd"],
            "-" if share is None else f"{share:.0%}",
        )
    return made


@app.command()
def usage(
    context: typer.Context,
    *,
    first: First = None,
    last: Last = None,
    by: Annotated[str, typer.Option("--by", help="Any of user, day, month, model, with commas between.")] = "day",
    as_json: Json = False,
    as_csv: Csv = False,
    dir_: Dir = None,
) -> None:
    """Show what all users made and spent; the last thirty days without --from."""
    asked = {"from": day_of(first), "to": day_of(last), "group_by": by}
    with as_operator(context, dir_, as_json=as_json) as client:
        if as_csv:
            show_csv(client.ask(get_csv(f"{ADMIN}/usage", asked)))
            return
        found = client.ask(get(f"{ADMIN}/usage", asked))
    if as_json:
        show_json(found)
        return
    names = {"user": "user_id"}
    keys = [names.get(name, name) for name in by.split(",")]
    counts = ("jobs", "images_uploaded", "credits_used", "credits_refunded", "retries")
    numbers = [name.replace("_", " ").upper() for name in counts]
    made = table(*(key.upper() for key in keys), *numbers, right=numbers)
    for line in found["data"]:
        made.add_row(*(escape(str(line[key])) for key in keys), *(f"{line[name]:,}" for name in counts))
    show_table(made)


@app.command()
def compare(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="The provider's bill: CSV or JSON.")
    ],
    *,
    provider: Annotated[str | None, typer.Option("--provider", help="Only our records of this provider.")] = None,
    first: First = None,
    last: Last = None,
    as_json: Json = False,
    dir_: Dir = None,
) -> None:
    """Compare a provider's bill with what the generator recorded, both ways; exit 1 where they differ.

    Each line of the bill names a call by the provider's id of it (`generation_id` or `id`), or a job by its session
    (`session_id` or `job_id`), and an amount in US dollars (`amount`, `usd`, `cost`, `cost_usd` or `total_cost`).
    """
    billed = read_bill(file)
    with as_operator(context, dir_, as_json=as_json) as client:
        asked = {"from": day_of(first) or "2000-01-01", "to": day_of(last), "limit": 1000}
        calls = all_of(client, f"{ADMIN}/provider-calls", asked)
    report = compared(billed, [call for call in calls if provider in {None, call["provider"]}])
    if as_json:
        show_json(report)
    else:
        _show(report)
    if not report["same"]:
        raise typer.Exit(FAILED)


def compared(billed: list[Line], calls: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what a bill and our records have in common and what not.

    A line with a call's id is compared with that call; what has only a session is compared with all of its job's calls.
    """
    by_call = any(line.generation_id for line in billed)
    ours: defaultdict[str, Decimal] = defaultdict(Decimal)
    theirs: defaultdict[str, Decimal] = defaultdict(Decimal)
    jobs = {}
    unpriced = [call for call in calls if call["cost_usd"] is None]
    for call in calls:
        key = call["generation_id"] if by_call else call["job_id"]
        if call["cost_usd"] is not None:
            key = key or f"{call['job_id']}/{call['call_no']}/{call['attempt']}"
            ours[key] += Decimal(call["cost_usd"])
            jobs[key] = call["job_id"]
    for line in billed:
        key = (line.generation_id if by_call else line.session_id) or line.session_id or line.generation_id
        theirs[key] += line.amount_usd
        jobs.setdefault(key, line.session_id or None)
    differing = [key for key in sorted({*ours, *theirs}) if ours.get(key, Decimal(0)) != theirs.get(key, Decimal(0))]
    died = {call["job_id"] for call in unpriced if call["ended_at"] is None}
    return {
        "same": not differing,
        "compared_by": "generation_id" if by_call else "session_id",
        "billed_usd": _usd(sum(theirs.values(), Decimal(0))),
        "recorded_usd": _usd(sum(ours.values(), Decimal(0))),
        "billed": len(theirs),
        "recorded": len(ours),
        "unpriced_calls": len(unpriced),
        "differences": [_difference(key, ours.get(key), theirs.get(key), jobs.get(key), died) for key in differing],
    }


def _difference(
    key: str, ours: Decimal | None, theirs: Decimal | None, job_id: str | None, died: set[str]
) -> dict[str, Any]:
    kind = "not_recorded" if ours is None else "not_billed" if theirs is None else "amount"
    # A process that died in a call could not write down what it cost.
    why = "a process died during a call of this job" if job_id in died and ours is None else None
    return {
        "id": key,
        "kind": kind,
        "job_id": job_id,
        "billed_usd": None if theirs is None else _usd(theirs),
        "recorded_usd": None if ours is None else _usd(ours),
        "why": why,
    }


def _usd(amount: Decimal) -> str:
    return f"{amount.normalize():f}" if amount else "0"


_WORDS = {
    "not_recorded": "is on the bill and not recorded",
    "not_billed": "is recorded and not on the bill",
    "amount": "has another amount on the bill",
}


def _show(report: dict[str, Any]) -> None:
    made = table("ID", "WHAT", "BILL $", "RECORDED $", "JOB", right=("BILL $", "RECORDED $"))
    for row in report["differences"][:_OFTEN_WRONG]:
        made.add_row(
            escape(row["id"]),
            _WORDS[row["kind"]] + (f": {row['why']}" if row["why"] else ""),
            row["billed_usd"] or "-",
            row["recorded_usd"] or "-",
            escape(row["job_id"] or "-"),
        )
    if report["differences"]:
        show_table(made)
        if len(report["differences"]) > _OFTEN_WRONG:
            out.print(f"[dim]… and {len(report['differences']) - _OFTEN_WRONG:,} more: --json shows all[/]")
    out.print(
        f"The bill: ${report['billed_usd']} in {report['billed']:,}. Recorded: ${report['recorded_usd']} in "
        f"{report['recorded']:,}, by {report['compared_by'].replace('_', ' ')}; {report['unpriced_calls']:,} calls "
        "without a price."
    )
    out.print("[green]They are the same.[/]" if report["same"] else f"[red]{len(report['differences']):,} differ.[/]")
