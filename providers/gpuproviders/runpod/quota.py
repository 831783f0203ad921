"""RunPod's request quotas, as its RateLimit headers tell them. Pure.

`RateLimit: "minute";r=12;t=44, "hour";r=0;t=1724` is what is left of each window (`r`) and when it begins
anew (`t`, seconds). `Retry-After` describes only the window that rejected, so an empty one counts as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_PART = re.compile(r'"(?P<name>[a-z]{1,20})"\s*;\s*r=(?P<left>\d{1,9})\s*;\s*t=(?P<ends>\d{1,7})')
RESERVE = 10
"""Requests of the minute that reads leave for stops and destroys."""


@dataclass(frozen=True, slots=True)
class Window:
    """One quota: requests left, and the clock's seconds at which it begins anew."""

    name: str
    left: int
    ends: float


def windows(header: str | None, now: float) -> tuple[Window, ...]:
    """The header's windows; what does not fit the grammar is left out."""
    found = _PART.finditer((header or "")[:500])
    return tuple(Window(m["name"], int(m["left"]), now + int(m["ends"])) for m in found)


def pause(known: tuple[Window, ...], now: float, *, reserve: int = 0) -> float:
    """Seconds until a request may go: at least one is left in every window, `reserve` more in the minute's."""
    wait = 0.0
    for window in known:
        least = reserve if window.name == "minute" else 0
        if window.ends > now and window.left <= least:
            wait = max(wait, window.ends - now)
    return wait


def retry_after(headers: Mapping[str, str], known: tuple[Window, ...], now: float) -> float | None:
    """Seconds to wait after a 429: the longest of what the vendor names; None when it names nothing."""
    try:
        said: float | None = float(headers.get("Retry-After", ""))
    except ValueError:
        said = None
    if said is not None and not 0 <= said <= 86_400:
        said = None
    spent = pause(known, now)
    if said is None:
        return spent or None
    return max(said, spent)
