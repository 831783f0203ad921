"""The copies behind rclone."""

from __future__ import annotations

import argparse

from gputui import wording as say
from gputui.console import Cell, Console
from gputui.exits import OK, PARTIAL
from gputui.verbs.asking import call, connect
from gpuwatch.client import wire


def mirror(args: argparse.Namespace, console: Console) -> int:
    """Every run on every remote of its spec. Status 3 while something is behind or was never compared."""
    with connect() as client:
        answer = call(client, "mirror.status", wire.MirrorQuery(run=args.run), wire.MirrorStatus)
    late = any(row.behind_files is None or row.behind_files for row in answer.mirrors)
    if console.json:
        console.write_json(answer)
        return PARTIAL if late else OK
    if not answer.mirrors and not answer.retention:
        console.line("No run names a remote; see [mirror] in docs/run-spec.md.")
        return OK
    if answer.mirrors:
        console.table(
            ("RUN", "REMOTE", ">VERIFIED", ">BEHIND", ">SINCE", ">LATEST", "STATE"),
            [_mirror_cells(row) for row in answer.mirrors],
            shrink=6,
        )
    for row in answer.mirrors:
        for refused in row.refused:
            console.line(f"  ▲ {row.run}: cannot go to {row.remote}: {refused}", "warn")
    for kept in answer.retention:
        console.line(retention_line(kept), "warn" if kept.problem is not None else "dim")
    return PARTIAL if late else OK


def _mirror_cells(row: wire.MirrorRow) -> list[Cell]:
    if row.problem is not None:
        state = row.problem
    elif row.done is not None and row.total:
        state = f"copying {row.done / row.total:.0%} at {say.speed(row.rate)}"
    else:
        state = "waiting" if row.behind_files else "verified"
    behind = "unknown" if row.behind_files is None else f"{row.behind_files} · {say.size(row.behind_bytes)}"
    return [
        row.run,
        row.remote + (" *" if row.required else ""),
        f"{row.files} · {say.size(row.bytes)}",
        behind if row.behind_files != 0 else "nothing",
        say.duration(row.behind_seconds) if row.behind_seconds is not None else "",
        str(row.latest) if row.latest is not None else "",
        state,
    ]


def retention_line(row: wire.RetentionRow) -> str:
    """What retention does in one place, in words. Pure."""
    text = f"  {row.run}: {row.place} keeps {row.kept} checkpoints ({say.size(row.kept_bytes)})"
    if row.let_go:
        text += f", let go {row.let_go} files ({say.size(row.let_go_bytes)})"
    if row.going:
        text += f", {row.going} more may go ({say.size(row.going_bytes)})"
    if row.stay:
        text += f"; stay beyond that: {', '.join(row.stay)}"
    return text if row.problem is None else f"{text}; waits: {row.problem}"
