"""Holds, alarms and the end of machines."""

from __future__ import annotations

import argparse
import sys

from gputui import wording as say
from gputui.console import Cell, Console
from gputui.exits import OK, PARTIAL, REFUSED, USAGE
from gputui.verbs.asking import SLOW, call, connect, me
from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed


def holds(args: argparse.Namespace, console: Console) -> int:
    """Every hold that stands, and how each goes alone. Status 4 when there is one."""
    with connect() as client:
        answer = call(client, "holds", wire.HoldsQuery(run=args.run), wire.Holds)
    if console.json:
        console.write_json(answer)
    elif answer.holds:
        cells: list[list[Cell]] = [
            [
                row.run,
                (row.hold.name, "warn"),
                row.hold.by or "",
                say.when(row.hold.at),
                _way_out(row),
                row.hold.reason,
            ]
            for row in answer.holds
        ]
        console.table(("RUN", "HOLD", "BY", "SINCE", "GOES BY", "WHY"), cells, shrink=5)
    else:
        console.line("Nothing is held.", "dim")
    return REFUSED if answer.holds else OK


def _way_out(row: wire.RunHold) -> str:
    match row.hold.removal:
        case "release":
            return f"gputui release {row.run} {row.hold.name}"
        case "waive":
            return f"gputui destroy {row.run} --waive …"
        case "waive-all":
            return f"gputui destroy {row.run} --waive-all"
        case _:
            return "itself"


def hold(args: argparse.Namespace, console: Console) -> int:
    """Hold a run's machine under a name."""
    order = wire.HoldPlace(run=args.run, hold=args.name, reason=args.reason, by=me())
    with connect() as client:
        call(client, "hold", order, wire.Empty)
    if console.json:
        console.write_json(wire.Empty())
    else:
        console.line(
            f"held ({args.name}); the machine stays, and costs, until: gputui release {args.run} {args.name}",
            "good",
        )
    return OK


def pin(args: argparse.Namespace, console: Console) -> int:
    """Hold a run's machine under the name pin."""
    args.name = "pin"
    return hold(args, console)


def release(args: argparse.Namespace, console: Console) -> int:
    """Remove one hold. Status 4 while others stand."""
    order = wire.HoldRelease(
        run=args.run, hold=args.hold, reason=args.reason, confirm=getattr(args, "confirm", ""), by=me()
    )
    with connect(timeout=SLOW) as client:
        report = call(client, "hold.release", order, wire.CustodyReport)
    if console.json:
        console.write_json(report)
        return OK
    console.line(f"released ({args.hold})", "good")
    for left in report.holds:
        console.line(f"  ▲ still held by {left.name}: {left.reason}", "warn")
    return OK


def unpin(args: argparse.Namespace, console: Console) -> int:
    """Remove the pin."""
    args.hold = "pin"
    return release(args, console)


def resolve(args: argparse.Namespace, console: Console) -> int:
    """Answer for an alarm about a machine."""
    with connect() as client:
        call(client, "alarm.resolve", wire.Resolve(label=args.label, reason=args.reason, by=me()), wire.Empty)
    if console.json:
        console.write_json(wire.Empty())
    else:
        console.line("written down; the alarm is answered", "good")
    return OK


