"""What may be handed to rclone. rclone-python runs a shell, so everything is checked here first (I6). Pure.

A remote comes from the user's spec and is limited to characters that mean nothing to a shell. Names from a
box never stand in a command: they travel in a list file, one per line, and those that a list cannot hold
are refused.
"""

from __future__ import annotations

import re
import unicodedata

_REMOTE = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]{0,63}):([A-Za-z0-9_./ @+=,-]{0,400})")
_RUN = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")
EXPECTED = 'rclone remotes such as "gdrive:research/runs": a configured name, a colon, a path of A-Z a-z 0-9 _ . / @ + = , - and spaces'
CHECKPOINTS = "checkpoints"
LATEST = "latest.json"
"""The pointer to the newest checkpoint that stands verified on the remote."""


class BadRemote(ValueError):
    """A remote that may not reach rclone."""


def check_remote(text: str) -> str:
    """The remote as it is. Raises BadRemote."""
    match = _REMOTE.fullmatch(text)
    if (
        match is None
        or ".." in match[2].split("/")
        or match[2].startswith("-")
        or match[2] != match[2].strip()
    ):
        raise BadRemote(EXPECTED)
    return text


def folder_of(remote: str, run: str) -> str:
    """Where a run's files lie on the remote: `<remote>/runs/<run>`. Raises BadRemote."""
    check_remote(remote)
    if not _RUN.fullmatch(run) or ".." in run:
        raise BadRemote(f"no run id: {run!r}")
    base = remote.rstrip("/")
    if not re.search(r"[:/]runs$", base):
        base += "runs" if base.endswith(":") else "/runs"
    return f"{base}/{run}"


def place(path: str, checkpoints: str | None) -> tuple[str, str]:
    """(`checkpoints` or "", name below it) of a vault file: the checkpoint folder has one name on every remote."""
    prefix = f"{checkpoints}/" if checkpoints is not None else None
    if prefix is not None and path.startswith(prefix):
        return CHECKPOINTS, path[len(prefix) :]
    return "", path


def is_pointer(path: str, checkpoints: str | None) -> bool:
    """Whether a vault file is the job's own pointer: on a remote our own stands under that name, and vouches for more."""
    return checkpoints is not None and path == f"{checkpoints}/{LATEST}"


def unlistable(path: str) -> str | None:
    """Why a name cannot stand in a list for rclone, None when it can."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "its name is no UTF-8"
    if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in path):
        return "its name holds control characters"
    if path != path.strip() or any(part.endswith((" ", ".")) for part in path.split("/")):
        return "its name begins or ends with a space or a dot, which remotes change"
    return None
