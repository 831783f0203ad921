"""What machines have cost, item by item, in micro-dollars. Pure.

An estimate by the offered prices: GPU and disk by the second from the create to confirmed-gone, and what came
home at the host's price per GB. The vendor's bill is the truth and comes hours later.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gpuproviders.money import MicroUsd, accrue
from gpuwatch.lifecycle.run import Machine, Run

GB = 1_000_000_000
DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Cost:
    """What something cost, micro-dollars. `traffic` is None when the host's price per GB is unknown."""

    gpu: int = 0
    disk: int = 0
    traffic: int | None = 0

    @property
    def total(self) -> int:
        """Everything that is known."""
        return self.gpu + self.disk + (self.traffic or 0)

    def __add__(self, other: Cost) -> Cost:
        unknown = self.traffic is None or other.traffic is None
        return Cost(
            self.gpu + other.gpu,
            self.disk + other.disk,
            None if unknown else (self.traffic or 0) + (other.traffic or 0),
        )


STOPPED_DISK = {"runpod": 2}
"""How many times its running price a vendor asks for the disk of a stopped machine (RunPod's price list: 0.20 for 0.10)."""


def stopped_price(machine: Machine) -> int:
    """Micro-dollars per hour of a machine that is stopped: its disk."""
    return min(machine.disk_price, machine.price) * STOPPED_DISK.get(machine.provider, 1)


def of_machine(machine: Machine, since: float, until: float) -> Cost:
    """GPU and disk of one machine between two times (Unix seconds). While it is stopped only its disk costs."""
    if machine.rented_at is None:
        return Cost()
    begin = max(machine.rented_at, since)
    end = min(machine.gone_at if machine.gone_at is not None else until, until)
    seconds = max(0.0, end - begin)
    disk = min(machine.disk_price, machine.price)
    stopped = sum(
        max(0.0, min(end, p.until if p.until is not None else end) - max(begin, p.since))
        for p in machine.pauses
    )
    ran = max(0.0, seconds - stopped)
    return Cost(
        gpu=accrue(machine.price - disk, ran),
        disk=accrue(disk, ran) + accrue(stopped_price(machine), stopped),
    )


def of_run(run: Run, now: float) -> Cost:
    """All machines of a run, and the bytes that came home verified."""
    total = sum((of_machine(m, 0.0, now) for m in machines_of(run)), Cost())
    price = run.machine.transfer_price if run.machine is not None else None
    if not run.verified_bytes:
        return total
    traffic = None if price is None else MicroUsd(-(-price * run.verified_bytes // GB))
    return total + Cost(traffic=traffic)


def machines_of(run: Run) -> tuple[Machine, ...]:
    """Every machine that a run has had."""
    return (*run.past, *((run.machine,) if run.machine is not None else ()))


def day_start(now: float) -> float:
    """The last midnight UTC."""
    return now - now % DAY


def spent_since(runs: Iterable[Run], since: float, now: float) -> int:
    """What all machines cost from `since` to now, micro-dollars, without traffic (its time is not known)."""
    return sum(of_machine(m, since, now).total for run in runs for m in machines_of(run))