def destroy(args: argparse.Namespace, console: Console) -> int:
    """Ask for a machine's end. Files are collected and verified first unless a person waives them by name."""
    waiving = bool(args.waive or args.waive_all)
    if waiving and not (args.confirm and args.reason):
        console.error(
            "to waive files give also --confirm with the run's name and --reason with why they may be lost"
        )
        return USAGE
    if (args.confirm or args.reason) and not waiving:
        console.error(
            "--confirm and --reason go with --waive or --waive-all; without those nothing is ever lost"
        )
        return USAGE
    with connect(timeout=SLOW) as client:
        if args.cancel:
            call(client, "destroy.cancel", wire.Cancel(run=args.run), wire.Empty)
            if console.json:
                console.write_json(wire.Empty())
            else:
                console.line("taken back; the machine stays (and costs)", "good")
            return OK
        waive = list(args.waive)
        if args.waive_all:
            preview = call(client, "destroy", wire.Destroy(run=args.run, preview=True), wire.CustodyReport)
            # a box that has not been heard lists nothing: then everything on it is given up, whatever it is
            unheard = preview.exposure.bytes is None
            waive = ["*"] if unheard else [row.path for row in preview.unsafe if row.state != "waived"]
            if waive and not console.json:
                _print_lost(preview, console)
        order = wire.Destroy(
            run=args.run,
            preview=args.preview,
            waive=waive,
            confirm=args.confirm if waive else "",
            reason=args.reason if waive else "",
            by=me(),
        )
        report = call(client, "destroy", order, wire.CustodyReport)
    if console.json:
        console.write_json(report)
    else:
        _print_custody(report, console, preview=args.preview)
    if args.preview:
        return OK if report.allowed else REFUSED
    if args.wait:
        from gputui.following import follow_run

        return follow_run(report.run, console, with_log=False, want_gone=True)
    return OK


def evacuate(args: argparse.Namespace, console: Console) -> int:
    """Ask for the end of every run that is not over. Status 3 when one was refused; nothing is ever given up by it."""
    with connect(timeout=SLOW) as client:
        fleet = call(client, "runs", wire.Empty(), wire.Runs)
        runs = [run for run in fleet.runs if run.state not in say.ENDED and run.state != "destroying"]
        if not runs:
            console.note("nothing is rented, and nothing is about to be")
        rate = say.rate(sum(run.price or 0 for run in runs))
        if runs and not args.yes:
            if not sys.stdin.isatty():
                console.error("this ends every machine; add --yes to say so where nobody can be asked")
                return USAGE
            names = ", ".join(run.name for run in runs)
            console.note(
                f"{names}: jobs are ended, files brought home and proved, then the machines destroyed"
            )
            if not console.ask(f"End {say.plural(len(runs), 'run')} ({rate})?"):
                return USAGE
        refused = 0
        for run in runs:
            try:
                report = call(client, "destroy", wire.Destroy(run=run.id, by=me()), wire.CustodyReport)
            except CallFailed as error:
                refused += 1
                console.error(f"{run.name}: {error}")
            else:
                console.note(f"{run.name}: asked; {report.summary}")
    if console.json:
        console.write_json(wire.Empty())
    return PARTIAL if refused else OK


def _print_lost(report: wire.CustodyReport, console: Console) -> None:
    """Every file that a waiver gives up, with its size."""
    if report.exposure.bytes is None:
        console.line(
            "the box has not been heard: everything on it is given up, and nobody can name it", "warn"
        )
    for row in report.unsafe:
        if row.state != "waived":
            console.line(f"  ✗ given up: {row.path}  {say.size(row.size)}", "bad")


def _print_custody(report: wire.CustodyReport, console: Console, *, preview: bool) -> None:
    console.line(report.summary, "good" if report.allowed else "warn")
    held = sum(row.size for row in report.verified)
    console.line(f"  ✓ {say.plural(len(report.verified), 'file')} verified here ({say.size(held)})", "good")
    for row in report.unsafe[:40]:
        glyph, tone = say.ARTIFACTS.get(row.state, ("?", "warn"))
        console.line(f"  {glyph} {row.path}  {say.size(row.size)}  {row.state}", tone)
    if len(report.unsafe) > 40:
        console.line(f"  … and {len(report.unsafe) - 40} more; --json lists all", "warn")
    for hold in report.holds:
        console.line(f"  ▲ hold {hold.name}: {hold.reason}", "warn")
    if not preview and not report.allowed:
        console.line(
            "  the machine goes when the rest is collected and verified; gputui why tells how far it is",
            "dim",
        )
