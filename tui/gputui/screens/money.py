"""Money: what burns now, how long the credit lasts, what each run and each day has cost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from gputui import money, spark
from gputui import wording as say
from gputui.fleet import Fleet
from gputui.guard import run_guarded
from gputui.screens.place import Place
from gputui.table import Cell, Column, TableModel
from gputui.widgets.lines import Line, Lines
from gputui.widgets.vtable import VTable
from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed

_DAYS = 14
_COSTS = 10.0
"""Seconds between two questions for the daemon's own figures."""


def _state(cost: money.RunCost) -> Cell:
    glyph, tone = say.state_mark(cost.run.state)
    return (f"{glyph} {cost.run.state}", tone)


def _verified(cost: money.RunCost) -> int:
    return cost.run.verified_bytes


def _budget(cost: money.RunCost) -> Cell:
    share = cost.budget
    if share is None:
        return ("", "")
    full, rest = spark.bar(min(1.0, share), 6)
    tone = "bad" if share >= 1 else "warn" if share >= 0.8 else "good"
    return [(full, tone), (rest, "dim"), (f" {share:>4.0%}", "")]


def _to_end(cost: money.RunCost) -> Cell:
    row = cost.row
    return "" if row is None or row.more is None else f"+{say.money(row.more)}"


def model() -> TableModel[money.RunCost]:
    """Bills as a table, the dearest first."""
    return TableModel(
        columns=(
            Column("name", "RUN", 14, lambda c: (c.run.name, "bold"), lambda c: c.run.name.lower(), flex=2),
            Column("state", "STATE", 12, _state, lambda c: c.run.state),
            Column("gpu", "GPU", 12, lambda c: say.gpus(c.run.gpu, c.run.gpu_count), lambda c: c.run.gpu, flex=1, wide=90),
            Column("rate", "NOW", 9, lambda c: say.rate(c.rate) if c.rate else "", lambda c: c.rate, right=True, descending=True),
            Column("cost", "SO FAR", 9, lambda c: (say.money(c.total), "bold"), lambda c: c.total, right=True, descending=True),
            Column("end", "TO END", 8, _to_end, lambda c: c.row.more if c.row is not None else None, right=True, descending=True, wide=96),
            Column("budget", "BUDGET", 11, _budget, lambda c: c.budget, descending=True, wide=84),
            Column("average", "AVERAGE", 9, lambda c: say.rate(c.per_hour), lambda c: c.per_hour, right=True, descending=True, wide=130),
            Column("time", "TIME", 7, lambda c: say.duration(c.seconds), lambda c: c.seconds, right=True, descending=True, wide=90),
            Column("saved", "VERIFIED", 9, lambda c: say.size(c.run.verified_bytes), _verified, right=True, descending=True, wide=110),
        ),
        key=lambda cost: cost.run.id,
        text=lambda cost: f"{cost.run.name} {cost.run.id} {cost.run.state} {cost.run.gpu}",
        fields={"cost": lambda c: c.total / 1e6, "now": lambda c: None if c.rate is None else c.rate / 1e6},
        natural=lambda cost: (-(cost.rate or 0), -cost.total),
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
    costs: wire.CostReport | None = None

    def show(self, runs: wire.Runs, costs: wire.CostReport | None) -> None:
        """Newer numbers; `costs` are the daemon's own, once asked."""
        self.runs, self.costs = runs, costs
        self.changed()

    def _today(self) -> list[Line]:
        """What today has cost, of the settings' ceiling."""
        costs = self.costs
        if costs is None:
            return []
        if costs.day_ceiling is None:
            none = "   no ceiling for a day: budget.per_day in the settings sets one"
            return [[("today ", "dim"), (say.money(costs.today), "bold"), (none, "dim")]]
        share = costs.today / costs.day_ceiling if costs.day_ceiling else 1.0
        full, rest = spark.bar(min(1.0, share), 20)
        tone = "bad" if share >= 1 else "warn" if share >= 0.8 else "good"
        said = "  ▲ nothing more is rented today" if share >= 1 else ""
        figures = f"  {say.money(costs.today)} of {say.money(costs.day_ceiling)} (UTC day)"
        return [[("today   ", "dim"), (full, tone), (rest, "dim"), (figures, ""), (said, "bad")]]

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
        lines: list[Line] = [
            [("burn  ", "dim"), (say.rate(runs.burn), "bold"), (day, "dim")],
            *self._today(),
            [],
        ]
        ways = {row.provider: row for row in self.costs.accounts} if self.costs is not None else {}
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
            if (way := ways.get(account.provider)) is not None and way.alarm:
                lines.append([("        △ ", "warn"), (way.text, "warn")])
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

    costs: wire.CostReport | None = None

    def on_mount(self) -> None:
        """Ask for the daemon's own figures, now and then."""
        super().on_mount()
        run_guarded(self, self._follow_costs(), what="Costs", group="costs")

    async def _follow_costs(self) -> None:
        while True:
            if self.is_current:
                with suppress(CallFailed):  # away, or a recording: the rows' own figures stand
                    self.costs = await self.tui.link.call("cost", wire.CostQuery(), wire.CostReport)
                    self.fleet_changed(self.tui.fleet)
            await asyncio.sleep(_COSTS)

    def fleet_changed(self, fleet: Fleet) -> None:
        """New numbers."""
        if fleet.runs is not None:
            now = fleet.runs.now
            rows = {row.run: row for row in self.costs.runs} if self.costs is not None else {}
            self.query_one(Purse).show(fleet.runs, self.costs)
            self.table.load([money.bill(run, now, rows.get(run.id)) for run in fleet.runs.runs])

    def current_run(self) -> wire.RunRow | None:
        """The run under the cursor."""
        cost = self.table.current
        return cost.run if cost is not None else None
