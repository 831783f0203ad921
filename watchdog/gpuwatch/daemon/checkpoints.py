"""The facts that retention decides on, gathered from ledger, vault, remotes and box."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from gpuwatch.custody.facts import BoxFile
from gpuwatch.daemon.context import Context
from gpuwatch.daemon.live import Live
from gpuwatch.lifecycle.run import FINAL, Run, State
from gpuwatch.mirror import proof
from gpuwatch.mirror.known import Known, metric_of
from gpuwatch.mirror.names import folder_of
from gpuwatch.mirror.plan import MANIFEST, step_of
from gpuwatch.mirror.retention import BOX, EVERYWHERE, Policy, short_of
from gpuwatch.spec.model import Checkpoints, RunSpec

FRESH = 60.0
"""Seconds for which a box's report says what the box has."""
_MANIFEST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Box:
    """What a run's machine has of files and room, as far as that counts for retention."""

    files: tuple[BoxFile, ...] | None = ()
    """() when there is no machine, None while nobody knows, or while its custody is under way."""
    free: int | None = None
    total: int | None = None


def box_of(run: Run, live: Live | None, clock: float) -> Box:
    """What the newest report says (I3: an old one, or one of another boot, says nothing). `clock` is event-loop time."""
    if run.state in FINAL:
        return Box()
    heard = live is not None and live.report_at is not None and clock - live.report_at <= FRESH
    if run.state is not State.RUNNING or run.end_requested_by is not None or not heard:
        return Box(None)
    if live is None or live.report is None or run.machine is None or live.boot_id != run.machine.boot_id:
        return Box(None)
    return Box(live.files, live.report.disk_free, live.report.disk_total)


def begun_from(run_id: str, ctx: Context, remotes: tuple[str, ...]) -> set[str]:
    """The checkpoints of this run that other runs, which are not over, begin from; EVERYWHERE for all of them."""
    names: set[str] = set()
    home = f"path:{ctx.vault.run(run_id)}"
    there = tuple(f"remote:{folder_of(remote, run_id)}" for remote in remotes)
    for other in ctx.ledger.runs.values():
        asked = other.resume_from
        if asked is None or other.state in FINAL:
            continue
        if asked.startswith(f"run:{run_id}/"):
            names.add(asked.partition("/")[2])
        elif asked == home or asked.startswith((home + "/", *there)):
            names.add(EVERYWHERE)
    return names


async def known_of(ctx: Context, run: Run, spec: RunSpec, box: Box) -> Known:
    """Everything that is known of a run's checkpoints. Raises VaultUnusable, OSError."""
    wanted = _checkpoints(spec)
    record = await ctx.ledger.record(run.id)
    bad = {s.copy.path: s.copy for s in ctx.ledger.bad() if s.run == run.id}
    past = await ctx.ledger.let_go(run.id)
    remotes, held = (
        {},
        {name: {EVERYWHERE: "a run begins from it"} for name in begun_from(run.id, ctx, spec.mirror.remotes)},
    )
    for remote in spec.mirror.remotes:
        standing = ctx.mirrored.get((run.id, remote))
        if standing is None:
            remotes[remote] = await asyncio.to_thread(proof.load, ctx.vault, run.id, remote)
        else:
            remotes[remote] = dict(standing.stands)
            if standing.copying is not None:
                held.setdefault(standing.copying, {})[EVERYWHERE] = f"it is being copied to {remote}"

    def look() -> tuple[frozenset[str], dict[str, float]]:
        ctx.vault.check()
        good = frozenset(p for p, c in record.copies.items() if ctx.vault.holds(run.id, p, c.size))
        return good, _metrics(ctx, run.id, wanted, good) if wanted.metric is not None else {}

    good, metrics = await asyncio.to_thread(look)
    return Known(
        folder=wanted.path, copies=bad | dict(record.copies), good=good, past=past, remotes=remotes, box=box.files,
        machine=run.state not in FINAL, metrics=metrics, held=held,
        restored=run.machine.restored if run.machine is not None else None,
    )  # fmt: skip


def _metrics(ctx: Context, run_id: str, wanted: Checkpoints, good: frozenset[str]) -> dict[str, float]:
    """Checkpoint → its metric, where its MANIFEST.json in the vault says one. Blocking."""
    found = {}
    for path in good:
        folder, _, file = path.rpartition("/")
        if file != MANIFEST or not folder.startswith(wanted.path + "/"):
            continue
        try:
            with ctx.vault.destination(run_id, path).open("rb") as manifest:
                text = manifest.read(_MANIFEST_BYTES)
        except OSError:
            continue
        value = metric_of(text, wanted.metric or "", highest=wanted.highest)
        if value is not None and step_of(folder) is not None:
            found[folder[len(wanted.path) + 1 :]] = value
    return found


def policies_of(spec: RunSpec, known: Known, box: Box) -> dict[str, Policy]:
    """Place → how many stay there. Of a box only while its disk is short, and as much as it is short of. Pure."""
    wanted = _checkpoints(spec)
    keep = Policy(wanted.keep_last, wanted.keep_milestones, wanted.keep_days, wanted.keep_best)
    policies = {place: keep for place in wanted.prune if place != BOX}
    if BOX in wanted.prune and box.files:
        newest = max(known.checkpoints(), key=lambda c: c.step, default=None)
        need = short_of(box.free, box.total, newest.bytes if newest is not None else 0)
        policies[BOX] = Policy(wanted.keep_on_box, 0, 0, wanted.keep_best, need)
    return policies


def _checkpoints(spec: RunSpec) -> Checkpoints:
    if spec.checkpoints is None:
        raise RuntimeError(f"the spec of {spec.name} names no checkpoints")
    return spec.checkpoints
