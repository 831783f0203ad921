"""run × event → run. The only place where a run changes; pure and total.

`ARROWS` answers every state × event: a new state, STAY (the event is recorded, the
state keeps), or nothing, which is `Impossible`: a bug in the caller, never a crash
of the ledger, because it is raised before anything is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.run import FINAL, Home, Machine, Pause, Phase, PlacedHold, ReceiptRef, Run, State

S = State


HOMES = 16
"""Checkpoints at home that a run remembers: what a recovery may go back to."""


class Impossible(Exception):
    """This event cannot happen in this state."""


_LIVE = (
    S.BOOTING, S.PREPARING, S.RUNNING, S.FINISHED, S.COLLECTING, S.VERIFIED, S.PAUSED, S.DESTROYING, S.FAILED,
)  # fmt: skip
_WITH_BOX = (S.RUNNING, S.FINISHED, S.COLLECTING, S.VERIFIED, S.FAILED)
_ALL = tuple(s for s in S if s not in FINAL)


def _stay(*states: State) -> dict[State, State]:
    return {s: s for s in states}


def _to(target: State, *states: State) -> dict[State, State]:
    return dict.fromkeys(states, target)


ARROWS: Mapping[type[e.Event], Mapping[State, State]] = {
    e.OfferChosen: _to(S.RENTING, S.REQUESTED, S.RECOVERING),
    e.NoOffer: _to(S.FAILED, S.REQUESTED, S.RECOVERING),
    e.CreateSent: _stay(S.RENTING),
    e.CreateRefused: _to(S.REQUESTED, S.RENTING, S.FAILED),
    e.CreateUnknown: _stay(S.RENTING),
    e.Rented: _to(S.BOOTING, S.RENTING, S.FAILED),
    e.Booted: _to(S.PREPARING, S.BOOTING) | _stay(S.PREPARING, *_WITH_BOX),
    e.Dud: _to(S.DESTROYING, S.BOOTING, S.PREPARING),
    e.BoxChecked: _stay(S.PREPARING),
    e.PrepareFailed: _to(S.DESTROYING, S.PREPARING),
    e.StartSent: _stay(S.PREPARING),
    e.JobStarted: _to(S.RUNNING, S.PREPARING),
    e.FilesVerified: _stay(*_WITH_BOX),
    e.CheckpointHome: _stay(*_WITH_BOX),
    e.Restored: _stay(S.PREPARING),
    e.JobEnded: _to(S.FINISHED, S.RUNNING, S.PREPARING),
    # also while destroying: a destroy that is refused for an hour outlives its receipt
    e.CollectStarted: _to(S.COLLECTING, S.FINISHED, S.COLLECTING, S.VERIFIED, S.DESTROYING, S.FAILED),
    e.CollectBlocked: _to(S.FAILED, S.COLLECTING),
    e.CollectFailed: _stay(S.COLLECTING),
    e.ReceiptWritten: _to(S.VERIFIED, S.COLLECTING),
    e.EndRequested: _stay(*_ALL),
    e.EndCancelled: _stay(*(s for s in _ALL if s is not S.DESTROYING)),
    e.Waived: _stay(S.PREPARING, S.PAUSED, *_WITH_BOX),
    e.HoldPlaced: _stay(*(s for s in _ALL if s is not S.DESTROYING)),
    e.HoldReleased: _stay(*_ALL),
    e.StopRequested: _stay(*_WITH_BOX),
    e.StopSent: _stay(S.VERIFIED, S.FAILED),
    e.StopFailed: _stay(S.VERIFIED, S.FAILED),
    e.Paused: _to(S.PAUSED, S.VERIFIED, S.FAILED),
    e.WakeRequested: _stay(S.PAUSED),
    # whatever it did meanwhile: it is collected again before anything else
    e.Woken: _to(S.FINISHED, S.PAUSED),
    e.DestroySent: _to(S.DESTROYING, S.BOOTING, S.PREPARING, S.PAUSED, *_WITH_BOX, S.DESTROYING),
    e.DestroyAccepted: _stay(S.DESTROYING),
    e.DestroyFailed: _stay(S.DESTROYING),
    e.Gone: _to(S.GONE, S.DESTROYING, S.REQUESTED, S.RENTING, S.FAILED, S.RECOVERING),
    e.DudGone: _to(S.REQUESTED, S.DESTROYING),
    e.Lost: _to(S.LOST, *_LIVE),
    e.Recovering: _to(S.RECOVERING, S.PREPARING, S.RUNNING, S.FINISHED, S.COLLECTING),
    # only for a machine on which a job ran: it ends through custody, or goes on
    e.Returned: _to(S.DESTROYING, S.GONE) | _to(S.RUNNING, S.LOST, S.RECOVERING),
    e.GaveUp: _to(S.FAILED, S.REQUESTED, S.RECOVERING, S.RENTING, S.BOOTING, S.PREPARING, S.COLLECTING),
}
"""event → {state → next state}. `Requested` and `TakenOver` make a run and are not here."""


def target(state: State, event: type[e.Event]) -> State | None:
    """The state that `event` leads to from `state`, None when it cannot happen there."""
    return ARROWS.get(event, {}).get(state)


def create(run_id: str, event: e.Requested | e.TakenOver, at: float) -> Run:
    """The run that a request makes, or a machine that another run goes on without."""
    if isinstance(event, e.TakenOver):
        return _taken_over(run_id, event, at)
    return Run(
        id=run_id, name=event.name, state=S.REQUESTED, spec=event.spec, file=event.file, base=event.base,
        key=event.key, created_at=at, since=at, pinned_provider=event.provider, pinned_offer=event.offer_id,
        resume_from=event.resume_from,
    )  # fmt: skip


def _taken_over(run_id: str, event: e.TakenOver, at: float) -> Run:
    """It begins where its machine stands: the job may run, its end is wished for, and custody decides."""
    machine = Machine(
        label=event.label, provider=event.provider, offer_id=event.offer_id, machine_id=event.machine_id,
        gpu=event.gpu, gpu_count=event.gpu_count, gpu_memory=event.gpu_memory, price=event.price,
        disk_price=event.disk_price, chosen_at=event.chosen_at, transfer_price=event.transfer_price,
        instance_id=event.instance_id, create=Phase.ACCEPTED, create_sent_at=event.chosen_at,
        # what it cost before stands with the run that rented it
        rented_at=at, host=event.host, port=event.port, user=event.user, fingerprint=event.fingerprint,
        boot_id=event.boot_id, workspace=event.workspace, job_started_at=event.job_started_at,
    )  # fmt: skip
    pins = tuple(PlacedHold(name=h.name, by=h.by, at=at, reason=h.reason) for h in event.holds)
    return Run(
        id=run_id, name=event.name, state=S.RUNNING, spec=event.spec, file=event.file, base=event.base,
        key=event.key, created_at=at, since=at, attempt=1, machine=machine, started_at=event.job_started_at,
        end_requested_by="gpuwatch", end_reason=event.evidence, trouble=event.evidence, pins=pins,
        of=event.of, proved=event.proved,
    )  # fmt: skip


def evolve(run: Run, event: e.RunEvent, at: float) -> Run:
    """The run after `event` at `at` (Unix seconds). Raises Impossible."""
    state = target(run.state, type(event))
    if state is None:
        raise Impossible(f"{e.kind_of(event)} cannot happen to run {run.id} while it is {run.state.value}")
    changed = _CHANGE.get(type(event), _nothing)(run, event, at)
    after = msgspec.structs.replace(run, **changed)
    if state is not run.state:
        after = msgspec.structs.replace(after, state=state, since=at)
        after = msgspec.structs.replace(after, ended_at=at if state in FINAL else None)
    return after


Changes = dict[str, Any]
E = TypeVar("E", bound=e.Event)


def _nothing(run: Run, event: e.Event, at: float) -> Changes:
    return {}


def _machine(run: Run) -> Machine:
    if run.machine is None:
        raise Impossible(f"run {run.id} has no machine")
    return run.machine


def _unanswered(run: Run, label: str) -> Machine:
    """The machine whose create under `label` was sent and not answered yet (I2: one intent, one answer)."""
    machine = _machine(run)
    if machine.label != label:
        raise Impossible(f"run {run.id} rents under {machine.label}, not {label}")
    if machine.create not in (Phase.SENT, Phase.UNKNOWN):
        raise Impossible(f"no create under {label} waits for an answer")
    return machine


def _with(run: Run, **fields: Any) -> Changes:
    return {"machine": msgspec.structs.replace(_machine(run), **fields)}


def _offer_chosen(run: Run, event: e.OfferChosen, at: float) -> Changes:
    machine = Machine(
        label=event.label, provider=event.provider, offer_id=event.offer_id, machine_id=event.machine_id,
        gpu=event.gpu, gpu_count=event.gpu_count, gpu_memory=event.gpu_memory, price=event.price,
        disk_price=event.disk_price, chosen_at=at, transfer_price=event.transfer_price,
    )  # fmt: skip
    # consent to lose files, and proof of files, are about one machine and end with it
    forgotten: Changes = {"waivers": (), "receipt": None, "holds": (), "released": ()}
    return {"machine": machine, "attempt": run.attempt + 1, "trouble": None} | forgotten


def _no_offer(_run: Run, event: e.NoOffer, _at: float) -> Changes:
    return {"trouble": event.reason}


def _create_sent(run: Run, event: e.CreateSent, at: float) -> Changes:
    machine = _machine(run)
    if machine.label != event.label or machine.create is not Phase.NONE:
        raise Impossible(f"the create under {machine.label} was sent before")
    return _with(run, create=Phase.SENT, create_sent_at=at)


def _create_refused(run: Run, event: e.CreateRefused, _at: float) -> Changes:
    machine = _unanswered(run, event.label)
    return {
        "machine": None,
        "trouble": event.reason,
        "avoid": (*run.avoid, f"{machine.provider}:offer:{machine.offer_id}"),
        # an offer that someone else took cost nothing and does not count against the attempts
        "attempt": run.attempt - 1 if event.offer_gone else run.attempt,
    }


def _create_unknown(run: Run, event: e.CreateUnknown, _at: float) -> Changes:
    _unanswered(run, event.label)
    return _with(run, create=Phase.UNKNOWN) | {"trouble": event.reason}


def _rented(run: Run, event: e.Rented, at: float) -> Changes:
    started = _unanswered(run, event.label).create_sent_at or at
    return _with(run, create=Phase.ACCEPTED, instance_id=event.instance_id, rented_at=started) | {
        "trouble": None
    }


def _booted(run: Run, event: e.Booted, _at: float) -> Changes:
    return _with(run, host=event.host, port=event.port, user=event.user, fingerprint=event.fingerprint)


def _dud(run: Run, event: e.Dud, _at: float) -> Changes:
    machine = _machine(run)
    _nothing_started(run)
    avoid = [f"{machine.provider}:offer:{machine.offer_id}"]
    if machine.machine_id is not None:
        avoid.append(f"{machine.provider}:machine:{machine.machine_id}")
    return _with(run, dud=event.reason) | {"avoid": (*run.avoid, *avoid), "trouble": event.reason}


def _box_checked(run: Run, event: e.BoxChecked, _at: float) -> Changes:
    return _with(run, boot_id=event.boot_id, workspace=event.workspace)


def _nothing_started(run: Run) -> None:
    """A machine on which a job may have started has something to lose and ends through custody only (I1)."""
    if run.data_at_risk:
        raise Impossible(f"the job of run {run.id} may have started on this machine")


def _prepare_failed(run: Run, event: e.PrepareFailed, at: float) -> Changes:
    _nothing_started(run)
    return {
        "trouble": event.reason,
        "end_requested_by": "gpuwatch",
        "end_reason": event.reason,
        "job_ended_at": at,
    }


def _start_sent(run: Run, event: e.StartSent, at: float) -> Changes:
    machine = _machine(run)
    return _with(run, job_started_at=machine.job_started_at or at, boot_id=event.boot_id)


def _job_started(run: Run, event: e.JobStarted, at: float) -> Changes:
    started = _machine(run).job_started_at or at
    changes = _with(run, job_started_at=started, job_pid=event.pid, boot_id=event.boot_id)
    return changes | {"started_at": run.started_at or at, "trouble": None, "lost_at": None}


def _files_verified(run: Run, event: e.FilesVerified, at: float) -> Changes:
    changes: Changes = {
        "verified_files": run.verified_files + event.files,
        "verified_bytes": run.verified_bytes + event.bytes,
        "last_verified_at": at,
    }
    if event.step is not None:
        changes |= {"checkpoints": run.checkpoints + 1, "last_step": max(run.last_step or 0, event.step)}
    return changes


def _checkpoint_home(run: Run, event: e.CheckpointHome, at: float) -> Changes:
    home = Home(
        name=event.name, step=event.step, digest=event.digest, files=event.files, bytes=event.bytes, at=at
    )
    others = [h for h in run.homes if h.name != event.name]
    # by step where there is one: an older checkpoint that comes home late is not the newest
    ordered = sorted([*others, home], key=lambda h: (h.step if h.step is not None else -1, h.at))
    return {"homes": tuple(ordered[-HOMES:])}


def _restored(run: Run, event: e.Restored, _at: float) -> Changes:
    _nothing_started(run)
    return _with(run, restored=event.name)


def _job_ended(run: Run, event: e.JobEnded, at: float) -> Changes:
    if not run.data_at_risk:
        raise Impossible(f"no job of run {run.id} was ever started on this machine")
    return {"job_ended_at": at, "exit_code": event.exit_code, "trouble": event.reason or None}


def _collect_started(run: Run, _event: e.CollectStarted, _at: float) -> Changes:
    if not run.data_at_risk:
        raise Impossible(f"no job ran on a machine of run {run.id}: there is nothing to collect")
    if _machine(run).destroy is Phase.ACCEPTED:
        raise Impossible(f"the destroy of run {run.id} was accepted: it is too late to collect")
    if run.stop_under_way:
        raise Impossible(
            f"the machine of run {run.id} is being stopped: it can be collected once it runs again"
        )
    return {"receipt": None}


def _collect_blocked(run: Run, event: e.CollectBlocked, _at: float) -> Changes:
    # the wish to end is spent: a person decides again, with the holds in view. Unless she gave up everything
    # while this verdict was made, which it does not know
    wish = run.end_requested_by if run.given_up else None
    return {"holds": tuple(event.holds), "trouble": "; ".join(event.holds), "end_requested_by": wish}


def _collect_failed(_run: Run, event: e.CollectFailed, _at: float) -> Changes:
    return {"trouble": event.reason}


def _receipt_written(_run: Run, event: e.ReceiptWritten, _at: float) -> Changes:
    receipt = ReceiptRef(
        digest=event.digest, boot_id=event.boot_id, files=event.files, bytes=event.bytes, at=event.at,
        waived=tuple(event.waived),
    )  # fmt: skip
    return {"receipt": receipt, "holds": (), "trouble": None}


def _end_requested(_run: Run, event: e.EndRequested, _at: float) -> Changes:
    return {"end_requested_by": event.by, "end_reason": event.reason}


def _end_cancelled(_run: Run, _event: e.EndCancelled, at: float) -> Changes:
    # consent to lose files was given for this wish and goes with it
    return {
        "end_requested_by": None, "end_reason": "", "waivers": (), "stop_requested_by": None, "wake_requested_by": None,
        "kept_since": at,
    }  # fmt: skip


def _waived(run: Run, event: e.Waived, _at: float) -> Changes:
    if run.end_requested_by is None:
        raise Impossible(f"nobody wants run {run.id} to end: there is nothing to give files up for")
    return {"waivers": tuple(dict.fromkeys((*run.waivers, *event.files)))}


def _hold_placed(run: Run, event: e.HoldPlaced, at: float) -> Changes:
    others = tuple(h for h in run.pins if h.name != event.name)
    if run.stop_under_way:
        raise Impossible(f"the stop of run {run.id} has been sent: hold it once it is stopped")
    # whoever holds the machine wants to use it: after the release it must be seen idle anew
    placed = PlacedHold(name=event.name, by=event.by, at=at, reason=event.reason)
    return {"pins": (*others, placed), "stop_requested_by": None}


def _hold_released(run: Run, event: e.HoldReleased, at: float) -> Changes:
    left = tuple(h for h in run.pins if h.name != event.name)
    if len(left) < len(run.pins):
        return {"pins": left, "kept_since": at}
    if run.has_released(event.name):
        return {}
    return {"released": (*run.released, PlacedHold(name=event.name, by=event.by, at=at, reason=event.reason))}


def _stop_requested(run: Run, event: e.StopRequested, _at: float) -> Changes:
    if not run.data_at_risk:
        raise Impossible(f"nothing ran on the machine of run {run.id}: it is ended, not stopped")
    return {"stop_requested_by": event.by}


def _stop_sent(run: Run, event: e.StopSent, _at: float) -> Changes:
    if run.pins:
        raise Impossible(f"run {run.id} is held by {run.pins[0].name}")
    if _machine(run).instance_id != event.instance_id:
        raise Impossible(f"run {run.id} has no machine {event.instance_id}")
    if not run.data_at_risk:
        raise Impossible(f"nothing ran on the machine of run {run.id}: it is ended, not stopped")
    return _with(run, stop=Phase.SENT)


def _stop_failed(run: Run, event: e.StopFailed, _at: float) -> Changes:
    if not run.stop_under_way and not event.never:
        raise Impossible(f"no stop of run {run.id} was sent")
    phase = Phase.NONE if event.refused or event.never else Phase.UNKNOWN
    changes = _with(run, stop=phase, unstoppable=event.reason if event.never else None)
    return changes | ({"stop_requested_by": None} if event.never else {})


def _paused(run: Run, _event: e.Paused, at: float) -> Changes:
    machine = _machine(run)
    if not run.stop_under_way:
        raise Impossible(f"no stop of run {run.id} was sent")
    pauses = (*machine.pauses, Pause(since=at))
    return _with(run, stop=Phase.ACCEPTED, pauses=pauses) | {"stop_requested_by": None}


def _wake_requested(_run: Run, event: e.WakeRequested, _at: float) -> Changes:
    return {"wake_requested_by": event.by}


def _woken(run: Run, _event: e.Woken, at: float) -> Changes:
    if run.paused_since is None:
        raise Impossible(f"the machine of run {run.id} was not stopped")
    by = run.wake_requested_by or (None if run.end_requested_by is not None else "somebody")
    changes = _with(run, stop=Phase.NONE, pauses=_ended(run, at), started_by=by)
    return changes | {"wake_requested_by": None, "released": ()}


def _ended(run: Run, at: float) -> tuple[Pause, ...]:
    """The machine's pauses, none of which lasts any more."""
    pauses = _machine(run).pauses
    if run.paused_since is None:
        return pauses
    return (*pauses[:-1], msgspec.structs.replace(pauses[-1], until=at))


