"""What `pixorly demo` does once the stack runs: a job of two images, checked, and the story of it."""

import asyncio
import io
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import aio_pika
from PIL import Image as Pictures
from PIL import UnidentifiedImageError
from rich.markup import escape

from pixorly_client import (
    AsyncPixorly,
    ConnectionTrouble,
    Generation,
    Image,
    JobFailed,
    NotSettledYet,
    PixorlyError,
    Receipt,
    Timeline,
)
from pixorly_stack.connection import ApiAccess
from pixorly_stack.console import out
from pixorly_stack.errors import StackError
from pixorly_stack.files import read_json
from pixorly_stack.folder import Folder
from pixorly_stack.observing import Ear, Heard, listening
from pixorly_stack.progress import progress_on
from pixorly_stack.saving import name_of, save
from pixorly_stack.showing import bar, credits_in_words, lines, show_table, size_in_words

PROMPT: Final = "Northern lights over a quiet fjord"
MODEL: Final = "sandbox/aurora"
NUMBER: Final = 2
SIZE: Final = (1024, 1024)
JOB_WITHIN_S: Final = 120.0
SETTLED_WITHIN_S: Final = 10.0
WIDTH_OF_A_BAR: Final = 30
_WORKER: Final = {"generate": "generator", "upload": "uploader", "settle": "api-worker"}
"""By the stage at which an image failed, the process to look at."""


class DemoFailed(StackError):
    """The demo did not go as it should.

    Attributes:
        part: The process whose log may say why.
    """

    def __init__(self, message: str, part: str | None = None) -> None:
        super().__init__(message)
        self.part = part


@dataclass(frozen=True, slots=True)
class Story:
    """What happened to the demo's job.

    Attributes:
        files: Each image and where it lies.
        balances: The credits before and after.
        events: What passed through RabbitMQ, in the order of arrival; empty where nobody could listen.
    """

    job: Generation
    files: Sequence[tuple[Image, Path]]
    balances: tuple[int, int]
    timeline: Timeline
    receipt: Receipt
    events: Sequence[Heard]


async def two_images(folder: Folder, files: Path) -> Story:
    """Make two images through the API of the stack in `folder`, and save and check them.

    Raises:
        DemoFailed: There are not two images of the asked size in the end.
    """
    dev: dict[str, Any] = read_json(folder.dev) or {}
    access = ApiAccess(dev["api_url"], dev["api_key"])
    async with AsyncPixorly(access.key, access.url, trust_env=False) as client, _ear(dev["amqp_url"]) as ear:
        try:
            before = (await client.account()).credits_remaining
            job = await _made(client)
            saved = [(image, await _saved(client, job, image, files)) for image in job.images]
            receipt = await _settled(client, job.id)
            after = (await client.account()).credits_remaining
            timeline = await client.timeline(job.id)
        except ConnectionTrouble as trouble:
            raise DemoFailed(f"the API did not answer: {trouble.reason}", part="api") from trouble
        except PixorlyError as error:
            raise DemoFailed(str(error), part="api") from error
        events = await ear.until_settled(job.id, SETTLED_WITHIN_S) if ear else []
    check(job, saved)
    return Story(job, saved, (before, after), timeline, receipt, events)


@asynccontextmanager
async def _ear(amqp_url: str) -> AsyncIterator[Ear | None]:
    """Listen to the events; a broker that does not let us is no reason to have no demo."""
    async with AsyncExitStack() as stack:
        ear = None
        try:
            ear = await stack.enter_async_context(listening(amqp_url))
        except (aio_pika.exceptions.AMQPError, OSError) as error:
            out.print(f"  [dim]the events cannot be listened to: {escape(str(error))}[/]")
        yield ear


async def _made(client: AsyncPixorly) -> Generation:
    """Make the job, showing its progress.

    Raises:
        DemoFailed: It failed, or is not settled in time.
    """
    out.print(f'\n[bold]pixorly generate "{PROMPT}" -n {NUMBER} --size {SIZE[0]}x{SIZE[1]}[/]')
    with progress_on(out) as progress:
        try:
            return await client.generate(
                PROMPT,
                model=MODEL,
                n=NUMBER,
                width=SIZE[0],
                height=SIZE[1],
                on_progress=progress.tell,
                timeout_s=JOB_WITHIN_S,
            )
        except JobFailed as failed:
            stage = failed.job.failures[0].stage if failed.job.failures else None
            raise DemoFailed(str(failed), part=_WORKER.get(stage or "", "api-worker")) from failed
        except NotSettledYet as late:
            status = progress.job.status if progress.job else "pending"
            raise DemoFailed(str(late), part="uploader" if status == "uploading" else "generator") from late


