"""Why a run's machine (still) exists, in plain words."""

from __future__ import annotations

from typing import ClassVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll

from gputui import wording as say
from gputui.app import GpuTui
from gputui.guard import run_guarded
from gputui.screens.dialog import Dialog
from gputui.widgets.lines import Line, Lines, wrap
from gpuwatch.client import wire

_WIDTH = 70


class WhyDialog(Dialog[None]):
    """Asks the daemon and shows what it says."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,w,enter", "close", "Close")]

    def __init__(self, run: wire.RunRow) -> None:
        super().__init__()
        self._run = run

    def compose(self) -> ComposeResult:
        """One text."""
        with Vertical(classes="dialog"), VerticalScroll(classes="body"):
            yield Lines([[(f"Why {self._run.name}?", "title")], [], [("asking …", "dim")]], id="why")

    def on_mount(self) -> None:
        """Ask."""
        run_guarded(self, self._ask(), what="Why", group="why")

    async def _ask(self) -> None:
        try:
            answer = await cast("GpuTui", self.app).link.call("why", wire.RunRef(run=self._run.id), wire.Why)
        except Exception:
            self.dismiss()
            raise
        lines: list[Line] = [[(f"Why {self._run.name}?", "title")], []]
        lines += wrap(answer.headline, _WIDTH, "bold")
        for text in answer.lines:
            lines += wrap("· " + text, _WIDTH, indent="  ")
        if answer.holds:
            lines.append([])
            for hold in answer.holds:
                lines += wrap(f"△ {hold.name}: {hold.reason}", _WIDTH, "warn", indent="  ")
        lines.append([])
        if answer.exposure.bytes:
            risk = say.exposure(answer.exposure.bytes, answer.exposure.seconds)
            lines.append([("only on the box  ", "dim"), (risk, "warn")])
        lines += wrap("next  " + answer.next, _WIDTH, indent="      ")
        lines += [[], [("esc closes", "dim")]]
        self.query_one("#why", Lines).set_lines(lines)

    def action_close(self) -> None:
        """Back."""
        self.dismiss()
