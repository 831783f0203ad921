"""What the ledger hands out: lines of the log, runs with their copies, the clock of its times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gpuwatch.custody.facts import Copy
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.run import Run


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One line of the log."""

    seq: int
    at: float
    run: str | None
    event: e.AnyEvent


@dataclass(frozen=True, slots=True)
class ClockMark:
    """Which clock recorded times are of: seconds since `boot` of the computer, plus `offset`."""

    boot: str
    offset: float


@dataclass(frozen=True, slots=True)
class Record:
    """A run, whether in memory or not, and its proved copies by path."""

    run: Run
    copies: Mapping[str, Copy]
