"""A question before something that costs money or cannot be taken back; the focus is on *Cancel*."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import Button, Input

from gputui.guard import run_guarded
from gputui.screens.dialog import Dialog
from gputui.widgets.lines import Line, Para, Paragraphs
from gpuwatch.client.errors import CallFailed


class Confirm(Dialog[bool]):
    """Says what would happen and does it when a person says so; True once it is done.

    `act` gets what was typed (empty without `entry`, the placeholder of a line); what it raises as CallFailed is shown
    and the dialog stays. `wrong` says what is wrong with what was typed, or None.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "close", "Back"),
        Binding("left", "app.focus_previous", "Previous", show=False),
        Binding("right", "app.focus_next", "Next", show=False),
    ]

    def __init__(
        self,
        title: str,
        text: Sequence[Line | Para],
        *,
        go: str,
        act: Callable[[str], Awaitable[None]],
        entry: str | None = None,
        value: str = "",
        wrong: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        super().__init__()
        self._title, self._text, self._go, self._act = title, text, go, act
        self._entry, self._value, self._wrong = entry, value, wrong

    def compose(self) -> ComposeResult:
        """Title, explanation, perhaps a line to type, buttons."""
        with Vertical(classes="dialog"):
            with VerticalScroll(classes="body", can_focus=False):
                yield Paragraphs([[(self._title, "title")], [], *self._text, []])
                if self._entry is not None:
                    yield Input(self._value, placeholder=self._entry, id="entry", compact=True)
                yield Paragraphs(id="problem")
            with Horizontal(classes="buttons"):
                yield Button("Cancel", id="cancel", compact=True)
                yield Button(self._go, id="go", compact=True)

    def on_mount(self) -> None:
        """Enter does nothing that costs."""
        (self.query(Input).first() if self._entry is not None else self.query_one("#cancel", Button)).focus()
        self._typed()

    @property
    def said(self) -> str:
        """What was typed."""
        return self.query_one("#entry", Input).value.strip() if self._entry is not None else ""

    @on(Input.Changed)
    def _typed(self) -> None:
        wrong = self._wrong(self.said)
        self.query_one("#go", Button).disabled = wrong is not None
        self._tell(wrong if self.said else None)

    @on(Input.Submitted)
    def _entered(self) -> None:
        go = self.query_one("#go", Button)
        if not go.disabled:
            go.focus()

    def _tell(self, problem: str | None) -> None:
        lines: list[Line | Para] = [] if problem is None else [Para(f"✗ {problem}", "bad", "  ")]
        self.query_one("#problem", Paragraphs).set_paras(lines)

    @on(Button.Pressed, "#cancel")
    def action_close(self) -> None:
        """Back, nothing done."""
        self.dismiss(False)

    @on(Button.Pressed, "#go")
    def _pressed(self) -> None:
        go = self.query_one("#go", Button)
        go.disabled = True

        async def act() -> None:
            try:
                await self._act(self.said)
            except CallFailed as error:
                self._tell(str(error))
                go.disabled = False
                return
            self.dismiss(True)

        run_guarded(self, act(), what=self._go, group="act")
