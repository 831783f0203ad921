"""Tones: the few looks that text may have. Widgets say `warn`, the theme says what that is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip
from textual.widget import Widget

from gputui.clean import clean
from gputui.table import Piece

TONES = ("good", "busy", "warn", "bad", "dim", "bold", "accent", "title", "key")
CLASSES = {f"tone--{tone}" for tone in TONES}

CSS = """
    & > .tone--good { color: $good; }
    & > .tone--busy { color: $busy; }
    & > .tone--warn { color: $warn; }
    & > .tone--bad { color: $bad; text-style: bold; }
    & > .tone--dim { color: $faint; }
    & > .tone--bold { text-style: bold; }
    & > .tone--accent { color: $accent; }
    & > .tone--title { color: $accent; text-style: bold; }
    & > .tone--key { color: $accent; text-style: bold; }
"""
"""What a widget with tones puts into its DEFAULT_CSS."""


@lru_cache(maxsize=256)
def _over(base: Style, tone: Style) -> Style:
    """The tone's colour and weight on the base's background."""
    return base + Style(color=tone.color, bold=tone.bold or None, underline=tone.underline or None)


def tone_style(widget: Widget, tone: str, base: Style) -> Style:
    """The style of a tone on `base` in this widget; no or an unknown tone is `base` itself."""
    if tone not in TONES:
        return base
    return _over(base, widget.get_component_rich_style(f"tone--{tone}"))


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
