"""Small dialogs: one line to type, or some text to read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.widgets import Input

from gputui.screens.dialog import Dialog
from gputui.widgets.lines import Line, Lines, Para, Paragraphs, wrap

_WIDTH = 70


class Prompt(Dialog[str | None]):
    """Asks for one line; None when the person turned back. `check` says what is wrong with it, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "close", "Back")]

    def __init__(
        self,
        title: str,
        text: str = "",
        value: str = "",
        *,
        check: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        super().__init__()
        self._title, self._text, self._value, self._check = title, text, value, check

    def compose(self) -> ComposeResult:
        """Title, explanation, entry."""
        with Vertical(classes="dialog"), VerticalScroll(classes="body", can_focus=False):
            yield Lines(
                [[(self._title, "title")], [], *(wrap(self._text, _WIDTH, "dim") if self._text else []), []]
            )
            yield Input(self._value, id="entry", compact=True)
            yield Lines([[]], id="wrong")

    @on(Input.Submitted)
    def _entered(self, event: Input.Submitted) -> None:
        if (wrong := self._check(event.value.strip())) is not None:
            self.query_one("#wrong", Lines).set_lines([[], *wrap(f"✗ {wrong}", _WIDTH, "bad")])
        else:
            self.dismiss(event.value.strip())

    def action_close(self) -> None:
        """Back."""
        self.dismiss(None)


class Reading(Dialog[None]):
    """Some text."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,enter", "close", "Close")]

    def __init__(self, title: str, lines: Sequence[Line | Para]) -> None:
        super().__init__()
        self._title, self._lines = title, lines

    def compose(self) -> ComposeResult:
        """All of it."""
        with Vertical(classes="dialog"), VerticalScroll(classes="body"):
            yield Paragraphs([[(self._title, "title")], [], *self._lines, [], [("esc closes", "dim")]])

    def action_close(self) -> None:
        """Back."""
        self.dismiss()
