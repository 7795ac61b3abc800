"""Saving a job's images: each under a name that says which it is."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from rich.markup import escape

from pixorly_client import Image
from pixorly_stack.console import out
from pixorly_stack.errors import StackError
from pixorly_stack.showing import short_id, size_in_words

Saved = Mapping[str, Path]
"""By the image's id, where it lies."""


def name_of(image: Image, job_id: str | None = None) -> str:
    """Return the file name of an image: the short id of its job (or its own), its index, and what it is."""
    owner = job_id or image.generation_id or image.id
    return f"{short_id(owner)}-{image.index}.{image.extension}"


def save(folder: Path, name: str, body: bytes) -> Path:
    """Write a file, whole or not at all, and return its path.

    Raises:
        StackError: It cannot be written.
    """
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, half = tempfile.mkstemp(dir=folder, prefix=f".{name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(body)
        Path(half).chmod(0o644)
        Path(half).replace(path)
    except OSError as error:
        raise StackError(f"{path} cannot be written: {error.strerror}") from error
    return path


def show_image(image: Image, path: Path | None) -> None:
    """Show where an image lies and its link, which is written whole so that it can be copied."""
    where = f"[bold]{escape(str(path))}[/]" if path else f"image {image.index}"
    out.print(f"  {where}  {image.width}x{image.height}  {size_in_words(image.bytes)}")
    out.print(f"    [dim]{escape(image.url)}[/]")
