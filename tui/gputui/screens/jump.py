"""Jump: a letter on everything that can be focused; press it and be there."""

from __future__ import annotations

from typing import Any

from textual import events
from textual.app import ComposeResult
from textual.screen import ModalScreen, Screen
from textual.widget import Widget

from gputui.widgets.lines import Lines

_LETTERS = "asdfghjklqwertyuiopzxcvbnm"


def targets(screen: Screen[Any]) -> list[tuple[str, Widget]]:
    """Letters and what they lead to: what can be focused on `screen` and is seen, from the top left."""
    seen = [widget for widget in screen.focus_chain if widget.region.area > 0]
    seen.sort(key=lambda widget: (widget.region.y, widget.region.x))
    return list(zip(_LETTERS, seen, strict=False))


class Jump(ModalScreen[Widget | None]):
    """Returns the widget whose letter was pressed; any other key goes back."""

    DEFAULT_CSS = """
Jump { background: $background 50%; align: left top; layers: letters; }
Jump Lines { position: absolute; width: 5; height: 1; background: $accent; color: $background; text-style: bold; }
"""

    def __init__(self, found: list[tuple[str, Widget]]) -> None:
        super().__init__()
        self._found = found

    def compose(self) -> ComposeResult:
        """A letter in the corner of each."""
        for letter, widget in self._found:
            label = Lines([[(f"  {letter}  ", "")]])
            label.styles.offset = (widget.region.x, widget.region.y)
            yield label

    def on_key(self, event: events.Key) -> None:
        """There, or back."""
        event.stop()
        event.prevent_default()
        self.dismiss(dict(self._found).get(event.key))
