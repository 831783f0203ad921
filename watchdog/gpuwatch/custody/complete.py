"""Which checkpoints are whole. Pure.

A directory of the run contract is whole when it has its MANIFEST.json, which its trainer
writes last. Anything else is whole when size and mtime have stood still for
STILL_REPORTS reports and nobody has it open for writing.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gpuwatch.custody.facts import BoxFile, Copy

STILL_REPORTS = 3
MANIFEST = "MANIFEST.json"
POINTER = "latest.json"
_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Group:
    """One entry of the checkpoint folder: a file, or a directory with all its files."""

    name: str
    files: tuple[BoxFile, ...]

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(f.size for f in self.files)

    @property
    def manifest(self) -> bool:
        """Whether it is a directory of the run contract."""
        return any(f.path.endswith(f"{self.name}/{MANIFEST}") for f in self.files)

    @property
    def step(self) -> int | None:
        """The training step in its name, None when there is none."""
        numbers = _DIGITS.findall(self.name)
        return int(numbers[-1][:15]) if numbers else None


def digest_of(copies: Iterable[Copy]) -> str:
    """What a checkpoint at home is: SHA-256 over the paths and hashes of its files, in order of their paths."""
    whole = hashlib.sha256()
    for copy in sorted(copies, key=lambda c: c.path):
        whole.update(f"{copy.sha256} ".encode() + os.fsencode(copy.path) + b"\0")
    return whole.hexdigest()


def groups(files: Iterable[BoxFile], folder: str) -> tuple[Group, ...]:
    """The entries of the checkpoint `folder`; names that start with a dot do not exist for us."""
    found: dict[str, list[BoxFile]] = {}
    prefix = folder.rstrip("/") + "/"
    for file in files:
        if file.path.startswith(prefix):
            name = file.path[len(prefix) :].split("/", 1)[0]
            if not name.startswith("."):
                found.setdefault(name, []).append(file)
    return tuple(Group(name, tuple(rows)) for name, rows in sorted(found.items()))


@dataclass(slots=True)
class Stillness:
    """Remembers for how many reports each entry has stood still."""

    _seen: dict[str, tuple[tuple[object, ...], int]] = field(default_factory=dict)

    def observe(self, entries: Iterable[Group]) -> Mapping[str, int]:
        """Count one more report; name → reports without a change."""
        now: dict[str, tuple[tuple[object, ...], int]] = {}
        for entry in entries:
            mark = tuple((f.path, f.identity, f.writer) for f in entry.files)
            before = self._seen.get(entry.name)
            now[entry.name] = (mark, before[1] + 1 if before is not None and before[0] == mark else 0)
        self._seen = now
        return {name: count for name, (_, count) in now.items()}


def complete(entries: Iterable[Group], still: Mapping[str, int]) -> tuple[Group, ...]:
    """Entries that are whole, newest step first (what matters most comes home first)."""
    listed = tuple(entries)
    contract = any(e.manifest for e in listed)
    whole = []
    for entry in listed:
        if any(f.writer for f in entry.files):
            continue
        # beside directories of the contract only they count; their pointer goes home with them
        if entry.manifest or (not contract and still.get(entry.name, 0) >= STILL_REPORTS):
            whole.append(entry)
    return tuple(sorted(whole, key=lambda e: (-(e.step if e.step is not None else -1), e.name)))
