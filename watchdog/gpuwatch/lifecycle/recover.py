"""When a run goes on without its machine, and what that loses. Pure.

A machine is lost (long, consistent evidence says that the provider took it) or stranded (the provider
lists it as stopped or offline, for longer than the spec's patience). The run then rents again and goes on
from its newest checkpoint at home. What is still on a machine that exists is another run's business
(`taken_over`), so that nothing is forgotten and nothing is destroyed without proof.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from gpuproviders.money import accrue, format_usd
from gpuwatch.budget.cost import of_run
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.run import Home, Machine, Run, State
from gpuwatch.spec.model import Artifact, Budget, Idle, Recover, RunSpec
from gpuwatch.spec.units import format_duration

_GOES_ON = (State.PREPARING, State.RUNNING, State.FINISHED, State.COLLECTING)
"""States in which a lost machine is replaced: afterwards everything is home, or a person decides."""


def refusal(run: Run, spec: RunSpec, now: float) -> str | None:
    """Why a run does not go on elsewhere when its machine is lost, None when it does."""
    if run.of is not None:
        return f"it only collects what was on a machine of {run.of}"
    if run.end_requested_by is not None:
        return f"its end was requested by {run.end_requested_by}"
    if run.state is State.VERIFIED:
        return "everything it promised is home"
    if run.state not in _GOES_ON:
        return "a person was to decide about it"
    if spec.recover.on_loss == "never":
        return 'the spec says recover.on_loss = "never"'
    if run.data_at_risk and spec.checkpoints is None and spec.recover.on_loss != "restart":
        return 'the spec names no [checkpoints] to go on from; recover.on_loss = "restart" begins anew'
    if run.exit_code not in (None, 0):
        return f"its job had failed by itself with {run.exit_code}"
    if run.attempt >= spec.recover.attempts:
        return f"{run.attempt} machines were used up, {spec.recover.attempts} are allowed (recover.attempts)"
    return ceiling(run, spec, now)


def ceiling(run: Run, spec: RunSpec, now: float) -> str | None:
    """Which ceiling of the spec the run has reached with all its machines, None while it is below all."""
    if run.started_at is None:
        return None
    if spec.budget.max_cost is not None and of_run(run, now).total >= spec.budget.max_cost:
        return "budget.max_cost is reached"
    if spec.budget.max_time is not None and now - run.started_at >= spec.budget.max_time:
        return "budget.max_hours is reached"
    return None


ASKED = "asked for another machine"
"""What stands in the evidence when a person had a run leave its machine."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Work that exists nowhere else: steps, seconds of the job, micro-dollars; None where it is not known."""

    steps: int | None
    seconds: float | None
    cost: int | None


def loss(run: Run, *, step: int | None, heard_at: float | None, now: float) -> Loss:
    """What is lost with the machine. `step` is the newest that the job told, `heard_at` when the box was last heard."""
    machine = run.machine
    if machine is None or machine.job_started_at is None:
        return Loss(0, 0.0, 0)
    home = newest(run)
    until = min(t for t in (heard_at, run.job_ended_at, now) if t is not None)
    # from a checkpoint of an earlier machine on, what is lost began with this machine's job
    since = max(machine.job_started_at, home.at if home is not None else 0.0)
    seconds = max(0.0, until - since)
    steps = None
    if step is not None and (home is None or home.step is not None):
        steps = max(0, step - (home.step or 0 if home is not None else 0))
    return Loss(steps, seconds, int(accrue(machine.price, seconds)))


def newest(run: Run) -> Home | None:
    """The checkpoint at home that the run goes on from."""
    return run.homes[-1] if run.homes else None


def leaving(run: Run, evidence: str, lost: Loss, *, handed_to: str | None = None) -> e.Recovering:
    """The event with which a run leaves its machine."""
    home = newest(run)
    return e.Recovering(
        evidence=evidence, handed_to=handed_to, step=home.step if home is not None else None,
        lost_steps=lost.steps, lost_seconds=lost.seconds, lost_cost=lost.cost,
    )  # fmt: skip


def words(event: e.Recovering) -> str:
    """What was lost and where it goes on, for people."""
    lost = []
    if event.lost_steps:
        lost.append(f"{event.lost_steps} steps")
    if event.lost_seconds:
        lost.append(f"{format_duration(event.lost_seconds)} of work")
    if event.lost_cost:
        lost.append(format_usd(event.lost_cost))
    what = ", ".join(lost) if lost else "nothing that is known"
    begin = (
        f"from step {event.step}" if event.step is not None else "from the newest checkpoint at home, if any"
    )
    there = f"; {event.handed_to} collects what is on the old machine" if event.handed_to is not None else ""
    return f"{event.evidence}; lost: {what}; it goes on {begin} on another machine{there}"


# --- the machine that is left behind --------------------------------------------------------------


def taker_id(run_id: str, label: str) -> str:
    """The id of the run that takes a machine over: one for each machine, so that it is made once."""
    return f"{run_id}-back{label.rsplit('-', 2)[-2]}"


def taken_over(run: Run, machine: Machine, evidence: str, *, stranded: bool, proved: int) -> e.TakenOver:
    """The event that makes the run which collects from `machine`, of which `run` goes on without.

    Holds that people placed go with it: they meant a machine. Raises ValueError for one on which nothing ran.
    """
    if machine.job_started_at is None or machine.instance_id is None:
        raise ValueError(f"nothing ever ran on {machine.label}")
    return e.TakenOver(
        taker=taker_id(run.id, machine.label), name=run.name, of=run.id, spec=run.spec, file=run.file, base=run.base,
        key=f"taken-over:{machine.label}", label=machine.label, provider=machine.provider, offer_id=machine.offer_id,
        machine_id=machine.machine_id, gpu=machine.gpu, gpu_count=machine.gpu_count, gpu_memory=machine.gpu_memory,
        price=machine.price, disk_price=machine.disk_price, transfer_price=machine.transfer_price,
        chosen_at=machine.chosen_at, instance_id=machine.instance_id, host=machine.host, port=machine.port,
        user=machine.user, fingerprint=machine.fingerprint, boot_id=machine.boot_id, workspace=machine.workspace,
        job_started_at=machine.job_started_at, evidence=evidence, stranded=stranded, proved=proved,
        holds=[e.HoldPlaced(name=h.name, by=h.by, reason=h.reason) for h in run.pins],
    )  # fmt: skip


def spec_for(run: Run, spec: RunSpec) -> RunSpec:
    """The spec as it holds for this run: one that only collects promises whatever its machine has, and no more.

    What is missing there is made by the run that goes on. Only a machine of which files came home before and
    that shows none at all still holds: that is an empty disk, not an empty promise.
    """
    if run.of is None:
        return spec
    change = msgspec.structs.replace
    optional = tuple(Artifact(path=a.path, required=False) for a in spec.artifacts)
    checkpoints = None if spec.checkpoints is None else change(spec.checkpoints, required=False)
    return change(
        spec, artifacts=optional, checkpoints=checkpoints, no_artifacts=run.proved == 0, idle=Idle(),
        budget=Budget(), recover=Recover(on_loss="never"),
    )  # fmt: skip
