"""The ledger's events, folded into what is known of each machine and of the speed of each kind of GPU. Pure.

`Facts` is a cache of that fold: it can always be made again from the ledger. Times are Unix seconds, durations
seconds, speeds bytes per second.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Final

import msgspec

from gpuwatch.lifecycle import events as e

VERSION: Final = 1
KEPT: Final = 8
"""Newest measurements of each kind that are kept of a machine; the median of them is told."""
MOST_MACHINES: Final = 5000
LEAST_BYTES: Final = 20_000_000
"""A transfer of less says more about latency than about speed."""
KINDS: Final = (
    "offer-chosen", "rented", "booted", "dud", "box-checked", "files-verified", "job-started", "job-ended", "gone", "dud-gone", "lost",
)  # fmt: skip
"""The events that tell something."""
OURS: Final = ("image:", "no-credit:")
"""How the reasons of duds begin that were no fault of the machine: an image that is not there, an empty account."""


class Machine(msgspec.Struct, kw_only=True):
    """What was seen of one machine."""

    gpu: str
    gpu_count: int
    tries: int = 0
    """Times that it was rented."""
    good: int = 0
    """Times that a job ran on it."""
    last_good: float | None = None
    duds: list[tuple[float, str]] = []
    """When and why it was no good, oldest first."""
    boots: list[float] = []
    downloads: list[float] = []
    disks: list[float] = []
    last_at: float = 0.0


class Speed(msgspec.Struct, kw_only=True, frozen=True):
    """What the newest run that told it reached on one kind of machine."""

    tokens_per_second: float
    run: str
    at: float


class Facts(msgspec.Struct, kw_only=True):
    """Everything, as of event `seq`."""

    version: int = VERSION
    seq: int = 0
    machines: dict[str, Machine] = {}
    """By key (`key_of`)."""
    speeds: dict[str, Speed] = {}
    """By kind (`kind_of`)."""
    current: dict[str, str] = {}
    """Run id → key of the machine that its events are about."""


def key_of(provider: str, machine_id: str | None, offer_id: str) -> str:
    """What experience is kept under: the machine where the vendor names one, else the kind that was bought."""
    return f"{provider}:{machine_id}" if machine_id is not None else f"{provider}:{offer_id}"


def kind_of(gpu: str, count: int) -> str:
    """What a speed is measured on."""
    return f"{count} × {gpu}"


def fold(facts: Facts, seq: int, at: float, run: str | None, event: e.AnyEvent) -> None:
    """Let `facts` know of one more event, in place."""
    facts.seq = max(facts.seq, seq)
    if run is None:
        return
    if isinstance(event, e.OfferChosen):
        key = key_of(event.provider, event.machine_id, event.offer_id)
        facts.current[run] = key
        if key not in facts.machines:
            _make_room(facts.machines)
            facts.machines[key] = Machine(gpu=event.gpu, gpu_count=event.gpu_count, last_at=at)
        return
    machine = facts.machines.get(facts.current.get(run, ""))
    if machine is None:
        return
    machine.last_at = at
    match event:
        case e.Rented():
            machine.tries += 1
        case e.Booted():
            _keep(machine.boots, event.seconds)
        case e.Dud() if not event.reason.startswith(OURS):
            machine.duds = [*machine.duds, (at, event.reason[:200])][-KEPT:]
        case e.BoxChecked(disk_speed=float(speed)):
            _keep(machine.disks, speed)
        case e.FilesVerified(seconds=float(seconds), moved=int(moved)) if (
            moved >= LEAST_BYTES and seconds > 0
        ):
            _keep(machine.downloads, moved / seconds)
        case e.JobStarted():
            machine.good += 1
            machine.last_good = at
        case e.JobEnded(tokens_per_second=float(speed)) if speed > 0:
            facts.speeds[kind_of(machine.gpu, machine.gpu_count)] = Speed(
                tokens_per_second=speed, run=run, at=at
            )
        case e.Gone() | e.DudGone() | e.Lost() | e.Recovering():
            facts.current.pop(run, None)
        case _:
            pass


def _keep(values: list[float], value: float) -> None:
    values.append(round(value, 3))
    del values[:-KEPT]


def _make_room(machines: dict[str, Machine]) -> None:
    """Forget the machine that was seen longest ago when there are too many."""
    if len(machines) >= MOST_MACHINES:
        del machines[min(machines, key=lambda key: machines[key].last_at)]


def median(values: Iterable[float]) -> float | None:
    """The median, None of nothing."""
    known = list(values)
    return statistics.median(known) if known else None
