"""`pixorly models` and `emulator`: what can be asked for, and a stand-in for those who make it."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pixorly_client import Model
from pixorly_emulator.cli import main as run_emulator
from pixorly_stack.commands import Dir
from pixorly_stack.connection import Json, talking
from pixorly_stack.console import out
from pixorly_stack.showing import one_line, show_json, show_table, table

app = typer.Typer(help="List the models on offer, or bring the catalogue up to date.")


@app.callback(invoke_without_command=True)
def models(context: typer.Context, *, as_json: Json = False, dir_: Dir = None) -> None:
    """List the models on offer, with prices and sizes."""
    if context.invoked_subcommand:
        return
    with talking(context, dir_, as_json=as_json) as client:
        found = client.models()
    if as_json:
        show_json([model.model_dump(mode="json") for model in found])
        return
    made = table("MODEL", "CREDITS", "TYPICAL", "SIZES", right=("CREDITS", "TYPICAL"), cut="SIZES")
    for model in found:
        typical = f"{model.typical_s:g} s" if model.typical_s is not None else "-"
        made.add_row(escape(model.id), _price(model), typical, one_line(_sizes(model)))
    show_table(made)
    out.print("[dim]Credits are for one image.[/]")


def _price(model: Model) -> str:
    prices = sorted({model.credits_per_image, *model.quality_credits.values()})
    return str(prices[0]) if len(prices) == 1 else f"{prices[0]}-{prices[-1]}"


def _sizes(model: Model) -> str:
    return " ".join(model.aspect_ratios) or f"{model.min_px} to {model.max_px} px a side"


@app.command()
def sync(
    *,
    file: Annotated[Path | None, typer.Option("--file", help="The catalogue; without it the one in use.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Write it without asking.")] = False,
) -> None:
    """Show how the catalogue differs from what OpenRouter offers, and write it if told to."""
    # The generator knows how to ask; the stack runs services and imports none.
    words = [*(("--file", str(file)) if file else ()), *(("--write",) if write else ())]
    done = subprocess.run([sys.executable, "-P", "-m", "pixorly_generator.sync", *words], check=False)  # noqa: S603 - our own program
    raise typer.Exit(done.returncode)


def emulator(context: typer.Context) -> None:
    """Run the providers' emulator, with options and faults of its own: see its --help."""
    run_emulator(context.args, program="pixorly emulator")