def _destroy_sent(run: Run, event: e.DestroySent, at: float) -> Changes:
    if run.pins:
        raise Impossible(f"run {run.id} is held by {run.pins[0].name}")
    if _machine(run).instance_id != event.instance_id:
        raise Impossible(f"run {run.id} has no machine {event.instance_id}")
    return _with(run, destroy=Phase.SENT, destroy_sent_at=at)


def _destroy_accepted(run: Run, _event: e.DestroyAccepted, _at: float) -> Changes:
    if _machine(run).destroy is Phase.NONE:
        raise Impossible(f"no destroy of run {run.id} was sent")
    return _with(run, destroy=Phase.ACCEPTED)


def _destroy_failed(run: Run, event: e.DestroyFailed, _at: float) -> Changes:
    if _machine(run).destroy is Phase.NONE:
        raise Impossible(f"no destroy of run {run.id} was sent")
    return _with(run, destroy=Phase.UNKNOWN) | {"trouble": event.reason}


def _gone(run: Run, _event: e.Gone, at: float) -> Changes:
    if run.exists:
        _accepted(run)
    return {} if run.machine is None else _with(run, gone_at=at)


def _accepted(run: Run) -> Machine:
    """The machine, whose destroy the vendor has accepted; nothing else ends a machine that may exist."""
    machine = _machine(run)
    if machine.destroy is not Phase.ACCEPTED:
        raise Impossible(f"the machine of run {run.id} was not destroyed")
    return machine


