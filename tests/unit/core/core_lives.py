"""Sample events and runs, a ledger to put them in, and what harmless text is, for the tests beside this file."""

from __future__ import annotations

import asyncio
import contextlib
import unicodedata
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec

from gpuwatch.ledger import Ledger
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.evolve import create
from gpuwatch.lifecycle.run import Machine, Phase, ReceiptRef, Run, State

LABEL = "gputui-r1-1-aa"
INSTANCE = "77"
BOOT = "b" * 32
NOW = 1_800_000_000.0

EVENTS: dict[type[e.Event], e.AnyEvent] = {
    type(event): event
    for event in (
        e.OfferChosen(
            label=LABEL, provider="vast", offer_id="9", machine_id="12", gpu="RTX 4090", gpu_count=1,
            gpu_memory=24 * 10**9, price=400_000, disk_price=1_000,
        ),
        e.NoOffer(reason="none"),
        e.CreateSent(label=LABEL),
        e.CreateRefused(label=LABEL, reason="no"),
        e.CreateUnknown(label=LABEL, reason="timeout"),
        e.Rented(label=LABEL, instance_id=INSTANCE),
        e.Booted(host="1.2.3.4", port=22, user="root", fingerprint="SHA256:x", seconds=40.0),
        e.Dud(reason="no SSH"),
        e.BoxChecked(boot_id=BOOT, workspace="/root", python="3.11.2", gpus=1),
        e.PrepareFailed(reason="setup"),
        e.StartSent(boot_id=BOOT),
        e.JobStarted(boot_id=BOOT, pid=5),
        e.FilesVerified(files=2, bytes=10, step=3),
        e.CheckpointHome(name="step-3", step=3, files=2, bytes=10, digest="c" * 64),
        e.Restored(source="the vault", name="step-3", step=3, files=2, bytes=10),
        e.JobEnded(exit_code=0),
        e.CollectStarted(),
        e.CollectBlocked(holds=["artifacts: x"]),
        e.CollectFailed(reason="broken pipe"),
        e.ReceiptWritten(digest="d" * 64, files=2, bytes=10, boot_id=BOOT, at=NOW),
        e.EndRequested(by="a person"),
        e.EndCancelled(),
        e.Waived(files=["out/a"], reason="old"),
        e.HoldPlaced(name="pin", by="me", reason="look first"),
        e.HoldReleased(name="pin", by="me"),
        e.StopRequested(by="idle"),
        e.StopSent(permit="stopping keeps the disk", instance_id=INSTANCE),
        e.StopFailed(reason="500"),
        e.Paused(evidence="a listing"),
        e.WakeRequested(by="me"),
        e.Woken(evidence="a listing"),
        e.DestroySent(permit="receipt", instance_id=INSTANCE),
        e.DestroyAccepted(),
        e.DestroyFailed(reason="500"),
        e.DudGone(evidence="listings"),
        e.Gone(evidence="listings"),
        e.Lost(evidence="listings"),
        e.Recovering(evidence="listings", step=3, lost_steps=7, lost_seconds=60.0, lost_cost=7_000),
        e.Returned(instance_id=INSTANCE, evidence="listed as running"),
        e.GaveUp(reason="tried enough"),
    )
}  # fmt: skip
"""One sample of every event of a run but `Requested`."""

REGISTER: tuple[e.RegisterEvent | e.AccountSeen | e.LetGo, ...] = (
    e.MachineListed(label=LABEL, instance_id=INSTANCE),
    e.MachineUnseen(label=LABEL, evidence="3 listings"),
    e.MachineReturned(label=LABEL, instance_id=INSTANCE),
    e.StrayDestroySent(label=LABEL, instance_id=INSTANCE, permit="no job ever ran on it"),
    e.StrayDestroyAccepted(label=LABEL),
    e.StrayDestroyFailed(label=LABEL, reason="500"),
    e.StrayGone(label=LABEL, evidence="listings"),
    e.Buried(label=LABEL, evidence="a listing an hour later"),
    e.AlarmResolved(label=LABEL, by="me", reason="it is not there"),
    e.AccountSeen(provider="vast", user="1"),
    e.LetGo(place="vault", name="step-3", step=3, files=2, bytes=10, stands=["g:x"]),
)
"""One sample of every event beside the runs."""

TAKEN_OVER = e.TakenOver(
    taker="r1-back1", name="r", of="r1", spec="name = 'r'", file="r.toml", base="/home/me", key=f"taken-over:{LABEL}",
    label=LABEL, provider="vast", offer_id="9", machine_id="12", gpu="RTX 4090", gpu_count=1, gpu_memory=24 * 10**9,
    price=400_000, disk_price=1_000, transfer_price=None, chosen_at=NOW, instance_id=INSTANCE, host="1.2.3.4", port=22,
    user="root", fingerprint="SHA256:x", boot_id=BOOT, workspace="/root", job_started_at=NOW, evidence="came back",
    holds=[e.HoldPlaced(name="pin", by="me")],
)  # fmt: skip

REQUESTED = e.Requested(name="r", spec="name = 'r'", file="r.toml", base="/home/me", key="k1")


def machine(**changes: Any) -> Machine:
    """A machine that was rented and is known to exist."""
    made = Machine(
        label=LABEL, provider="vast", offer_id="9", machine_id="12", gpu="RTX 4090", gpu_count=1, gpu_memory=24 * 10**9,
        price=400_000, disk_price=1_000, chosen_at=NOW, create=Phase.ACCEPTED, create_sent_at=NOW, rented_at=NOW,
        instance_id=INSTANCE,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def receipt(**changes: Any) -> ReceiptRef:
    """A receipt for the sample machine and boot."""
    return msgspec.structs.replace(
        ReceiptRef(digest="d" * 64, boot_id=BOOT, files=2, bytes=10, at=NOW), **changes
    )


def run(state: State = State.REQUESTED, **changes: Any) -> Run:
    """A run in `state`; its machine is whatever the test says (none by default)."""
    return msgspec.structs.replace(create("r1", REQUESTED, NOW), state=state, **changes)


def harmless(text: str) -> bool:
    """Whether a terminal shows this text and does nothing else with it."""
    return all(unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in text)


@contextlib.asynccontextmanager
async def opened(path: Path, now: Callable[[], float] = lambda: NOW) -> AsyncIterator[Ledger]:
    """A ledger with its writer running; closed in good order."""
    ledger = await Ledger.open(path, now=now)
    writer = asyncio.create_task(ledger.write())
    try:
        yield ledger
    finally:
        ledger.stop()
        await writer
        await ledger.close()
