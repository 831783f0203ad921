"""What is known of a run's checkpoints, put together: where each stands whole and verified. Pure.

A checkpoint is what the ledger's copies and what retention let go say it is; it stands in a place when every
one of its files stands there in that very version. A name without a step is no checkpoint and never goes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gpuwatch.custody.complete import groups
from gpuwatch.custody.facts import BoxFile, Copy
from gpuwatch.custody.rules import is_safe
from gpuwatch.mirror.plan import step_of
from gpuwatch.mirror.proof import Stands
from gpuwatch.mirror.retention import BOX, EVERYWHERE, VAULT, Checkpoint


@dataclass(frozen=True, slots=True)
class Past:
    """One file that retention let go from one place. `copy` is what was proved of it."""

    place: str
    copy: Copy
    removed: bool
    """Whether it has really been removed; else that is still to be done."""


@dataclass(frozen=True, slots=True)
class Known:
    """All that is known of one run's checkpoints."""

    folder: str
    """Where checkpoints appear, relative to the work folder."""
    copies: Mapping[str, Copy]
    """Every copy on record, also those that have gone bad or that somebody removed."""
    good: frozenset[str]
    """Paths of those that stand in the vault now and are not bad."""
    past: Sequence[Past] = ()
    remotes: Mapping[str, Mapping[str, Stands]] = field(default_factory=dict)
    """Each remote of the spec → what stands verified there."""
    box: tuple[BoxFile, ...] | None = ()
    """What its machine has, () when there is none, None while that is not known for sure."""
    machine: bool = False
    """Whether custody of a machine of this run is unfinished."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    held: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Name → place → why it must stay, for reasons beyond these facts."""
    restored: str | None = None
    """The checkpoint that the machine began from."""

    def files(self) -> dict[str, dict[str, Copy]]:
        """Checkpoint → its files at home, or as they were when they were let go."""
        found: dict[str, dict[str, Copy]] = {}
        prefix = self.folder + "/"
        gone = (p.copy for p in self.past if p.place == VAULT)
        for copy in (*gone, *self.copies.values()):  # a copy on record is newer than what was let go
            if copy.path.startswith(prefix):
                name = copy.path[len(prefix) :].split("/", 1)[0]
                if step_of(name) is not None:
                    found.setdefault(name, {})[copy.path] = copy
        return found

    def checkpoints(self) -> list[Checkpoint]:
        """All of them, with where they stand."""
        on_box = {g.name: g for g in groups(self.box or (), self.folder)}
        let_go = {(p.place, p.copy.path, p.copy.sha256) for p in self.past}
        rows = []
        for name, files in self.files().items():
            places = set()
            group = on_box.get(name)
            # of what the box has more or other files, home has not got the whole
            whole = group is None or all(is_safe(f, self.copies.get(f.path)) for f in group.files)
            if whole and self.good.issuperset(files):
                places.add(VAULT)
            for remote, stands in self.remotes.items():
                if whole and all(
                    (s := stands.get(p)) is not None and s.sha256 == c.sha256 for p, c in files.items()
                ):
                    places.add(remote)
            if group is not None and whole:
                places.add(BOX)
            rows.append(
                Checkpoint(
                    name, step_of(name) or 0, min(c.verified_at for c in files.values()), self.metrics.get(name),
                    frozenset(places), sum(c.size for c in files.values()),
                    self._held(name, files, let_go, places, listed=group is not None),
                )
            )  # fmt: skip
        return rows

    def _held(
        self,
        name: str,
        files: Mapping[str, Copy],
        let_go: set[tuple[str, str, str]],
        places: set[str],
        *,
        listed: bool,
    ) -> dict[str, str]:
        """Place → why it must not go from there."""
        held: dict[str, str] = {}
        if name == self.restored:
            held[BOX] = "its machine began from it"
        durable = (VAULT, *self.remotes)
        if self.machine and self.box is None:
            held |= dict.fromkeys(
                durable, "what its machine has is not known, or its custody is not finished"
            )
        elif self.machine and listed:
            # the end of the machine counts on every file that it has: it would have to come home again
            held |= dict.fromkeys(durable, "its machine still has it")
        for remote in self.remotes:
            lets = all((remote, p, c.sha256) in let_go for p, c in files.items())
            if remote not in places and not lets:
                held.setdefault(VAULT, f"{remote} has not got it yet")
        return held | dict(self.held.get(EVERYWHERE, {})) | dict(self.held.get(name, {}))


def metric_of(manifest: bytes, key: str, *, highest: bool) -> float | None:
    """The number `key` of a MANIFEST.json's `val` (lower is better: turned round for `highest`), None without one."""
    try:
        value = json.loads(manifest)
        number = (value.get("val") or {}).get(key)
    except (ValueError, AttributeError, RecursionError):
        return None
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        return None
    return -float(number) if highest else float(number)


def paths_of(copies: Iterable[Copy]) -> frozenset[tuple[str, str]]:
    """(path, SHA-256) of copies: what tells one version of a file from another."""
    return frozenset((c.path, c.sha256) for c in copies)
