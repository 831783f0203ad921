"""Two tabs of the run screen that are asked for when they are opened: files on the box, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence

from gputui import boxfiles, spark
from gputui import wording as say
from gputui.table import Cell, Column, TableModel
from gputui.widgets.lines import Line, Lines, Para
from gpuwatch.client import wire

_BAR = 24


def _state(one: boxfiles.BoxFile) -> Cell:
    if one.state == "unpromised":
        return ("△ unpromised", "warn")
    glyph, tone = say.ARTIFACTS.get(one.state, ("?", "warn"))
    return (f"{glyph} {one.state}", tone)


def files() -> TableModel[boxfiles.BoxFile]:
    """Files on the box as a table, the largest first."""
    return TableModel(
        columns=(
            Column("state", "STATE", 13, _state, lambda f: f.state),
            Column("path", "FILE", 20, lambda f: f.path, lambda f: f.path, flex=1),
            Column("size", "SIZE", 8, lambda f: say.size(f.size), lambda f: f.size, right=True, descending=True),
            Column("changed", "CHANGED", 16, lambda f: (say.when(f.changed), "dim"), lambda f: f.changed, descending=True, wide=90),
        ),
        key=lambda one: one.path,
        text=lambda one: f"{one.path} {one.state}",
        fields={"size": lambda f: f.size / 1e9},
    )  # fmt: skip


def listing_said(found: boxfiles.Listing) -> list[Line | Para]:
    """What the list means: how much of it nobody promised, and whether it is all."""
    count, held = boxfiles.unpromised(found.files)
    whole = say.plural(len(found.files), "file")
    lines: list[Line | Para] = [
        [(f"{whole}, {say.size(sum(f.size for f in found.files))}", "bold"), ("   r reads again", "dim")]
    ]
    if count:
        text = f"△ {say.plural(count, 'file')}, {say.size(held)}, are not promised by the spec: they end with the machine"
        lines.append(Para(text, "warn", "  "))
    else:
        lines.append([("✓ ", "good"), ("every one of them is promised", "")])
    if found.cut:
        lines.append([("△ there are more than could be listed", "warn")])
    if found.odd:
        lines.append([(f"△ {found.odd} entries could not be read", "warn")])
    return lines


class Bill(Lines):
    """What one run has cost, what it costs, what it will cost."""

    row: wire.CostRow | None = None
    run: wire.RunRow | None = None
    problem = ""

    def show(self, run: wire.RunRow | None, row: wire.CostRow | None, problem: str = "") -> None:
        """Newer figures, or why there are none."""
        self.run, self.row, self.problem = run, row, problem
        self.changed()

    def make(self, width: int) -> Sequence[Line]:
        """A line for each part."""
        row = self.row
        if row is None:
            return [[(self.problem or "asking …", "warn" if self.problem else "dim")]]
        traffic = say.money(row.traffic) if row.traffic is not None else "unknown: the host names no price"
        lines: list[Line] = [
            [
                ("so far     ", "dim"),
                (say.money(row.total), "bold"),
                (f"   on {say.plural(row.machines, 'machine')}", "dim"),
            ],
            [("  GPU      ", "dim"), (say.money(row.gpu), "")],
            [("  disk     ", "dim"), (say.money(row.disk), "")],
            [("  traffic  ", "dim"), (traffic, "")],
            [],
            [
                ("now        ", "dim"),
                (say.rate(row.burn) if row.burn else "nothing is rented", "" if row.burn else "dim"),
            ],
        ]
        if row.more is not None:
            end = f"{say.money(row.more)} more in {say.duration(row.seconds)}, {say.money(row.total + row.more)} in all"
            lines.append([("to the end ", "dim"), (end, "")])
        elif row.burn:
            lines.append([("to the end ", "dim"), ("unknown: the job's steps do not tell", "dim")])
        lines += [[], budget(row.total, row.ceiling, row.more)]
        saved = self.run.verified_bytes if self.run is not None else 0
        if saved and row.total:
            lines.append([("per GB home ", "dim"), (say.money(round(row.total / (saved / 1e9))), "dim")])
        return lines


def budget(spent: int, ceiling: int | None, more: int | None = None) -> Line:
    """A bar of what is spent of a budget, with what is still to come. Micro-dollars."""
    if not ceiling:
        return [("budget     ", "dim"), ("none: max_cost under [budget] in the spec sets one", "dim")]
    share = spent / ceiling
    over = more is not None and spent + more > ceiling
    full, rest = spark.bar(min(1.0, share), _BAR)
    tone = "bad" if share >= 1 else "warn" if over or share >= 0.8 else "good"
    line: list[tuple[str, str]] = [("budget     ", "dim"), (full, tone), (rest, "dim")]
    line.append((f"  {say.percent(share)} of {say.money(ceiling)}", ""))
    if share >= 1:
        line.append(("  ▲ reached: stop, collect, verify, destroy", "bad"))
    elif over:
        line.append(("  △ it will be reached before the last step", "warn"))
    return line
