"""Tones: the few looks that text may have. Widgets say `warn`, the theme says what that is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from weakref import ReferenceType as Reference
from weakref import ref

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.app import App
from textual.color import Color
from textual.strip import Strip
from textual.widget import Widget

from gputui.clean import clean
from gputui.table import Piece

_BOLD = frozenset({"bad", "bold", "title", "key"})
_VARIABLES = {
    "good": "good",
    "busy": "busy",
    "warn": "warn",
    "bad": "bad",
    "dim": "faint",
    "bold": None,
    "accent": "accent",
    "title": "accent",
    "key": "accent",
}
"""tone -> the theme's variable for its colour. (Component classes would do, but cost each widget ten styles.)"""


@lru_cache(maxsize=8)
def _palette(theme: str, app: Reference[App[Any]]) -> dict[str, Style]:
    alive = app()
    variables = alive.theme_variables if alive is not None else {}
    palette = {}
    for tone, name in _VARIABLES.items():
        color = Color.parse(variables[name]).rich_color if name in variables else None
        palette[tone] = Style(color=color, bold=tone in _BOLD or None)
    return palette


@lru_cache(maxsize=512)
def _over(base: Style, tone: Style) -> Style:
    return base + tone


def tone_style(widget: Widget, tone: str, base: Style) -> Style:
    """The style of a tone on `base` in this widget; no or an unknown tone is `base` itself."""
    if not tone:
        return base
    app = widget.app
    style = _palette(app.theme, ref(app)).get(tone)
    return base if style is None else _over(base, style)


def fit(text: str, width: int) -> str:
    """`text` in at most `width` cells, the cut marked with `…`."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1).rstrip() + "…" if width > 0 else ""


def draw(widget: Widget, pieces: Sequence[Piece], width: int, base: Style) -> Strip:
    """One line of pieces, cut or filled to `width` cells."""
    segments: list[Segment] = []
    left = width
    for text, tone in pieces:
        if left <= 0:
            break
        text = fit(clean(text), left)
        left -= cell_len(text)
        segments.append(Segment(text, tone_style(widget, tone, base)))
    if left > 0:
        segments.append(Segment(" " * left, base))
    return Strip(segments, width)
