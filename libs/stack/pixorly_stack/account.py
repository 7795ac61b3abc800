"""`pixorly account` and `usage`: what there is, and what was used."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Literal

import typer
from rich.markup import escape

from pixorly_client import Usage
from pixorly_client.models import UsageLine
from pixorly_stack.books import Csv, day_of, get_csv, show_csv
from pixorly_stack.commands import Dir
from pixorly_stack.connection import Json, talking
from pixorly_stack.console import out
from pixorly_stack.showing import (
    bar,
    credits_in_words,
    seconds_in_words,
    show_json,
    show_table,
    size_in_words,
    table,
)

WIDTH_OF_A_BAR = 24
ALMOST_FULL = 0.9

Measure = Literal["credits", "jobs", "images", "storage"]
_MEASURES: dict[Measure, Callable[[UsageLine], int]] = {
    "credits": lambda line: line.credits_used,
    "jobs": lambda line: line.jobs,
    "images": lambda line: line.images_uploaded,
    "storage": lambda line: line.storage_bytes or 0,
}


def account(context: typer.Context, *, as_json: Json = False, dir_: Dir = None) -> None:
    """Show the plan, the credits and the storage."""
    with talking(context, dir_, as_json=as_json) as client:
        found = client.account()
    if as_json:
        show_json(found)
        return
    storage = found.storage
    taken = storage.used_bytes + storage.reserved_bytes
    colour = "red" if taken > ALMOST_FULL * storage.quota_bytes else "green"
    gauge = bar(taken, storage.quota_bytes, WIDTH_OF_A_BAR)
    suspended = "" if found.status == "active" else f"  [red]{escape(found.status)}[/]"
    out.print(f"[bold]{escape(found.user_id)}[/]  plan {escape(found.plan)}{suspended}")
    out.print(f"  {credits_in_words(found.credits_remaining)}")
    out.print(
        f"  {size_in_words(storage.used_bytes)} of {size_in_words(storage.quota_bytes)} stored"
        f"  [{colour}]{gauge}[/][dim]{'░' * (WIDTH_OF_A_BAR - len(gauge))}[/]"
    )


def usage(
    context: typer.Context,
    *,
    first: Annotated[
        datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="The first day; 30 days without it.")
    ] = None,
    last: Annotated[
        datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="The last day; today without it.")
    ] = None,
    by: Annotated[Literal["day", "model"], typer.Option("--by", help="A line for each day or model.")] = "day",
    show: Annotated[Measure, typer.Option("--show", help="What the bars say.")] = "credits",
    as_json: Json = False,
    as_csv: Csv = False,
    dir_: Dir = None,
) -> None:
    """Show what was used, as a small chart."""
    with talking(context, dir_, as_json=as_json) as client:
        if as_csv:
            show_csv(client.ask(get_csv("/v1/usage", {"from": day_of(first), "to": day_of(last), "group_by": by})))
            return
        found = client.usage(day_of(first), day_of(last), by)
    if as_json:
        show_json(found)
    elif not found.data:
        out.print("Nothing was used in this time.")
    else:
        _show_usage(found, show)


def _show_usage(found: Usage, show: Measure) -> None:
    measure = _MEASURES[show]
    largest = max(measure(line) for line in found.data)
    made = table("", show.upper(), "", "JOBS", "IMAGES", "SUCCESS", "AVERAGE", right=(show.upper(), "JOBS", "IMAGES"))
    for line in found.data:
        made.add_row(
            escape(str(line.day or line.month or line.model or "-")),
            _amount(measure(line), show),
            f"[cyan]{bar(measure(line), largest, WIDTH_OF_A_BAR)}[/]",
            f"{line.jobs:,}",
            f"{line.images_uploaded:,}",
            _share(line.success_rate),
            seconds_in_words(line.processing_time_ms.average),
        )
    show_table(made)
    _show_totals(found.totals)


def _amount(value: int, show: Measure) -> str:
    return size_in_words(value) if show == "storage" else f"{value:,}"


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _show_totals(totals: UsageLine) -> None:
    jobs = f"{totals.jobs:,} job{'' if totals.jobs == 1 else 's'}"
    refunded = f", {totals.credits_refunded:,} refunded" if totals.credits_refunded else ""
    times = totals.processing_time_ms
    out.print(
        f"\n{jobs}, {totals.images_uploaded:,} images, {credits_in_words(totals.credits_used)} used{refunded}; "
        f"{_share(totals.success_rate)} succeeded, half within {seconds_in_words(times.p50)}, "
        f"95 of 100 within {seconds_in_words(times.p95)}."
    )
    if totals.failures:
        found = "  ".join(f"{escape(code)} {count:,}" for code, count in totals.failures.items())
        out.print(f"[red]failed images[/]  {found}")
