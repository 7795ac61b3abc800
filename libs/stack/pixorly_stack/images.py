"""`pixorly images`: what is stored."""

import time
from pathlib import Path
from typing import Annotated, Final, Literal

import typer
from rich.markup import escape
from rich.table import Table

from pixorly_client import Image, Pixorly
from pixorly_client.calls import ImageFilters
from pixorly_stack.commands import Dir
from pixorly_stack.connection import Json, talking
from pixorly_stack.console import out
from pixorly_stack.saving import name_of, save
from pixorly_stack.showing import moment_in_words, one_line, show_json, show_table, size_in_words, table

app = typer.Typer(help="List, get, publish and delete images.", no_args_is_help=True)

_BATCH: Final = 100
_LOOK_EVERY_S: Final = 0.2
_MOVES_WITHIN_S: Final = 30.0
Ids = Annotated[list[str], typer.Argument(help="The images' ids.")]


@app.command("list")
def list_(
    context: typer.Context,
    *,
    job: Annotated[str | None, typer.Option("--job", help="Only those of this job.")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Only those that this model made.")] = None,
    public: Annotated[bool, typer.Option("--public", help="Only those that everybody may read.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-l", min=1, max=100, help="How many.")] = 20,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Where an earlier list ended.")] = None,
    as_json: Json = False,
    dir_: Dir = None,
) -> None:
    """List images, newest first."""
    filters: ImageFilters = {"limit": limit}
    if cursor:
        filters["cursor"] = cursor
    if job:
        filters["generation_id"] = job
    if model:
        filters["model"] = model
    if public:
        filters["visibility"] = "public"
    with talking(context, dir_, as_json=as_json) as client:
        page = client.images.list(**filters)
    if as_json:
        show_json(page)
    elif page.data:
        show_table(_table_of(page.data))
        if page.next_cursor:
            out.print(f"[dim]More: --cursor {escape(page.next_cursor)}[/]")
    else:
        out.print("There are no images.")


def _table_of(images: list[Image]) -> Table:
    right = ("CREATED", "SIZE", "BYTES")
    made = table("ID", "CREATED", "SIZE", "BYTES", "AS", "FOR", "JOB", right=right, cut="JOB")
    for image in images:
        made.add_row(
            escape(image.id),
            moment_in_words(image.created_at),
            f"{image.width}x{image.height}",
            size_in_words(image.bytes),
            image.extension,
            image.visibility,
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
def publish(context: typer.Context, image_ids: Ids, *, as_json: Json = False, dir_: Dir = None) -> None:
    """Let everybody read images, through the CDN."""
    _change(context, image_ids, "public", as_json=as_json, dir_=dir_)


@app.command()
def unpublish(context: typer.Context, image_ids: Ids, *, as_json: Json = False, dir_: Dir = None) -> None:
    """Take images back: their public addresses end, and stay dead if they are published again."""
    _change(context, image_ids, "private", as_json=as_json, dir_=dir_)


def _change(
    context: typer.Context,
    image_ids: list[str],
    visibility: Literal["private", "public"],
    *,
    as_json: bool,
    dir_: Path | None,
) -> None:
    with talking(context, dir_, as_json=as_json) as client:
        for image_id in image_ids:
            client.images.change(image_id, visibility=visibility)
        for image_id in image_ids:
            image = _moved(client, image_id)
            if as_json:
                show_json(image)
            else:
                where = "is still on its way" if image.moving else escape(image.url)
                out.print(f"{escape(image.id)} is {visibility}: [dim]{where}[/]")


def _moved(client: Pixorly, image_id: str) -> Image:
    """Return an image once it lies where it belongs, or as it is after half a minute."""
    until = time.monotonic() + _MOVES_WITHIN_S
    while (image := client.images.get(image_id)).moving and time.monotonic() < until:
        time.sleep(_LOOK_EVERY_S)
    return image


@app.command()
def delete(context: typer.Context, image_ids: Ids, *, as_json: Json = False, dir_: Dir = None) -> None:
    """Delete images for good."""
    deleted, missing = list[str](), list[str]()
    with talking(context, dir_, as_json=as_json) as client:
        for start in range(0, len(image_ids), _BATCH):
            done = client.images.delete_many(image_ids[start : start + _BATCH])
            deleted += done.deleted
            missing += done.not_found
    if as_json:
        show_json({"deleted": deleted, "not_found": missing})
    else:
        for image_id in deleted:
            out.print(f"Deleted {escape(image_id)}.")
        for image_id in missing:
            out.print(f"There is no image {escape(image_id)}.")
    if missing:
        raise typer.Exit(1)
