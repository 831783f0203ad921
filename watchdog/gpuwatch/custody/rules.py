"""The custody rules as pure functions: which files are promised, which are safe, what holds the machine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from gpuwatch.clean import clean
from gpuwatch.custody.facts import BoxFile, Copy, Inventory, Link
from gpuwatch.custody.holds import Hold
from gpuwatch.lifecycle.run import EVERYTHING
from gpuwatch.spec.model import RunSpec
from gpuwatch.spec.units import format_size

__all__ = [
    "Assessment",
    "Hold",
    "assess",
    "glob_pattern",
    "is_promised",
    "is_safe",
    "matches",
    "promised_globs",
    "spoken",
    "waivable",
]


@dataclass(frozen=True, slots=True)
class Assessment:
    """What stands between a run and the end of its machine."""

    holds: tuple[Hold, ...]
    safe: tuple[Copy, ...]
    unsafe: tuple[BoxFile, ...]
    """On the box, promised, and not proved at home in this version."""
    waived: tuple[BoxFile, ...] = ()
    strays: tuple[Link, ...] = ()
    """Links to what is not promised, and not given up."""

    @property
    def clear(self) -> bool:
        """Whether nothing holds the machine."""
        return not self.holds


_NOT_FOLLOWED = "which is not promised, so what it shows does not come home"


@lru_cache(maxsize=512)
def glob_pattern(glob: str) -> re.Pattern[str]:
    """A glob over `/`-separated relative paths, as every shell reads it, and never an error.

    `*`, `?` and `[a-z]` stay inside a part, `**` spans parts; none of them matches a dot at
    the start of a part. What names a folder matches everything below it, dots included.
    The box is given the same expression, so both sides mean the same files.
    """
    while "**/**/" in glob:
        glob = glob.replace("**/**/", "**/")
    out: list[str] = []
    i = 0
    while i < len(glob):
        at_start = i == 0 or glob[i - 1] == "/"
        undotted = r"(?!\.)" if at_start else ""
        if at_start and glob.startswith("**/", i):
            out.append(r"(?:(?!\.)[^/]+/)*")
            i += 3
        elif glob.startswith("**", i):
            out.append(undotted + r"(?:[^/]|/(?!\.))*")
            i += 2
        elif glob[i] == "*":
            out.append(undotted + "[^/]*")
            i += 1
        elif glob[i] == "?":
            out.append(undotted + "[^/]")
            i += 1
        elif glob[i] == "[" and (end := glob.find("]", i + 3 if glob.startswith("[!", i) else i + 2)) > 0:
            out.append(undotted + _character_class(glob[i + 1 : end]))
            i = end + 1
        else:
            out.append(re.escape(glob[i]))
            i += 1
    return re.compile("".join(out) + "(?:/.*)?", re.DOTALL)


def _character_class(body: str) -> str:
    """What stands between `[` and `]`, as a regular expression for one character that is no `/`."""
    negated = body[0] in "!^" and len(body) > 1
    rest = body[1:] if negated else body
    items: list[str] = []
    while rest:
        if len(rest) > 2 and rest[1] == "-":
            if rest[0] <= rest[2]:
                items.append(f"{re.escape(rest[0])}-{re.escape(rest[2])}")
            rest = rest[3:]
        else:
            items.append(re.escape(rest[0]))
            rest = rest[1:]
    if not items:  # only ranges that run backwards: no character is in them
        return "[^/]" if negated else "(?!)"
    return f"(?!/)[{'^' * negated}{''.join(items)}]"


def matches(path: str, glob: str) -> bool:
    """Whether `path`, or a folder that it lies in, is what `glob` promises."""
    return glob_pattern(glob).fullmatch(path) is not None


def spoken(path: str) -> str:
    """A box's file name as text that any JSON can carry: bytes that are no UTF-8 become `\\xff`.

    This is the form in which holds, waivers and reports name a file.
    """
    try:
        return os.fsencode(path).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # surrogates that stand for no byte: no file system makes such a name
        return path.encode("utf-8", "backslashreplace").decode()


def promised_globs(spec: RunSpec) -> tuple[str, ...]:
    """Everything the run promises, as globs relative to its work folder."""
    globs = [a.path for a in spec.artifacts]
    if spec.checkpoints is not None:
        globs.append(spec.checkpoints.path)
    return tuple(dict.fromkeys(globs))


def is_promised(path: str, spec: RunSpec) -> bool:
    """Whether custody answers for this file.

    Entries of the checkpoint folder that start with a dot are a trainer's unfinished work
    (`ckpt/.tmp-…`) and not promised; what a checkpoint holds is, dots included.
    """
    if any(matches(path, artifact.path) for artifact in spec.artifacts):
        return True
    if spec.checkpoints is None or not matches(path, spec.checkpoints.path):
        return False
    return not path.removeprefix(spec.checkpoints.path).startswith("/.")


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
    released: Iterable[str] = (),
) -> Assessment:
    """Judge one complete inventory. Nothing tracked blocks; it does not pass (I1).

    A job that failed cannot have made its artifacts: what is required and does not exist
    still holds the machine, because a person may want to look before it goes. `released` names
    holds that a person removed: only what the box could not list (`inventory`) can be let go so.
    """
    waived_names = frozenset(waivers)
    promised = [f for f in inventory.files if is_promised(f.path, spec)]
    given_up = frozenset(f.path for f in promised if spoken(f.path) in waived_names)
    safe = tuple(copies[f.path] for f in promised if is_safe(f, copies.get(f.path)))
    unproved = [f for f in promised if not is_safe(f, copies.get(f.path))]
    waived = tuple(f for f in unproved if f.path in given_up)
    unsafe = tuple(f for f in unproved if f.path not in given_up)
    holds: list[Hold] = []
    if unsafe:
        total = sum(f.size for f in unsafe)
        first = ", ".join(clean(spoken(f.path), 200) for f in unsafe[:3]) + (", …" if len(unsafe) > 3 else "")
        holds.append(
            Hold(
                "artifacts",
                f"{len(unsafe)} file{'s' * (len(unsafe) != 1)} ({format_size(total)}) not verified at home: {first}",
            )
        )
    busy = [f.path for f in promised if f.writer and f.path not in given_up]
    if busy:
        holds.append(
            Hold("writing", f"some process still has {clean(spoken(busy[0]), 200)} open for writing")
        )
    if "inventory" not in released:
        holds.extend(Hold("inventory", problem) for problem in inventory.problems)
    strays = tuple(x for x in inventory.links if x.stray and spoken(x.path) not in waived_names)
    holds.extend(
        Hold(
            "link",
            f"{clean(spoken(x.path), 120)} is a link to {clean(spoken(x.target), 120)}, {_NOT_FOLLOWED}",
        )
        for x in strays
    )
    holds.extend(_missing(spec, promised, waived_names, job_succeeded=job_succeeded))
    # a waiver of some file says nothing about a box that suddenly has none: each pattern must be given up
    globs = promised_globs(spec)
    emptiness_waived = bool(globs) and waived_names.issuperset(globs)
    if not promised and not spec.no_artifacts and not holds and not emptiness_waived:
        holds.append(
            Hold("empty", 'nothing that was promised exists; say artifacts = "none" if that is meant')
        )
    return Assessment(tuple(holds), safe, unsafe, waived, strays)


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
                f"{clean(spoken(f.path), 200)} has {format_size(f.size)}, at least {format_size(artifact.min_size)} promised",
            )
            for f in found
            if f.size < artifact.min_size and spoken(f.path) not in waived
        )
    expected = spec.checkpoints is not None and spec.checkpoints.required
    folder = spec.checkpoints.path if spec.checkpoints is not None and expected else None
    # a job that failed before its first checkpoint has none to lose, as long as something else was promised
    none_made = folder is not None and not any(matches(f.path, folder) for f in promised)
    if none_made and folder not in waived and (job_succeeded or not spec.artifacts):
        holds.append(Hold("missing", f"{folder} does not exist or is empty: no checkpoint"))
    return holds


def waivable(assessment: Assessment, spec: RunSpec) -> tuple[str, ...]:
    """What a waiver may name: each unsafe file and stray link (as `spoken`), and each promised pattern when something is missing.

    A pattern or file called `*` cannot be given up alone: that word gives up everything.
    """
    names = [spoken(f.path) for f in assessment.unsafe] + [spoken(x.path) for x in assessment.strays]
    if any(h.name in ("missing", "empty", "too-small") for h in assessment.holds):
        names += promised_globs(spec)
    return tuple(n for n in dict.fromkeys(names) if n != EVERYTHING)
