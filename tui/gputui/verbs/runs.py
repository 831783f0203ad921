"""Runs: the list, one whole, why its machine exists, its log and timeline."""

from __future__ import annotations

import argparse

from gputui import wording as say
from gputui.console import Cell, Console
from gputui.exits import OK
from gputui.verbs.asking import call, connect
from gpuwatch.client import wire
from gpuwatch.client.blocking import Client


def ls(args: argparse.Namespace, console: Console) -> int:
    """List runs."""
    with connect() as client:
        fleet = call(client, "runs", wire.Empty(), wire.Runs)
        runs = fleet.runs + (_older(client, fleet) if args.all else [])
    if console.json:
        console.write_json(wire.Runs(
            runs=runs, accounts=fleet.accounts, burn=fleet.burn, now=fleet.now, alarms=fleet.alarms,
            older=fleet.older and not args.all,
        ))  # fmt: skip
        return OK
    for alarm in fleet.alarms:
        console.line(f"▲ {alarm}", "bad")
    if not fleet.runs:
        console.line(
            "No runs yet. Start one: gputui launch SPEC.toml, or see it all first: gputui demo", "dim"
        )
        return OK
    console.table(
        ("ID", "NAME", "STATE", "GPU", "STEP", ">LOSS", ">PRICE", ">COST", "EXPOSED", "AGE", "NEXT"),
        [_run_cells(run, fleet.now) for run in runs],
        shrink=10,
    )
    if fleet.older and not args.all:
        console.line("older runs that have ended: gputui ls --all", "dim")
    console.line(f"burn {say.rate(fleet.burn)} · {say.accounts(fleet.accounts)}", "dim")
    return OK


def _older(client: Client, fleet: wire.Runs) -> list[wire.RunRow]:
    """The ended runs that are not in the snapshot, newest first."""
    known = {run.id for run in fleet.runs}
    found: list[wire.RunRow] = []
    before: float | None = fleet.now + 86_400
    while before is not None:
        page = call(client, "runs.ended", wire.EndedQuery(before=before, limit=500), wire.Ended)
        found += [run for run in page.runs if run.id not in known]
        before = page.next
    return found


def _run_cells(run: wire.RunRow, now: float) -> list[Cell]:
    glyph, tone = say.state_mark(run.state)
    exposed = say.exposure(run.exposure.bytes, run.exposure.seconds) if run.state not in say.ENDED else ""
    return [
        run.id[:16],
        run.name,
        (f"{glyph} {run.state}", tone),
        say.gpus(run.gpu, run.gpu_count),
        say.steps(run.step, run.steps),
        say.loss(run.loss),
        say.rate(run.price),
        say.money(run.cost),
        exposed,
        say.ago((run.ended_at and now - run.ended_at) or now - run.created_at),
        run.reason or run.next,
    ]


def show(args: argparse.Namespace, console: Console) -> int:
    """Everything about one run."""
    with connect() as client:
        detail = call(client, "run", wire.RunRef(run=args.run), wire.RunDetail)
    if console.json:
        console.write_json(detail)
        return OK
    run, custody = detail.run, detail.custody
    glyph, tone = say.state_mark(run.state)
    console.line(f"{glyph} {run.name}  {run.state}", tone)
    facts = [
        ("run", run.id),
        ("why", run.reason or ""),
        ("next", run.next),
        ("machine", f"{run.provider} {run.instance_id}" if run.instance_id else ""),
        ("gpu", f"{say.gpus(run.gpu, run.gpu_count)} at {say.rate(run.price)}" if run.gpu else ""),
        ("cost", say.money(run.cost)),
        (
            "step",
            f"{say.steps(run.step, run.steps)} · loss {say.loss(run.loss)}" if run.step is not None else "",
        ),
        ("job", f"exit status {run.exit_code}" if run.exit_code is not None else ""),
        ("ssh", " ".join(detail.ssh)),
        ("custody", custody.summary),
        *(("hold", f"{hold.name}: {hold.reason}") for hold in custody.holds),
        ("verified", f"{say.plural(len(custody.verified), 'file')}, {say.size(run.verified_bytes)}"),
        *(("not safe", f"{row.path} ({say.size(row.size)}, {row.state})") for row in custody.unsafe[:20]),
    ]
    for name, value in facts:
        if value:
            console.line(f"  {name:<9} {value}")
    if detail.events:
        console.line()
        for event in detail.events[-12:]:
            _print_event(event, console)
    return OK


def why(args: argparse.Namespace, console: Console) -> int:
    """Why a run's machine exists."""
    with connect() as client:
        answer = call(client, "why", wire.RunRef(run=args.run), wire.Why)
    if console.json:
        console.write_json(answer)
        return OK
    console.line(answer.headline, "bold")
    for line in answer.lines:
        console.line(f"  {line}")
    for hold in answer.holds:
        console.line(f"  ▲ hold {hold.name}: {hold.reason}", "warn")
    console.line(f"Next: {answer.next}")
    return OK


def logs(args: argparse.Namespace, console: Console) -> int:
    """Print a run's captured log."""
    from gputui.following import print_log

    return print_log(args.run, console, tail=args.tail, follow=args.follow, raw=args.raw)


def events(args: argparse.Namespace, console: Console) -> int:
    """Print the timeline."""
    from gputui.following import print_events

    return print_events(args.run, console, since=args.since, follow=args.follow)


def _print_event(event: wire.EventRow, console: Console) -> None:
    console.line(f"{say.clock(event.time)}  {event.kind:<18} {event.text}")
