"""The daemon's idea of what time it is: right at the start, and never pushed about afterwards.

Budgets, deadlines and ages are differences of recorded times. A wall clock that somebody sets,
or that NTP corrects by a day, must not end a job early or let it run on. So the wall clock is
read once, and time since then is counted by a clock that nobody sets and that goes on while
the computer sleeps. A start with a clock that is behind the ledger goes on from the ledger.
"""

from __future__ import annotations

import time
from collections.abc import Callable


def since_boot() -> float:
    """Seconds of a clock that nobody sets; it counts sleep where the system has such a clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class SteadyClock:
    """Call it for the time, Unix seconds UTC. It never goes back and never jumps."""

    def __init__(
        self, wall: Callable[[], float] = time.time, elapsed: Callable[[], float] = since_boot
    ) -> None:
        self._wall = wall
        self._elapsed = elapsed
        self._offset = wall() - elapsed()

    def __call__(self) -> float:
        return self._elapsed() + self._offset

    def not_before(self, at: float) -> None:
        """What is recorded has happened: the time is at least `at`."""
        self._offset = max(self._offset, at - self._elapsed())

    @property
    def step(self) -> float:
        """Seconds by which the wall clock is ahead of this one: how far it was set since the start."""
        return self._wall() - self()