async def _saved(client: AsyncPixorly, job: Generation, image: Image, files: Path) -> Path:
    return save(files, name_of(image, job.id), await client.images.download(image))


async def _settled(client: AsyncPixorly, job_id: str) -> Receipt:
    """Return the receipt when the ledger has settled the job, or as it is when the time is up."""
    deadline = time.monotonic() + SETTLED_WITHIN_S
    while True:
        receipt = await client.receipt(job_id)
        if receipt.status != "open" or time.monotonic() > deadline:
            return receipt
        await asyncio.sleep(0.05)


def check(job: Generation, saved: Sequence[tuple[Image, Path]]) -> None:
    """Check that there is what was asked for.

    Raises:
        DemoFailed: There is not.
    """
    if len(saved) != NUMBER:
        reasons = "; ".join(f"image {failure.index}: {failure.message}" for failure in job.failures)
        stage = job.failures[0].stage if job.failures else None
        raise DemoFailed(f"there are {len(saved)} images of {NUMBER}: {reasons}", part=_WORKER.get(stage or ""))
    for _, path in saved:
        try:
            size = size_when_decoded(path.read_bytes())
        except (UnidentifiedImageError, OSError) as error:
            raise DemoFailed(f"{path} is not an image: {error}", part="uploader") from error
        if size != SIZE:
            raise DemoFailed(f"{path} is {size[0]}x{size[1]}, not {SIZE[0]}x{SIZE[1]}", part="generator")


def size_when_decoded(body: bytes) -> tuple[int, int]:
    """Return an image's size; every pixel is decoded on the way.

    Raises:
        PIL.UnidentifiedImageError, OSError: It is no image, or a damaged one.
    """
    with Pictures.open(io.BytesIO(body)) as picture:
        picture.load()
        return picture.size


def show_summary(story: Story) -> None:
    """Show the images, where the time went, the credits, and the events."""
    _show_files(story)
    _show_steps(story.timeline)
    _show_credits(story)
    _show_events(story)


def _show_files(story: Story) -> None:
    out.print("\n[bold]Images[/]")
    show_table(
        lines(
            (escape(str(path)), f"{image.width}x{image.height}", size_in_words(image.bytes))
            for image, path in story.files
        )
    )


def steps(timeline: Timeline) -> list[tuple[str, float]]:
    """Return the steps of a job and how long each took, in seconds."""
    marks: list[tuple[str, datetime]] = []
    for words, what, last in (
        ("created", "job.created", False),
        ("created → started", "job.started", False),
        ("started → generated", "image.generated", True),
        ("generated → uploaded", "image.uploaded", True),
        ("uploaded → settled", "job.completed", True),
    ):
        times = [entry.at for entry in timeline.data if entry.what == what]
        if times:
            marks.append((words, max(times) if last else min(times)))
    return [(words, (at - before).total_seconds()) for (_, before), (words, at) in pairwise(marks)]


def _show_steps(timeline: Timeline) -> None:
    took = steps(timeline)
    if not took:
        return
    out.print("\n[bold]Where the time went[/]")
    largest = max(seconds for _, seconds in took)
    show_table(
        lines(
            (
                (words, f"{seconds:.2f} s", f"[cyan]{bar(seconds, largest, WIDTH_OF_A_BAR)}[/]")
                for words, seconds in took
            ),
            right=1,
        )
    )


def _show_credits(story: Story) -> None:
    before, after = story.balances
    receipt = story.receipt
    out.print(
        f"\n[bold]Credits[/]\n  {before:,} before, {after:,} after: {credits_in_words(receipt.captured_credits)} "
        f"for {len(story.files)} images, {receipt.refunded_credits:,} refunded"
    )


def _show_events(story: Story) -> None:
    if not story.events:
        return
    out.print("\n[bold]Events, as they passed through RabbitMQ[/]")
    first = story.events[0].at
    show_table(lines((f"+{event.at - first:.2f} s", escape(event.type), _details(event)) for event in story.events))


def _details(event: Heard) -> str:
    body = event.body
    match event.type:
        case "job.started":
            words = f"attempt {body.get('attempt')} on {body.get('provider')}"
        case "job.retrying":
            words = f"{body.get('code')}, again in {body.get('delay_s')} s"
        case "image.generated" | "image.uploaded":
            words = f"image {body.get('index')}  {size_in_words(body.get('bytes'))}"
        case "image.failed":
            words = f"image {body.get('index')}  {body.get('code')}"
        case _:
            words = ""
    return escape(words)
