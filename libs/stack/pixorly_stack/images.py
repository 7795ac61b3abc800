"""`pixorly images`: what is stored."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from pixorly_client import Image
from pixorly_client.calls import Paging
from pixorly_stack.commands import Dir
from pixorly_stack.connection import Json, talking
from pixorly_stack.console import out
from pixorly_stack.saving import name_of, save
from pixorly_stack.showing import moment_in_words, one_line, show_json, show_table, size_in_words, table

app = typer.Typer(help="List, get and delete images.", no_args_is_help=True)


@app.command("list")
def list_(
    context: typer.Context,
    *,
    limit: Annotated[int, typer.Option("--limit", "-l", min=1, max=100, help="How many.")] = 20,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Where an earlier list ended.")] = None,
    as_json: Json = False,
    dir_: Dir = None,
) -> None:
    """List images, newest first."""
    paging: Paging = {"limit": limit}
    if cursor:
        paging["cursor"] = cursor
    with talking(context, dir_, as_json=as_json) as client:
        page = client.images.list(**paging)
    if as_json:
        show_json(page)
    elif page.data:
        show_table(_table_of(page.data))
        if page.next_cursor:
            out.print(f"[dim]More: --cursor {escape(page.next_cursor)}[/]")
    else:
        out.print("There are no images.")


def _table_of(images: list[Image]) -> Table:
    made = table("ID", "CREATED", "SIZE", "BYTES", "AS", "JOB", right=("CREATED", "SIZE", "BYTES"), cut="JOB")
    for image in images:
        made.add_row(
            escape(image.id),
            moment_in_words(image.created_at),
            f"{image.width}x{image.height}",
            size_in_words(image.bytes),
            image.extension,
            one_line(image.generation_id or "-"),
        )
    return made


@app.command()
def get(
    context: typer.Context,
    image_id: Annotated[str, typer.Argument(help="The image's id.")],
    *,
    folder: Annotated[Path | None, typer.Option("--out", "-o", help="Save it into this folder, too.")] = None,
    thumbnail: Annotated[int | None, typer.Option("--thumbnail", help="Save the small one of this size.")] = None,
    as_json: Json = False,
    dir_: Dir = None,
) -> None:
    """Show an image with fresh links, and save it where a folder is named."""
    with talking(context, dir_, as_json=as_json) as client:
        image = client.images.get(image_id)
        if thumbnail is not None and str(thumbnail) not in image.thumbnails:
            there = ", ".join(image.thumbnails) or "none"
            raise typer.BadParameter(f"there is no thumbnail of {thumbnail} pixels; there are: {there}")
        path = None
        if folder is not None:
            name = name_of(image) if thumbnail is None else f"{Path(name_of(image)).stem}-{thumbnail}.webp"
            path = save(folder, name, client.images.download(image, thumbnail=thumbnail))
    if as_json:
        show_json(image.model_dump(mode="json") | ({"file": str(path)} if path else {}))
        return
    out.print(f"[bold]{escape(image.id)}[/]  {image.width}x{image.height}  {size_in_words(image.bytes)}")
    if path:
        out.print(f"saved as [bold]{escape(str(path))}[/]")
    for name, url in {"original": image.url, **image.thumbnails}.items():
        out.print(f"  {name:<8}  [dim]{escape(url)}[/]")


@app.command()
def delete(
    context: typer.Context,
    image_ids: Annotated[list[str], typer.Argument(help="The images' ids.")],
    *,
    as_json: Json = False,
    dir_: Dir = None,
) -> None:
    """Delete images for good."""
    with talking(context, dir_, as_json=as_json) as client:
        for image_id in image_ids:
            client.images.delete(image_id)
            if not as_json:
                out.print(f"Deleted {escape(image_id)}.")
    if as_json:
        show_json({"deleted": image_ids})