def _dud_gone(run: Run, _event: e.DudGone, at: float) -> Changes:
    machine = msgspec.structs.replace(_accepted(run), gone_at=at)
    if machine.dud is None:
        raise Impossible(f"the machine of run {run.id} is no dud")
    return {"machine": None, "past": (*run.past, machine)}


def _lost(run: Run, event: e.Lost, at: float) -> Changes:
    if _machine(run).instance_id is None:
        raise Impossible(f"run {run.id} has no machine that could be lost")
    return _with(run, gone_at=at, stop=Phase.NONE, pauses=_ended(run, at)) | {"trouble": event.evidence}


def _recovering(run: Run, event: e.Recovering, at: float) -> Changes:
    machine = _machine(run)
    if run.of is not None:
        raise Impossible(f"run {run.id} only collects: {run.of} is the one that goes on")
    if run.end_requested_by is not None:
        raise Impossible(f"run {run.id} is to end: it does not go on elsewhere")
    if machine.instance_id is None:
        raise Impossible(f"run {run.id} has no machine that could be lost")
    if event.handed_to is not None and machine.job_started_at is None:
        raise Impossible(
            f"nothing ever ran on machine {machine.instance_id}: there is nothing to collect from it"
        )
    avoid = [f"{machine.provider}:offer:{machine.offer_id}"]
    if machine.machine_id is not None:
        avoid.append(f"{machine.provider}:machine:{machine.machine_id}")
    return {
        "machine": None,
        "past": (*run.past, msgspec.structs.replace(machine, gone_at=at)),
        "avoid": (*run.avoid, *avoid),
        "trouble": event.evidence,
        "losses": run.losses + (machine.job_started_at is not None),
        "lost_at": at,
        # what was said and proved of that machine says nothing of the next
        "waivers": (), "receipt": None, "holds": (), "released": (), "job_ended_at": None, "exit_code": None,
    }  # fmt: skip


