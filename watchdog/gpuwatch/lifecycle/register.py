"""The register: one entry for each machine that was ever ordered, from its label to its burial. Pure.

Runs end and are read from the disk when somebody asks; an entry stays in memory until
nothing about its machine is open. An entry is open while the machine exists or may
exist, while it is checked again after its end, and while an alarm about it stands.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.run import Run


class Alarm(Enum):
    """What is wrong with a machine; stays until it is put right or a person answers for it."""

    UNSEEN = "unseen"
    """The vendor said that it made the machine and no complete listing has ever shown it."""
    RETURNED = "returned"
    """It counted as gone, or as never made, and is listed."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One machine. Times are Unix seconds UTC of the events."""

    label: str
    run: str
    provider: str
    at: float
    """When the label was written down."""
    instance_id: str | None = None
    gone_at: float | None = None
    """Confirmed gone, or concluded never to have been made."""
    sent_at: float | None = None
    rented_at: float | None = None
    job_at: float | None = None
    """From when a job may have run on it: then only its run's custody ends it."""
    listed_at: float | None = None
    """When a complete listing first showed it."""
    buried_at: float | None = None
    """When the last check after its end found nothing."""
    alarm: Alarm | None = None
    alarm_at: float | None = None
    alarm_text: str = ""
    destroying: bool = False
    """A destroy of the returned machine was sent and not confirmed yet."""

    @property
    def open(self) -> bool:
        """Whether something about the machine is still to be watched or answered."""
        return self.buried_at is None or self.alarm is not None

    @property
    def may_exist(self) -> bool:
        """Whether the machine exists as far as is known."""
        return self.gone_at is None and self.sent_at is not None


def label_of(event: e.AnyEvent, before: Run | None, after: Run | None) -> str | None:
    """The label of the machine that a run's event is about, None when it is about none."""
    label = getattr(event, "label", None)
    if isinstance(label, str):
        return label
    if isinstance(event, e.DudGone | e.Recovering):
        return after.past[-1].label if after is not None and after.past else None
    if isinstance(event, e.StartSent | e.JobStarted | e.Gone | e.Lost | e.Returned):
        run = after if after is not None and after.machine is not None else before
        return run.machine.label if run is not None and run.machine is not None else None
    return None


def enter(entry: Entry, event: e.AnyEvent, at: float) -> Entry:
    """The entry after `event` at `at`; events that say nothing of a machine leave it as it is."""
    change = msgspec.structs.replace
    match event:
        case e.CreateSent():
            return change(entry, sent_at=at)
        case e.Rented():
            return change(entry, instance_id=event.instance_id, rented_at=at)
        case e.CreateRefused():
            # what the vendor refused is over; what never showed up may still do so
            return change(entry, gone_at=at, buried_at=None if event.absent else at)
        case e.StartSent() | e.JobStarted():
            return change(entry, job_at=entry.job_at or at)
        case e.MachineListed():
            seen = change(entry, listed_at=at, instance_id=entry.instance_id or event.instance_id)
            return _calm(seen) if seen.alarm is Alarm.UNSEEN else seen
        case e.MachineUnseen():
            return change(entry, alarm=Alarm.UNSEEN, alarm_at=at, alarm_text=event.evidence)
        case e.Recovering() if event.handed_to is not None:
            return entry  # it exists as before; the run that took it over says so
        case e.Gone() | e.DudGone() | e.Lost() | e.Recovering():
            return _ended(entry, at)
        case e.TakenOver():
            taken = change(entry, run=event.taker, gone_at=None, buried_at=None)
            if event.stranded:
                return taken
            return change(
                taken, listed_at=entry.listed_at or at, alarm=Alarm.RETURNED, alarm_at=at, alarm_text=""
            )
        case e.StrayGone():
            return change(_calm(entry), gone_at=at, buried_at=None, destroying=False)
        case e.Returned() | e.MachineReturned():
            return change(
                entry, instance_id=event.instance_id, listed_at=entry.listed_at or at, gone_at=None, buried_at=None,
                alarm=Alarm.RETURNED, alarm_at=at, alarm_text="",
            )  # fmt: skip
        case e.StrayDestroySent():
            return change(entry, destroying=True)
        case e.Buried():
            return change(entry, buried_at=at)
        case e.AlarmResolved():
            return _calm(entry)
        case _:
            return entry


def _ended(entry: Entry, at: float) -> Entry:
    if entry.sent_at is None:
        return msgspec.structs.replace(entry, gone_at=at, buried_at=at)  # chosen, never ordered
    # an unseen machine stays an alarm: that it could be destroyed does not say where it was
    calm = _calm(entry) if entry.alarm is Alarm.RETURNED else entry
    return msgspec.structs.replace(calm, gone_at=at)


def _calm(entry: Entry) -> Entry:
    return msgspec.structs.replace(entry, alarm=None, alarm_at=None, alarm_text="")
