"""Plots as SVG, drawn from figures: bars, bars of parts, and points on a line. Text stays text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

WIDTH = 760
LEFT = 150
RIGHT = 120
TOP = 52
ROW = 22
GAP = 16
COLOURS = {
    "pixorly": "#0072b2",
    "celery": "#7fb069",
    "dramatiq": "#e69f00",
    "bare": "#8a8a8a",
}
"""Of the systems: they differ in lightness, too, for those who see colours otherwise."""
PARTS = (
    *("#0072b2", "#56b4e9", "#009e73", "#a6d96a", "#f0c808", "#e69f00"),
    *("#d55e00", "#cc79a7", "#8a8a8a", "#444444", "#b3b3d9"),
)
STYLE = "text{font:13px system-ui,sans-serif;fill:#222}.t{font-size:15px;font-weight:600}.s{fill:#555;font-size:12px}"


@dataclass(frozen=True)
class Bar:
    """A value, and between what it lay."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None


def bars(title: str, note: str, groups: Mapping[str, Sequence[Bar]], unit: str, *, own_scales: bool = False) -> str:
    """Bars in groups, each with its value beside it and a line from the lowest to the highest.

    All have one scale, or each group its own.
    """
    longest = {name: max(bar.high or bar.value for bar in group) or 1 for name, group in groups.items()}
    drawn, y = list[str](), float(TOP)
    for name, group in groups.items():
        scale = (WIDTH - LEFT - RIGHT) / (longest[name] if own_scales else max(longest.values()))
        drawn.append(_text(16, y + 12, name, "s"))
        y += 20
        for bar in group:
            drawn += _bar(bar, y, scale, unit)
            y += ROW
        y += GAP
    return _svg(title, note, drawn, y)


def _bar(bar: Bar, y: float, scale: float, unit: str) -> list[str]:
    width = bar.value * scale
    drawn = [
        _text(LEFT - 8, y + 14, bar.label, anchor="end"),
        _rect(LEFT, y + 2, width, ROW - 6, COLOURS.get(bar.label.partition("_")[0], PARTS[1])),
    ]
    end = width
    if bar.low is not None and bar.high is not None:
        end = max(width, bar.high * scale)
        middle = y + 2 + (ROW - 6) / 2
        drawn.append(
            f'<path d="M{LEFT + bar.low * scale:.1f} {middle:.1f}H{LEFT + bar.high * scale:.1f}" stroke="#222"/>'
        )
    return [*drawn, _text(LEFT + end + 6, y + 14, f"{_short(bar.value)} {unit}")]


def stacked(title: str, note: str, rows: Mapping[str, Mapping[str, float]], unit: str) -> str:
    """One bar for each row, made of its parts; the same part has the same colour in all."""
    parts = list(dict.fromkeys(part for row in rows.values() for part in row))
    colours = dict(zip(parts, PARTS * (1 + len(parts) // len(PARTS)), strict=False))
    scale = (WIDTH - LEFT - RIGHT) / (max(sum(row.values()) for row in rows.values()) or 1)
    drawn, y = list[str](), float(TOP)
    for name, row in rows.items():
        drawn.append(_text(LEFT - 8, y + 14, name, anchor="end"))
        x = float(LEFT)
        for part, value in row.items():
            drawn.append(
                _rect(x, y + 2, value * scale, ROW - 6, colours[part], words=f"{part}: {_short(value)} {unit}")
            )
            x += value * scale
        drawn.append(_text(x + 6, y + 14, f"{_short(sum(row.values()))} {unit}"))
        y += ROW
    x, y = float(LEFT), y + GAP
    for part in parts:
        if x > WIDTH - 130:
            x, y = float(LEFT), y + 18
        drawn += [_rect(x, y, 11, 11, colours[part]), _text(x + 16, y + 10, part, "s")]
        x += 28 + 7 * len(part)
    return _svg(title, note, drawn, y + 24)


def points(title: str, note: str, rows: Mapping[str, Sequence[float]]) -> str:
    """Every value as a point, so that it is seen how they are spread; the axis begins at the lowest."""
    values = [value for row in rows.values() for value in row] or [0.0]
    low, step, most = _axis(min([0.0, *values]), max([1.0, *values]))
    scale = (WIDTH - LEFT - 40) / (most - low)
    bottom = TOP + (ROW + 8) * len(rows)
    drawn, at = list[str](), low
    while at <= most + step / 2:
        x = LEFT + (at - low) * scale
        drawn += [
            f'<path d="M{x:.1f} {TOP - 4}V{bottom:.1f}" stroke="#ddd"/>',
            _text(x, bottom + 16, f"{at:g}", "s", "middle"),
        ]
        at += step
    for number, (name, row) in enumerate(rows.items()):
        y = TOP + (ROW + 8) * number + 12
        drawn.append(_text(LEFT - 8, y + 4, name, anchor="end"))
        drawn += [
            f'<circle cx="{LEFT + (value - low) * scale:.1f}" cy="{y + 5 * ((place * 7) % 5 - 2) / 2:.1f}" r="3" '
            f'fill="#0072b2" fill-opacity=".45"/>'
            for place, value in enumerate(row)
        ]
    return _svg(title, note, drawn, bottom + 28)


def _axis(low: float, high: float) -> tuple[float, float, float]:
    """Where an axis begins, its step, and where it ends: round numbers."""
    span = max(high - low, 1e-9)
    step = 10 ** floor(log10(span))
    step = next(step * part for part in (0.1, 0.2, 0.5, 1.0, 2.0) if span / (step * part) <= 8)
    return floor(low / step) * step, step, ceil(high / step) * step


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{named} text-anchor="{anchor}">{escape(words)}</text>'


def _rect(x: float, y: float, width: float, height: float, colour: str, *, words: str = "") -> str:
    told = f"<title>{escape(words)}</title>" if words else ""
    size = f'width="{max(width, 0.5):.1f}" height="{height:g}"'
    return f'<rect x="{x:.1f}" y="{y:.1f}" {size} fill="{colour}">{told}</rect>'


def _svg(title: str, note: str, drawn: Sequence[str], height: float) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" width="{WIDTH}">'
    body = [
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="100%" fill="#fff"/>',
    ]
    return "\n".join([head, *body, _text(16, 22, title, "t"), _text(16, 40, note, "s"), *drawn, "</svg>"]) + "\n"
