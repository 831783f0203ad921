"""Costs, forecasts and runways as the daemon sees them: ledger + live facts → wire rows. Pure but for the clocks handed in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gpuproviders.model import Charge
from gpuproviders.money import format_usd
from gpuwatch.budget.bill import Bill, compare, shared_machines
from gpuwatch.budget.cost import day_start, of_run, spent_since
from gpuwatch.budget.forecast import Forecast, Runway, forecast, runway
from gpuwatch.clean import clean
from gpuwatch.client import wire
from gpuwatch.daemon import rows
from gpuwatch.daemon.context import Context
from gpuwatch.daemon.live import Live
from gpuwatch.lifecycle.run import Run, State

HOUR = 3600.0


def day_ceiling_reached(ctx: Context, now: float) -> str | None:
    """Why nothing more may be spent today (UTC), None while the settings' ceiling is not reached."""
    ceiling = ctx.config.day_ceiling
    if ceiling is None:
        return None
    spent = spent_since(ctx.ledger.runs.values(), day_start(now), now)
    if spent < ceiling:
        return None
    return (
        f"budget.per_day of the settings is reached: {format_usd(spent)} today of {format_usd(ceiling)} (UTC)"
    )


def forecast_of(run: Run, live: Live, now: float, clock: float) -> Forecast | None:
    """The end of a running job and its price; None when its steps do not tell."""
    if run.state is not State.RUNNING or run.machine is None or live.report_at is None:
        return None
    minutes = live.watching.history.minutes.points("step", now - HOUR)
    age = max(0.0, clock - live.report_at)
    return forecast(live.watching.progress, minutes, run.machine.price, age=age)


def runways(ctx: Context, lives: Mapping[str, Live], now: float, clock: float) -> dict[str, Runway | None]:
    """Provider → how long its balance lasts."""
    found: dict[str, Runway | None] = {}
    for name, fleet in ctx.fleets.items():
        runs = [
            r
            for r in ctx.ledger.runs.values()
            if r.exists and r.machine is not None and r.machine.provider == name
        ]
        exposed = []
        for run in runs:
            live = lives.get(run.id, Live())
            at_risk = rows.exposure(run, ctx.specs.get(run.id), live, ctx.ledger.copies(run.id), now)
            rate = live.transfer.rate(clock) if live.transfer is not None else None
            exposed.append((at_risk.bytes, rate))
        credit = fleet.account.credit if fleet.account is not None else None
        found[name] = runway(credit, sum(rows.burn(r) for r in runs), exposed)
    return found


def alarms(ctx: Context, lives: Mapping[str, Live], now: float, clock: float) -> list[str]:
    """Balances that end too soon, and a day's ceiling that is reached."""
    found = [
        f"{name}: {way.words()}"
        for name, way in runways(ctx, lives, now, clock).items()
        if way is not None and way.alarming
    ]
    reached = day_ceiling_reached(ctx, now)
    return [*found, reached] if reached is not None else found


def report(
    ctx: Context,
    lives: Mapping[str, Live],
    runs: Iterable[Run],
    now: float,
    clock: float,
    charges: Mapping[str, Mapping[str, Charge] | str] | None = None,
) -> wire.CostReport:
    """`gputui cost`. `charges`: what the vendors say, by provider and instance."""
    known = list(runs)
    shared = shared_machines([*ctx.ledger.runs.values(), *(r for r in known if r.id not in ctx.ledger.runs)])
    bills = {run.id: compare(run, charges or {}, shared, now) for run in known}
    ways = runways(ctx, lives, now, clock)
    return wire.CostReport(
        runs=[_row(ctx, run, lives.get(run.id, Live()), bills[run.id], now, clock) for run in known],
        accounts=[_account(ctx, name, way) for name, way in sorted(ways.items())],
        burn=sum(rows.burn(run) for run in ctx.ledger.runs.values()),
        today=spent_since(ctx.ledger.runs.values(), day_start(now), now),
        day_ceiling=ctx.config.day_ceiling,
    )


def _row(ctx: Context, run: Run, live: Live, bill: Bill, now: float, clock: float) -> wire.CostRow:
    cost, end = of_run(run, now), forecast_of(run, live, now, clock)
    spec = ctx.specs.get(run.id)
    return wire.CostRow(
        run=run.id, name=run.name, state=run.state.value, gpu=cost.gpu, disk=cost.disk, traffic=cost.traffic,
        total=cost.total, burn=rows.burn(run), ceiling=spec.budget.max_cost if spec is not None else None,
        more=end.cost if end is not None else None, seconds=end.seconds if end is not None else None,
        machines=len(run.past) + (run.machine is not None), billed=bill.billed, difference=bill.difference,
        bill_note=clean(bill.note, 200),
    )  # fmt: skip


def _account(ctx: Context, name: str, way: Runway | None) -> wire.RunwayRow:
    account = ctx.fleets[name].account
    return wire.RunwayRow(
        provider=name,
        credit=account.credit if account is not None else None,
        burn=way.burn if way is not None else 0,
        seconds=way.seconds if way is not None else None,
        copies=way.copies if way is not None else None,
        copy_in=way.copy_in if way is not None else None,
        alarm=way is not None and way.alarming,
        text=way.words() if way is not None else "nothing burns, or the provider does not tell the balance",
    )
