"""To the end of the job, and to the end of the balance. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpuproviders.money import accrue, format_usd
from gpuwatch.spec.units import format_duration
from gpuwatch.telemetry.alarms import slope
from gpuwatch.telemetry.history import Point
from gpuwatch.telemetry.sample import JobProgress

LEAST_MINUTES = 3
"""Minutes of steps before a speed is believed."""
SLOW_COPY = 5_000_000.0
"""Bytes per second that a copy is taken to run at while nothing was measured: a home line on a bad day."""
SAFETY = 1.5
"""Copies are taken to need this much longer than measured."""
RESERVE = 900.0
"""Seconds that must be left when the copies are done."""
EARLY = 2 * 3600.0
"""The runway's warning comes so many seconds before the copies must begin."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """The job's end as its steps tell: seconds from now, and micro-dollars until then."""

    seconds: float
    cost: int

    def words(self) -> str:
        """For people."""
        return f"{format_usd(self.cost)} more, done in {format_duration(self.seconds)}"


def forecast(progress: JobProgress, minutes: Sequence[Point], price: int, *, age: float) -> Forecast | None:
    """The rest of a job at `price` micro-dollars per hour. None when it does not tell its end.

    From the steps of the last minutes (`minutes`: the step counter by the minute), else from what the job says
    itself. `age`: seconds since `progress` was heard.
    """
    left = seconds_left(progress, minutes)
    if left is None:
        return None
    left = max(0.0, left - age)
    return Forecast(left, accrue(price, left))


def seconds_left(progress: JobProgress, minutes: Sequence[Point]) -> float | None:
    """Seconds to the last step, None when unknown."""
    if progress.step is not None and progress.steps is not None:
        if progress.step >= progress.steps:
            return 0.0
        if len(minutes) >= LEAST_MINUTES:
            rate = slope([(p.at + p.span / 2, p.mean) for p in minutes])
            if rate is not None and rate > 0:
                return (progress.steps - progress.step) / rate
    return progress.eta


@dataclass(frozen=True, slots=True)
class Runway:
    """How long an account's balance lasts. Seconds from now."""

    credit: int
    burn: int
    seconds: float
    copies: float
    """Seconds that the copies of everything that is not yet home need."""

    @property
    def copy_in(self) -> float:
        """Seconds until the copies must begin, so that all is home before the balance ends."""
        return self.seconds - self.copies - RESERVE

    @property
    def alarming(self) -> bool:
        """Whether a person should know now."""
        return self.copy_in < EARLY

    def words(self) -> str:
        """For people."""
        text = f"{format_usd(self.credit)} last {format_duration(self.seconds)} at {format_usd(self.burn)}/h"
        if self.copy_in <= 0:
            return f"{text}: too short for the copies, which need {format_duration(self.copies)}; top up, or end runs now"
        return f"{text}; copies need {format_duration(self.copies)}, so end runs or top up within {format_duration(self.copy_in)}"


def runway(
    credit: int | None, burn: int, exposed: Sequence[tuple[int | None, float | None]]
) -> Runway | None:
    """The runway of one account; None when nothing burns or the vendor does not tell the balance.

    `exposed`: per run the bytes that are only on its box, and the measured bytes per second of its copies;
    unknown bytes count as one hour of copying.
    """
    if credit is None or burn <= 0:
        return None
    copies = 0.0
    for size, rate in exposed:
        if size is None:
            copies += 3600.0
        elif size:
            copies += SAFETY * size / (rate if rate is not None and rate > 1 else SLOW_COPY)
    return Runway(credit, burn, max(0.0, credit * 3600 / burn), copies)
