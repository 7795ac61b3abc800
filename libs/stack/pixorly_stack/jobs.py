"""`pixorly jobs`: what was asked for, and what came of it."""

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from pixorly_client import Generation, NotSettledYet, Pixorly, PixorlyAPIError, Receipt, Timeline
from pixorly_client.calls import Filters
from pixorly_stack.commands import Dir
from pixorly_stack.connection import FAILED, INTERRUPTED, Json, talking
from pixorly_stack.console import out
from pixorly_stack.generate import show_interruption, show_result
from pixorly_stack.progress import progress_on
from pixorly_stack.saving import show_image
from pixorly_stack.showing import (
    credits_in_words,
    moment_in_words,
    one_line,
    show_json,
    show_table,
    status_in_colour,
    table,
)

app = typer.Typer(help="List, show, cancel and watch jobs.", no_args_is_help=True)

JobId = Annotated[str, typer.Argument(help="The job's id.")]


@app.command("list")
def list_(
    context: typer.Context,
    *,
    status: Annotated[str | None, typer.Option("--status", "-s", help="Only those with this status.")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Only those of this model.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-l", min=1, max=100, help="How many.")] = 20,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Where an earlier list ended.")] = None,
    as_json: Json = False,
    dir_: Dir = None,
) -> None:
    """List jobs, newest first."""
    filters: Filters = {"limit": limit}
    if status:
        filters["status"] = status
    if model:
        filters["model"] = model
    if cursor:
        filters["cursor"] = cursor
    with talking(context, dir_, as_json=as_json) as client:
        page = client.list(**filters)
    if as_json:
        show_json(page)
    elif page.data:
        show_table(_table_of(page.data))
        if page.next_cursor:
            out.print(f"[dim]More: --cursor {escape(page.next_cursor)}[/]")
    else:
        out.print('There are no jobs. Make one: [bold]pixorly generate "a lighthouse at dusk"[/]')


def _table_of(jobs: list[Generation]) -> Table:
    made = table(
        "ID", "CREATED", "STATUS", "IMAGES", "CREDITS", "PROMPT", right=("CREATED", "IMAGES", "CREDITS"), cut="PROMPT"
    )
    for job in jobs:
        made.add_row(
            escape(job.id),
            moment_in_words(job.created_at),
            status_in_colour(job.status),
            f"{len(job.images)}/{job.n}",
            f"{job.credits_used - job.credits_refunded:,}",
            one_line(job.prompt),
        )
    return made


@app.command()
def show(context: typer.Context, job_id: JobId, *, as_json: Json = False, dir_: Dir = None) -> None:
    """Show a job: its images, what happened when, and who paid."""
    with talking(context, dir_, as_json=as_json) as client:
        job = client.get(job_id)
        timeline, receipt = client.timeline(job_id), _receipt(client, job_id)
    if as_json:
        parts = {"timeline": timeline.model_dump(mode="json")["data"]}
        show_json(
            job.model_dump(mode="json") | parts | {"receipt": receipt.model_dump(mode="json") if receipt else None}
        )
        return
    _show_job(job)
    _show_timeline(timeline)
    if receipt:
        _show_receipt(receipt)


def _receipt(client: Pixorly, job_id: str) -> Receipt | None:
    """Return who paid, or None while the ledger cannot say."""
    try:
        return client.receipt(job_id)
    except PixorlyAPIError:
        return None


def _show_job(job: Generation) -> None:
    size = f"{job.params.get('width')}x{job.params.get('height')}"
    out.print(f"[bold]{escape(job.id)}[/]  {status_in_colour(job.status)}  {escape(job.model)}  {size}")
    out.print(f'"{escape(job.prompt)}"\n')
    for image in job.images:
        show_image(image, None)
    for failure in job.failures:
        out.print(f"  image {failure.index}  [red]{escape(failure.code)}[/]  {escape(failure.message)}")


def _show_timeline(timeline: Timeline) -> None:
    made = table("", "EVENT", "IMAGE", "DETAILS", right=("", "IMAGE"))
    first = timeline.data[0].at if timeline.data else None
    for entry in timeline.data:
        since = (entry.at - first).total_seconds() if first else 0.0
        about_image = entry.what.startswith("image.")
        details = (
            entry.provider,
            f"attempt {entry.attempt}" if entry.attempt else None,
            entry.code,
            f"again in {entry.delay_s:g} s" if entry.delay_s else None,
        )
        words = "  ".join(detail for detail in details if detail)
        image = str(entry.index) if about_image and entry.index is not None else ""
        made.add_row(f"+{since:.2f} s", escape(entry.what), image, escape(words))
    out.print()
    show_table(made)


def _show_receipt(receipt: Receipt) -> None:
    parts = [f"{credits_in_words(receipt.amount_credits)} charged", f"{receipt.captured_credits:,} kept"]
    if receipt.refunded_credits:
        parts.append(f"{receipt.refunded_credits:,} refunded")
    out.print(f"\n{', '.join(parts)} ({escape(receipt.status)}).")


@app.command()
def cancel(context: typer.Context, job_id: JobId, *, as_json: Json = False, dir_: Dir = None) -> None:
    """Take a job back that was not begun; all of its credits come back."""
    with talking(context, dir_, as_json=as_json) as client:
        job = client.cancel(job_id)
    if as_json:
        show_json(job)
    else:
        out.print(f"Canceled; {credits_in_words(job.credits_refunded)} came back.")


@app.command()
def watch(context: typer.Context, job_id: JobId, *, as_json: Json = False, dir_: Dir = None) -> None:
    """Watch a job until it is settled. Exit status 1 where it failed."""
    with talking(context, dir_, as_json=as_json) as client:
        progress = progress_on(out, quiet=as_json)
        try:
            with progress:
                job = client.wait(job_id, on_progress=progress.tell)
        except NotSettledYet as late:
            out.print(escape(str(late)))
            raise typer.Exit(FAILED) from None
        except KeyboardInterrupt:
            show_interruption(progress.job)
            raise typer.Exit(INTERRUPTED) from None
    if as_json:
        show_json(job)
    else:
        show_result(job, {})
    if job.status != "completed":
        raise typer.Exit(FAILED)
