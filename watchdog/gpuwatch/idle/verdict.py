"""Idle or not, since when, and why: the verdict over all signals. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gpuwatch.idle.signals import Says, Signal
from gpuwatch.idle.track import Quiet
from gpuwatch.spec.units import format_duration

STALE = 60.0
"""Seconds after which a signal says nothing about now."""
ALIVE_AT_LEAST = 1800.0
"""A job that still lives gets at least so many seconds of complete silence, whatever `after` says."""


@dataclass(frozen=True, slots=True)
class Line:
    """One signal's part of the verdict."""

    signal: Signal
    says: Says
    text: str
    quiet: float
    """Seconds for which it was seen quiet without a gap."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What all signals say together. `idle_in` is None while some signal is active or unknown."""

    idle: bool
    idle_in: float | None
    quiet: float
    """Seconds for which everything has been quiet."""
    lines: tuple[Line, ...]
    text: str


def judge(known: Mapping[Signal, Quiet], now: float, after: float, *, alive: bool) -> Verdict:
    """Idle when every signal has been seen quiet, without a gap, for `after` seconds.

    A signal that was never heard, or not lately, is unknown, and unknown is active (I3). `alive`: the
    job still lives, so that the silence must be longer.
    """
    window = max(after, ALIVE_AT_LEAST) if alive else after
    lines = tuple(_line(signal, known.get(signal), now) for signal in Signal)
    awake = [line for line in lines if line.says in (Says.ACTIVE, Says.UNKNOWN)]
    if awake:
        why = "; ".join(line.text for line in awake)
        return Verdict(False, None, 0.0, lines, f"not idle: {why}")
    # what a box has not got is no evidence: only what was watched being quiet counts
    quiet = min(line.quiet for line in lines if line.says is Says.QUIET)
    left = max(0.0, window - quiet)
    shown = _sentence(lines)
    if left > 0:
        return Verdict(False, left, quiet, lines, f"idle in {format_duration(left)}: {shown}")
    return Verdict(True, 0.0, quiet, lines, f"idle for {format_duration(quiet)}: {shown}")


def _line(signal: Signal, quiet: Quiet | None, now: float) -> Line:
    if quiet is None:
        return Line(signal, Says.UNKNOWN, f"{signal.value}: not heard yet", 0.0)
    age = now - quiet.at
    if not 0 <= age <= STALE:
        return Line(signal, Says.UNKNOWN, f"{signal.value}: not heard for {format_duration(abs(age))}", 0.0)
    return Line(signal, quiet.reading.says, quiet.reading.text, quiet.lasted)


_ALWAYS = (Signal.JOB, Signal.GPU, Signal.SSH)


def _sentence(lines: tuple[Line, ...]) -> str:
    """The signals that people ask about, and each that holds the verdict up."""
    least = min(line.quiet for line in lines if line.says is Says.QUIET)
    parts = []
    for line in lines:
        slowest = line.says is Says.QUIET and line.quiet <= least + 1
        if line.signal in _ALWAYS or slowest:
            lasted = "" if line.signal in (Signal.JOB, Signal.SSH) else f" for {format_duration(line.quiet)}"
            parts.append(line.text + lasted)
    return "; ".join(parts)
