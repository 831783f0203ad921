"""Which checkpoints may go: the last N, hourly and daily milestones, the best by metric stay. Pure.

Whatever the policy says, the newest two stay, and so does every checkpoint that does not stand verified in
another place: retention never deletes the only verified copy.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

HOUR, DAY = 3600.0, 86_400.0
NEWEST = 2


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One checkpoint. `made_at` in Unix seconds; `metric` lower is better; `places` where it stands verified."""

    name: str
    step: int
    made_at: float
    metric: float | None = None
    places: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Policy:
    """How many stay. `keep_milestones` are the newest of one per hour, `keep_days` the newest of one per day."""

    keep_last: int = 12
    keep_milestones: int = 24
    keep_days: int = 7
    keep_best: int = 1


def deletable(checkpoints: Iterable[Checkpoint], policy: Policy, place: str) -> tuple[str, ...]:
    """The names that may be deleted in `place`, oldest first."""
    ordered = sorted(checkpoints, key=lambda c: (c.step, c.made_at, c.name))
    kept = {c.name for c in ordered[-max(NEWEST, policy.keep_last) :]}
    kept |= _milestones(ordered, HOUR, policy.keep_milestones)
    kept |= _milestones(ordered, DAY, policy.keep_days)
    scored = sorted((c for c in ordered if c.metric is not None), key=lambda c: (c.metric or 0.0, -c.step))
    kept |= {c.name for c in scored[: policy.keep_best]}
    return tuple(c.name for c in ordered if c.name not in kept and _elsewhere(c.places, place))


def _elsewhere(places: Collection[str], place: str) -> bool:
    return any(other != place for other in places)


def _milestones(ordered: list[Checkpoint], span: float, count: int) -> set[str]:
    """The first checkpoint of each span of time, the newest `count` of them."""
    first: dict[int, str] = {}
    bucket: Callable[[Checkpoint], int] = lambda c: int(c.made_at // span)  # noqa: E731
    for checkpoint in ordered:
        first.setdefault(bucket(checkpoint), checkpoint.name)
    newest = sorted(first)[-count:] if count > 0 else []
    return {first[b] for b in newest}
