"""Sizes, durations and prices as people write them in a run spec."""

from __future__ import annotations

import re

from gpuproviders.money import MicroUsd, parse_usd

_SIZES = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_TIMES = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST = 10 * 365 * 86_400.0
_NUMBER = r"(\d+(?:\.\d+)?)"
_SIZE = re.compile(rf"{_NUMBER}\s*([kmgt]i?b|b)", re.IGNORECASE)
_TIME = re.compile(rf"{_NUMBER}\s*(s|m|min|h|d)")


def parse_size(value: object) -> int:
    """`"150GB"` → bytes. Raises ValueError that says what is expected."""
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError('a size such as "150GB", "512MiB"')
    size = float(match[1]) * _SIZES[match[2].lower()]
    if size > 10**16:
        raise ValueError("a size below 10 PB")
    return int(size)


def parse_duration(value: object) -> float:
    """`"15m"` → seconds. Raises ValueError that says what is expected."""
    match = _TIME.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError('a duration such as "90s", "15m", "2h"')
    seconds = float(match[1]) * _TIMES[match[2]]
    if not 0 < seconds <= _LONGEST:
        raise ValueError('a duration above 0 and below ten years, such as "90s", "15m", "2h"')
    return seconds


def parse_price(value: object) -> MicroUsd:
    """`2.5` (dollars) → micro-dollars. Raises ValueError that says what is expected."""
    amount = parse_usd(value)
    if amount is None or amount <= 0:
        raise ValueError("an amount in US dollars above 0, such as 2.50")
    return amount


def format_size(size: int) -> str:
    """Bytes for people, decimal units, three significant digits: `1.81 GB`."""
    amount, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if abs(amount) < 1000:
            break
        amount, unit = amount / 1000, larger
    if unit == "B":
        return f"{size} B"
    digits = 0 if abs(amount) >= 100 else 1 if abs(amount) >= 10 else 2
    return f"{amount:.{digits}f} {unit}"


def format_duration(seconds: float) -> str:
    """Seconds for people: `42 s`, `7 min`, `2 h 05 min`, `3 d 4 h`."""
    whole = round(max(0.0, seconds))
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min"
    if whole < 172_800:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
