"""How values read to people: money, sizes, durations, states. Pure; used by the CLI and the app.

`None` is unknown and reads as `–`, never as zero.
"""

from __future__ import annotations

import time
from typing import Final

from gpuproviders.money import format_usd
from gpuwatch.client import wire

UNKNOWN: Final = "–"

GLYPHS: Final[dict[str, tuple[str, str]]] = {
    "drafted": ("○", "dim"),
    "requested": ("◌", "busy"),
    "renting": ("◌", "busy"),
    "booting": ("◔", "busy"),
    "preparing": ("◑", "busy"),
    "running": ("●", "good"),
    "finished": ("◕", "busy"),
    "collecting": ("⇣", "busy"),
    "verified": ("✓", "good"),
    "destroying": ("⌫", "busy"),
    "gone": ("✓", "dim"),
    "paused": ("‖", "warn"),
    "recovering": ("↻", "warn"),
    "failed": ("✗", "bad"),
    "lost": ("✗", "bad"),
}
"""state -> (glyph, tone). Meaning never hangs on hue alone: glyph and word say it too."""

ATTENTION: Final[dict[str, tuple[str, str]]] = {
    "alarm": ("▲", "bad"),
    "warn": ("△", "warn"),
    "info": ("▪", "busy"),
    "none": (" ", "dim"),
}
"""attention -> (glyph, tone)"""

ARTIFACTS: Final[dict[str, tuple[str, str]]] = {
    "verified": ("✓", "good"),
    "downloading": ("⇣", "busy"),
    "on-box": ("○", "warn"),
    "missing": ("✗", "bad"),
    "waived": ("–", "dim"),
}
"""artifact state -> (glyph, tone)"""

ENDED: Final = frozenset({"gone", "lost"})
"""States after which nothing more happens."""


def state_mark(state: str) -> tuple[str, str]:
    """Glyph and tone of a run state; a state of a newer daemon gets a neutral pair."""
    return GLYPHS.get(state, ("?", "warn"))


def money(amount: int | None) -> str:
    """Micro-dollars as `$1.23`."""
    return UNKNOWN if amount is None else format_usd(amount)


def small(amount: int | None) -> str:
    """Micro-dollars that may be far below a cent, with three significant digits: `$0.00202`."""
    return UNKNOWN if amount is None else f"${amount / 1e6:.3g}"


def rate(amount: int | None) -> str:
    """Micro-dollars per hour as `$1.23/h`."""
    return UNKNOWN if amount is None else f"{format_usd(amount)}/h"


def size(count: int | None) -> str:
    """Bytes in decimal units with three significant digits: `0 B`, `12.3 MB`, `1.20 GB`."""
    if count is None:
        return UNKNOWN
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(value) < 999.5 or unit == "TB":
            break
        value /= 1000
    if unit == "B":
        return f"{int(value)} B"
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{digits}f} {unit}"


def gigabytes(count: int | None) -> str:
    """Bytes of memory or disk as whole gigabytes: `80G`. GPU memory is nominal, so GiB rounds to it too."""
    return UNKNOWN if count is None else f"{round(count / 1e9)}G"


def speed(bytes_per_second: float | None) -> str:
    """Bytes per second as `12.3 MB/s`."""
    return UNKNOWN if bytes_per_second is None else f"{size(int(bytes_per_second))}/s"


def network(bits_per_second: float | None) -> str:
    """Bits per second as `940M` or `2.1G`."""
    if bits_per_second is None:
        return UNKNOWN
    mega = bits_per_second / 1e6
    return f"{mega / 1000:.1f}G" if mega >= 1000 else f"{mega:.0f}M"


def duration(seconds: float | None) -> str:
    """Seconds in two units at most: `4s`, `4m12s`, `3h07m`, `2d04h`."""
    if seconds is None:
        return UNKNOWN
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def ago(seconds: float | None) -> str:
    """Seconds since something as `4m12s ago`; below a second and a half it is `now`."""
    if seconds is None:
        return UNKNOWN
    return "now" if seconds < 1.5 else f"{duration(seconds)} ago"


def clock(when: float | None) -> str:
    """A Unix time as local `14:03:59`."""
    return UNKNOWN if when is None else time.strftime("%H:%M:%S", time.localtime(when))


def when(moment: float | None) -> str:
    """A Unix time as local `2026-11-20 14:03`; nothing for none."""
    return "" if moment is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))


def percent(share: float | None) -> str:
    """A share of 1 as `98.7%`, whole when it is whole."""
    if share is None:
        return UNKNOWN
    text = f"{share * 100:.1f}"
    return f"{text.removesuffix('.0')}%"


def gpus(name: str | None, count: int | None) -> str:
    """`2× H100 SXM`; one GPU needs no count."""
    if name is None:
        return UNKNOWN
    return name if count in {None, 1} else f"{count}× {name}"


def steps(step: int | None, total: int | None) -> str:
    """`1200/5000`, or what is known of it."""
    if step is None:
        return UNKNOWN
    return f"{step}/{total}" if total else str(step)


def loss(value: float | None) -> str:
    """A loss with four significant digits."""
    return UNKNOWN if value is None else f"{value:.4g}"


def count(number: float | None) -> str:
    """A big number with a suffix: `1.2k`, `3.4M`."""
    if number is None:
        return UNKNOWN
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit:
            return f"{number / limit:.1f}{unit}"
    return f"{number:.0f}"


def plural(number: int, noun: str) -> str:
    """`1 file`, `3 files`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def exposure(held: int | None, age: float | None) -> str:
    """Work that exists only on the box: `1.2 GB · 4m`; nothing at risk reads `safe`."""
    if held is None and age is None:
        return UNKNOWN
    if held == 0:
        return "safe"
    parts = [size(held)] if held is not None else []
    if age is not None:
        parts.append(duration(age))
    return " · ".join(parts)


def accounts(rows: list[wire.AccountRow]) -> str:
    """Every account with what it holds, or what is wrong with it."""
    parts = []
    for account in rows:
        text = f"{account.provider} {account.problem or money(account.credit)}"
        if account.foreign:
            text += f" (+{plural(account.foreign, 'machine')} of yours that gpuwatch does not touch)"
        parts.append(text)
    return " · ".join(parts) or "no account is set up"
