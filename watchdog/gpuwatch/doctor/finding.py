"""What a check says, and what it is given to look at."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from gpuwatch.config import Config
from gpuwatch.paths import Paths


class Level(Enum):
    """How bad it is. Only FAIL makes the command exit with 1."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at: what was found, and what to do about it (empty when nothing)."""

    name: str
    level: Level
    found: str
    todo: str = ""


@dataclass(slots=True)
class Patient:
    """What is examined. Checks that find something others need note it here."""

    paths: Paths
    config: Config = field(default_factory=Config)
    started: tuple[float, float] = field(default_factory=lambda: (time.time(), time.monotonic()))
    """Wall time and monotonic time of the same moment."""
    daemon: bool = False
    """Whether a daemon answered."""
    open_labels: int = 0
    """Machines that may exist, by the ledger."""
    last_event: float | None = None
    """Unix time of the ledger's newest event."""


Found = Iterator[Check]


def ok(name: str, found: str) -> Check:
    """A check that found nothing to do."""
    return Check(name, Level.OK, found)


def by_floor(name: str, what: str, todo: str, value: int, *, warn: int, fail: int) -> Check:
    """Judge a value that should be large. Pure."""
    if value >= warn:
        return ok(name, what)
    return Check(name, Level.FAIL if value < fail else Level.WARN, what, todo)


def not_writable(folder: Path) -> str | None:
    """Why nothing can be written and synced here, None when it can. Leaves nothing behind."""
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".gpuwatch-doctor-") as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return str(error.strerror)
    return None
