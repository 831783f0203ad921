"""What dialogs have in common: a body that scrolls when there is little room, buttons that stay in sight."""

from __future__ import annotations

from typing import TypeVar

from textual import events
from textual.screen import ModalScreen

R = TypeVar("R")
_FRAME = 7
"""Rows of a dialog that are not its body: border, padding, buttons, and air around."""


class Dialog(ModalScreen[R]):
    """A modal screen with `.dialog` > `.body` and perhaps `.buttons`."""

    CSS_PATH = "dialog.tcss"

    def on_resize(self, event: events.Resize) -> None:
        """The body may be as high as the terminal leaves room for."""
        for body in self.query(".body"):
            body.styles.max_height = max(3, event.size.height - _FRAME)