def _returned(run: Run, event: e.Returned, _at: float) -> Changes:
    if run.state is S.RECOVERING:
        return _back_in_time(run, event)
    machine = _machine(run)
    if machine.instance_id != event.instance_id or machine.gone_at is None:
        raise Impossible(f"no machine {event.instance_id} of run {run.id} was gone")
    if machine.job_started_at is None:
        raise Impossible(f"nothing ever ran on machine {event.instance_id} of run {run.id}")
    if run.state is S.LOST:
        return _with(run, gone_at=None) | {"trouble": "the machine came back"}
    # whatever ended it did not: the destroy starts over, with proof or consent as it stands
    return _with(run, gone_at=None, destroy=Phase.UNKNOWN) | {
        "end_requested_by": run.end_requested_by or "gpuwatch",
        "trouble": "the machine came back after it was confirmed gone",
    }


def _back_in_time(run: Run, event: e.Returned) -> Changes:
    """Its last machine is there again before another one was chosen: it goes on there."""
    machine = run.past[-1] if run.past else None
    if machine is None or machine.instance_id != event.instance_id or machine.job_started_at is None:
        raise Impossible(f"machine {event.instance_id} is not the one that run {run.id} lost")
    return {
        "machine": msgspec.structs.replace(machine, gone_at=None),
        "past": run.past[:-1],
        "losses": run.losses - 1,
        "lost_at": None,
        "trouble": "the machine came back",
    }


