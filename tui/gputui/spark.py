"""Small pictures in text: braille charts, sparklines and bars. Pure; values may be unknown."""

from __future__ import annotations

import math
from collections.abc import Sequence

_DOTS = ((0x40, 0x80), (0x04, 0x20), (0x02, 0x10), (0x01, 0x08))
"""Braille bits by row from the bottom, left and right."""
_BLANK = 0x2800
_BLOCKS = "▁▂▃▄▅▆▇█"


def resample(values: Sequence[float | None], number: int) -> list[float | None]:
    """Exactly `number` values: means of equal slices, or the newest ones on the right of unknown."""
    if len(values) <= number:
        return [*([None] * (number - len(values))), *values]
    out: list[float | None] = []
    for i in range(number):
        part = values[i * len(values) // number : (i + 1) * len(values) // number]
        known = [v for v in part if v is not None and math.isfinite(v)]
        out.append(sum(known) / len(known) if known else None)
    return out


def stretch(values: Sequence[float | None], number: int) -> Sequence[float | None]:
    """At least `number` values by linear interpolation; unknown beside unknown stays unknown."""
    if not 2 <= len(values) < number:
        return values
    out: list[float | None] = []
    for i in range(number):
        at = i * (len(values) - 1) / (number - 1)
        left, right = values[int(at)], values[min(int(at) + 1, len(values) - 1)]
        share = at - int(at)
        out.append(None if left is None or right is None else left + (right - left) * share)
    return out


def bounds(values: Sequence[float | None]) -> tuple[float, float] | None:
    """Lowest and highest known value, None when there is none."""
    known = [v for v in values if v is not None and math.isfinite(v)]
    return (min(known), max(known)) if known else None


def chart(
    values: Sequence[float | None],
    width: int,
    height: int,
    low: float | None = None,
    high: float | None = None,
) -> list[str]:
    """A line chart of `width` × `height` cells (2 × 4 dots each), top line first.

    The curve takes the whole width however few values there are. The scale is that of the
    values unless `low` and `high` are given.
    """
    start_at = next((i for i, v in enumerate(values) if v is not None), len(values))
    points = resample(stretch(values[start_at:], width * 2), width * 2)
    ends = bounds(points) or (0.0, 1.0)
    return plot(points, width, height, ends[0] if low is None else low, ends[1] if high is None else high)


def plot(points: Sequence[float | None], width: int, height: int, bottom: float, top: float) -> list[str]:
    """A line through `points`, two to a cell of the width, on the scale `bottom`…`top`; unknown is a gap."""
    cells = [[_BLANK] * width for _ in range(height)]
    if width > 0 and height > 0:
        rows = height * 4
        previous: int | None = None
        for x, value in enumerate(points):
            if value is None or not math.isfinite(value):
                previous = None
                continue
            y = min(rows - 1, max(0, round(_place(value, bottom, top) * (rows - 1))))
            # join to the point before, so that a steep step stays one line
            start = y if previous is None else previous + (1 if y > previous else -1 if y < previous else 0)
            for dot in range(min(start, y), max(start, y) + 1):
                cells[height - 1 - dot // 4][x // 2] |= _DOTS[dot % 4][x % 2]
            previous = y
    return ["".join(map(chr, line)) for line in cells]


def sparkline(values: Sequence[float | None], width: int) -> str:
    """One line of block characters; unknown is blank."""
    points = resample(values, width)
    ends = bounds(points)
    if ends is None:
        return " " * width
    flat = ends[0] == ends[1]
    return "".join(
        " " if v is None or not math.isfinite(v) else _BLOCKS[3 if flat else round(_place(v, *ends) * 7)]
        for v in points
    )


def _place(value: float, low: float, high: float) -> float:
    """Where `value` stands between `low` (0) and `high` (1); halved first, since the span of two huge numbers is inf."""
    span = high / 2 - low / 2
    return (value / 2 - low / 2) / span if span else 0.0


def bar(share: float | None, width: int) -> tuple[str, str]:
    """A bar of `width` cells as its filled part and its empty part; unknown is all empty.

    The two parts differ in shape, so it reads without colour.
    """
    if share is None or not math.isfinite(share):
        return "", "╌" * width
    full = round(min(1.0, max(0.0, share)) * width)
    return "━" * full, "─" * (width - full)


def columns(shares: Sequence[float], width: int, height: int, gap: int = 1) -> list[str]:
    """Columns of a bar chart, `width` cells each with `gap` between, top row first; shares are of 1."""
    rows = []
    for row in range(height, 0, -1):
        text = ""
        for share in shares:
            eighths = min(height * 8, max(0, round(share * height * 8))) - (row - 1) * 8
            block = "█" if eighths >= 8 else " " if eighths <= 0 else _BLOCKS[eighths - 1]
            text += block * width + " " * gap
        rows.append(text)
    return rows
