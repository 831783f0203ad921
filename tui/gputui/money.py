"""What it costs, by account, by run and by day. Pure; micro-dollars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gputui import wording as say
from gpuwatch.client import wire

DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class RunCost:
    """One run's bill. None is unknown."""

    run: wire.RunRow
    rate: int | None
    """Micro-dollars per hour now; 0 when nothing is rented."""
    seconds: float
    """Since its first machine could cost something."""
    per_hour: int | None
    """What an hour has cost on average."""
    row: wire.CostRow | None = None
    """The daemon's own figures, part by part, once they have been asked for."""

    @property
    def total(self) -> int:
        """What it has cost."""
        return self.row.total if self.row is not None else self.run.cost

    @property
    def budget(self) -> float | None:
        """Share of its `max_cost` that is spent, None without one."""
        return self.row.total / self.row.ceiling if self.row is not None and self.row.ceiling else None


def bill(run: wire.RunRow, now: float, row: wire.CostRow | None = None) -> RunCost:
    """A run's bill at Unix time `now`; `row` is what the daemon says of it."""
    begin = run.started_at or run.created_at
    seconds = max(0.0, (run.ended_at or now) - run.created_at)
    paid = max(0.0, (run.ended_at or now) - begin)
    rented = run.instance_id is not None and run.state not in say.ENDED
    cost = row.total if row is not None else run.cost
    average = round(cost / paid * 3600) if paid >= 60 and cost else None
    return RunCost(run, run.price if rented else 0, seconds, average, row)


def by_day(runs: Sequence[wire.RunRow], now: float, days: int) -> list[int]:
    """Micro-dollars of each of the last `days` days (24 hours each, the last ends now), oldest first.

    A run's cost is spread evenly over its time; that is right for a machine at a fixed price, and near for others.
    """
    totals = [0.0] * days
    for run in runs:
        begin, end = run.created_at, run.ended_at or now
        span = max(1.0, end - begin)
        for day in range(days):
            low = now - (days - day) * DAY
            shared = min(end, low + DAY) - max(begin, low)
            if shared > 0:
                totals[day] += run.cost * shared / span
    return [round(total) for total in totals]


def runway(credit: int | None, burn: int) -> float | None:
    """Seconds until `credit` is used up at `burn` per hour; None when unknown or when nothing burns."""
    return credit / burn * 3600 if credit is not None and burn > 0 else None
