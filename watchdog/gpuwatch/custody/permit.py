"""The permits to end a machine or to risk its disk. Only the grants below make them, and every door passes here (I1).

A permit names one machine and one act. `destroy` and `recycle` always lose the disk; `stop`
loses it where the vendor says so (an ephemeral disk, a pod without a volume), and then it needs
the same ground as a destroy. Holds that people placed stand before every ground, waivers included.
"""

from __future__ import annotations

import time
from enum import Enum
from typing import Final

from gpuproviders.model import Permit
from gpuwatch.custody.facts import Inventory
from gpuwatch.custody.holds import Hold, passing, placed
from gpuwatch.custody.rules import Assessment
from gpuwatch.lifecycle.register import Entry
from gpuwatch.lifecycle.run import ReceiptRef, Run

RECEIPT_MAX_AGE: Final = 3600.0
"""Seconds after which a receipt must be renewed before it permits anything."""
PERMIT_MAX_AGE: Final = 120.0
"""Seconds that a permit may wait before it is spent."""

_SEAL: Final = object()


class Act(Enum):
    """What a permit allows."""

    DESTROY = "destroy"
    STOP = "stop"


class _OneUse(Permit):
    """What all permits share: one machine, once, soon. Made by this module's grants only."""

    act: Act

    def __init__(self, seal: object, *, instance_id: str, ground: str, covers_loss: bool = True) -> None:
        if seal is not _SEAL:
            raise PermissionError("only custody makes permits")
        self._instance_id = instance_id
        self._covers_loss = covers_loss
        self._made = _seconds()
        self._spent = False
        self.ground = ground
        """Why it was granted, for the ledger."""

    @property
    def instance_id(self) -> str:
        """The only instance it is about."""
        return self._instance_id

    @property
    def covers_loss(self) -> bool:
        """Whether the disk may be lost by the act."""
        return self._covers_loss

    def spend(self) -> None:
        """Use it up. Raises PermissionError when used before or too old."""
        if self._spent:
            raise PermissionError(f"the permit to {self.act.value} {self._instance_id} is used up")
        if _seconds() - self._made > PERMIT_MAX_AGE:
            raise PermissionError(f"the permit to {self.act.value} {self._instance_id} is too old")
        self._spent = True


class DestroyPermit(_OneUse):
    """Allows to destroy one machine, or to recycle it, which loses as much."""

    act = Act.DESTROY


class StopPermit(_OneUse):
    """Allows to stop one machine."""

    act = Act.STOP


def _seconds() -> float:
    """A clock that nobody sets and that goes on while the computer sleeps, where the system has one."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class Refusal(Exception):
    """Custody says no; `holds` say why."""

    def __init__(self, holds: tuple[Hold, ...]) -> None:
        self.holds = holds
        super().__init__("; ".join(str(h) for h in holds))


def _machine_id(run: Run) -> str:
    """The machine that a permit could name. Raises Refusal when there is none."""
    machine = run.machine
    if machine is None or machine.instance_id is None:
        raise Refusal((Hold("no-machine", "there is no machine to destroy"),))
    return machine.instance_id


def _unheld(run: Run, sessions: int | None, *, transferring: bool = False) -> None:
    """Raises Refusal while a person holds the run or somebody is logged in on its box."""
    holds = (*placed(run), *passing(run, sessions=sessions, transferring=transferring))
    if holds:
        raise Refusal(holds)


def grant_empty(run: Run, *, sessions: int | None = None) -> DestroyPermit:
    """A permit for a machine on which no job ever ran. Raises Refusal."""
    instance_id = _machine_id(run)
    _unheld(run, sessions)
    if run.machine is None or run.machine.job_started_at is not None:
        raise Refusal((Hold("unknown-state", "a job ran on this machine; only a receipt permits its end"),))
    return DestroyPermit(_SEAL, instance_id=instance_id, ground="no job ever ran on it")


def grant_given_up(run: Run, *, sessions: int | None = None, transferring: bool = False) -> DestroyPermit:
    """A permit after a person waived everything, with the run's name and a reason in the ledger. Raises Refusal."""
    instance_id = _machine_id(run)
    _unheld(run, sessions, transferring=transferring)
    if not run.given_up:
        raise Refusal((Hold("artifacts", "not everything was waived"),))
    return DestroyPermit(_SEAL, instance_id=instance_id, ground="everything waived by a person")


