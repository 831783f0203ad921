"""`disk = "auto"`: how much disk a run needs, term by term. Pure, but for `uploaded`, which looks at this machine's files.

The rule: a checkpoint's size × how many are kept, what lies on the box besides (uploads, what the job downloads), what the
run promises at its end, and a fifth on top. A term that is not known and cannot be found out here is asked for by its key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gpuwatch.spec import model
from gpuwatch.spec.units import format_size
from gpuwatch.spec.uploads import upload_files

GB: Final = 10**9
LEAST: Final = 10 * GB
"""Packages, caches and the log need room too."""
RESERVE: Final = 5
"""One part in so many on top."""
MOVING: Final = 2
"""Checkpoints that are there for a moment beside those that are kept: one being written, one being deleted."""
KEEP_LAST, KEEP_MILESTONES = 12, 24
"""What the trainer keeps unless it is told otherwise."""
MILESTONE_SECONDS = 3600.0
CHECKPOINTS: Final[Mapping[str, int]] = {
    "nano": 3_723_136,
    "22m": 170_050_048,
    "124m": 1_483_113_472,
    "150m": 1_409_680_384,
    "1b": 12_433_051_648,
    "2b": 23_484_633_088,
    "4b": 33_020_581_888,
    "miras-s": 1_418_560_576,
    "miras-m": 4_380_388_864,
    "miras-l": 9_486_631_168,
}
"""Bytes of one checkpoint of each of the trainer's profiles. A test holds them against the trainer's own arithmetic."""
AUTO: Final = 'disk = "auto"'
_NEUTRAL = frozenset({"model.context", "model.memory_detach", "model.memory_chunk"})
"""Settings of a model that change none of its parameters."""
_LINE = re.compile(r"""(?m)^(?P<key>[ \t]*disk[ \t]*=[ \t]*)(?:"auto"|'auto')(?P<rest>[ \t]*(?:#.*)?)$""")


@dataclass(frozen=True, slots=True)
class Term:
    """One part of the disk: what it is, in words that say how it was reckoned, and its bytes."""

    text: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Unknown:
    """A term that is not known: the key to give, and what is to be said there."""

    key: str
    expected: str


@dataclass(frozen=True, slots=True)
class Sizing:
    """The disk and how it comes about."""

    terms: tuple[Term, ...]
    total: int
    """Bytes, whole GB."""


def sizing(
    *,
    train: model.Train | None,
    checkpoints: model.Checkpoints | None,
    artifacts: tuple[model.Artifact, ...],
    upload: model.Upload,
    data: int | None,
    uploaded: int | None,
    hours: float | None,
) -> Sizing | list[Unknown]:
    """The disk that a run needs, or what is missing to say so.

    `data` is what `[data] size` says, `uploaded` the bytes of the uploads (None when nobody can look), `hours` the ceiling
    of the budget: no more milestones than hours are kept.
    """
    terms: list[Term] = []
    missing: list[Unknown] = []
    kept = _checkpoints(train, checkpoints, hours)
    terms += [kept] if isinstance(kept, Term) else []
    missing += [kept] if isinstance(kept, Unknown) else []
    lying = _data(train, upload, data, uploaded)
    if isinstance(lying, Unknown):
        missing.append(lying)
    else:
        terms += lying
    for artifact in artifacts:
        if artifact.min_size:
            number = artifact.count or 1
            terms.append(
                Term(
                    f"{artifact.path}: {number} × {format_size(artifact.min_size)} at least",
                    number * artifact.min_size,
                )
            )
    if missing:
        return missing
    together = sum(term.bytes for term in terms)
    terms.append(Term("20 % on top", together // RESERVE))
    whole = -(-(together + together // RESERVE) // GB) * GB
    if whole < LEAST:
        terms.append(Term(f"at least {format_size(LEAST)}", LEAST - whole))
    return Sizing(tuple(terms), max(whole, LEAST))


def _checkpoints(
    train: model.Train | None, checkpoints: model.Checkpoints | None, hours: float | None
) -> Term | Unknown | None:
    own = train is not None and not train.commands
    if checkpoints is None and not own:
        return None
    settings = dict(s.partition("=")[::2] for s in train.options) if train is not None else {}
    last = _whole(
        settings.get("checkpoint.keep_last"), checkpoints.keep_last if checkpoints is not None else KEEP_LAST
    )
    milestones = _whole(
        settings.get("checkpoint.keep_milestones"),
        checkpoints.keep_milestones if checkpoints is not None else KEEP_MILESTONES,
    )
    every = _number(settings.get("checkpoint.milestone_seconds"), MILESTONE_SECONDS)
    if hours is not None and own and every > 0:
        milestones = min(milestones, int(hours * 3600 / every))
    one = checkpoints.size if checkpoints is not None else None
    whose = "checkpoints.size"
    if one is None and train is not None and own:
        one, whose = of_profile(train, settings), f"profile {train.profile}"
    if one is None:
        why = (
            f"the model's settings differ from the profile {train.profile}; `gputrain plan` says it"
            if train is not None and own and train.profile in CHECKPOINTS
            else "how large one is decides how much disk is needed"
        )
        return Unknown("checkpoints.size", f'the size of one checkpoint, e.g. size = "2.3GB" ({why})')
    number = last + milestones + MOVING
    text = f"checkpoints: {number} × {format_size(one)} ({whose}; {last} newest + {milestones} milestones + {MOVING} in passing)"
    return Term(text, number * one)


def of_profile(train: model.Train, settings: Mapping[str, str]) -> int | None:
    """Bytes of one checkpoint of the trainer's profile, None when it has none or the settings make another model of it."""
    changed = [k for k in settings if (k.startswith("model.") and k not in _NEUTRAL) or k == "optim.name"]
    return None if changed else CHECKPOINTS.get(train.profile.lower())


def _data(
    train: model.Train | None, upload: model.Upload, data: int | None, uploaded: int | None
) -> list[Term] | Unknown:
    terms: list[Term] = []
    if upload.paths:
        if uploaded is None:
            return Unknown(
                "disk", 'a size such as "150GB": the files of [upload] cannot be looked at from here'
            )
        terms.append(Term(f"uploads: {', '.join(upload.paths)}", uploaded))
    if data is not None:
        terms.append(Term("data.size: what the job downloads or makes", data))
        return terms
    brought = train is not None and train.data is not None and _is_uploaded(train.data, upload.paths)
    if brought or (train is None and upload.paths):
        return terms
    what = "the dataset is none of the uploads" if upload.paths else "nothing is uploaded"
    return Unknown(
        "data.size", f'what the job downloads or makes, e.g. size = "40GB", or "0B" for nothing ({what})'
    )


def _is_uploaded(path: str, uploads: tuple[str, ...]) -> bool:
    path = path.rstrip("/")
    return any(path == u.rstrip("/") or path.startswith(u.rstrip("/") + "/") for u in uploads)


def _whole(text: str | None, default: int) -> int:
    return int(text) if text is not None and text.isdigit() else default


def _number(text: str | None, default: float) -> float:
    try:
        return default if text is None else float(text)
    except ValueError:
        return default


def words(found: Sizing) -> tuple[str, ...]:
    """The terms, a line each, for the dry run's plan."""
    lines = [f"{AUTO} is {format_size(found.total)}:"]
    return (*lines, *(f"  {format_size(term.bytes)}  {term.text}" for term in found.terms))


def doubt(found: Sizing, disk: int) -> tuple[str, ...]:
    """That a size of one's own looks small, when it does."""
    if found.total <= disk:
        return ()
    terms = "; ".join(f"{format_size(term.bytes)} {term.text}" for term in found.terms[:-1])
    return (f"△ {format_size(disk)} of disk look small: {format_size(found.total)} are reckoned ({terms})",)


def reckoned(spec: model.RunSpec) -> bool:
    """Whether the spec's disk came from `"auto"`."""
    return any(line.startswith(AUTO) for line in spec.disk_words)


def uploaded(base: Path | None, upload: model.Upload) -> int | None:
    """Bytes of the files that would be uploaded, None when they cannot be looked at."""
    if base is None:
        return None
    try:
        return sum(path.stat().st_size for _, path in upload_files(base, upload.paths))
    except (OSError, ValueError):
        return None  # said elsewhere: the upload's path is a problem of its own


def settled(text: str, total: int) -> str | None:
    """The spec with the size in the place of `"auto"`, so that it is the same for ever; None when it stands elsewhere.

    Only a line of its own before the first table is taken.
    """
    table = re.search(r"(?m)^[ \t]*\[", text)
    at = table.start() if table is not None else len(text)
    head, number = _LINE.subn(rf'\g<key>"{total // GB}GB"\g<rest>', text[:at])
    return head + text[at:] if number == 1 else None
