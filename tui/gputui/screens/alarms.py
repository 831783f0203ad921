"""Alarms: everything that needs a person, the worst first, each with what to do."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from gputui.alarms import Alarm, alarms_of
from gputui.fleet import Fleet
from gputui.guard import run_guarded
from gputui.screens.ask import Prompt
from gputui.screens.place import Place
from gputui.table import Cell, Column, TableModel
from gputui.widgets.lines import Line, Lines, wrap
from gputui.widgets.vtable import VTable
from gpuwatch.client import wire

_MARKS = {"alarm": ("▲ alarm", "bad"), "warn": ("△ warning", "warn")}


def _severity(alarm: Alarm) -> Cell:
    return _MARKS.get(alarm.severity, ("▪ note", "busy"))


def model() -> TableModel[Alarm]:
    """Alarms as a table."""
    return TableModel(
        columns=(
            Column("severity", "", 9, _severity),
            Column("where", "WHERE", 14, lambda a: (a.where, "bold"), lambda a: a.where.lower(), flex=1),
            Column("text", "WHAT", 30, lambda a: a.text, lambda a: a.text, flex=4),
            Column("todo", "WHAT COMES NEXT", 20, lambda a: (a.todo, "dim"), flex=3, wide=120),
        ),
        key=lambda alarm: alarm.key,
        text=lambda alarm: f"{alarm.where} {alarm.severity} {alarm.text} {alarm.todo}",
    )


class AlarmsScreen(Place):
    """The list."""

    PLACE = "alarms"
    CSS_PATH = "alarms.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Open run", id="open-alarm"),
        Binding(
            "a", "answer", "Answer", id="answer", tooltip="You looked at the machine: say what you found"
        ),
    ]

    def body(self) -> ComposeResult:
        """The table and, under it, the alarm under the cursor in full."""
        yield VTable(
            model(),
            id="alarms",
            empty=["✓ Nothing needs you.", "", "Machines are watched with this closed, too."],
        )
        yield Lines(id="alarm", classes="panel")

    @property
    def table(self) -> VTable[Alarm]:
        """The alarms."""
        return self.query_one("#alarms", VTable)

    def fleet_changed(self, fleet: Fleet) -> None:
        """Gather anew."""
        if fleet.runs is not None:
            self.table.load(alarms_of(fleet.runs))
            self.cursor_moved()

    def current_run(self) -> wire.RunRow | None:
        """The run that the alarm is about."""
        alarm = self.table.current
        return self.tui.fleet.find(alarm.run) if alarm is not None else None

    def why_not(self, action: str) -> str | None:
        """An alarm may be about no run."""
        if (
            self.table.current is not None
            and self.table.current.run is None
            and action in {"open", "destroy", "why", "undo", "pin"}
        ):
            return "this alarm is not about a run"
        if action == "answer":
            alarm = self.table.current
            if alarm is None or alarm.label is None:
                return "this alarm goes by itself when its cause is gone"
            return None
        return super().why_not(action)

    def action_answer(self) -> None:
        """Answer for an alarm about a machine that only a person can look for."""
        alarm = self.table.current
        if self.refuse("answer") or alarm is None or (label := alarm.label) is None:
            return

        async def send(reason: str) -> None:
            order = wire.Resolve(label=label, reason=reason, by=self.tui.person)
            await self.tui.link.call("alarm.resolve", order, wire.Empty)
            self.notify(f"{label} is answered for.", title="Alarm")

        def chosen(reason: str | None) -> None:
            if reason:
                run_guarded(self, send(reason), what="Answer", group="answer")

        text = "What did you find in the provider's console? It ends the alarm and stays in the ledger with your name."
        self.app.push_screen(
            Prompt(f"Answer for {label}", text, check=lambda said: None if said else "say what you found"),
            chosen,
        )

    def cursor_moved(self) -> None:
        """All of its text."""
        alarm, panel = self.table.current, self.query_one("#alarm", Lines)
        panel.display = alarm is not None
        if alarm is not None:
            width = max(20, self.size.width - 4)
            text, tone = _MARKS.get(alarm.severity, ("▪ note", "busy"))
            lines: list[Line] = [[(text, tone), ("  ", ""), (alarm.where, "bold")], *wrap(alarm.text, width)]
            if alarm.todo:
                lines += wrap("next  " + alarm.todo, width, "dim", indent="      ")
            panel.set_lines(lines)
