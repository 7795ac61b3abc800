"""What the `pixorly` command shows."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pixorly_stack.folder import Row

if TYPE_CHECKING:
    from pixorly_stack.doctor import Finding

COLOURS = (
    "cyan",
    "green",
    "magenta",
    "yellow",
    "blue",
    "bright_cyan",
    "bright_green",
    "bright_magenta",
    "bright_yellow",
)
STATES = {"ready": "green", "external": "blue", "stopped": "dim"}
NAME_WIDTH = 10

out = Console(highlight=False, soft_wrap=True)
err = Console(highlight=False, soft_wrap=True, stderr=True)


def table_of(rows: Sequence[Row]) -> Table:
    """Return what runs, for people."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("NAME", "STATE", "PORT", "PID"):
        table.add_column(heading, justify="right" if heading in {"PORT", "PID"} else "left", no_wrap=True)
    for row in rows:
        colour = STATES.get(row.state, "yellow")
        table.add_row(row.name, f"[{colour}]{row.state}[/]", str(row.port or "-"), str(row.pid or "-"))
    return table


def show_ready(rows: Sequence[Row], dev: Mapping[str, Any]) -> None:
    """Show what runs where, and what to do with it."""
    out.print()
    out.print(table_of(rows))
    out.print()
    out.print(f"The API is at [bold]{dev['api_url']}[/], its documentation at {dev['api_url']}/docs.")
    if dev.get("observe_url"):
        out.print(f"Traces and metrics are at [bold]{dev['observe_url']}[/]; `pixorly trace` shows the newest job's.")
    out.print('Your key is in dev.json in the stack\'s folder. Try: [bold]pixorly generate "a lighthouse at dusk"[/]')


def show_log(name: str, line: str) -> None:
    """Show a line of a process's log, one that is JSON in words."""
    colour = COLOURS[sum(map(ord, name)) % len(COLOURS)]
    for part in (in_words(line) or line).splitlines() or [""]:
        out.print(f"[{colour}]{name:<{NAME_WIDTH}} |[/] {escape(part)}")


def show_raw(name: str, line: str) -> None:
    """Show a line of a process's log as it is."""
    out.out(f"{name:<{NAME_WIDTH}} | {line}")


def in_words(line: str) -> str | None:
    """Return what a line of JSON says: when, how bad, what, and the rest; None where it is not such a line."""
    try:
        entry = json.loads(line)
        moment, level, message = (str(entry.pop(name)) for name in ("time", "level", "message"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    trace = str(entry.pop("exception", "")).strip()
    entry.pop("service", None)
    words = [
        moment[11:23],
        f"{level.upper():<7}",
        message.strip(),
        *(f"{name}={value}" for name, value in entry.items()),
    ]
    return "\n".join(filter(None, (" ".join(words), trace)))


def show_problem(message: str) -> None:
    """Show what went wrong, on the error output."""
    err.print(f"[bold red]error:[/] {escape(message)}")


def show_findings(findings: "Sequence[Finding]") -> None:
    """Show what was found, and what to do about it."""
    for finding in findings:
        mark = "[green]ok[/]   " if finding.good else "[red]wrong[/]"
        out.print(f"{mark} {finding.name:<12} {escape(finding.said)}")
        for way in finding.advice:
            out.print(f"{'':19}- {escape(way)}")
    wrong = sum(not finding.good for finding in findings)
    out.print(
        "\nAll is well."
        if not wrong
        else f"\n{wrong} of {len(findings)} need you; any one of the ways beside each helps."
    )
