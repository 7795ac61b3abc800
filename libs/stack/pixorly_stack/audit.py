"""`pixorly audit`: whether money and storage add up."""

from typing import Annotated, Any

import typer
from rich.markup import escape

from pixorly_client import Pixorly
from pixorly_stack.books import ADMIN, as_operator, told
from pixorly_stack.commands import Dir
from pixorly_stack.connection import FAILED, Json
from pixorly_stack.console import err, out
from pixorly_stack.showing import show_json, size_in_words

_KINDS = {
    "object_without_image": "lies in the bucket, and there is no such image",
    "image_without_objects": "is an image, and nothing of it lies in the bucket",
    "image_without_storage": "is an image, and the ledger counts no storage for it",
    "storage_without_image": "takes storage in the ledger, and there is no such image",
    "bytes_differ": "has different sizes in the bucket, in the ledger and among the images",
    "unknown_key": "is a key that no image could have",
}


def audit(
    context: typer.Context,
    *,
    storage: Annotated[
        bool, typer.Option("--storage", help="Compare images and the ledger with the bucket's objects, too.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Nothing is under way: no charge may be open, no room reserved.")
    ] = False,
    as_json: Json = False,
    dir_: Dir = None,
) -> None:
    """Check every invariant of money and storage over the whole database; exit 1 and name what is off."""
    with as_operator(context, dir_, as_json=as_json) as client:
        books = _books(client, quiet=quiet, show=not as_json)
        bucket = _bucket(client, show=not as_json) if storage else None
    clean = books["clean"] and (bucket is None or bucket["clean"])
    if as_json:
        show_json({**books, "clean": clean, **({"storage": bucket} if bucket else {})})
    else:
        out.print("[green]Everything adds up.[/]" if clean else "[red]Not everything adds up.[/]")
    if not clean:
        raise typer.Exit(FAILED)


def _books(client: Pixorly, *, quiet: bool, show: bool) -> dict[str, Any]:
    """Have the ledger check itself; each check is shown as soon as it is done."""

    def on_line(line: dict[str, Any]) -> None:
        if show and "name" in line:
            _show_check(line, counts=quiet or not line["quiet"])

    report = client.run(told(f"{ADMIN}/audit", {"quiet": str(quiet).lower()}, on_line))
    if show:
        totals = report["totals"]
        out.print(
            f"\n{totals['transfers']:,} transfers, {totals['charges']:,} charges, {totals['accounts']:,} accounts"
        )
        out.print("  ".join(f"{place} {totals[f'{place}_credits']:,}" for place in _PLACES))
    return report


_PLACES = ("issued", "available", "escrow", "revenue")


def _show_check(check: dict[str, Any], *, counts: bool) -> None:
    mark = "[green]ok[/]   " if check["ok"] else "[red]wrong[/]" if counts else "[dim]busy[/] "
    found = "" if check["ok"] else f"  {escape(' '.join(map(str, check['found'])))}{' …' if check['more'] else ''}"
    out.print(f"{mark} {check['name']}{found}")


def _bucket(client: Pixorly, *, show: bool) -> dict[str, Any]:
    """Compare with the bucket; how far it is is shown on the error output."""
    findings: list[dict[str, Any]] = []

    def on_line(line: dict[str, Any]) -> None:
        if "finding" in line:
            findings.append(line["finding"])
            if show:
                out.print(f"[red]wrong[/] {escape(line['finding']['id'])} {_in_words(line['finding'])}")
        elif show and "clean" not in line:
            err.print(f"[dim]{line['users']:,} users, {line['objects']:,} objects[/]")

    report = client.run(told(f"{ADMIN}/audit/storage", {}, on_line))
    if show:
        mark = "[green]ok[/]   " if report["clean"] else "[red]wrong[/]"
        out.print(
            f"{mark} bucket: {report['objects']:,} objects, {size_in_words(report['object_bytes'])}, "
            f"of {report['images']:,} images of {report['users']:,} users; {report['under_way']:,} under way"
        )
    return {**report, "findings": findings}


def _in_words(finding: dict[str, Any]) -> str:
    sizes = " ".join(
        f"{name} {finding[f'{field}_bytes']}"
        for name, field in (("bucket", "object"), ("images", "image"), ("ledger", "ledger"))
        if finding[f"{field}_bytes"] is not None
    )
    return escape(f"({finding['user_id']}) {_KINDS.get(finding['kind'], finding['kind'])}; bytes: {sizes}")
