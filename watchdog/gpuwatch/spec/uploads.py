"""The files that a run's `[upload]` names on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

SKIP = frozenset(
    {".git", "__pycache__", ".venv", "node_modules", ".mypy_cache", ".ruff_cache", ".pytest_cache"}
)
MAX_UPLOAD_FILES = 50_000


def upload_files(base: Path, paths: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """(name on the box, local file) for every upload; folders whole, without caches and VCS data.

    Raises ValueError for what leaves `base` and OSError for what is not there.
    """
    count = 0
    for entry in paths:
        start = base / entry
        if not start.resolve().is_relative_to(base.resolve()):
            raise ValueError(f"upload path {entry!r} leads out of {base}")
        found = [start] if start.is_file() else walk(start)
        if not start.exists():
            raise FileNotFoundError(2, "nothing to upload", str(start))
        for path in found:
            count += 1
            if count > MAX_UPLOAD_FILES:
                raise ValueError(f"more than {MAX_UPLOAD_FILES} files to upload; name fewer paths")
            yield path.relative_to(base).as_posix(), path


def walk(root: Path) -> Iterator[Path]:
    """Every file below a folder, without caches and VCS data."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(d for d in folders if d not in SKIP)
        for name in sorted(names):
            path = Path(folder, name)
            if path.is_file():
                yield path
