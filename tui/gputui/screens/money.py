"""Money: what burns now, how long the credit lasts, what each run and each day has cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from gputui import money, spark
from gputui import wording as say
from gputui.fleet import Fleet
from gputui.screens.place import Place
from gputui.table import Cell, Column, TableModel
from gputui.widgets.lines import Line, Lines
from gputui.widgets.vtable import VTable
from gpuwatch.client import wire

_DAYS = 14


def _state(cost: money.RunCost) -> Cell:
    glyph, tone = say.state_mark(cost.run.state)
    return (f"{glyph} {cost.run.state}", tone)


def _verified(cost: money.RunCost) -> int:
    return cost.run.verified_bytes


def model() -> TableModel[money.RunCost]:
    """Bills as a table, the dearest first."""
    return TableModel(
        columns=(
            Column("name", "RUN", 14, lambda c: (c.run.name, "bold"), lambda c: c.run.name.lower(), flex=2),
            Column("state", "STATE", 12, _state, lambda c: c.run.state),
            Column("gpu", "GPU", 12, lambda c: say.gpus(c.run.gpu, c.run.gpu_count), lambda c: c.run.gpu, flex=1, wide=90),
            Column("rate", "NOW", 9, lambda c: say.rate(c.rate) if c.rate else "", lambda c: c.rate, right=True, descending=True),
            Column("cost", "SO FAR", 9, lambda c: (say.money(c.run.cost), "bold"), lambda c: c.run.cost, right=True, descending=True),
            Column("average", "AVERAGE", 9, lambda c: say.rate(c.per_hour), lambda c: c.per_hour, right=True, descending=True, wide=100),
            Column("time", "TIME", 7, lambda c: say.duration(c.seconds), lambda c: c.seconds, right=True, descending=True),
            Column("saved", "VERIFIED", 9, lambda c: say.size(c.run.verified_bytes), _verified, right=True, descending=True, wide=110),
        ),
        key=lambda cost: cost.run.id,
        text=lambda cost: f"{cost.run.name} {cost.run.id} {cost.run.state} {cost.run.gpu}",
        fields={"cost": lambda c: c.run.cost / 1e6, "now": lambda c: None if c.rate is None else c.rate / 1e6},
        natural=lambda cost: (-(cost.rate or 0), -cost.run.cost),
    )  # fmt: skip


def _short(amount: int) -> str:
    """Dollars in four characters."""
    dollars = amount / 1e6
    if amount == 0:
        return "·"
    return (
        f"${dollars:.1f}"
        if dollars < 9.95
        else f"${dollars:.0f}"
        if dollars < 999.5
        else f"{dollars / 1000:.0f}k"
    )


class Purse(Lines):
    """Burn, credit and runway by account, and the days."""

    runs: wire.Runs | None = None

    def show(self, runs: wire.Runs) -> None:
        """Newer numbers."""
        self.runs = runs
        self.changed()

    def make(self, width: int) -> Sequence[Line]:
        """Accounts first; days when there is room."""
        runs = self.runs
        if runs is None:
            return []
        burn = {account.provider: 0 for account in runs.accounts}
        for run in runs.runs:
            if run.provider is not None and run.instance_id is not None and run.state not in say.ENDED:
                burn[run.provider] = burn.get(run.provider, 0) + (run.price or 0)
        most = max([account.credit or 0 for account in runs.accounts], default=0)
        day = f"   {say.money(runs.burn * 24)} a day at this rate"
        lines: list[Line] = [[("burn  ", "dim"), (say.rate(runs.burn), "bold"), (day, "dim")], []]
        for account in runs.accounts:
            rate = burn.get(account.provider, 0)
            left = money.runway(account.credit, rate)
            short = left is not None and left < 2 * 3600
            full, rest = spark.bar((account.credit or 0) / most if most else None, 20)
            line: list[tuple[str, str]] = [
                (f"{account.provider:<8}", "bold"),
                (full, "warn" if short else "good"),
                (rest, "dim"),
            ]
            line.append((f"  {say.money(account.credit)} credit", ""))
            if rate:
                line.append((f"  {say.rate(rate)}", ""))
                line.append(
                    (f"  lasts {say.duration(left)}" + (" △" if short else ""), "warn" if short else "dim")
                )
            else:
                line.append(("  nothing rented", "dim"))
            lines.append(line)
        days = money.by_day(runs.runs, runs.now, _DAYS)
        top = max(days)
        if top:
            all_of_it = f" in all, at most {say.money(top)} a day"
            lines += [
                [],
                [(f"last {_DAYS} days  ", "dim"), (say.money(sum(days)), "bold"), (all_of_it, "dim")],
            ]
            lines += [[(row, "accent")] for row in spark.columns([day / top for day in days], 4, 3)]
            lines.append([("".join(f"{_short(day):<5}" for day in days).rstrip(), "dim")])
        return lines


class MoneyScreen(Place):
    """Where it goes."""

    PLACE = "money"
    CSS_PATH = "money.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "open", "Open", id="open-cost")]

    def body(self) -> ComposeResult:
        """Accounts and days, then the runs."""
        yield Purse(id="purse")
        yield VTable(model(), id="bills", empty=["Nothing has been rented yet, so nothing has been paid."])

    @property
    def table(self) -> VTable[money.RunCost]:
        """The bills."""
        return self.query_one("#bills", VTable)

    def fleet_changed(self, fleet: Fleet) -> None:
        """New numbers."""
        if fleet.runs is not None:
            now = fleet.runs.now
            self.query_one(Purse).show(fleet.runs)
            self.table.load([money.bill(run, now) for run in fleet.runs.runs])

    def current_run(self) -> wire.RunRow | None:
        """The run under the cursor."""
        cost = self.table.current
        return cost.run if cost is not None else None