def grant(
    run: Run,
    receipt: ReceiptRef | None,
    assessment: Assessment,
    inventory: Inventory,
    *,
    now: float,
    transferring: bool = False,
) -> DestroyPermit:
    """A permit on the ground of a receipt and a last look at the box. Raises Refusal.

    The last look (`inventory`, `assessment`) must be of the same machine and the same boot
    as the receipt and find nothing new; the receipt must be young enough.
    """
    instance_id = _machine_id(run)
    digest = _proved(run, receipt, assessment, inventory, now=now, transferring=transferring)
    return DestroyPermit(_SEAL, instance_id=instance_id, ground=f"receipt {digest}")


def _proved(
    run: Run,
    receipt: ReceiptRef | None,
    assessment: Assessment,
    inventory: Inventory,
    *,
    now: float,
    transferring: bool,
) -> str:
    """The receipt's digest, if it and the last look prove that nothing is lost. Raises Refusal with all holds."""
    holds = [*placed(run), *passing(run, sessions=inventory.sessions, transferring=transferring)]
    if receipt is None:
        holds.append(Hold("artifacts", "no receipt: nothing proves that the files are home"))
    else:
        if receipt.boot_id != inventory.boot_id:
            holds.append(Hold("unknown-state", "the machine restarted since the receipt was written"))
        # in wall time, because a receipt outlives the process: after a clock that was set back nobody knows its age
        if not 0 <= now - receipt.at <= RECEIPT_MAX_AGE:
            holds.append(
                Hold(
                    "unknown-state",
                    f"the receipt is not of the last {RECEIPT_MAX_AGE / 60:.0f} minutes; it must be renewed",
                )
            )
    if run.machine is None or inventory.instance_id != run.machine.instance_id:
        holds.append(Hold("unknown-state", "the listing is of another machine"))
    holds.extend(assessment.holds)
    if holds or receipt is None:
        raise Refusal(tuple(holds))
    return receipt.digest


def grant_stray(entry: Entry, run: Run, instance_id: str) -> DestroyPermit:
    """A permit for a machine that came back although it counted as gone, and that nothing ever ran on.

    Register and run must agree: the label is of this run, the id is the entry's, and neither knows
    of a job on it. Raises Refusal.
    """
    if run.pins:
        raise Refusal(placed(run))
    if entry.run != run.id or entry.instance_id != instance_id:
        raise Refusal((Hold("unknown-state", "the machine is not the one of this entry"),))
    machines = [m for m in (run.machine, *run.past) if m is not None and m.label == entry.label]
    if entry.job_at is not None or any(m.job_started_at is not None for m in machines):
        raise Refusal((Hold("unknown-state", "a job may have run on it; only a receipt permits its end"),))
    if any(m.gone_at is None for m in machines):
        raise Refusal((Hold("unknown-state", "its run still drives this machine"),))
    return DestroyPermit(
        _SEAL, instance_id=instance_id, ground="no job ever ran on it, and it counted as gone"
    )


def grant_stop(
    run: Run,
    *,
    keeps_disk: bool | None,
    receipt: ReceiptRef | None = None,
    assessment: Assessment | None = None,
    inventory: Inventory | None = None,
    now: float = 0.0,
) -> StopPermit:
    """A permit to stop. Where stopping keeps the disk nothing is lost by it; elsewhere it takes what a destroy takes.

    `keeps_disk` is the vendor's fact about this machine, None when it is not known: then it counts as
    lost. What a destroy takes: nothing ever ran, everything was given up, or a receipt and a last look.
    Raises Refusal.
    """
    instance_id = _machine_id(run)
    if keeps_disk:
        return StopPermit(_SEAL, instance_id=instance_id, ground="stopping keeps the disk", covers_loss=False)
    ground = None
    if run.machine is not None and run.machine.job_started_at is None:
        ground = "no job ever ran on it"
    elif run.given_up:
        ground = "everything waived by a person"
    if ground is not None:
        _unheld(run, None)
    elif assessment is None or inventory is None:
        raise Refusal(
            (Hold("artifacts", "stopping this machine loses its disk, and nothing proves its files"),)
        )
    else:
        proof = _proved(run, receipt, assessment, inventory, now=now, transferring=False)
        ground = f"receipt {proof}"
    return StopPermit(_SEAL, instance_id=instance_id, ground=ground)
