"""`pixorly generate`: from a prompt to saved images."""

import re
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from pixorly_client import Generation, JobFailed, NotSettledYet, Pixorly
from pixorly_client.calls import Wishes
from pixorly_stack.commands import Dir
from pixorly_stack.connection import FAILED, INTERRUPTED, talking
from pixorly_stack.console import err, out, show_problem
from pixorly_stack.progress import Progress, progress_on
from pixorly_stack.saving import Saved, name_of, save, show_image
from pixorly_stack.showing import credits_in_words, seconds_in_words, show_json

MODEL = "sandbox/aurora"
_SIZE = re.compile(r"(\d{1,5})(?:[xX](\d{1,5}))?")


def size_of(text: str) -> tuple[int, int]:
    """Return width and height; one number makes a square.

    Raises:
        typer.BadParameter: It is no size.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"a size looks like 1024x1024, not {text!r}")
    return int(found[1]), int(found[2] or found[1])


def generate(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    *,
    model: Annotated[str, typer.Option("--model", "-m", help="One of `pixorly models`.")] = MODEL,
    n: Annotated[int, typer.Option("-n", "--number", help="How many images, 1 to 10.")] = 1,
    size: Annotated[str | None, typer.Option("--size", help="As 1024x768; the model's own without it.")] = None,
    aspect_ratio: Annotated[str | None, typer.Option("--aspect-ratio", help="As 16:9, in place of a size.")] = None,
    quality: Annotated[str | None, typer.Option("--quality", help="One that the model has.")] = None,
    output_format: Annotated[Literal["png", "jpeg", "webp"] | None, typer.Option("--format", help="As what.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="The same seed draws the same image.")] = None,
    folder: Annotated[Path, typer.Option("--out", "-o", help="Where the files go.")] = Path("out"),
    no_download: Annotated[bool, typer.Option("--no-download", help="Only print the links.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, without progress.")] = False,
    dir_: Dir = None,
) -> None:
    """Make images from a prompt, and save them.

    Exit status: 0 completed, 1 the job failed, 2 the request was refused, 130 interrupted (the job goes on).
    """
    wishes: Wishes = {"model": model, "n": n}
    if size is not None:
        wishes["width"], wishes["height"] = size_of(size)
    if aspect_ratio is not None:
        wishes["aspect_ratio"] = aspect_ratio
    if quality is not None:
        wishes["quality"] = quality
    if output_format is not None:
        wishes["output_format"] = output_format
    if seed is not None:
        wishes["seed"] = seed
    with talking(context, dir_, as_json=as_json) as client:
        job = _followed(client, prompt, wishes, progress_on(out, quiet=as_json))
        saved = {} if no_download else save_all(client, job, folder)
        if as_json:
            shown = job.model_dump(mode="json", by_alias=True)
            show_json(shown | {"files": [str(path) for path in saved.values()]})
        else:
            show_result(job, saved)
    if job.status != "completed":
        raise typer.Exit(FAILED)


def _followed(client: Pixorly, prompt: str, wishes: Wishes, progress: Progress) -> Generation:
    """Create the job, show its progress, and return it settled."""
    try:
        with progress:
            return client.generate(prompt, on_progress=progress.tell, **wishes)
    except JobFailed as failed:
        return failed.job
    except NotSettledYet as late:
        show_problem(f"{late} `pixorly jobs watch {late.job_id}` goes on looking")
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        show_interruption(progress.job)
        raise typer.Exit(INTERRUPTED) from None


def show_interruption(job: Generation | None) -> None:
    """Say what becomes of a job that nobody waits for any more."""
    if job is None:
        err.print("\nInterrupted before the job was known; `pixorly jobs list` shows whether it was created.")
    elif not job.settled:
        err.print(f"\nThe job goes on. Look at it with: [bold]pixorly jobs watch {escape(job.id)}[/]")
        err.print(f"While it waits, it can be taken back: pixorly jobs cancel {escape(job.id)}")


def save_all(client: Pixorly, job: Generation, folder: Path) -> Saved:
    """Download a job's images into a folder, and return where each lies."""
    return {image.id: save(folder, name_of(image, job.id), client.images.download(image)) for image in job.images}


def show_result(job: Generation, saved: Saved) -> None:
    """Show what came of a job: the files and links, what failed, and what it cost."""
    for image in job.images:
        show_image(image, saved.get(image.id))
    for failure in job.failures:
        whose = "your credits are back" if failure.fault == "server" else "not refunded"
        show_problem(f"image {failure.index}: {failure.message} ({failure.code}; {whose})")
    refunded = f", {job.credits_refunded:,} refunded" if job.credits_refunded else ""
    left = job.credits_remaining
    remaining = f", {left + job.credits_refunded:,} left" if left is not None else ""
    took = seconds_in_words(job.processing_time_ms)
    out.print(f"{job.status.capitalize()} in {took}: {credits_in_words(job.credits_used)} used{refunded}{remaining}.")
