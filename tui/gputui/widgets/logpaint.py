"""How one line of a log looks: its colours by the theme, what it is marked for, and what was found in it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

from rich.cells import cell_len
from rich.color import Color
from rich.segment import Segment
from rich.style import Style
from rich.terminal_theme import TerminalTheme
from textual.filter import ANSIToTruecolor
from textual.strip import Strip
from textual.widget import Widget

from gputui import ansi
from gputui.logs.marks import Mark, mark_of
from gputui.logs.pattern import Finder
from gputui.logs.store import LogStore, raw_line
from gputui.widgets import tones

_CACHE = 2_000


@lru_cache(maxsize=1024)
def _style(look: ansi.Sgr) -> Style:
    def color(value: ansi.Color | None) -> Color | None:
        if value is None:
            return None
        return Color.from_ansi(value) if isinstance(value, int) else Color.from_rgb(*value)

    return Style(
        color=color(look.color),
        bgcolor=color(look.background),
        bold=look.bold or None,
        dim=look.dim or None,
        italic=look.italic or None,
        underline=look.underline or None,
        reverse=look.reverse or None,
        strike=look.strike or None,
    )


@lru_cache(maxsize=1024)
def _truecolor(theme: TerminalTheme, style: Style, background: Color) -> Style:
    return ANSIToTruecolor(theme).truecolor_style(style, background)


class Painter:
    """Draws lines for `view` and remembers them until `clear`."""

    def __init__(self, view: Widget) -> None:
        self._view = view
        self._drawn: dict[int, tuple[Mark, Strip]] = {}

    def clear(self) -> None:
        """Another log, theme or search: draw everything anew."""
        self._drawn.clear()

    def forget(self, line: int) -> None:
        """Draw this line anew: it was unfinished."""
        self._drawn.pop(line, None)

    def line(
        self, store: LogStore, line: int, base: Style, finder: Finder | None, current: int | None
    ) -> tuple[Mark, Strip]:
        """What the line at byte `line` is marked for, and how it looks; what `finder` finds stands out."""
        found = self._drawn.get(line)
        if found is None:
            if len(self._drawn) > _CACHE:
                self._drawn.clear()
            found = self._drawn[line] = self._draw(store, line, base, finder, current)
        return found

    def _looks(self, base: Style, look: ansi.Sgr) -> Style:
        """How a colour that the job asked for is shown: by the theme's sixteen, or the terminal's own."""
        style = base + _style(look)
        app = self._view.app
        if look is ansi.PLAIN or app.native_ansi_color:
            return style
        background = base.bgcolor or Color.from_rgb(0, 0, 0)
        return _truecolor(app.ansi_theme, style, background)

    def _draw(
        self, store: LogStore, line: int, base: Style, finder: Finder | None, current: int | None
    ) -> tuple[Mark, Strip]:
        parts = ansi.parse(raw_line(store, line))
        text = "".join(part for part, _ in parts)
        mark = mark_of(text)
        if all(look is ansi.PLAIN for _, look in parts) and mark in {Mark.TROUBLE, Mark.WARNING}:
            base = tones.tone_style(self._view, mark.value[1], base)
        segments = [Segment(part, self._looks(base, look)) for part, look in parts]
        if finder is not None:
            name = "log--current" if line == current else "log--match"
            segments = _marked(segments, finder.spans(text), self._view.get_component_rich_style(name))
        return mark, Strip(segments, cell_len(text))


def _marked(segments: Sequence[Segment], spans: Sequence[tuple[int, int]], style: Style) -> list[Segment]:
    """Segments with the characters in `spans` in another style."""
    out: list[Segment] = []
    at = 0
    for segment in segments:
        text, base = segment.text, segment.style or Style()
        end = at + len(text)
        cuts = sorted({at, end, *(p for span in spans for p in span if at < p < end)})
        for start, stop in pairwise(cuts):
            inside = any(a <= start and stop <= b for a, b in spans)
            out.append(Segment(text[start - at : stop - at], base + style if inside else base))
        at = end
    return out
