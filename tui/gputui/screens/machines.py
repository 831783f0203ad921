"""Machines: what we have seen of them ourselves, which are avoided and until when; avoid one, take it back."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from gputui import wording as say
from gputui.fleet import Fleet
from gputui.guard import run_guarded
from gputui.quantities import duration
from gputui.screens.confirm import Confirm
from gputui.screens.place import Place
from gputui.table import Cell, Column, TableModel
from gputui.widgets.lines import Line, Lines, Para
from gputui.widgets.vtable import VTable
from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed

if TYPE_CHECKING:
    from gputui.app import GpuTui

FOR = "90d"
"""How long a machine is avoided when nobody says otherwise."""
KEYS = [
    Binding("X", "avoid", "Avoid", id="avoid", tooltip="Rent this machine no more, for a time"),
    Binding("U", "forgive", "Forgive", id="forgive", tooltip="Forget what speaks against this machine"),
]
EMPTY = ("Nothing is known yet: every machine that is rented adds to it.", "", "esc goes back")


def _avoided(row: wire.MachineRow) -> Cell:
    until = row.seen.avoided_until
    return "" if until is None else (f"△ {say.when(until)}", "warn")


def _duds(row: wire.MachineRow) -> Cell:
    return (str(row.seen.duds), "warn" if row.seen.duds else "dim")


def _speed(value: float | None) -> Cell:
    return (say.UNKNOWN, "dim") if value is None else say.speed(value)


COLUMNS: Sequence[Column[wire.MachineRow]] = (
    Column("machine", "MACHINE", 16, lambda m: (m.machine, "bold"), lambda m: m.machine, flex=1),
    Column("gpu", "GPU", 14, lambda m: say.gpus(m.gpu, m.gpu_count), lambda m: m.gpu or "", flex=1),
    Column("tries", "TRIES", 5, lambda m: str(m.seen.tries), lambda m: m.seen.tries, right=True, descending=True),
    Column("good", "GOOD", 5, lambda m: (str(m.good), "good" if m.good else "dim"), lambda m: m.good, right=True, descending=True),
    Column("duds", "DUDS", 5, _duds, lambda m: m.seen.duds, right=True, descending=True),
    Column("boots", "UP IN", 6, lambda m: say.duration(m.seen.boot_seconds), lambda m: m.seen.boot_seconds, right=True),
    Column("home", "TO HERE", 10, lambda m: _speed(m.seen.download), lambda m: m.seen.download, right=True, descending=True, wide=100),
    Column("disk", "DISK", 10, lambda m: _speed(m.seen.disk), lambda m: m.seen.disk, right=True, descending=True, wide=112),
    Column("avoided", "AVOIDED UNTIL", 18, _avoided, lambda m: m.seen.avoided_until, descending=True),
    Column("by", "BY", 10, lambda m: (m.seen.avoided_by or "", "dim"), lambda m: m.seen.avoided_by, wide=90),
    Column("why", "WHY", 16, lambda m: (m.reason or m.seen.trouble or "", "dim"), flex=3, wide=112),
)  # fmt: skip


def model() -> TableModel[wire.MachineRow]:
    """Machines as a table, as the daemon orders them: the avoided first, then the ones seen last."""
    return TableModel(
        columns=COLUMNS,
        key=lambda m: m.machine,
        text=lambda m: f"{m.machine} {m.gpu} {m.reason} {m.seen.trouble} {m.seen.avoided_by}",
        fields={
            "tries": lambda m: m.seen.tries,
            "duds": lambda m: m.seen.duds,
            "good": lambda m: m.good,
            "boot": lambda m: m.seen.boot_seconds,
        },
    )


def wanted(text: str) -> tuple[float, str]:
    """Seconds and the reason in `30d it was slow`. Raises ValueError."""
    first, _, reason = text.strip().partition(" ")
    try:
        return duration(first), reason.strip()
    except argparse.ArgumentTypeError as error:
        raise ValueError(str(error)) from error


def _wrong(text: str) -> str | None:
    try:
        wanted(text)
    except ValueError as error:
        return f"{error}; then why, if you like"
    return None


def avoid(place: Place, machine: str, done: Callable[[], None]) -> None:
    """Ask for how long, and why; `done` is called once it is said."""

    async def act(text: str) -> None:
        seconds, reason = wanted(text)
        order = wire.MachineAvoid(machine=machine, seconds=seconds, reason=reason, by=place.tui.person)
        await place.tui.link.call("machine.avoid", order, wire.MachineRow)
        place.notify(
            f"{machine} is not rented for {say.duration(seconds)}; U takes it back.", title="Avoided"
        )

    place.app.push_screen(
        Confirm(
            f"Avoid {machine}?",
            [Para("No run is started on it in that time, whatever it costs. A run that is on it now is not touched.")],
            go="Avoid",
            act=act,
            entry="for how long, and why: 30d it was slow",
            value=f"{FOR} ",
            wrong=_wrong,
        ),
        lambda said: done() if said else None,
    )  # fmt: skip


def forgive(place: Place, machine: str, done: Callable[[], None]) -> None:
    """Begin anew with a machine."""

    async def send() -> None:
        order = wire.MachineForgive(machine=machine, by=place.tui.person)
        await place.tui.link.call("machine.forgive", order, wire.MachineRow)
        place.notify(f"{machine} may be rented like any other.", title="Forgiven")
        done()

    run_guarded(place, send(), what="Forgive", group="forgive")


class MachinesScreen(Place):
    """The list; on top of the offers, `esc` goes back there."""

    PLACE = "offers"
    CSS_PATH = "machines.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "ignore", show=False),
        Binding("r", "refresh", "Refresh", id="refresh-machines"),
        *KEYS,
        Binding("d,w,u,x,y,f,F,P,H,A,C,K,Z,exclamation_mark", "no_run", show=False),
    ]

    def body(self) -> ComposeResult:
        """The table and, under it, the machine under the cursor."""
        yield Lines(id="said")
        yield VTable(model(), id="machines", empty=["asking …"])
        yield Lines(id="machine", classes="panel")

    @property
    def table(self) -> VTable[wire.MachineRow]:
        """The machines."""
        return self.query_one("#machines", VTable)

    def on_mount(self) -> None:
        """Ask at once."""
        super().on_mount()
        self.action_refresh()

    def fleet_changed(self, fleet: Fleet) -> None:
        """Runs change nothing here until somebody asks again."""

    def action_refresh(self) -> None:
        """Ask again."""

        async def ask() -> None:
            try:
                answer = await self.tui.link.call("machines", wire.MachinesQuery(), wire.Machines)
            except CallFailed as error:
                self._say(f"✗ {error} (r asks again)", "warn")
                return
            avoided = sum(row.seen.avoided_until is not None for row in answer.machines)
            self._say(
                f"{say.plural(len(answer.machines), 'machine')} that we have tried · {avoided} avoided", "dim"
            )
            self.table.empty = list(EMPTY)
            self.table.load(answer.machines)
            self.cursor_moved()

        run_guarded(self, ask(), what="Machines", group="machines")

    def _say(self, text: str, tone: str) -> None:
        self.query_one("#said", Lines).set_lines([[(text, tone)]])

    def why_not(self, action: str) -> str | None:
        """Actions here are about the machine under the cursor."""
        if action in {"avoid", "forgive"}:
            row = self.table.current
            if row is None:
                return "there is no machine here"
            if action == "forgive" and row.seen.avoided_until is None and not row.seen.duds:
                return f"nothing speaks against {row.machine}"
            return None
        return super().why_not(action)

    def action_avoid(self) -> None:
        """Rent it no more, for a time."""
        if not self.refuse("avoid") and (row := self.table.current) is not None:
            avoid(self, row.machine, self.action_refresh)

    def action_forgive(self) -> None:
        """Take it back."""
        if not self.refuse("forgive") and (row := self.table.current) is not None:
            forgive(self, row.machine, self.action_refresh)

    def action_ignore(self) -> None:
        """Enter means nothing here."""

    def action_no_run(self) -> None:
        """Keys of runs."""
        self.notify("These are machines; runs are on 1.", severity="warning", timeout=4)

    def cursor_moved(self) -> None:
        """More of the machine under the cursor."""
        row, panel = self.table.current, self.query_one("#machine", Lines)
        panel.display = row is not None
        if row is None:
            return
        seen = row.seen
        lines: list[Line] = [
            [
                (row.machine, "bold"),
                (f"  {say.gpus(row.gpu, row.gpu_count)}  ", ""),
                (f"last tried {say.when(seen.last_at)}" if seen.last_at is not None else "never tried", "dim"),
            ],
            [
                ("jobs that ran ", "dim"), (str(row.good), "good" if row.good else ""),
                ("   no good ", "dim"), (str(seen.duds), "warn" if seen.duds else ""),
                ("   brings home ", "dim"), (say.speed(seen.download) if seen.download is not None else say.UNKNOWN, ""),
                ("   its disk takes ", "dim"), (say.speed(seen.disk) if seen.disk is not None else say.UNKNOWN, ""),
            ],
        ]  # fmt: skip
        if seen.avoided_until is not None:
            why = row.reason or seen.trouble or ""
            until = f"avoided until {say.when(seen.avoided_until)} by {seen.avoided_by}"
            lines.append(
                [
                    ("△ ", "warn"),
                    (until, "warn"),
                    (f"  {why}", "dim"),
                ]
            )
        elif seen.trouble:
            lines.append([("△ ", "warn"), (f"the last time: {seen.trouble}", "dim")])
        panel.set_lines(lines)


def show(app: GpuTui) -> None:
    """Open the list on top of what is there."""
    if not isinstance(app.screen, MachinesScreen):
        app.push_screen(MachinesScreen())
