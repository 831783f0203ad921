"""Runs: the fleet at a glance, what needs a person first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from textual.app import ComposeResult

from gputui import panels, spark
from gputui import wording as say
from gputui.app import GpuTui
from gputui.fleet import Fleet, History, by_attention, mean_utilisation, telemetry_age
from gputui.screens.place import Place
from gputui.table import Cell, Column, TableModel
from gputui.widgets.lines import Line, Lines
from gputui.widgets.vtable import VTable
from gpuwatch.client import wire

EMPTY = (
    "No runs yet.",
    "",
    "l   launch a run from a spec (examples/ has some)",
    "2   look at what can be rented now",
    "    gputui demo   plays the whole story on a simulated cloud: no account, no cost",
    "    : Tour        says in six pages what is where",
)
NO_ACCOUNT = (
    "No runs yet, and no account to rent from.",
    "",
    "    gputui login vast     checks a key and keeps it in the keyring (or runpod)",
    "    gputui demo           plays the whole story on a simulated cloud: no account, no cost",
    "    gpuwatch doctor       says what is missing",
    "",
    ":   Tour says in six pages what is where",
)


def _mark(run: wire.RunRow) -> Cell:
    return say.ATTENTION.get(run.attention, ("▪", "busy"))


def _state(run: wire.RunRow) -> Cell:
    glyph, tone = say.state_mark(run.state)
    return (f"{glyph} {run.state}", tone)


def _use(run: wire.RunRow) -> Cell:
    share = mean_utilisation(run.gpus)
    if share is None:
        return (say.UNKNOWN, "dim")
    full, rest = spark.bar(share, 6)
    return [(full, "good"), (rest, "dim"), (f" {share:>4.0%}", "")]


def _risk(run: wire.RunRow) -> Cell:
    if run.instance_id is None or run.state in say.ENDED:
        return ("", "")
    held = run.exposure.bytes
    if held is None:
        return ("? unknown", "warn")
    return ("✓ safe", "good") if held == 0 else (f"△ {say.size(held)}", "warn")


def _unsaved(run: wire.RunRow) -> Cell:
    if run.exposure.bytes == 0 or run.instance_id is None:
        return ""
    return say.duration(run.exposure.seconds)


def columns(history: History) -> Sequence[Column[wire.RunRow]]:
    """The columns of the fleet; wider terminals show more of them."""
    return (
        Column("attention", "", 1, _mark),
        Column("name", "NAME", 13, lambda r: (r.name, "bold"), lambda r: r.name.lower(), flex=2),
        Column("state", "STATE", 12, _state, lambda r: r.state),
        Column("gpu", "GPU", 12, lambda r: say.gpus(r.gpu, r.gpu_count), lambda r: r.gpu, flex=1),
        Column("use", "USE", 11, _use, lambda r: mean_utilisation(r.gpus), wide=96, descending=True),
        Column(
            "step",
            "STEP",
            11,
            lambda r: say.steps(r.step, r.steps),
            lambda r: r.step,
            right=True,
            descending=True,
        ),
        Column("loss", "LOSS", 6, lambda r: say.loss(r.loss), lambda r: r.loss, right=True, wide=104),
        Column(
            "curve", "CURVE", 14, lambda r: (spark.sparkline(history.losses(r.id), 14), "accent"), wide=172
        ),
        Column("price", "PRICE", 8, lambda r: say.rate(r.price), lambda r: r.price, right=True, wide=112),
        Column("cost", "COST", 7, lambda r: say.money(r.cost), lambda r: r.cost, right=True, descending=True),
        Column("risk", "AT RISK", 9, _risk, lambda r: r.exposure.bytes, descending=True),
        Column(
            "unsaved",
            "UNSAVED",
            7,
            _unsaved,
            lambda r: r.exposure.seconds,
            right=True,
            wide=120,
            descending=True,
        ),
        Column("next", "NEXT", 20, lambda r: (r.reason or r.next, "dim"), flex=6, wide=140),
    )


def model(history: History) -> TableModel[wire.RunRow]:
    """The fleet as a table."""
    return TableModel(
        columns=columns(history),
        key=lambda run: run.id,
        text=lambda run: f"{run.name} {run.id} {run.state} {run.provider} {run.gpu} {run.attention}",
        fields={
            "price": lambda r: None if r.price is None else r.price / 1e6,
            "cost": lambda r: r.cost / 1e6,
            "step": lambda r: r.step,
            "loss": lambda r: r.loss,
            "gpus": lambda r: r.gpu_count,
            "use": lambda r: None if (use := mean_utilisation(r.gpus)) is None else use * 100,
            "risk": lambda r: None if r.exposure.bytes is None else r.exposure.bytes / 1e9,
        },
        natural=by_attention,
    )


_ALARMS = 3
"""Alarms that are shown in full; the rest is counted."""


def needs(troubles: Sequence[str], alarms: Sequence[str]) -> list[Line]:
    """What needs a person: accounts that do not answer, then what the daemon calls an alarm."""
    lines: list[Line] = [[("▲ ", "bad"), (text, "")] for text in (*troubles, *alarms[:_ALARMS])]
    if len(alarms) > _ALARMS:
        lines.append([("▲ ", "bad"), (f"and {len(alarms) - _ALARMS} more: gputui status", "dim")])
    return lines


class Peek(Lines):
    """The run under the cursor, in a few lines."""

    run: wire.RunRow | None = None

    def make(self, width: int) -> Sequence[Line]:
        """The lines for the run, or nothing."""
        if self.run is None:
            return []
        tui = cast("GpuTui", self.app)
        age = telemetry_age(tui.fleet, self.run, tui.clock())
        return panels.peek(self.run, age, tui.history.losses(self.run.id), width)

    def show(self, run: wire.RunRow | None) -> None:
        """Another run, or another state of it."""
        self.run = run
        self.display = run is not None
        self.changed()


class RunsScreen(Place):
    """The home screen."""

    PLACE = "runs"
    CSS_PATH = "runs.tcss"

    def body(self) -> ComposeResult:
        """The table and, under it, the run under the cursor."""
        yield Lines(id="accounts")
        yield VTable(model(self.tui.history), id="runs", marking=True)
        yield Peek(id="peek", classes="panel")

    @property
    def table(self) -> VTable[wire.RunRow]:
        """The fleet."""
        return self.query_one("#runs", VTable)

    def fleet_changed(self, fleet: Fleet) -> None:
        """Load the newest snapshot."""
        if fleet.runs is None:
            return
        troubles = [f"{one.provider}: {one.problem}" for one in fleet.runs.accounts if one.problem]
        accounts = self.query_one("#accounts", Lines)
        accounts.set_lines(needs(troubles, fleet.runs.alarms))
        accounts.display = bool(troubles or fleet.runs.alarms)
        self.table.empty = list(EMPTY if fleet.runs.accounts else NO_ACCOUNT)
        self.table.load(fleet.runs.runs)
        self.cursor_moved()

    def current_run(self) -> wire.RunRow | None:
        """The run under the cursor."""
        return self.table.current

    def cursor_moved(self) -> None:
        """Show more of the run under the cursor."""
        self.query_one(Peek).show(self.table.current)
