"""What retention found of each run in each place, for people. What was let go is in the ledger, this only remembers it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from gpuwatch.client import wire
from gpuwatch.daemon.context import Context
from gpuwatch.mirror.known import Past
from gpuwatch.mirror.retention import BOX, Checkpoint, Decision


@dataclass(slots=True)
class Retained:
    """One run in one place."""

    kept: int = 0
    kept_bytes: int = 0
    going: int = 0
    """Checkpoints that may go and have not gone yet."""
    going_bytes: int = 0
    stay: dict[str, int] = field(default_factory=dict)
    """Why others beyond the policy stay → how many."""
    let_go: int = 0
    """Files that were let go there, and their bytes."""
    let_go_bytes: int = 0
    problem: str | None = None


def found(
    place: str,
    checkpoints: Sequence[Checkpoint],
    decision: Decision,
    past: Iterable[Past],
    problem: str | None,
) -> Retained:
    """What a look at one place found. Pure."""
    here = [c for c in checkpoints if place in c.places]
    going = [r for r in decision.go if r.place == place]
    gone = [p.copy for p in past if p.place == place]
    return Retained(
        kept=len(here) - len(going), kept_bytes=sum(c.bytes for c in here) - sum(r.bytes for r in going),
        going=len(going), going_bytes=sum(r.bytes for r in going),
        stay=dict(Counter(s.reason for s in decision.stays if s.place == place)),
        let_go=len(gone), let_go_bytes=sum(c.size for c in gone), problem=problem,
    )  # fmt: skip


def rows(ctx: Context, run: str | None) -> list[wire.RetentionRow]:
    """What retention does about every run whose spec names a place for it."""
    return [
        wire.RetentionRow(
            run=run_id, place="its box" if place == BOX else place, kept=seen.kept, kept_bytes=seen.kept_bytes,
            going=seen.going, going_bytes=seen.going_bytes, let_go=seen.let_go, let_go_bytes=seen.let_go_bytes,
            stay=[f"{count} {why}" for why, count in sorted(seen.stay.items())], problem=seen.problem,
        )
        for (run_id, place), seen in sorted(ctx.retained.items())
        if run is None or run_id == run
    ]  # fmt: skip
