"""What is due on one remote, in which order. Pure.

A checkpoint goes as a whole, newest first when behind; then everything else. A file is due when no proof of
this very content (SHA-256) stands for the remote. Nothing is due twice: what was refused is remembered by its
content, and comes again only when it changes or the remote does.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from gpuwatch.custody.facts import Copy
from gpuwatch.mirror.names import CHECKPOINTS, is_pointer, place, unlistable
from gpuwatch.mirror.proof import Stands

_DIGITS = re.compile(r"\d+")
MANIFEST = "MANIFEST.json"


@dataclass(frozen=True, slots=True)
class Batch:
    """Files that go together: one checkpoint, or all loose files of a place."""

    place: str
    """`checkpoints` or the run's folder itself ("")."""
    name: str
    """The checkpoint's name, empty for loose files."""
    step: int | None
    files: tuple[Copy, ...]
    replaces: bool
    """Some of them stand on the remote with other content, which these replace."""

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(f.size for f in self.files)


@dataclass(frozen=True, slots=True)
class Due:
    """All that is not proved on a remote."""

    batches: tuple[Batch, ...]
    refused: tuple[tuple[str, str], ...]
    """(path, reason) of files that cannot go there."""

    @property
    def bytes(self) -> int:
        """Size of what is due."""
        return sum(b.bytes for b in self.batches)

    @property
    def files(self) -> int:
        """How many files are due."""
        return sum(len(b.files) for b in self.batches)


def due(
    copies: Iterable[Copy],
    stands: Mapping[str, Stands],
    checkpoints: str | None,
    let_go: Collection[tuple[str, str]] = (),
) -> Due:
    """What one remote still lacks of a run's verified copies. `let_go`: (path, SHA-256) of what it shall not have."""
    groups: dict[tuple[str, str], list[Copy]] = {}
    refused = []
    for copy in copies:
        stand = stands.get(copy.path)
        if is_pointer(copy.path, checkpoints) or (stand is not None and stand.sha256 == copy.sha256):
            continue
        if (copy.path, copy.sha256) in let_go:
            continue
        reason = unlistable(copy.path)
        if reason is not None:
            refused.append((copy.path, reason))
            continue
        where, name = place(copy.path, checkpoints)
        groups.setdefault((where, name.split("/", 1)[0] if where else ""), []).append(copy)
    batches = [
        Batch(
            place=where,
            name=name,
            step=step_of(name) if where == CHECKPOINTS else None,
            # data first, the manifest that vouches for it last
            files=tuple(sorted(files, key=lambda c: (c.path.endswith(f"/{MANIFEST}"), c.path))),
            replaces=any(f.path in stands for f in files),
        )
        for (where, name), files in groups.items()
    ]
    batches.sort(key=lambda b: (b.place != CHECKPOINTS, -(b.step if b.step is not None else -1), b.name))
    return Due(tuple(batches), tuple(refused))


def newest(
    copies: Iterable[Copy], stands: Mapping[str, Stands], checkpoints: str | None
) -> tuple[int, str, tuple[Copy, ...]] | None:
    """(step, name, files) of the newest checkpoint of which every verified file stands on the remote."""
    if checkpoints is None:
        return None
    groups: dict[str, list[Copy]] = {}
    for copy in copies:
        where, name = place(copy.path, checkpoints)
        if where:
            groups.setdefault(name.split("/", 1)[0], []).append(copy)
    whole = [
        (step, name, tuple(sorted(files, key=lambda c: c.path)))
        for name, files in groups.items()
        if (step := step_of(name)) is not None
        and all((s := stands.get(f.path)) is not None and s.sha256 == f.sha256 for f in files)
    ]
    return max(whole, default=None, key=lambda g: (g[0], g[1]))


def step_of(name: str) -> int | None:
    """The training step in a checkpoint's name, None when there is none."""
    numbers = _DIGITS.findall(name)
    return int(numbers[-1][:15]) if numbers else None
