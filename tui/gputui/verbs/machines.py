"""What we have seen of machines ourselves; avoid one, take it back."""

from __future__ import annotations

import argparse

from gputui import wording as say
from gputui.console import Cell, Console
from gputui.exits import OK
from gputui.verbs.asking import call, connect, me
from gpuwatch.client import wire


def machines(args: argparse.Namespace, console: Console) -> int:
    """What we have seen of machines ourselves."""
    with connect() as client:
        answer = call(client, "machines", wire.MachinesQuery(provider=args.provider), wire.Machines)
    if console.json:
        console.write_json(answer)
        return OK
    if not answer.machines:
        console.line("Nothing is known yet: every machine that is rented adds to it.", "dim")
        return OK
    console.table(
        ("MACHINE", "GPU", ">TRIES", ">DUDS", ">BOOTS IN", ">TO HERE", ">DISK", "AVOIDED UNTIL", "WHY"),
        [_machine_cells(row) for row in answer.machines],
        shrink=8,
    )
    return OK


def _machine_cells(row: wire.MachineRow) -> list[Cell]:
    seen = row.seen
    return [
        row.machine,
        say.gpus(row.gpu, row.gpu_count),
        str(seen.tries),
        (str(seen.duds), "warn" if seen.duds else ""),
        say.duration(seen.boot_seconds),
        say.UNKNOWN if seen.download is None else f"{say.size(round(seen.download))}/s",
        say.UNKNOWN if seen.disk is None else f"{say.size(round(seen.disk))}/s",
        ""
        if seen.avoided_until is None
        else (f"{say.when(seen.avoided_until)} by {seen.avoided_by}", "warn"),
        row.reason or seen.trouble or "",
    ]


def avoid(args: argparse.Namespace, console: Console) -> int:
    """Rent a machine no more, for a time."""
    order = wire.MachineAvoid(machine=args.machine, seconds=args.seconds, reason=args.reason, by=me())
    return _said("machine.avoid", order, f"is avoided for {say.duration(args.seconds)}", console)


def forgive(args: argparse.Namespace, console: Console) -> int:
    """Take a machine back."""
    return _said(
        "machine.forgive",
        wire.MachineForgive(machine=args.machine, reason=args.reason, by=me()),
        "is taken back",
        console,
    )


def _said(method: str, order: wire.Struct, what: str, console: Console) -> int:
    with connect() as client:
        row = call(client, method, order, wire.MachineRow)
    if console.json:
        console.write_json(row)
    else:
        console.line(f"{row.machine} {what}", "good")
    return OK
