"""run → what to do next. Pure: the same run always gives the same step.

A step is a wish, not an act: the daemon performs it and records what came of it as
an event, after which the run is decided again. A crash between the two loses nothing,
because deciding starts from the ledger.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from gpuwatch.lifecycle.run import Phase, Run, State
from gpuwatch.spec.model import RunSpec

S = State


@dataclass(frozen=True, slots=True)
class FindOffer:
    """Choose an offer and write its label."""


@dataclass(frozen=True, slots=True)
class CreateMachine:
    """Send the create, once."""


@dataclass(frozen=True, slots=True)
class FindByLabel:
    """A create may have worked: look for the label until it is found or surely absent."""


@dataclass(frozen=True, slots=True)
class Boot:
    """Wait until SSH answers and pin its key, or call the machine a dud."""


@dataclass(frozen=True, slots=True)
class Prepare:
    """Check the box, upload, set up, start the job."""


@dataclass(frozen=True, slots=True)
class WatchJob:
    """Nothing to do but watch: the job runs."""


@dataclass(frozen=True, slots=True)
class StopJob:
    """End the job's processes, because the machine shall go."""


@dataclass(frozen=True, slots=True)
class Collect:
    """Copy home everything promised and prove it."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop the machine, which keeps its disk, and see that it is stopped."""


@dataclass(frozen=True, slots=True)
class KeepPaused:
    """The machine is stopped: watch that it stays so, until its time is up."""


@dataclass(frozen=True, slots=True)
class Wake:
    """Start the stopped machine again: a person wants it, or it cannot be proved and ended while it is stopped."""


@dataclass(frozen=True, slots=True)
class Destroy:
    """Ask custody for a permit and destroy."""


@dataclass(frozen=True, slots=True)
class ConfirmGone:
    """Watch the listings until the machine is surely gone."""


@dataclass(frozen=True, slots=True)
class EndWithoutMachine:
    """There is no machine: the run is over."""


class Why(Enum):
    """Why a run rests."""

    PERSON = "waiting for a person"
    KEEP = "kept, as the spec says"
    HELD = "held by a person"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing to do until an event changes the run."""

    why: Why


Step: TypeAlias = (
    FindOffer | CreateMachine | FindByLabel | Boot | Prepare | WatchJob | StopJob | Collect | Stop | KeepPaused | Wake
    | Destroy | ConfirmGone
    | EndWithoutMachine | Rest
)  # fmt: skip


def decide(run: Run, spec: RunSpec) -> Step:
    """The next step of `run`. A machine that a person holds is not destroyed, whoever asked for it."""
    step = _decide(run, spec)
    if isinstance(step, Destroy) and run.pins:
        # a dud stays too: the person who pinned it may want to look at it
        return Rest(Why.HELD)
    return step


def _decide(run: Run, spec: RunSpec) -> Step:
    ending = run.end_requested_by is not None
    stopping = run.stop_requested_by is not None and not run.pins
    machine = run.machine
    if ending and run.given_up and run.data_at_risk and run.state is not S.DESTROYING:
        return Destroy()
    match run.state:
        case S.REQUESTED | S.RECOVERING:
            return EndWithoutMachine() if ending else FindOffer()
        case S.RENTING:
            if machine is not None and machine.create is Phase.NONE:
                return EndWithoutMachine() if ending else CreateMachine()
            # once it may have been sent, only reconciling by label tells (I2)
            return FindByLabel()
        case S.BOOTING:
            return Destroy() if ending else Boot()
        case S.PREPARING:
            if ending:
                # the order to start may have reached the box: then the job ends like any other
                return StopJob() if run.data_at_risk else Destroy()
            return Prepare()
        case S.RUNNING:
            return StopJob() if ending or stopping else WatchJob()
        case S.FINISHED | S.COLLECTING:
            return Collect()
        case S.VERIFIED | S.FAILED if run.stop_under_way or (stopping and not ending and run.data_at_risk):
            # one that was sent is seen through first: until then nobody knows whether the box answers
            return Stop()
        case S.VERIFIED if _stops_at_its_end(run, spec) and not ending:
            return Stop()
        case S.VERIFIED:
            # with a timer the machine stays until it has been idle for so long, and someone asks for its end
            started = machine is not None and machine.started_by is not None
            if ending or (
                spec.idle.action == "collect-and-destroy" and spec.idle.after is None and not started
            ):
                return Destroy()
            return Rest(Why.KEEP)
        case S.PAUSED:
            return Wake() if ending or run.wake_requested_by is not None else KeepPaused()
        case S.DESTROYING:
            accepted = machine is not None and machine.destroy is Phase.ACCEPTED
            return ConfirmGone() if accepted else Destroy()
        case S.FAILED:
            if not ending:
                return Rest(Why.PERSON)
            if not run.exists:
                return EndWithoutMachine()
            if machine is not None and machine.instance_id is None:
                return FindByLabel()
            return Collect() if run.data_at_risk else Destroy()
        case S.GONE | S.LOST:
            return Rest(Why.OVER)


def _stops_at_its_end(run: Run, spec: RunSpec) -> bool:
    """Whether the spec wants the machine stopped once everything is home: once, not again when a person started it."""
    machine = run.machine
    wanted = spec.idle.action == "stop" and spec.idle.after is None
    free = machine is not None and machine.unstoppable is None and machine.started_by is None
    return wanted and free and not run.pins