def _gave_up(_run: Run, event: e.GaveUp, _at: float) -> Changes:
    return {"trouble": event.reason}


_CHANGE: dict[type[e.Event], Callable[[Run, Any, float], Changes]] = {
    e.OfferChosen: _offer_chosen,
    e.NoOffer: _no_offer,
    e.CreateSent: _create_sent,
    e.CreateRefused: _create_refused,
    e.CreateUnknown: _create_unknown,
    e.Rented: _rented,
    e.Booted: _booted,
    e.Dud: _dud,
    e.BoxChecked: _box_checked,
    e.PrepareFailed: _prepare_failed,
    e.StartSent: _start_sent,
    e.JobStarted: _job_started,
    e.FilesVerified: _files_verified,
    e.CheckpointHome: _checkpoint_home,
    e.Restored: _restored,
    e.JobEnded: _job_ended,
    e.CollectStarted: _collect_started,
    e.CollectBlocked: _collect_blocked,
    e.CollectFailed: _collect_failed,
    e.ReceiptWritten: _receipt_written,
    e.EndRequested: _end_requested,
    e.EndCancelled: _end_cancelled,
    e.Waived: _waived,
    e.StopRequested: _stop_requested,
    e.StopSent: _stop_sent,
    e.StopFailed: _stop_failed,
    e.Paused: _paused,
    e.WakeRequested: _wake_requested,
    e.Woken: _woken,
    e.DestroySent: _destroy_sent,
    e.DestroyAccepted: _destroy_accepted,
    e.DestroyFailed: _destroy_failed,
    e.DudGone: _dud_gone,
    e.Gone: _gone,
    e.Lost: _lost,
    e.Recovering: _recovering,
    e.Returned: _returned,
    e.HoldPlaced: _hold_placed,
    e.HoldReleased: _hold_released,
    e.GaveUp: _gave_up,
}
