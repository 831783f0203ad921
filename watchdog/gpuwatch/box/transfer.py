"""What a download or an upload is about, and how far it is: shared by `fetch`, `push` and whoever shows them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from gpuwatch.box.frames import Identity

_SPAN = 10.0
_TICK = 0.5


@dataclass(frozen=True, slots=True)
class Wanted:
    """One file to bring: its path on the box below `root`, what it was when listed, where it goes.

    Files of a higher `rank` get their names only after those of a lower one.
    """

    path: str
    identity: Identity
    target: Path
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that is home and proved; `home` is its (mtime_ns, inode) there."""

    wanted: Wanted
    identity: Identity
    sha256: str
    home: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class NotFetched:
    """A file that is not home; `gone` when it vanished from the box, else it is worth another try.

    `refused`: the vault's disk can never keep it; another try is no use.
    """

    wanted: Wanted
    reason: str
    gone: bool = False
    refused: bool = False


@dataclass(slots=True)
class Progress:
    """Counters of one transfer, read by whoever shows them. Times are of the event loop."""

    files_total: int = 0
    bytes_total: int = 0
    files_done: int = 0
    bytes_done: int = 0
    path: str = ""
    started: float = 0.0
    moved: int = 0
    """Bytes that really went over the wire, and holes that did not have to."""
    up: bool = False
    """Whether files go to the box."""
    _seen: deque[tuple[float, int]] = field(default_factory=deque)

    def rate(self, now: float) -> float:
        """Bytes per second over the last ten seconds (or since the start, when that is later)."""
        seen = self._seen
        if not seen:
            seen.append((self.started, 0))
        if now - seen[-1][0] >= _TICK:
            seen.append((now, self.moved))
        while len(seen) > 1 and now - seen[1][0] >= _SPAN:
            seen.popleft()
        at, moved = seen[0]
        return max(0, self.moved - moved) / max(1e-6, now - at) if now > at else 0.0

    def eta(self, now: float) -> float | None:
        """Seconds to go at that rate, None while there is none."""
        rate = self.rate(now)
        return max(0, self.bytes_total - self.bytes_done) / rate if rate > 1 else None
