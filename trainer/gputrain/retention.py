"""Which checkpoints to delete: a pure decision."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

KEEP_ALWAYS = 2
"""The newest checkpoints that no rule may delete."""


@dataclass(frozen=True)
class Kept:
    """A complete checkpoint as retention sees it."""

    step: int
    bytes: int
    milestone: bool


def to_delete(
    checkpoints: Sequence[Kept],
    *,
    keep_last: int,
    keep_milestones: int,
    max_bytes: int,
    verified: Collection[int] = (),
    uploading: Collection[int] = (),
) -> list[int]:
    """Steps to delete so that counts and bytes hold, in the order of deletion.

    Keeps the newest `keep_last` and the newest `keep_milestones` milestones; then deletes further
    while all together exceed `max_bytes`, those with a verified copy elsewhere first, then the
    oldest, milestones last. Never the newest two, never one that is being uploaded.
    """
    ordered = sorted(checkpoints, key=lambda c: c.step, reverse=True)
    untouchable = {c.step for c in ordered[:KEEP_ALWAYS]} | set(uploading)
    milestones = {c.step for c in [c for c in ordered if c.milestone][:keep_milestones]}
    wanted = {c.step for c in ordered[:keep_last]} | milestones | untouchable
    doomed = [c.step for c in reversed(ordered) if c.step not in wanted]
    total = sum(c.bytes for c in ordered if c.step in wanted)
    by_regret = sorted(
        (c for c in ordered if c.step in wanted and c.step not in untouchable),
        key=lambda c: (c.step not in verified, c.step in milestones, c.step),
    )
    for candidate in by_regret:
        if total <= max_bytes:
            break
        doomed.append(candidate.step)
        total -= candidate.bytes
    return doomed
