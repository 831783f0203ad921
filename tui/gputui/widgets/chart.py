"""Charts to look into: braille curves of one time axis, with zoom and a crosshair that reads them all."""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.reactive import reactive

from gputui import spark
from gputui import wording as say
from gputui.widgets.lines import Line, Lines
from gpuwatch.client import wire

ZOOMS = (300.0, 900.0, 3600.0, 4 * 3600.0, 12 * 3600.0, 86_400.0, 7 * 86_400.0)
"""Seconds that the time axis can span."""
_AXIS = 10
"""Cells left of the curves, for their scale."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One series: times (Unix seconds, rising) and values of the same number; `form` writes a value."""

    key: str
    """The series' own name."""
    name: str
    """What is written over it."""
    times: Sequence[float]
    values: Sequence[float | None]
    form: Callable[[float], str]
    tone: str = "accent"
    scale: tuple[float, float] | None = None


def window(curve: Curve, start: float, end: float, number: int) -> list[float | None]:
    """Means of `number` equal slices of the time `start`…`end`; a slice without a value is a hole.

    Holes no longer than the series' own step are bridged: a slow series is still a line.
    """
    slots: list[list[float]] = [[] for _ in range(number)]
    low, high = bisect.bisect_left(curve.times, start), bisect.bisect_right(curve.times, end)
    span = max(1e-9, end - start)
    for at, value in zip(curve.times[low:high], curve.values[low:high], strict=True):
        if value is not None:
            slots[min(number - 1, int((at - start) / span * number))].append(value)
    means = [sum(slot) / len(slot) if slot else None for slot in slots]
    steps = [b - a for a, b in zip(curve.times[low:high], curve.times[low + 1 : high], strict=False)]
    longest = int(2.5 * (sorted(steps)[len(steps) // 2] if steps else 0) / span * number) + 1
    return _bridged(means, longest)


def _bridged(values: list[float | None], longest: int) -> list[float | None]:
    out, last = list(values), None
    for i, value in enumerate(values):
        if value is None:
            continue
        if last is not None and 1 < i - last <= longest:
            before = values[last] or 0.0
            for k in range(last + 1, i):
                out[k] = before + (value - before) * (k - last) / (i - last)
        last = i
    return out


def at_time(curve: Curve, when: float) -> float | None:
    """The newest value at or before `when`."""
    at = bisect.bisect_right(curve.times, when) - 1
    return curve.values[at] if at >= 0 else None


class Charts(Lines, can_focus=True):
    """Curves under each other. `+` `-` zoom, `←` `→` move the crosshair, `esc` lets go of it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("plus,equals_sign", "zoom(-1)", "Zoom in", show=False, id="chart.in"),
        Binding("minus", "zoom(1)", "Zoom out", show=False, id="chart.out"),
        Binding("left,h", "cross(-1)", "Crosshair left", show=False, id="chart.left"),
        Binding("right", "cross(1)", "Crosshair right", show=False, id="chart.right"),
        Binding("shift+left", "cross(-10)", "Crosshair far left", show=False),
        Binding("shift+right", "cross(10)", "Crosshair far right", show=False),
        Binding("end,G", "let_go", "Newest", show=False, id="chart.newest"),
    ]
    DEFAULT_CSS = "Charts { height: auto; padding: 0 1; }"

    class Zoomed(Message):
        """Another span of time is shown; who has data for it may bring it."""

    zoom: reactive[int] = reactive(2)
    """Index into ZOOMS."""
    cross: reactive[int | None] = reactive(None)
    """Column of the crosshair, None when there is none."""

    def __init__(self, *, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self.curves: Sequence[Curve] = ()
        self.end = 0.0

    def show(self, curves: Sequence[Curve], end: float) -> None:
        """Other data; `end` is the time at the right edge, Unix seconds."""
        self.curves, self.end = curves, end
        self.changed()

    @property
    def span(self) -> float:
        """Seconds from the left edge to the right."""
        return ZOOMS[self.zoom]

    def _columns(self, width: int) -> int:
        return max(8, width - _AXIS)

    def make(self, width: int) -> Sequence[Line]:
        """Each curve with its name and its value where the crosshair is, or its newest."""
        room = self._columns(width)
        start = self.end - self.span
        cross = None if self.cross is None else min(self.cross, room - 1)
        when = self.end if cross is None else start + (cross + 0.5) / room * self.span
        far = say.duration(self.end - when)
        where = (
            f"at {say.clock(when)}, {far} ago" if cross is not None else f"the last {say.duration(self.span)}"
        )
        lines: list[Line] = [[(where, "bold"), ("    + - zoom   ← → crosshair", "dim")]]
        height = self._height()
        for curve in self.curves:
            points = window(curve, start, self.end, room * 2)
            ends = spark.bounds(points)
            value = at_time(curve, when)
            lines.append([])
            lines.append(
                [
                    (f"{curve.name:<{_AXIS - 1}}  ", "dim"),
                    (say.UNKNOWN if value is None else curve.form(value), "bold"),
                ]
            )
            if ends is None:
                lines += [
                    [(" " * _AXIS + ("no data in this time" if row == height // 2 else ""), "dim")]
                    for row in range(height)
                ]
                continue
            low, high = curve.scale or ends
            rows = spark.plot(points, room, height, low, high)
            for row, text in enumerate(rows):
                label = curve.form(high) if row == 0 else curve.form(low) if row == height - 1 else ""
                line: list[tuple[str, str]] = [(f"{label[: _AXIS - 2]:>{_AXIS - 2}} ", "dim"), ("│", "faint")]
                if cross is None:
                    line.append((text, curve.tone))
                else:
                    line += [
                        (text[:cross], curve.tone),
                        ("│" if text[cross] == "\u2800" else text[cross], "bold"),
                        (text[cross + 1 :], curve.tone),
                    ]
                lines.append(line)
        if self.curves:
            lines.append(self._axis(start, room))
        return lines

    def _height(self) -> int:
        """Rows of a curve, so that all of them fit when they can."""
        count = max(1, len(self.curves))
        parent = self.parent
        free = (parent.size.height if parent is not None and hasattr(parent, "size") else 40) - 3
        return max(2, min(8, free // count - 2))

    def _axis(self, start: float, room: int) -> Line:
        form = "%H:%M" if self.span <= 86_400 else "%a %H:%M"
        marks = max(2, room // 24)
        text = [" "] * (room + 8)
        for i in range(marks):
            column = i * (room - 6) // (marks - 1)
            label = time.strftime(form, time.localtime(start + column / room * self.span))
            text[column : column + len(label)] = label
        return [(" " * _AXIS + "".join(text).rstrip(), "dim")]

    def action_zoom(self, by: int) -> None:
        """Span more or less time."""
        self.zoom = min(len(ZOOMS) - 1, max(0, self.zoom + by))

    def action_cross(self, by: int) -> None:
        """Move the crosshair; the first press puts it on the newest."""
        last = self._columns(self.size.width) - 1
        self.cross = min(last, max(0, (last if self.cross is None else self.cross + by)))

    def action_let_go(self) -> None:
        """No crosshair."""
        self.cross = None

    def watch_zoom(self) -> None:
        """Draw anew, and ask for what is missing."""
        self.changed()
        self.post_message(self.Zoomed())

    def watch_cross(self) -> None:
        """Draw anew."""
        self.changed()

    def on_click(self, event: events.Click) -> None:
        """A click puts the crosshair there."""
        self.cross = max(0, event.x - _AXIS - 1)


# --- which curves a run has ----------------------------------------------------------------------

_FORMS: dict[str, tuple[Callable[[float], str], str]] = {
    "loss": (say.loss, "accent"),
    "tokens_per_second": (say.count, "busy"),
    "utilisation": (lambda v: f"{v:.0f}%", "good"),
    "memory": (lambda v: say.size(int(v)), "busy"),
    "power": (lambda v: f"{v:.0f} W", "warn"),
    "temperature": (lambda v: f"{v:.0f}°C", "warn"),
    "clock": (lambda v: f"{v:.0f} MHz", ""),
    "net.received": (say.speed, "busy"),
    "net.sent": (say.speed, "busy"),
    "disk.read": (say.speed, ""),
    "disk.written": (say.speed, ""),
    "disk.free": (lambda v: say.size(int(v)), ""),
}
_ORDER = ("loss", "tokens_per_second", "utilisation", "memory", "power", "temperature")
_NAMES = {"tokens_per_second": "tokens/s", "utilisation": "use"}


def curve(name: str, times: Sequence[float], values: Sequence[float | None]) -> Curve:
    """A curve of telemetry by its name (`gpu0.power`, `loss`)."""
    head, _, tail = name.rpartition(".")
    kind = name if name in _FORMS else tail
    form, tone = _FORMS.get(kind, (lambda v: f"{v:.4g}", ""))
    label = f"{head} {_NAMES.get(kind, kind)}" if head.startswith("gpu") else _NAMES.get(name, name)
    return Curve(name, label, times, values, form, tone, (0.0, 100.0) if kind == "utilisation" else None)


def interest(name: str) -> tuple[int, str]:
    """Sort key of series: what people look at first."""
    kind = name.rpartition(".")[2] if name.startswith("gpu") else name
    return (_ORDER.index(kind) if kind in _ORDER else len(_ORDER), name)


def curves_of(samples: Iterable[wire.Sample]) -> list[Curve]:
    """Curves from the samples that the app has seen, for when there is no history to ask for."""
    series: dict[str, tuple[list[float], list[float | None]]] = {}

    def add(name: str, at: float, value: float | None) -> None:
        times, values = series.setdefault(name, ([], []))
        times.append(at)
        values.append(value)

    for sample in samples:
        add("loss", sample.time, sample.loss)
        add("tokens_per_second", sample.time, sample.tokens_per_second)
        for gpu in sample.gpus:
            add(f"gpu{gpu.index}.utilisation", sample.time, gpu.utilisation)
            add(f"gpu{gpu.index}.memory", sample.time, gpu.memory_used)
            add(f"gpu{gpu.index}.power", sample.time, gpu.power)
            add(f"gpu{gpu.index}.temperature", sample.time, gpu.temperature)
    return [
        curve(name, times, values)
        for name, (times, values) in series.items()
        if any(v is not None for v in values)
    ]
