"""`pixorly backup` and `pixorly restore`: the databases and the bucket of a local stack, to a folder and back."""

import asyncio
import time
from pathlib import Path
from typing import Annotated

import typer

from pixorly_stack.commands import Dir, settings_for
from pixorly_stack.console import out
from pixorly_stack.errors import StackError
from pixorly_stack.files import read_json
from pixorly_stack.folder import Folder, RunningAlreadyError

Target = Annotated[Path, typer.Argument(help="The folder of the backup.", file_okay=False)]


def backup(target: Target, dir_: Dir = None) -> None:
    """Write the databases and the bucket of the stack, which goes on running, to a new folder."""
    from pixorly_stack import saving_all  # noqa: PLC0415 - heavy, and the other commands are to be quick

    settings = settings_for(dir_)
    dev = read_json(Folder(settings.dir).dev)
    if dev is None or not Folder(settings.dir).runs():
        raise StackError("the stack does not run; start it with: pixorly up --detach")
    if target.exists() and any(target.iterdir()):
        raise StackError(f"{target} is not empty")
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    began = time.monotonic()
    objects = asyncio.run(saving_all.save(target, dev, settings))
    out.print(f"{objects:,} objects and all databases in {time.monotonic() - began:.1f} s: {target}")


def restore(
    source: Target,
    dir_: Dir = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Put back what `pixorly backup` wrote, in place of what is there; the stack must not run."""
    from pixorly_stack import saving_all  # noqa: PLC0415 - heavy, and the other commands are to be quick

    settings = settings_for(dir_)
    missing = [name for name in saving_all.DATABASES if not (source / f"{name}.dump").is_file()]
    if missing:
        raise StackError(f"{source} holds no backup: {missing[0]}.dump is not there")
    folder = Folder(settings.dir)
    if folder.runs():
        raise StackError("the stack runs; stop it with: pixorly down")
    if not yes:
        typer.confirm(f"Replace all databases and objects of the stack in {folder.root}?", abort=True)
    folder.make()
    began = time.monotonic()
    try:
        with folder.held():
            folder.clear_away()
            objects = asyncio.run(saving_all.load(source, folder, settings))
    except RunningAlreadyError as error:
        raise StackError("the stack runs; stop it with: pixorly down") from error
    out.print(f"{objects:,} objects and all databases in {time.monotonic() - began:.1f} s")
    out.print("Now: pixorly up, and when it has run for some minutes: pixorly audit --storage")
