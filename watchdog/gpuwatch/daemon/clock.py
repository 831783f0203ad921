"""The daemon's idea of what time it is: right at the start, and never pushed about afterwards.

Budgets, deadlines and ages are differences of recorded times. A wall clock that somebody sets,
or that NTP corrects by a day, must not end a job early or let it run on, nor make a machine
that was created a second ago look old. So the wall clock is read once, and time since then is
counted by a clock that nobody sets and that goes on while the computer sleeps. That clock has
no meaning but within one boot of the computer; so the ledger keeps which boot it was and how
far the two were apart, and a daemon that starts again within that boot counts on. A start with
a clock that is behind the ledger goes on from the ledger.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gpuwatch.lifecycle.run import FINAL

if TYPE_CHECKING:
    from gpuwatch.ledger import Ledger

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def since_boot() -> float:
    """Seconds of a clock that nobody sets; it counts sleep where the system has such a clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def boot_of_this_computer() -> str | None:
    """What names the boot that `since_boot` counts from; None where the system does not say (macOS)."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


class SteadyClock:
    """Call it for the time, Unix seconds UTC. It never goes back and never jumps."""

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = since_boot,
        boot: str | None = None,
    ) -> None:
        self._wall = wall
        self._elapsed = elapsed
        self.boot = boot
        """Names what `elapsed` counts from; None when nobody knows."""
        self.offset = wall() - elapsed()
        """What is added to `elapsed`, seconds."""

    def __call__(self) -> float:
        return self._elapsed() + self.offset

    def not_before(self, at: float) -> None:
        """What is recorded has happened: the time is at least `at`."""
        self.offset = max(self.offset, at - self._elapsed())

    @property
    def step(self) -> float:
        """Seconds by which the wall clock is ahead of this one: how far it was set since the start."""
        return self._wall() - self()


async def resume(clock: SteadyClock, ledger: Ledger) -> None:
    """Let `clock` go on where the ledger's times end, and write down which clock it is.

    Within the boot of the computer that the ledger knows, and while a run lives whose times are
    differences to come, the wall clock is not asked: it may have been set while no daemon ran.
    After another boot nothing but the wall clock can say how much time has passed.
    """
    mark = ledger.clock
    lives = any(run.state not in FINAL for run in ledger.runs.values())
    if lives and mark is not None and mark.boot == clock.boot:
        clock.offset = mark.offset
    for newest in await ledger.events(since=ledger.last_seq - 1, limit=1):
        clock.not_before(newest.at)
    if clock.boot is not None:
        ledger.mark_clock(clock.boot, clock.offset)
