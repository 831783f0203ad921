"""The one permit to destroy. Only the three grants below make it, and every way to a destroy passes here (I1)."""

from __future__ import annotations

import time
from typing import Final

from gpuproviders.model import Permit
from gpuwatch.custody.facts import Inventory
from gpuwatch.custody.rules import Assessment, Hold
from gpuwatch.lifecycle.run import ReceiptRef, Run

RECEIPT_MAX_AGE: Final = 3600.0
"""Seconds after which a receipt must be renewed before it permits anything."""
PERMIT_MAX_AGE: Final = 120.0
"""Seconds that a permit may wait before it is spent."""

_SEAL: Final = object()


class DestroyPermit(Permit):
    """Allows to destroy one machine, once, soon. Made by this module's grants only."""

    def __init__(self, seal: object, *, instance_id: str, ground: str) -> None:
        if seal is not _SEAL:
            raise PermissionError("only custody makes permits")
        self._instance_id = instance_id
        self._made = _seconds()
        self._spent = False
        self.ground = ground
        """Why it was granted, for the ledger."""

    @property
    def instance_id(self) -> str:
        """The only instance it allows to destroy."""
        return self._instance_id

    def spend(self) -> None:
        """Use it up. Raises PermissionError when used before or too old."""
        if self._spent:
            raise PermissionError(f"the permit to destroy {self._instance_id} is used up")
        if _seconds() - self._made > PERMIT_MAX_AGE:
            raise PermissionError(f"the permit to destroy {self._instance_id} is too old")
        self._spent = True


def _seconds() -> float:
    """A clock that nobody sets and that goes on while the computer sleeps, where the system has one."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class Refusal(Exception):
    """Custody says no; `holds` say why."""

    def __init__(self, holds: tuple[Hold, ...]) -> None:
        self.holds = holds
        super().__init__("; ".join(str(h) for h in holds))


def grant_empty(run: Run) -> DestroyPermit:
    """A permit for a machine on which no job ever ran. Raises Refusal."""
    machine = run.machine
    if machine is None or machine.instance_id is None:
        raise Refusal((Hold("no-machine", "there is no machine to destroy"),))
    if machine.job_started_at is not None:
        raise Refusal((Hold("unknown-state", "a job ran on this machine; only a receipt permits its end"),))
    return DestroyPermit(_SEAL, instance_id=machine.instance_id, ground="no job ever ran on it")


def grant_given_up(run: Run) -> DestroyPermit:
    """A permit after a person waived everything, with the run's name and a reason in the ledger. Raises Refusal."""
    machine = run.machine
    if machine is None or machine.instance_id is None:
        raise Refusal((Hold("no-machine", "there is no machine to destroy"),))
    if not run.given_up:
        raise Refusal((Hold("artifacts", "not everything was waived"),))
    return DestroyPermit(_SEAL, instance_id=machine.instance_id, ground="everything waived by a person")


def grant(
    run: Run, receipt: ReceiptRef | None, assessment: Assessment, inventory: Inventory, *, now: float
) -> DestroyPermit:
    """A permit on the ground of a receipt and a last look at the box. Raises Refusal.

    The last look (`inventory`, `assessment`) must be of the same machine and the same boot
    as the receipt and find nothing new; the receipt must be young enough.
    """
    machine = run.machine
    holds: list[Hold] = []
    if machine is None or machine.instance_id is None:
        raise Refusal((Hold("no-machine", "there is no machine to destroy"),))
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
    if inventory.instance_id != machine.instance_id:
        holds.append(Hold("unknown-state", "the listing is of another machine"))
    holds.extend(assessment.holds)
    if holds or receipt is None:
        raise Refusal(tuple(holds))
    return DestroyPermit(_SEAL, instance_id=machine.instance_id, ground=f"receipt {receipt.digest}")
