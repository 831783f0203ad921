"""Our cost of a run against the vendor's own charges. Pure.

The vendor's figure is the truth and comes hours late; ours is an estimate by the offered prices. Where the two
cannot be compared that is said, with the reason: unknown is not zero.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from gpuproviders.model import Charge
from gpuwatch.budget.cost import machines_of, of_run
from gpuwatch.lifecycle.run import Machine, Run

SETTLED = 2 * 86_400.0
"""Seconds after a machine's end in which its vendor may still add to the bill."""


@dataclass(frozen=True, slots=True)
class Bill:
    """What the vendor charged for a run's machines, None while that is not known; the difference to ours; and why not."""

    billed: int | None = None
    difference: int | None = None
    """Billed less ours, micro-dollars. None while it cannot be told."""
    note: str = ""


def compare(
    run: Run,
    charges: Mapping[str, Mapping[str, Charge] | str],
    shared: Collection[str],
    now: float,
) -> Bill:
    """`charges`: provider → its charges by instance, or why there are none. `shared`: machines that two runs had in turn."""
    machines = [m for m in machines_of(run) if m.rented_at is not None and m.instance_id is not None]
    if not machines:
        return Bill(note="no machine was rented")
    total = 0
    for machine in machines:
        told = charges.get(machine.provider, "its provider tells no charges")
        if isinstance(told, str):
            return Bill(note=told)
        charge = told.get(machine.instance_id or "")
        if charge is None:
            return Bill(note=f"instance {machine.instance_id} is not on the bill yet; it comes hours late")
        total += charge.amount
    if any(_key(m) in shared for m in machines):
        return Bill(total, None, "another run had a machine of it in turn: the bill is of both")
    ended = max((m.gone_at if m.gone_at is not None else now) for m in machines)
    if any(m.gone_at is None for m in machines):
        return Bill(total, None, "still running: so far")
    cost = of_run(run, now)
    if cost.traffic is None:
        return Bill(total, None, "what its traffic cost was not known beforehand")
    note = "may still grow: its last machine ended less than two days ago" if now - ended < SETTLED else ""
    return Bill(total, total - cost.total, note)


def _key(machine: Machine) -> str:
    return f"{machine.provider}:{machine.instance_id}"


def shared_machines(runs: Collection[Run]) -> set[str]:
    """Machines that more than one run has had, as `provider:instance`."""
    seen: dict[str, str] = {}
    twice = set()
    for run in runs:
        for machine in machines_of(run):
            if machine.instance_id is not None and seen.setdefault(_key(machine), run.id) != run.id:
                twice.add(_key(machine))
    return twice
