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
            ("RUN", "STATE", ">GPU", ">DISK", ">TRAFFIC", ">TOTAL", ">BILLED", ">NOW", ">TO THE END"),
            [_cost_cells(row) for row in answer.runs],
            shrink=0,
        )
    else:
        console.line("No run has cost anything.", "dim")
    notes = dict.fromkeys(row.bill_note for row in answer.runs if row.bill_note)
    for note in notes:
        about = [row.run for row in answer.runs if row.bill_note == note]
        console.line(f"  bill of {', '.join(about[:4])}{', …' if len(about) > 4 else ''}: {note}", "dim")
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
    return [
        row.run,
        row.state,
        say.money(row.gpu),
        say.money(row.disk),
        traffic,
        total,
        billed(row),
        now,
        end,
    ]


def billed(row: wire.CostRow) -> str:
    """The vendor's own figure, and by how much it differs from ours. Pure."""
    if row.billed is None:
        return "unknown"
    if row.difference is None:
        return f"{say.money(row.billed)} so far" if "so far" in row.bill_note else say.money(row.billed)
    if abs(row.difference) < _CENT:
        return f"{say.money(row.billed)} (same)"
    sign = "+" if row.difference > 0 else "-"
    return f"{say.money(row.billed)} ({sign}{say.money(abs(row.difference))})"


_CENT = 10_000
