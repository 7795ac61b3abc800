"""Figures: what was found, beside what, and what was aimed at; kept in files from which the document is made.

`results/latest.json` is a list of figures, `results/details.json` has what the plots show: both are written after each
part, and a part that is measured again takes the place of what it found before.
"""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        figure: What was measured.
        value: Pixorly's.
        unit: Of the value.
        compared_with: What else did the same in the same run, with its value.
        ratio: Ours to that.
        target: What was aimed at.
        met: Whether it was reached; None where nothing was aimed at.
        part: The part of the bench that found it.
    """

    figure: str
    value: float
    unit: str
    compared_with: str | None = None
    ratio: float | None = None
    target: str | None = None
    met: bool | None = None
    part: str = ""


@dataclass
class Found:
    """What a part found."""

    figures: list[Figure] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def add(
        self,
        figure: str,
        value: float,
        unit: str,
        beside: tuple[str, float] | None = None,
        *,
        ratio: float | None = None,
        at_least: float | None = None,
        at_most: float | None = None,
        of: str = "ratio",
    ) -> None:
        """Add a line; the target is of the `ratio` or of the `value`, as found and not as rounded."""
        if beside and ratio is None and beside[1]:
            ratio = value / beside[1]
        looked_at = ratio if of == "ratio" else value
        target, met = None, None
        if at_least is not None and looked_at is not None:
            target, met = f"{of} at least {at_least:g}", looked_at >= at_least
        elif at_most is not None and looked_at is not None:
            target, met = f"{of} at most {at_most:g}", looked_at <= at_most
        words = f"{beside[0]}: {short(beside[1])} {unit}" if beside else None
        rounded = None if ratio is None else float(short(ratio))
        self.figures.append(Figure(figure, float(short(value)), unit, words, rounded, target, met))


def short(value: float) -> str:
    """Three digits that count, and all before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ratio_of_rounds(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios of rounds that took turns: what slowed the machine down slowed both."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest of the values that so many are no larger than."""
    ordered = sorted(values)
    return ordered[max(0, ceil(share * len(ordered)) - 1)]


class Store:
    """The files."""

    def __init__(self, folder: Path = RESULTS) -> None:
        self._latest, self._details = folder / "latest.json", folder / "details.json"
        folder.mkdir(parents=True, exist_ok=True)

    def figures(self) -> list[Figure]:
        return [Figure(**line) for line in _read(self._latest, [])]

    def details(self) -> dict[str, Any]:
        return dict(_read(self._details, {}))

    def fresh(self, part: str, within_s: float) -> bool:
        """Tell whether a part was measured within this time."""
        at = self.details().get(part, {}).get("about", {}).get("at_s", 0)
        return time.time() - at < within_s

    def put(self, part: str, found: Found, about: dict[str, Any]) -> None:
        # What a main run and a full one both find stands there once, as it was found last.
        names = {figure.figure for figure in found.figures}
        kept = [figure for figure in self.figures() if figure.part != part and figure.figure not in names]
        lines = [*map(asdict, kept), *({**asdict(figure), "part": part} for figure in found.figures)]
        _write(self._latest, lines)
        about = {**about, "at_s": round(time.time()), "at": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())}
        _write(self._details, {**self.details(), part: {**found.details, "about": about}})


def _read(file: Path, otherwise: Any) -> Any:
    return json.loads(file.read_text()) if file.exists() else otherwise


def _write(file: Path, content: object) -> None:
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps(content, indent=1) + "\n")
    fresh.replace(file)


def table(figures: Sequence[Figure]) -> str:
    """The figures as plain text."""
    heads = ("figure", "value", "beside", "ratio", "target", "")
    rows = [heads, *map(_row, figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _row(figure: Figure) -> tuple[str, ...]:
    ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
    met = {None: "", True: "met", False: "NOT MET"}[figure.met]
    return (
        figure.figure,
        f"{short(figure.value)} {figure.unit}",
        figure.compared_with or "",
        ratio,
        figure.target or "",
        met,
    )
