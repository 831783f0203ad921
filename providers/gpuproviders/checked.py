"""Reading a vendor's JSON: each value is what it must be, or None (unknown), or Malformed. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from gpuproviders.errors import scrub
from gpuproviders.money import MicroUsd, parse_usd

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:-]{0,252}[A-Za-z0-9])?")
_NUMBERS = (int, float)
_YEAR_2100 = 4_102_444_800


class Malformed(Exception):
    """A vendor answer that does not have the shape it must have."""


def mapping(value: object, what: str) -> Mapping[str, Any]:
    """`value` as a JSON object, or Malformed."""
    if not isinstance(value, dict):
        raise Malformed(f"{what} is {type(value).__name__}, not an object")
    return value


def number(value: object, low: float = 0, high: float = 1e15) -> float | None:
    """A number between two bounds."""
    # exact types first: thousands of rows come at once, and JSON has no others
    if type(value) is not float and (isinstance(value, bool) or not isinstance(value, _NUMBERS)):
        return None
    return float(value) if low <= value <= high else None


def whole(value: object, high: float = 1e15) -> int | None:
    """A non-negative number without its fraction."""
    found = number(value, 0, high)
    return None if found is None or not math.isfinite(found) else int(found)


def text(value: object, limit: int = 200) -> str | None:
    """A text that is not blank, stripped, without control characters, at most `limit` characters."""
    if not isinstance(value, str) or not value.strip():
        return None
    return scrub(value.strip())[:limit]


def price(value: object) -> MicroUsd | None:
    """Dollars that somebody asks for; a negative price is no price."""
    amount = parse_usd(value)
    return None if amount is None or amount < 0 else amount


def host(value: object) -> str | None:
    """A host name or address."""
    return value.strip() if isinstance(value, str) and _HOST.fullmatch(value.strip()) else None


def port(value: object) -> int | None:
    """A TCP port, as a number or as its text."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    if isinstance(value, str):
        digits = value.strip()
        if not digits.isascii() or not digits.isdigit() or len(digits) > 5:
            return None
        value = int(digits)
    return value if 0 < value < 65536 else None


def epoch(value: object) -> datetime | None:
    """Seconds since 1970 as a time."""
    seconds = number(value, 1, _YEAR_2100)
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def rfc3339(value: object) -> datetime | None:
    """A time as text; one without a zone is UTC."""
    if not isinstance(value, str) or len(value) > 40:
        return None
    try:
        moment = datetime.fromisoformat(value)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment if 1970 <= moment.year < 2100 else None
