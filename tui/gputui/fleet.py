"""What the app knows of the fleet, as one immutable value, and what follows from it. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from gputui import wording as say
from gpuwatch.client import wire

_URGENCY = {"alarm": 0, "warn": 1, "info": 2, "none": 3}
_HISTORY = 240
QUIET = 10.0
"""Seconds without a word from the daemon after which what is shown counts as stale."""


class LinkStatus(Enum):
    """How we stand with the daemon."""

    CONNECTING = "connecting"
    STARTING = "starting"
    UP = "up"
    DOWN = "down"
    OTHER_VERSION = "other version"


@dataclass(frozen=True, slots=True)
class Link:
    """The connection to the daemon: `since` and `heard` are monotonic seconds."""

    status: LinkStatus = LinkStatus.CONNECTING
    reason: str = ""
    version: str = ""
    since: float = 0.0
    heard: float = 0.0
    """When the daemon last said anything."""
    retry_at: float | None = None


@dataclass(frozen=True, slots=True)
class Fleet:
    """The newest snapshot and when it came (monotonic seconds). `runs` is None before the first."""

    link: Link = field(default_factory=Link)
    runs: wire.Runs | None = None
    received: float = 0.0

    def stale(self, now: float) -> bool:
        """Whether what is shown may no longer be so; `now` is monotonic seconds."""
        return self.runs is not None and (
            self.link.status is not LinkStatus.UP or now - self.link.heard > QUIET
        )

    def age(self, now: float) -> float | None:
        """Seconds since the daemon vouched for what is shown."""
        return max(0.0, now - self.link.heard) if self.runs is not None else None

    def wall(self, now: float) -> float:
        """The daemon's clock at monotonic `now`: its own time, so that two clocks never mix."""
        return self.runs.now + max(0.0, now - self.received) if self.runs is not None else 0.0

    def find(self, ident: str | None) -> wire.RunRow | None:
        """A run by id."""
        if self.runs is None or ident is None:
            return None
        return next((run for run in self.runs.runs if run.id == ident), None)

    def with_link(self, **changes: object) -> Fleet:
        """The same data behind another link state."""
        return replace(self, link=replace(self.link, **changes))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Totals:
    """The header's numbers over all runs. None is unknown."""

    burn: int
    exposed_bytes: int
    exposed_seconds: float | None
    exposure_unknown: bool
    alarms: int
    warnings: int
    credit: int | None
    runway: float | None
    """Seconds until the known credit is used up at this burn."""


def totals(runs: wire.Runs) -> Totals:
    """Sums over a snapshot."""
    live = [run for run in runs.runs if run.state not in say.ENDED]
    held = [run.exposure for run in live if run.instance_id is not None]
    ages = [e.seconds for e in held if e.seconds is not None and e.bytes != 0]
    known = [account.credit for account in runs.accounts if account.credit is not None]
    credit = sum(known) if known else None
    return Totals(
        burn=runs.burn,
        exposed_bytes=sum(e.bytes or 0 for e in held),
        exposed_seconds=max(ages) if ages else None,
        exposure_unknown=any(e.bytes is None for e in held),
        alarms=sum(run.attention == "alarm" for run in runs.runs)
        + sum(account.problem is not None for account in runs.accounts),
        warnings=sum(run.attention == "warn" for run in runs.runs),
        credit=credit,
        runway=credit / runs.burn * 3600 if credit is not None and runs.burn > 0 else None,
    )


def by_attention(run: wire.RunRow) -> tuple[int, int, float]:
    """Sort key: what needs a person first, then what lives, then the newest."""
    return (_URGENCY.get(run.attention, 1), run.state in say.ENDED, -run.created_at)


class History:
    """The last losses and utilisations of each run, gathered from snapshots; for sparklines in lists."""

    def __init__(self) -> None:
        self._loss: dict[str, deque[tuple[int, float]]] = {}

    def add(self, runs: wire.Runs) -> None:
        """Remember a snapshot."""
        for run in runs.runs:
            if run.step is None or run.loss is None:
                continue
            points = self._loss.setdefault(run.id, deque(maxlen=_HISTORY))
            if points and run.step < points[-1][0]:
                points.clear()  # it went back to a checkpoint: another story
            if not points or points[-1][0] != run.step:
                points.append((run.step, run.loss))
        for gone in self._loss.keys() - {run.id for run in runs.runs}:
            del self._loss[gone]

    def losses(self, run: str) -> list[float]:
        """Losses by step, oldest first."""
        return [loss for _, loss in self._loss.get(run, ())]


def mean_utilisation(gpus: Sequence[wire.GpuRow]) -> float | None:
    """Mean utilisation of the GPUs that said, as a share of 1. (The wire has per cent, as the driver says it.)"""
    known = [gpu.utilisation for gpu in gpus if gpu.utilisation is not None]
    return sum(known) / len(known) / 100 if known else None


def telemetry_age(fleet: Fleet, run: wire.RunRow, now: float) -> float | None:
    """Seconds since the box reported, the time since the snapshot included."""
    return None if run.telemetry_age is None else run.telemetry_age + max(0.0, now - fleet.received)
