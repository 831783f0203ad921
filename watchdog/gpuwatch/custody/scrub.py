"""Which proved files are due to be read again, and how much of that a day may hold. Pure."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from gpuwatch.custody.facts import Copy

DAY: Final = 86_400.0
RETRY: Final = 6 * 3600.0
"""Seconds after which a bad file is read again: it may have been restored, or its box may be back."""


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """The newest re-read of one copy: when (Unix seconds), and what was wrong with it."""

    run: str
    copy: Copy
    at: float
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """How old a proof may become (seconds), and how many bytes are read in 24 hours."""

    every: float
    per_day: int

    @property
    def rate(self) -> float:
        """Bytes per second, on average."""
        return self.per_day / DAY


@dataclass(frozen=True, slots=True)
class Due:
    """A file to read again, and what was wrong with it last time."""

    run: str
    copy: Copy
    since: float
    """When it became due, Unix seconds; 0 when nobody knows."""
    problem: str | None = None


def due(
    copies: Mapping[str, Mapping[str, Copy]],
    scrubs: Mapping[tuple[str, str], Scrubbed],
    policy: Policy,
    *,
    now: float,
    limit: int = 256,
) -> list[Due]:
    """The files whose proof is too old, longest overdue first, at most `limit`.

    A proof from the future (the clock was wrong then) counts as none: otherwise such a
    file would not be read for years.
    """
    found = (
        _due(run, copy, scrubs.get((run, path)), policy, now)
        for run, files in copies.items()
        for path, copy in files.items()
    )
    return heapq.nsmallest(
        limit, (d for d in found if d.since <= now), key=lambda d: (d.since, d.run, d.copy.path)
    )


def _due(run: str, copy: Copy, last: Scrubbed | None, policy: Policy, now: float) -> Due:
    if last is None or last.copy != copy:  # of an older version it says nothing
        return Due(run, copy, _since(copy.verified_at, policy.every, now))
    wait = policy.every if last.problem is None else min(RETRY, policy.every)
    return Due(run, copy, _since(last.at, wait, now), last.problem)


def _since(at: float, wait: float, now: float) -> float:
    return 0.0 if at > now + DAY else at + wait


@dataclass(frozen=True, slots=True)
class Budget:
    """A leaky bucket: what was read drips out at the policy's rate. `at` is in seconds of a clock that never goes back.

    A file larger than a day's budget is read when the bucket is empty, and the days that
    it takes beyond are then waited for.
    """

    level: float = 0.0
    at: float = -math.inf

    @classmethod
    def of(cls, history: Iterable[tuple[float, int]], policy: Policy) -> Budget:
        """The bucket after these (time, bytes), in any order: a restart must not open a new day."""
        budget = cls()
        for at, size in sorted(history):
            budget = budget.spent(size, at, policy)
        return budget

    def spent(self, size: int, now: float, policy: Policy) -> Budget:
        """The bucket after `size` more bytes."""
        return Budget(self._level(now, policy) + size, now)

    def wait(self, size: int, now: float, policy: Policy) -> float:
        """Seconds until a file of this size may be read; 0 when it may be now."""
        over = self._level(now, policy) + min(size, policy.per_day) - policy.per_day
        return max(0.0, over / policy.rate)

    def _level(self, now: float, policy: Policy) -> float:
        return max(0.0, self.level - max(0.0, now - self.at) * policy.rate)
