"""How far runs are on their remotes: what custody asks, what people see. What stands is in the vault, this only remembers it."""

from __future__ import annotations

from collections.abc import Iterable

from gpuwatch.clean import clean
from gpuwatch.client import wire
from gpuwatch.custody.facts import Copy
from gpuwatch.daemon.context import Context
from gpuwatch.lifecycle.run import Run
from gpuwatch.mirror.names import is_pointer
from gpuwatch.mirror.standing import Standing
from gpuwatch.spec import RunSpec


class MirrorBehind(Exception):
    """A remote that the spec requires has not got everything yet."""


def demand_required(ctx: Context, run: Run, spec: RunSpec, copies: Iterable[Copy]) -> None:
    """Raises MirrorBehind while a required remote lacks one of these copies; what was never compared is lacking (I3)."""
    folder = spec.checkpoints.path if spec.checkpoints is not None else None
    wanted = tuple(c for c in copies if not is_pointer(c.path, folder))
    for remote in spec.mirror.require:
        if remote == "vault":
            continue
        standing = ctx.mirrored.get((run.id, remote))
        lacking = len(wanted) if standing is None else standing.lacks(wanted)
        if lacking:
            why = f": {standing.problem}" if standing is not None and standing.problem else ""
            raise MirrorBehind(
                f"{lacking} of {len(wanted)} files are not verified on {remote} yet, which the spec requires{why}"
            )


def rows(ctx: Context, run: str | None) -> list[wire.MirrorRow]:
    """How far every run is on every remote of its spec."""
    known = {
        (run_id, remote): remote in spec.mirror.require
        for run_id, spec in ctx.specs.items()
        for remote in spec.mirror.remotes
    } | {key: standing.required for key, standing in ctx.mirrored.items()}
    return [
        _row(ctx, run_id, remote, required=required, standing=ctx.mirrored.get((run_id, remote)))
        for (run_id, remote), required in sorted(known.items())
        if run is None or run_id == run
    ]


def _row(ctx: Context, run: str, remote: str, *, required: bool, standing: Standing | None) -> wire.MirrorRow:
    progress = standing.progress if standing is not None else None
    due = standing.due if standing is not None else None
    return wire.MirrorRow(
        run=run, remote=remote, required=required,
        files=len(standing.stands) if standing else 0,
        bytes=sum(s.bytes for s in standing.stands.values()) if standing else 0,
        behind_files=None if due is None else due.files + len(due.refused),
        behind_bytes=None if due is None else due.bytes,
        behind_seconds=None if standing is None or standing.behind_since is None
        else max(0.0, ctx.now() - standing.behind_since),
        latest=standing.pointed[0] if standing and standing.pointed else None,
        problem=standing.problem if standing else "not compared yet",
        refused=[f"{clean(p, 120)}: {why}" for p, why in due.refused[:20]] if due else [],
        done=progress.done if progress else None, total=progress.total if progress else None,
        rate=progress.rate if progress else None,
    )  # fmt: skip


def alarms(ctx: Context) -> list[str]:
    """Remotes that do not take what they should, for `gpuwatch status`."""
    return [
        f"{run}: {remote} is {standing.due.files if standing.due else 'unknown'} files behind: {standing.problem}"
        for (run, remote), standing in sorted(ctx.mirrored.items())
        if standing.problem is not None
    ]
