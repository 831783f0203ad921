"""Machines that carry a label of ours and that no run drives: an alarm each (I2). Pure; nothing is touched."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gpuproviders.model import Instance
from gpuwatch.lifecycle.run import Run

LABEL_PREFIX = "gputui-"
"""Every label of ours begins so."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """One such machine, and why it counts as one."""

    provider: str
    instance_id: str
    label: str
    why: str

    def __str__(self) -> str:
        return (
            f"{self.provider} instance {self.instance_id} carries our label {self.label} and {self.why}; "
            "it bills: look what is on it, then destroy it at the provider"
        )


def orphans(listed: Iterable[Instance], runs: Iterable[Run]) -> tuple[Orphan, ...]:
    """Orphans in one complete listing. A machine whose destroy is under way is none."""
    driven: dict[str, str | None] = {}
    over: dict[str, str] = {}
    for run in runs:
        for machine in run.past:
            over[machine.label] = run.id
        machine_now = run.machine
        if machine_now is not None:
            if machine_now.gone_at is None:
                driven[machine_now.label] = machine_now.instance_id
            else:
                over[machine_now.label] = run.id
    found = []
    for instance in listed:
        label = instance.label
        if label is None or not label.startswith(LABEL_PREFIX):
            continue
        if label in driven:
            if driven[label] in (None, instance.instance_id):
                continue
            why = f"is a second machine beside {driven[label]}"
            found.append(Orphan(instance.provider, instance.instance_id, label, why))
            continue
        why = (
            f"belongs to {over[label]}, for which it counts as gone"
            if label in over
            else "is in no run of this ledger"
        )
        found.append(Orphan(instance.provider, instance.instance_id, label, why))
    return tuple(found)
