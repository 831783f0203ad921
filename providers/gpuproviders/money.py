"""Money as integer micro-dollars: exact, comparable, JSON-safe.

1 USD = 1_000_000. Rates are micro-dollars per hour. Vendors answer with binary
floats; they are turned into integers here, once, at the edge.
"""

from __future__ import annotations

import math
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import NewType

MicroUsd = NewType("MicroUsd", int)
"""An amount of money in millionths of a US dollar (or, for rates, of a dollar per hour)."""

ZERO = MicroUsd(0)
_MICRO = Decimal(1_000_000)
_LIMIT = Decimal(1_000_000_000)
_CENT = 10_000


def parse_usd(value: object) -> MicroUsd | None:
    """A vendor's dollars (int, float, str or Decimal) as micro-dollars; None when it is no amount.

    None, booleans, NaN, infinities, text that is no number and anything beyond
    ±1e9 dollars are "no amount": unknown, never zero.
    """
    if value is None or isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    try:
        # repr of a float is its shortest exact form: 0.1 stays 0.1
        amount = Decimal(repr(value) if isinstance(value, float) else str(value).strip())
    except (InvalidOperation, ValueError):
        return None
    # copy_abs: abs() would round to the context and overflow on 1e9999999
    if not amount.is_finite() or amount.copy_abs() > _LIMIT:
        return None
    return MicroUsd(int((amount * _MICRO).to_integral_value(ROUND_HALF_EVEN)))


def usd(amount: MicroUsd | int) -> Decimal:
    """Micro-dollars as dollars."""
    return Decimal(amount) / _MICRO


def format_usd(amount: MicroUsd | int) -> str:
    """For people: cents from one cent up, four digits below, e.g. `$1.23`, `$0.0042`, `-$3.00`."""
    sign = "-" if amount < 0 else ""
    size = abs(amount)
    digits = 2 if size >= _CENT or size == 0 else 4
    return f"{sign}${usd(size):.{digits}f}"


def accrue(rate_per_hour: MicroUsd | int, seconds: float) -> MicroUsd:
    """Cost of `seconds` at a rate in micro-dollars per hour, rounded up to the next micro-dollar."""
    return MicroUsd(math.ceil(rate_per_hour * max(0.0, seconds) / 3600))
