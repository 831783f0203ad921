"""One of several, with what each means; arrows choose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.reactive import reactive

from gputui.widgets.lines import Line, Lines, wrap


class Choice(Lines, can_focus=True):
    """`options` are names and meanings; `brief` shows the meaning of the chosen one only."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k,left", "choose(-1)", "Other choice", show=False),
        Binding("down,j,right,space", "choose(1)", "Other choice", show=False),
    ]
    DEFAULT_CSS = "Choice:focus { background: $cursor; }"

    chosen: reactive[int] = reactive(0)
    """Index of the choice."""

    class Changed(Message):
        """Another one was chosen."""

    def __init__(
        self,
        options: Sequence[tuple[str, str]] = (),
        *,
        id: str,  # noqa: A002
        brief: bool = False,
    ) -> None:
        super().__init__(id=id)
        self._options = options
        self._brief = brief
        self._rows: list[int] = []

    def set_options(self, options: Sequence[tuple[str, str]]) -> None:
        """Other options; the first is chosen."""
        self._options = options
        self.chosen = 0
        self.changed()

    @property
    def said(self) -> str:
        """The name of what is chosen."""
        return self._options[self.chosen][0] if self._options else ""

    def make(self, width: int) -> Sequence[Line]:
        """Each choice and, fainter, what it means."""
        lines: list[Line] = []
        self._rows = []
        for i, (name, meaning) in enumerate(self._options):
            here = i == self.chosen
            said: list[Line] = [
                [("◉ " if here else "○ ", "accent" if here else "dim"), (name, "bold" if here else "")]
            ]
            if meaning and (here or not self._brief):
                said += [[("  ", ""), *line] for line in wrap(meaning, width - 2, "dim")]
            lines += said
            self._rows += [i] * len(said)
        return lines

    def action_choose(self, by: int) -> None:
        """Choose the next."""
        if self._options:
            self.chosen = (self.chosen + by) % len(self._options)

    def watch_chosen(self) -> None:
        """Tell the dialog."""
        self.changed()
        self.post_message(self.Changed())

    def on_click(self, event: events.Click) -> None:
        """A click chooses what it hits."""
        if event.y < len(self._rows):
            self.chosen = self._rows[event.y]
