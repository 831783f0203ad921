"""What experience means for the next choice: which machines are avoided and until when, what a bad past costs. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

from gpuwatch.experience.facts import Machine

DAY: Final = 86_400.0
FIRST: Final = DAY
"""How long a machine is avoided after a dud; twice as long for each further one in a row."""
LONGEST: Final = 30 * DAY
EXPERIENCE: Final = "experience"


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """What a person said of a machine: to avoid it until a time, or (`forgive`) to begin anew."""

    at: float
    machine: str
    """Its key."""
    by: str
    reason: str = ""
    forgive: bool = False
    until: float = 0.0


@dataclass(frozen=True, slots=True)
class Standing:
    """How a machine stands. `until` is when it is avoided no more (Unix seconds), None when it is not avoided."""

    until: float | None = None
    by: str | None = None
    reason: str | None = None
    forgiven: float = float("-inf")
    """When a person forgave it; what was before does not count."""

    @property
    def excluded(self) -> bool:
        """Whether a person excluded it; what experience avoids is only taken when nothing else fits."""
        return self.by is not None and self.by != EXPERIENCE


def standing(machine: Machine | None, words: Iterable[Word], now: float) -> Standing:
    """How a machine stands at `now`: the newest word of a person, else what its duds since say."""
    newest = max(words, key=lambda word: word.at, default=None)
    if newest is not None and not newest.forgive and newest.until > now:
        return Standing(newest.until, newest.by, newest.reason or None)
    forgiven = newest.at if newest is not None and newest.forgive else float("-inf")
    duds = blamed(machine, forgiven)
    if not duds:
        return Standing(forgiven=forgiven)
    at, reason = duds[-1]
    # at most so far ahead: a clock that was set back must not make it for ever
    until = min(at, now) + min(LONGEST, FIRST * 2 ** (len(duds) - 1))
    return Standing(until, EXPERIENCE, reason, forgiven) if until > now else Standing(forgiven=forgiven)


def blamed(machine: Machine | None, forgiven: float) -> list[tuple[float, str]]:
    """Duds in a row: those after the last job that ran there, and after the last pardon."""
    if machine is None:
        return []
    since = max(forgiven, machine.last_good if machine.last_good is not None else float("-inf"))
    return [dud for dud in machine.duds if dud[0] > since]


def expected(price: int, machine: Machine | None, forgiven: float = float("-inf")) -> float:
    """What an hour there comes to with the failures that its past lets expect, micro-dollars.

    A machine that was never tried costs its price. One that failed k of n times is dearer by k / (n + 2): the
    estimate of its failure rate that two imagined good tries temper.
    """
    if machine is None or not machine.tries:
        return float(price)
    failed = sum(at > forgiven for at, _ in machine.duds)
    return price * (1 + min(failed, machine.tries) / (machine.tries + 2))
