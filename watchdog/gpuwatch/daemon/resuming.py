"""What `--resume-from` means: what a person typed → a checkpoint that can be found again at any time.

`run:<id>/<name>` of the vault, `path:<absolute>` of this machine, `remote:<rclone remote>`. It is resolved
when the run is launched, so that a mistake costs no machine, and read again when the box is ready.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from gpuwatch.clean import clean, show_path
from gpuwatch.lifecycle.run import Home, Run
from gpuwatch.mirror.names import BadRemote, check_remote, unlistable
from gpuwatch.vault.layout import HostilePath, relative_parts

_STEP = re.compile(r"(?:step-)?(\d{1,15})")
_SHA256 = re.compile(r"[0-9a-f]{64}")
WAYS = (
    '"latest" or a step (of the newest run of this name), RUN or RUN:STEP, a path of this machine, '
    "or an rclone remote such as gdrive:runs/miras-ab3d"
)


class ResumeError(ValueError):
    """What was asked for is no checkpoint that can be found; the message says what is there."""


def resolve(text: str, name: str, runs: Sequence[Run], vault: Path) -> str:
    """The canonical form of what was typed. `runs` are those with checkpoints at home, newest first. Raises ResumeError.

    A path that leads into the vault is that run's checkpoint, so that its proofs hold.
    """
    same = [r for r in runs if r.name == name and r.homes]
    step = _STEP.fullmatch(text)
    if text == "latest" or step is not None:
        if not same:
            raise ResumeError(f"no earlier run called {name} has a checkpoint at home; give {WAYS}")
        for run in same:
            home = _home(run, None if step is None else int(step[1]))
            if home is not None:
                return f"run:{run.id}/{home.name}"
        raise ResumeError(f"no run called {name} has step {text} whole at home; there are: {_steps(same[0])}")
    head, _, tail = text.partition(":")
    known = next((r for r in runs if r.id == head), None)
    if known is not None:
        wanted = _STEP.fullmatch(tail)
        if tail and wanted is None:
            raise ResumeError(f"{clean(tail, 60)} is no step of {head}; there are: {_steps(known)}")
        home = _home(known, None if wanted is None else int(wanted[1]))
        if home is None:
            raise ResumeError(f"{head} has no such checkpoint whole at home; there are: {_steps(known)}")
        return f"run:{known.id}/{home.name}"
    path = Path(text)
    if path.is_absolute():
        return _of_path(path, runs, vault)
    try:
        return f"remote:{check_remote(text).rstrip('/')}"
    except BadRemote as error:
        raise ResumeError(f"{clean(text, 200)} is nothing to resume from: give {WAYS}") from error


def _of_path(path: Path, runs: Sequence[Run], vault: Path) -> str:
    if not path.exists():
        raise ResumeError(f"{clean(str(path), 300)} does not exist; give {WAYS}")
    path = path.resolve()
    if path.is_relative_to(vault.resolve()):
        inside = path.relative_to(vault.resolve()).parts
        run = next((r for r in runs if inside and r.id == inside[0]), None)
        if run is not None:
            home = (
                next((h for h in run.homes if h.name == path.name), None)
                if len(inside) > 1
                else _home(run, None)
            )
            if home is not None:
                return f"run:{run.id}/{home.name}"
    return f"path:{path}"


def _home(run: Run, step: int | None) -> Home | None:
    fitting = [h for h in run.homes if step is None or h.step == step]
    return fitting[-1] if fitting else None


def _steps(run: Run) -> str:
    shown = [str(h.step) if h.step is not None else show_path(h.name) for h in run.homes[-10:]]
    return f"{', '.join(shown) or 'none'} (of {run.id})"


def parse_pointer(data: bytes) -> tuple[str, int | None, dict[str, str]]:
    """(checkpoint, step, name → SHA-256) of a mirrored run's `latest.json`. Raises ResumeError."""
    try:
        value = json.loads(data)
        name, step = value["dir"], value["step"]
        files = {str(row["path"]): str(row["sha256"]) for row in value["files"]}
        fits = isinstance(name, str) and isinstance(step, int | None) and bool(files)
        for path in files:
            fits = (
                fits
                and path.split("/")[0] == name
                and unlistable(path) is None
                and bool(relative_parts(path))
            )
        fits = fits and all(_SHA256.fullmatch(sha256) for sha256 in files.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, HostilePath) as error:
        raise ResumeError(f"its latest.json cannot be read: {clean(str(error), 200)}") from error
    if not fits:
        raise ResumeError("its latest.json names files that are no part of a checkpoint")
    return name, step, files
