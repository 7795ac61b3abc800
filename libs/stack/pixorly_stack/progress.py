"""A job's progress, live: redrawn in place on a terminal, a line for each change elsewhere."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from pixorly_client import Generation
from pixorly_stack.showing import credits_in_words, short_id, status_in_colour

FRAMES_PER_S: Final = 10
_MARKS: Final = {
    "waiting": "[dim]·[/]",
    "drawing": "[cyan]…[/]",
    "storing": "[blue]↑[/]",
    "done": "[green]✓[/]",
    "failed": "[red]✗[/]",
}


class Progress(Protocol):
    """Shows how far a job is."""

    job: Generation | None
    """As it was told last."""

    def __enter__(self) -> Self:
        """Begin."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        ...

    def tell(self, job: Generation) -> None:
        """Take how far the job is now."""
        ...


def progress_on(console: Console, *, quiet: bool = False) -> Progress:
    """Return the progress that suits where it goes."""
    if quiet:
        return Silence()
    return LiveProgress(console) if console.is_terminal else PlainProgress(console)


def states(job: Generation) -> list[str]:
    """Return how far each image is: waiting, drawing, storing, done or failed."""
    found = ["waiting" if job.status == "pending" else "drawing"] * job.n
    words = {"generated": "storing", "uploaded": "done", "failed": "failed"}
    told = [(slot.index, words.get(slot.state)) for slot in job.slots]
    told += [(image.index, "done") for image in job.images]
    told += [(failure.index, "failed") for failure in job.failures]
    for index, word in told:
        if word is not None and index < len(found):
            found[index] = word
    return found


class Silence:
    """Shows nothing, and remembers the job."""

    def __init__(self) -> None:
        self.job: Generation | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """There is nothing to end."""

    def tell(self, job: Generation) -> None:
        """Remember the job; what it left on the account is said only when it is created."""
        if self.job is not None and job.credits_remaining is None:
            job = job.model_copy(update={"credits_remaining": self.job.credits_remaining})
        self.job = job


class LiveProgress(Silence):
    """Redraws a few lines in place."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._began = clock()
        self._spinner = Spinner("dots", style="cyan")
        self._live = Live(console=console, refresh_per_second=FRAMES_PER_S, get_renderable=self._drawn)

    def __enter__(self) -> Self:
        self._began = self._clock()
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last lines as they are."""
        self._live.stop()

    def _drawn(self) -> RenderableType:
        job = self.job
        if job is None:
            return self._headline("asking")
        rows = Table.grid(padding=(0, 1))
        for index, state in enumerate(states(job)):
            rows.add_row(f"  {_MARKS[state]}", f"image {index}", state, _why(job, index))
        return Group(self._headline(_status(job)), rows)

    def _headline(self, words: str) -> RenderableType:
        line = Table.grid(padding=(0, 1))
        mark = Text(" ") if self.job is not None and self.job.settled else self._spinner
        line.add_row(mark, Text.from_markup(f"{words}  [dim]{self._clock() - self._began:.1f} s[/]"))
        return line


class PlainProgress(Silence):
    """Writes a line for each change."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._console = console
        self._clock = clock
        self._began = clock()
        self._said: set[str] = set()

    def tell(self, job: Generation) -> None:
        """Write what is new."""
        new = self.job is None
        super().tell(job)  # before anything is written: whoever interrupts because of what he reads is told the job
        if new:
            self._say(_status(job))
            self._said.add(status_in_colour(job.status))
        for index, state in enumerate(states(job)):
            if state != "waiting":
                self._say(f"image {index} {state}{_why(job, index, before=': ')}")
        if job.retry_count:
            self._say(_retries(job))
        self._say(status_in_colour(job.status))

    def _say(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self._console.print(f"{self._clock() - self._began:6.1f} s  {line}")


def _status(job: Generation) -> str:
    used = credits_in_words(job.credits_used)
    left = f", {job.credits_remaining:,} left" if job.credits_remaining is not None else ""
    retries = f"  {_retries(job)}" if job.retry_count else ""
    return f"job {short_id(job.id)}  {status_in_colour(job.status)}  {used}{left}{retries}"


def _retries(job: Generation) -> str:
    return "1 retry" if job.retry_count == 1 else f"{job.retry_count} retries"


def _why(job: Generation, index: int, before: str = "") -> str:
    """Return why an image failed, if it did."""
    for failure in job.failures:
        if failure.index == index:
            return f"{before}{escape(failure.message)} ({escape(failure.code)})"
    return ""
