"""Several runs at once, and all of them: the same as for one, asked once, with what would happen to each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import Button, Input

from gputui import wording as say
from gputui.app import GpuTui
from gputui.guard import run_guarded
from gputui.screens.dialog import Dialog
from gputui.widgets.lines import Line, Lines, wrap
from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed

_WIDTH = 70
WORD = "evacuate"
"""What is typed to end everything."""


class BulkDialog(Dialog[int | None]):
    """Collect, verify, destroy for each of `runs`; returns for how many it was asked.

    Nothing is lost by it: files are brought home and proved first, and what cannot be keeps its machine.
    With `everything` a word has to be typed. The focus is on *Cancel*.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "close", "Back")]

    def __init__(self, runs: Sequence[wire.RunRow], *, everything: bool = False) -> None:
        super().__init__()
        self._runs = list(runs)
        self._everything = everything
        self._done: dict[str, str] = {}
        self._asked = 0

    def compose(self) -> ComposeResult:
        """Each run with what it holds, then the question."""
        count = say.plural(len(self._runs), "machine")
        title = (
            f"Evacuate: bring everything home and end all {count}?"
            if self._everything
            else f"Destroy {count}?"
        )
        meaning = (
            "For each: the job is ended if it runs, its files are brought home and proved by SHA-256, and only then the "
            "machine is destroyed. A machine whose files cannot be proved stays, with an alarm. u takes it back until it is sent."
        )
        with Vertical(classes="dialog"):
            with VerticalScroll(classes="body"):
                yield Lines([[(title, "title")], [], *wrap(meaning, _WIDTH, "dim"), []])
                yield Lines(id="list")
                if self._everything:
                    yield Input(placeholder=f"type {WORD}", id="word", compact=True)
            with Horizontal(classes="buttons"):
                yield Button("Cancel", id="cancel", compact=True)
                yield Button("Collect, verify, destroy", id="go", compact=True, disabled=self._everything)

    def on_mount(self) -> None:
        """Cancel is what enter does."""
        self._list()
        self.query_one("#cancel", Button).focus()

    def _list(self) -> None:
        rate = sum(run.price or 0 for run in self._runs)
        held = sum(run.exposure.bytes or 0 for run in self._runs)
        lines: list[Line] = []
        for run in self._runs:
            glyph, tone = say.state_mark(run.state)
            risk = say.exposure(run.exposure.bytes, run.exposure.seconds)
            end = (
                ("✓ nothing to lose", "good")
                if run.exposure.bytes == 0
                else (f"△ {risk} to bring home", "warn")
            )
            if (said := self._done.get(run.id)) is not None:
                end = (said, "good" if said.startswith("✓") else "bad")
            lines.append(
                [(f"{glyph} ", tone), (f"{run.name[:24]:<24}", "bold"), (f"  {run.state:<10}  ", ""), end]
            )
        lines += [[], [(f"{say.size(held)} to bring home · ends {say.rate(rate)}", "dim")]]
        self.query_one("#list", Lines).set_lines(lines)

    @on(Input.Changed, "#word")
    def _typed(self, event: Input.Changed) -> None:
        self.query_one("#go", Button).disabled = event.value.strip().lower() != WORD

    @on(Input.Submitted, "#word")
    def _entered(self) -> None:
        go = self.query_one("#go", Button)
        if not go.disabled:
            go.focus()

    @on(Button.Pressed, "#cancel")
    def action_close(self) -> None:
        """Back; what was asked stays asked."""
        self.dismiss(self._asked or None)

    @on(Button.Pressed, "#go")
    def _go(self) -> None:
        self.query_one("#go", Button).disabled = True
        run_guarded(self, self._send(), what="Destroy", group="send")

    async def _send(self) -> None:
        for run in self._runs:
            try:
                await cast("GpuTui", self.app).link.call(
                    "destroy", wire.Destroy(run=run.id), wire.CustodyReport
                )
                self._done[run.id] = "✓ asked"
                self._asked += 1
            except CallFailed as error:
                self._done[run.id] = f"✗ {error}"
            self._list()
        if self._asked == len(self._runs):
            self.dismiss(self._asked)
        else:
            self.query_one("#cancel", Button).label = "Close"
