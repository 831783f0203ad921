"""The custody rules as pure functions: which files are promised, which are safe, what holds the machine."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from gpuwatch.custody.facts import BoxFile, Copy, Inventory
from gpuwatch.spec.model import RunSpec
from gpuwatch.spec.units import format_size


@dataclass(frozen=True, slots=True)
class Hold:
    """A named reason not to destroy."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Assessment:
    """What stands between a run and the end of its machine."""

    holds: tuple[Hold, ...]
    safe: tuple[Copy, ...]
    unsafe: tuple[BoxFile, ...]
    """On the box, promised, and not proved at home in this version."""
    waived: tuple[BoxFile, ...] = ()

    @property
    def clear(self) -> bool:
        """Whether nothing holds the machine."""
        return not self.holds


@lru_cache(maxsize=512)
def glob_pattern(glob: str) -> re.Pattern[str]:
    """A glob over `/`-separated relative paths: `*` and `?` stay inside a part, `**` spans parts.

    A pattern that names a folder matches everything below it.
    """
    out: list[str] = []
    i = 0
    while i < len(glob):
        if glob.startswith("**/", i):
            out.append("(?:[^/]+/)*")
            i += 3
        elif glob.startswith("**", i):
            out.append(".*")
            i += 2
        elif glob[i] == "*":
            out.append("[^/]*")
            i += 1
        elif glob[i] == "?":
            out.append("[^/]")
            i += 1
        elif glob[i] == "[" and (end := glob.find("]", i + 2)) > 0:
            body = glob[i + 1 : end]
            body = "^" + body[1:] if body[0] in "!^" else body
            out.append("[" + body.replace("\\", "\\\\") + "]")
            i = end + 1
        else:
            out.append(re.escape(glob[i]))
            i += 1
    return re.compile("".join(out) + "(?:/.*)?", re.DOTALL)


def matches(path: str, glob: str) -> bool:
    """Whether `path` is what `glob` promises. Parts that start with a dot are matched only by name.

    Temporary folders of the run contract (`ckpt/.tmp-…`) are therefore never promised.
    """
    if not glob_pattern(glob).fullmatch(path):
        return False
    hidden = [part for part in path.split("/") if part.startswith(".")]
    return all(part in glob.split("/") for part in hidden)


def promised_globs(spec: RunSpec) -> tuple[str, ...]:
    """Everything the run promises, as globs relative to its work folder."""
    globs = [a.path for a in spec.artifacts]
    if spec.checkpoints is not None:
        globs.append(spec.checkpoints.path)
    return tuple(dict.fromkeys(globs))


def is_promised(path: str, spec: RunSpec) -> bool:
    """Whether custody answers for this file."""
    return any(matches(path, glob) for glob in promised_globs(spec))


def is_safe(file: BoxFile, copy: Copy | None) -> bool:
    """Whether the proved copy is of exactly this version of the file."""
    return copy is not None and copy.size == file.size and copy.identity == file.identity


def assess(
    spec: RunSpec,
    inventory: Inventory,
    copies: Mapping[str, Copy],
    waivers: Iterable[str] = (),
    *,
    job_succeeded: bool = True,
) -> Assessment:
    """Judge one complete inventory. Nothing tracked blocks; it does not pass (I1).

    A job that failed cannot have made its artifacts: what is required and does not exist
    still holds the machine, because a person may want to look before it goes.
    """
    waived_names = frozenset(waivers)
    promised = [f for f in inventory.files if is_promised(f.path, spec)]
    waived = tuple(f for f in promised if f.path in waived_names and not is_safe(f, copies.get(f.path)))
    safe = tuple(copies[f.path] for f in promised if is_safe(f, copies.get(f.path)))
    unsafe = tuple(f for f in promised if not is_safe(f, copies.get(f.path)) and f.path not in waived_names)
    holds: list[Hold] = []
    if unsafe:
        total = sum(f.size for f in unsafe)
        first = ", ".join(f.path for f in unsafe[:3]) + (", …" if len(unsafe) > 3 else "")
        holds.append(
            Hold(
                "artifacts",
                f"{len(unsafe)} file{'s' * (len(unsafe) != 1)} ({format_size(total)}) not verified at home: {first}",
            )
        )
    busy = [f.path for f in promised if f.writer and f.path not in waived_names]
    if busy:
        holds.append(Hold("writing", f"some process still has {busy[0]} open for writing"))
    holds.extend(Hold("inventory", problem) for problem in inventory.problems)
    holds.extend(_missing(spec, promised, waived_names, job_succeeded=job_succeeded))
    if not promised and not spec.no_artifacts and not holds and not waived_names:
        holds.append(
            Hold("empty", 'nothing that was promised exists; say artifacts = "none" if that is meant')
        )
    return Assessment(tuple(holds), safe, unsafe, waived)


def _missing(
    spec: RunSpec, promised: list[BoxFile], waived: frozenset[str], *, job_succeeded: bool
) -> list[Hold]:
    holds: list[Hold] = []
    for artifact in spec.artifacts:
        if artifact.path in waived:
            continue
        found = [f for f in promised if matches(f.path, artifact.path)]
        if artifact.required and not found:
            why = "" if job_succeeded else " (the job failed)"
            holds.append(Hold("missing", f"{artifact.path} does not exist{why}"))
        if artifact.count is not None and found and len(found) < artifact.count:
            holds.append(Hold("missing", f"{artifact.path}: {len(found)} files, {artifact.count} promised"))
        holds.extend(
            Hold(
                "too-small",
                f"{f.path} has {format_size(f.size)}, at least {format_size(artifact.min_size)} promised",
            )
            for f in found
            if f.size < artifact.min_size and f.path not in waived
        )
    if (
        spec.checkpoints is not None
        and not spec.artifacts
        and spec.checkpoints.path not in waived
        and not promised
    ):
        holds.append(Hold("missing", f"no checkpoint in {spec.checkpoints.path}"))
    return holds


def waivable(assessment: Assessment, spec: RunSpec) -> tuple[str, ...]:
    """What a waiver may name: each unsafe file, and each promised pattern that has no file."""
    names = [f.path for f in assessment.unsafe]
    if any(h.name in ("missing", "empty", "too-small") for h in assessment.holds):
        names += promised_globs(spec)
    return tuple(dict.fromkeys(names))
