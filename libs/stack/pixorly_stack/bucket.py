"""`pixorly bucket`: the bucket of images."""

import asyncio

import typer
from rich.markup import escape

from pixorly.errors import OutageError
from pixorly.settings import StorageSettings
from pixorly_stack.commands import Dir, settings_for
from pixorly_stack.connection import Json
from pixorly_stack.console import out
from pixorly_stack.errors import StackError
from pixorly_stack.files import read_json
from pixorly_stack.folder import Folder
from pixorly_stack.showing import show_json

app = typer.Typer(help="The bucket of images.", no_args_is_help=True)


@app.callback()
def bucket() -> None:
    """Take part as a group, though there is one command."""


@app.command()
def init(dir_: Dir = None, *, as_json: Json = False) -> None:
    """Make the bucket if it is not there, and set its rules: encryption, no public access, what expires, CORS.

    It is the bucket that the environment names (AWS_S3_BUCKET and the keys of AWS), or that of the stack in the folder.
    """
    from pixorly.bucket import ensure_bucket  # noqa: PLC0415 - heavy, and the other commands are to be quick

    settings = _settings(settings_for(dir_))
    try:
        done = asyncio.run(ensure_bucket(settings))
    except OutageError as error:
        raise StackError(error.message) from error
    if as_json:
        show_json(
            {"bucket": settings.aws_s3_bucket, "steps": [{"known": step.known, "words": step.words} for step in done]}
        )
        return
    where = settings.s3_endpoint_url or f"AWS, {settings.aws_region}"
    out.print(f"[bold]{escape(settings.aws_s3_bucket)}[/] at {escape(where)}")
    for step in done:
        out.print(f"  {'[green]✓[/]' if step.known else '[yellow]![/]'} {escape(step.words)}")


def _settings(told: StorageSettings) -> StorageSettings:
    """Return those of the environment where it names a store, else the stack's."""
    if told.s3_endpoint_url or told.aws_access_key_id:
        return told
    folder = getattr(told, "dir", None)
    dev = (read_json(Folder(folder).dev) if folder else None) or {}
    stack = {name.lower().removeprefix("pixorly_"): value for name, value in dev.get("s3", {}).items()}
    # Neither is named: then it is AWS, with the identity that this machine has there.
    return StorageSettings.model_validate({**told.model_dump(include=set(StorageSettings.model_fields)), **stack})
