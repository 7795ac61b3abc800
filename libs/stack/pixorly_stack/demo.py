"""`pixorly demo`: one job from start to end, and what happened on the way."""

import asyncio
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.markup import escape

from pixorly_stack.commands import LINES_OF_A_FAILURE, Dir, settings_for
from pixorly_stack.connection import FAILED, INTERRUPTED
from pixorly_stack.console import out, show_log, show_problem
from pixorly_stack.errors import StackError
from pixorly_stack.folder import Folder
from pixorly_stack.logs import last_lines
from pixorly_stack.starting import borrowed

_TERMINATED = 128 + signal.SIGTERM


def demo(
    *,
    folder: Annotated[Path, typer.Option("--out", "-o", help="Where the files go.")] = Path("out"),
    dir_: Dir = None,
) -> None:
    """Start everything, make two images through the API, show what happened, and stop again."""
    from pixorly_stack.demonstration import (  # noqa: PLC0415 - heavy, and rarely needed
        DemoFailed,
        show_summary,
        two_images,
    )

    stack_folder, began = Folder(settings_for(dir_).dir), time.monotonic()
    signal.signal(signal.SIGTERM, _leave)
    try:
        with borrowed(stack_folder) as stack:
            try:
                story = asyncio.run(two_images(stack_folder, folder))
            except DemoFailed as failure:
                _show_log_of(stack_folder, failure.part)
                raise
            show_summary(story)
    except StackError as failure:
        show_problem(str(failure))
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    times = "".join(f", {what} {seconds:.1f} s" for what, seconds in stack.times_s.items())
    out.print(f"\n[green]✓[/] Done in {time.monotonic() - began:.1f} s{times}.")


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    """End in good order: what was started is stopped on the way out."""
    sys.exit(_TERMINATED)


def _show_log_of(folder: Folder, part: str | None) -> None:
    if part is None:
        return
    lines = last_lines(folder.logs / f"{part}.log", LINES_OF_A_FAILURE)
    if lines:
        out.print(f"The last lines of {escape(part)}'s log:")
    for line in lines:
        show_log(part, line)
