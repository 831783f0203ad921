"""`gputrain plot`: curves from `metrics.jsonl` as SVG, with the standard library alone."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from gputrain.errors import DataError

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 36, 44
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's colours, which colour-blind readers can tell apart."""


@dataclass(frozen=True)
class Curve:
    """One run's values of one metric."""

    name: str
    points: tuple[tuple[float, float], ...]


def read_curve(run: Path, metric: str) -> Curve:
    """The values of `metric` by step; a step that was repeated counts once, the later value.

    Raises DataError when the run has none.
    """
    values: dict[float, float] = {}
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines()
    except OSError as error:
        raise DataError(f"Cannot read {run}/metrics.jsonl: {error.strerror}.") from error
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        value = record.get(metric)
        if isinstance(value, int | float) and math.isfinite(value):
            values[float(record["step"])] = float(value)
    if not values:
        raise DataError(f"{run}/metrics.jsonl has no values of {metric!r}.")
    return Curve(run.name, tuple(sorted(values.items())))


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round numbers between two bounds, about `count` of them."""
    if high <= low:
        return [low]
    raw = (high - low) / count
    unit = 10 ** math.floor(math.log10(raw))
    step = min((unit * factor for factor in (1, 2, 5, 10)), key=lambda s: abs(s - raw))
    first = math.ceil(low / step)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def render(curves: Sequence[Curve], metric: str) -> str:
    """An SVG of the curves over steps."""
    xs = [x for curve in curves for x, _ in curve.points]
    ys = [y for curve in curves for _, y in curve.points]
    x_low, x_high, y_low, y_high = min(xs), max(xs), min(ys), max(ys)

    def x_of(x: float) -> float:
        return LEFT + (x - x_low) / ((x_high - x_low) or 1) * (WIDTH - LEFT - RIGHT)

    def y_of(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y_low) / ((y_high - y_low) or 1) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">step</text>',
        f'<text x="{LEFT}" y="20" font-weight="bold">{escape(metric)}</text>',
    ]
    for y in ticks(y_low, y_high):
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y_of(y):.1f}" y2="{y_of(y):.1f}" stroke="#ddd"/>'
        )
        parts.append(f'<text x="{LEFT - 6}" y="{y_of(y) + 4:.1f}" text-anchor="end">{y:g}</text>')
    parts += [
        f'<text x="{x_of(x):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{x:g}</text>'
        for x in ticks(x_low, x_high)
    ]
    for number, curve in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in curve.points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        parts.append(
            f'<text x="{WIDTH - RIGHT}" y="{TOP + 16 * number}" text-anchor="end" fill="{colour}">{escape(curve.name)}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])
