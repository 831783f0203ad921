"""What a run of one's own would cost on an offer: its hours, scaled by measured speed or else by peak. Pure.

A run that has shown its pace says how long the whole of it takes there. On another kind of GPU that time is
scaled by tokens per second where we have measured both, and else by peak bfloat16 operations, which assumes the same
share of peak and is marked with `≈`. Start-up and the copies home are not in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpuproviders.listing import worth
from gpuwatch.client import wire

_STEPS, _SECONDS = 20, 60.0
"""What a run must have done before its pace counts."""


@dataclass(frozen=True, slots=True)
class Mine:
    """A run whose whole length is known: seconds on `count` of `gpu`."""

    run: str
    name: str
    gpu: str
    count: int
    seconds: float
    tokens_per_second: float | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """Micro-dollars and seconds for the whole run. `measured` False: scaled by peak operations."""

    cost: int
    seconds: float
    measured: bool
    how: str


def candidates(runs: Sequence[wire.RunRow], now: float) -> list[Mine]:
    """The runs whose length is known, those that work now first, then the newest."""
    found = []
    for run in sorted(runs, key=lambda r: (r.state != "running", -r.created_at)):
        seconds = _whole(run, now)
        if seconds is not None and run.gpu is not None and run.gpu_count:
            found.append(Mine(run.id, run.name, run.gpu, run.gpu_count, seconds, run.tokens_per_second))
    return found


def _whole(run: wire.RunRow, now: float) -> float | None:
    """Seconds for all its steps, None while its pace is not known."""
    if run.started_at is None or not run.step or not run.steps or run.step < _STEPS:
        return None
    done = run.ended_at is not None and run.exit_code == 0 and run.step >= run.steps
    if not done and run.state != "running":
        return None
    seconds = ((run.ended_at or now) if done else now) - run.started_at
    return seconds / run.step * run.steps if seconds >= _SECONDS else None


def peak(mine: Mine, offers: Sequence[wire.OfferRow]) -> float | None:
    """Peak operations of the GPUs that the run is on, as some offer of them tells."""
    return next(
        (o.tflops for o in offers if (o.gpu, o.gpu_count) == (mine.gpu, mine.count) and o.tflops), None
    )


def estimate(mine: Mine, offer: wire.OfferRow, tflops: float | None) -> Estimate | None:
    """What `mine` would cost on `offer`; `tflops` is the peak of the GPUs it is on now. None: not known."""
    if (offer.gpu, offer.gpu_count) == (mine.gpu, mine.count):
        ratio, measured, how = 1.0, True, "the same GPUs"
    elif offer.tokens_per_second and mine.tokens_per_second:
        ratio, measured = mine.tokens_per_second / offer.tokens_per_second, True
        how = f"by the speed of {offer.measured_by}" if offer.measured_by else "by measured speed"
    elif offer.tflops and tflops:
        ratio, measured, how = tflops / offer.tflops, False, "by peak TFLOP/s, at the same share of peak"
    else:
        return None
    seconds = mine.seconds * ratio
    return Estimate(round(worth(offer) * seconds / 3600), seconds, measured, how)
