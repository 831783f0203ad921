"""Which checkpoints may go, and from where: the last N, hourly and daily milestones and the best stay. Pure.

A checkpoint stands in places: the vault, remotes, its box. Whatever the policy says: the newest two stay in
each place; the vault and the remotes never lose the only verified copy among them (a box is none: it goes);
from the vault goes only what stands on a remote, from everywhere else only what stands in the vault, where it
can be read again first; and what is held (a run begins from it, it is being copied, its machine still has it)
goes nowhere. Each prefix of the removals keeps all of this, so that whoever carries them out may die at any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

HOUR, DAY = 3600.0, 86_400.0
NEWEST: Final = 2
VAULT: Final = "vault"
BOX: Final = "box"
EVERYWHERE: Final = "*"
"""A hold for every place."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One checkpoint. `made_at` in Unix seconds; `metric` lower is better; `places` where it stands verified, whole."""

    name: str
    step: int
    made_at: float
    metric: float | None = None
    places: frozenset[str] = frozenset()
    bytes: int = 0
    held: Mapping[str, str] = field(default_factory=dict)
    """Place (or EVERYWHERE) → why it must not go from there now."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How many stay. `keep_milestones` are the newest of one per hour, `keep_days` the newest of one per day."""

    keep_last: int = 12
    keep_milestones: int = 24
    keep_days: int = 7
    keep_best: int = 1
    need: int | None = None
    """Bytes after which enough has gone; None for all that may."""


class Why(Enum):
    """Why a checkpoint that the policy does not keep stays all the same."""

    ONLY = "it stands verified nowhere else"
    NOT_HOME = "it is not verified in the vault"
    HELD = "held"


@dataclass(frozen=True, slots=True)
class Removal:
    """One checkpoint that may go from one place, and where it then still stands."""

    place: str
    name: str
    bytes: int
    stands: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stays:
    """One checkpoint that the policy would let go, and why it stays."""

    place: str
    name: str
    why: Why
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What may go, in the order in which it may, and what stays beyond the policy."""

    go: tuple[Removal, ...] = ()
    stays: tuple[Stays, ...] = ()


def decide(checkpoints: Iterable[Checkpoint], policies: Mapping[str, Policy]) -> Decision:
    """What may go from the places of `policies`: from boxes first, from the vault last, else in their order."""
    ordered = sorted(checkpoints, key=lambda c: (c.step, c.made_at, c.name))
    stands = {c.name: set(c.places) for c in ordered}
    go: list[Removal] = []
    stays: list[Stays] = []
    for place, policy in sorted(policies.items(), key=lambda p: (p[0] != BOX, p[0] == VAULT)):
        here = [c for c in ordered if place in stands[c.name]]
        kept, freed = _kept(here, policy), 0
        for checkpoint in here:
            if checkpoint.name in kept or (policy.need is not None and freed >= policy.need):
                continue
            obstacle = _obstacle(checkpoint, place, stands[checkpoint.name])
            if obstacle is not None:
                stays.append(obstacle)
                continue
            stands[checkpoint.name].discard(place)
            freed += checkpoint.bytes
            left = tuple(sorted(stands[checkpoint.name] - {BOX}))
            go.append(Removal(place, checkpoint.name, checkpoint.bytes, left))
    return Decision(tuple(go), tuple(stays))


def _obstacle(checkpoint: Checkpoint, place: str, stands: set[str]) -> Stays | None:
    reason = checkpoint.held.get(place) or checkpoint.held.get(EVERYWHERE)
    if reason is not None:
        return Stays(place, checkpoint.name, Why.HELD, reason)
    if place != VAULT and VAULT not in stands:
        return Stays(place, checkpoint.name, Why.NOT_HOME, Why.NOT_HOME.value)
    if not stands - {VAULT, BOX} and place == VAULT:
        return Stays(place, checkpoint.name, Why.ONLY, Why.ONLY.value)
    return None


def _kept(ordered: list[Checkpoint], policy: Policy) -> set[str]:
    """The names that the policy keeps of these, oldest first."""
    kept = {c.name for c in ordered[-max(NEWEST, policy.keep_last) :]}
    kept |= _milestones(ordered, HOUR, policy.keep_milestones)
    kept |= _milestones(ordered, DAY, policy.keep_days)
    scored = sorted((c for c in ordered if c.metric is not None), key=lambda c: (c.metric or 0.0, -c.step))
    return kept | {c.name for c in scored[: policy.keep_best]}


def _milestones(ordered: list[Checkpoint], span: float, count: int) -> set[str]:
    """The first checkpoint of each span of time, the newest `count` of them."""
    first: dict[int, str] = {}
    bucket: Callable[[Checkpoint], int] = lambda c: int(c.made_at // span)  # noqa: E731
    for checkpoint in ordered:
        first.setdefault(bucket(checkpoint), checkpoint.name)
    newest = sorted(first)[-count:] if count > 0 else []
    return {first[b] for b in newest}


def short_of(free: int | None, total: int | None, checkpoint: int) -> int:
    """Bytes that a box's disk is short of: a tenth of it and two more checkpoints of this size shall be free.

    0 when it is not short, and when nobody knows how full it is.
    """
    if free is None or total is None or total <= 0:
        return 0
    return max(0, min(total, max(total // 10, 2 * checkpoint)) - free)
