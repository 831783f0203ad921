"""The holds of one run: what keeps its machine, who placed each, and how each goes, alone."""

from __future__ import annotations

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
from gputui.widgets.choice import Choice
from gputui.widgets.lines import Line, Lines, Para, Paragraphs
from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed

_GOES = {
    "release": "it goes when you release it",
    "waive": "it goes by giving up the files that it protects: needs the run's name and a reason",
    "waive-all": "it goes by giving up everything on the box: needs the run's name and a reason",
    "itself": "it goes by itself, not by hand",
}
_LOSES = frozenset({"waive", "waive-all"})
_CAREFUL = frozenset({"inventory"})
"""Released, but what is there is not known: the run's name and a reason all the same."""


class HoldsDialog(Dialog[None]):
    """Lists, releases one, places one. What may lose a file needs the run's name typed and a reason."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "close", "Back")]

    def __init__(self, run: wire.RunRow) -> None:
        super().__init__()
        self._run = run
        self._holds: list[wire.HoldRow] = []

    def compose(self) -> ComposeResult:
        """The list, what the choice needs, buttons."""
        with Vertical(classes="dialog"):
            with VerticalScroll(classes="body", can_focus=False):
                yield Lines([[(f"What holds {self._run.name}", "title")], []])
                yield Paragraphs(id="none")
                yield Choice(id="holds")
                yield Input(placeholder="a name for it (pin)", id="name", compact=True)
                yield Input(placeholder=f"type the run's name: {self._run.name}", id="confirm", compact=True)
                yield Input(placeholder="why? It stays in the ledger", id="reason", compact=True)
                yield Paragraphs(id="problem")
            with Horizontal(classes="buttons"):
                yield Button("Close", id="cancel", compact=True)
                yield Button("Hold", id="go", compact=True, disabled=True)

    def on_mount(self) -> None:
        """Ask for the holds as they stand now."""
        self._adapt()
        run_guarded(self, self._load(), what="Holds", group="load")

    async def _load(self) -> None:
        call = cast("GpuTui", self.app).link.call
        answer = await call("holds", wire.HoldsQuery(run=self._run.id), wire.Holds)
        self._holds = [row.hold for row in answer.holds]
        options = []
        for hold in self._holds:
            by = f"{hold.by}, {say.when(hold.at)}: " if hold.by else ""
            options.append((f"{hold.name}  {hold.reason}", by + _GOES.get(hold.removal, _GOES["itself"])))
        options.append(
            ("a hold of your own", "the machine stays, and costs, until you release it; no door passes it")
        )
        nothing: list[Line | Para] = [] if self._holds else [Para("Nothing holds this machine.", "dim"), []]
        self.query_one("#none", Paragraphs).set_paras(nothing)
        chooser = self.query_one("#holds", Choice)
        chooser.set_options(options)
        chooser.focus()
        self._adapt()

    def _chosen(self) -> wire.HoldRow | None:
        """The hold under the mark, None for one that is to be placed."""
        at = self.query_one("#holds", Choice).chosen
        return self._holds[at] if at < len(self._holds) else None

    @on(Choice.Changed)
    @on(Input.Changed)
    def _adapt(self) -> None:
        """Only what the choice needs; the button says what it does, and works when all of it is there."""
        hold = self._chosen()
        loses = hold is not None and (hold.removal in _LOSES or hold.name in _CAREFUL)
        stays = hold is not None and hold.removal == "itself"
        self.query_one("#name").display = hold is None
        self.query_one("#confirm").display = loses
        self.query_one("#reason").display = not stays
        go = self.query_one("#go", Button)
        go.label = "Hold" if hold is None else "Give up and release" if loses else "Release"
        go.set_class(loses, "-danger")
        go.refresh(layout=True)
        typed = self._typed("confirm") == self._run.name and bool(self._typed("reason"))
        go.disabled = stays or (loses and not typed)

    def _typed(self, name: str) -> str:
        return self.query_one(f"#{name}", Input).value.strip()

    @on(Input.Submitted)
    def _entered(self, event: Input.Submitted) -> None:
        shown = [entry for entry in self.query(Input) if entry.display]
        at = shown.index(event.input) + 1
        go = self.query_one("#go", Button)
        if at < len(shown):
            shown[at].focus()
        elif not go.disabled:
            go.focus()

    @on(Button.Pressed, "#cancel")
    def action_close(self) -> None:
        """Back."""
        self.dismiss(None)

    @on(Button.Pressed, "#go")
    def _go(self) -> None:
        run_guarded(self, self._send(self._chosen()), what="Holds", group="send")

    async def _send(self, hold: wire.HoldRow | None) -> None:
        tui, reason = cast("GpuTui", self.app), self._typed("reason")
        try:
            if hold is None:
                order = wire.HoldPlace(
                    run=self._run.id, hold=self._typed("name") or "pin", reason=reason, by=tui.person
                )
                await tui.link.call("hold", order, wire.Empty)
                said = f"{order.hold} holds {self._run.name}."
            else:
                release = wire.HoldRelease(
                    run=self._run.id,
                    hold=hold.name,
                    reason=reason,
                    confirm=self._typed("confirm"),
                    by=tui.person,
                )
                report = await tui.link.call("hold.release", release, wire.CustodyReport)
                said = f"{hold.name} does not hold {self._run.name} any more. {report.summary}"
        except CallFailed as error:
            self.query_one("#problem", Paragraphs).set_paras([[], Para(f"✗ {error}", "bad", "  ")])
            return
        self.query_one("#problem", Paragraphs).set_paras([])
        for entry in self.query(Input):
            entry.value = ""
        self.notify(said, title="Holds")
        await self._load()
