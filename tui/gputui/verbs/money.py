"""What it costs."""

from __future__ import annotations

import argparse

from gputui import wording as say
from gputui.console import Cell, Console
from gputui.exits import DAMAGE, OK
from gputui.verbs.asking import call, connect
from gpuwatch.client import wire


def cost(args: argparse.Namespace, console: Console) -> int:
    """Costs, forecasts and runways. Status 1 while a balance ends too soon or the day's ceiling is reached."""
    with connect() as client:
        answer = call(client, "cost", wire.CostQuery(run=args.run), wire.CostReport)
    reached = answer.day_ceiling is not None and answer.today >= answer.day_ceiling
    alarm = reached or any(account.alarm for account in answer.accounts)
    if console.json:
        console.write_json(answer)
        return DAMAGE if alarm else OK
    if answer.runs:
        console.table(
            ("RUN", "STATE", ">GPU", ">DISK", ">TRAFFIC", ">TOTAL", ">NOW", ">TO THE END"),
            [_cost_cells(row) for row in answer.runs],
            shrink=0,
        )
    else:
        console.line("No run has cost anything.", "dim")
    ceiling = f" of {say.money(answer.day_ceiling)}" if answer.day_ceiling is not None else ""
    console.line(
        f"Today (UTC) {say.money(answer.today)}{ceiling}, now {say.rate(answer.burn)}",
        "warn" if reached else "",
    )
    for account in answer.accounts:
        console.line(f"{account.provider}: {account.text}", "warn" if account.alarm else "")
    return DAMAGE if alarm else OK


def _cost_cells(row: wire.CostRow) -> list[Cell]:
    end = ""
    if row.more is not None:
        end = f"{say.money(row.more)} more, {say.duration(row.seconds)}"
    traffic = "unknown" if row.traffic is None else say.money(row.traffic)
    total = say.money(row.total) + (f" of {say.money(row.ceiling)}" if row.ceiling is not None else "")
    now = say.rate(row.burn) if row.burn else ""
    return [row.run, row.state, say.money(row.gpu), say.money(row.disk), traffic, total, now, end]
