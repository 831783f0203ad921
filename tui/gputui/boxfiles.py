"""The files in a run's folder on its box, promised or not: what custody says of each. Pure but for the names it is given.

The list comes over SSH from a box that may be hostile: it is bounded, and what does not read as an entry is left out
and counted.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gpuwatch.client import wire

MOST = 1 << 20
"""Bytes of a listing that are read."""
_BEGIN = b"\0gputui files\0"


@dataclass(frozen=True, slots=True)
class BoxFile:
    """One file: `path` relative to the run's folder, bytes, Unix time, and what custody knows of it."""

    path: str
    size: int
    changed: float
    state: str
    """As in ArtifactRow, or `unpromised`: it goes with the machine."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Files, the largest first. `cut` says that there are more, `odd` counts entries that could not be read."""

    files: tuple[BoxFile, ...]
    cut: bool
    odd: int


def folder_of(detail: wire.RunDetail) -> str | None:
    """The run's folder on its box, from the newest event that names the workspace; None before there was one."""
    for event in sorted(detail.events, key=lambda one: one.seq, reverse=True):
        place = event.data.get("workspace")
        if isinstance(place, str) and place.startswith("/"):
            return f"{place.rstrip('/')}/{detail.run.id}"
    return None


def command(folder: str) -> str:
    """What lists it: GNU find, an entry each, ended by NUL (names may hold anything else)."""
    begin = "printf '\\0gputui files\\0'"
    find = "find . -xdev -type f -printf '%s %T@ %P\\0' 2>/dev/null"
    return f"cd -- {shlex.quote(folder)} && {begin} && {find} | head -c {MOST}"


def read(output: bytes, known: Mapping[str, str]) -> Listing | None:
    """The listing in what the command printed; `known` is custody's state by path. None when there is none."""
    _, found, rest = output.partition(_BEGIN)
    if not found:
        return None
    entries = rest.split(b"\0")
    cut = bool(entries.pop())  # whole entries end with NUL
    files, odd = [], 0
    for entry in entries:
        one = _entry(entry, known)
        if one is None:
            odd += 1
        else:
            files.append(one)
    files.sort(key=lambda one: (-one.size, one.path))
    return Listing(tuple(files), cut or len(rest) >= MOST, odd)


def _entry(entry: bytes, known: Mapping[str, str]) -> BoxFile | None:
    parts = entry.split(b" ", 2)
    if len(parts) != 3 or not parts[0].isdigit() or len(parts[0]) > 18 or not parts[2]:
        return None
    try:
        changed = float(parts[1])
    except ValueError:
        return None
    if not 0 <= changed < 1e11:
        return None
    path = parts[2].decode("utf-8", "replace")
    return BoxFile(path, int(parts[0]), changed, known.get(path, "unpromised"))


def states(custody: wire.CustodyReport) -> dict[str, str]:
    """Custody's word by path."""
    return {row.path: row.state for row in (*custody.unsafe, *custody.verified)}


def unpromised(files: Iterable[BoxFile]) -> tuple[int, int]:
    """How many files nobody promised, and their bytes: they end with the machine."""
    lost = [one.size for one in files if one.state == "unpromised"]
    return len(lost), sum(lost)
