"""Events and states in plain words, for timelines, `why` and `next`. Pure."""

from __future__ import annotations

from gpuproviders.money import format_usd
from gpuwatch.budget.cost import stopped_price
from gpuwatch.clean import clean, show_path
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle import recover
from gpuwatch.lifecycle.run import Phase, Run, State
from gpuwatch.spec import RunSpec
from gpuwatch.spec.units import format_size

S = State


def describe(event: e.AnyEvent) -> str:
    """One event as a line of the timeline."""
    return clean(_describe(event), 400)


def _describe(event: e.AnyEvent) -> str:
    match event:
        case e.Requested():
            begin = f", to begin from {event.resume_from}" if event.resume_from is not None else ""
            return f"run {event.name} requested{begin}"
        case e.OfferChosen():
            return f"offer taken: {event.gpu_count} × {event.gpu} at {format_usd(event.price)}/h ({event.provider} {event.offer_id})"
        case e.NoOffer():
            return f"nothing to rent: {event.reason}"
        case e.CreateSent():
            return f"create sent under label {event.label}"
        case e.CreateRefused():
            return f"create refused: {event.reason}"
        case e.CreateUnknown():
            return f"the answer to the create was lost: {event.reason}"
        case e.Rented():
            return f"rented: instance {event.instance_id}" + (
                " (found by its label)" if event.adopted else ""
            )
        case e.Booted():
            return f"booted in {event.seconds:.0f} s; SSH at {event.host}:{event.port}, host key {event.fingerprint} pinned"
        case e.Dud():
            return f"the machine is no good: {event.reason}"
        case e.BoxChecked():
            return f"box checked: {event.gpus} GPU{'s' * (event.gpus != 1)}, driver {event.driver or 'unknown'}, Python {event.python}"
        case e.PrepareFailed():
            return f"could not be prepared: {event.reason}"
        case e.StartSent():
            return "prepared; the order to start the job goes out"
        case e.JobStarted():
            return f"job started (pid {event.pid})"
        case e.FilesVerified():
            what = (
                f"checkpoint step {event.step}"
                if event.step is not None
                else show_path(event.path or "files")
            )
            return f"verified at home: {what} ({event.files} file{'s' * (event.files != 1)}, {format_size(event.bytes)})"
        case e.CheckpointHome():
            return f"checkpoint {show_path(event.name)} stands whole at home ({event.files} files, {format_size(event.bytes)})"
        case e.Restored():
            size = format_size(event.bytes)
            return f"checkpoint {show_path(event.name)} ({size}) put on the box, proved, from {event.source}"
        case e.JobEnded():
            return "job ended" + (f": {event.reason}" if event.reason else " with exit code 0")
        case e.CollectStarted():
            return "collecting everything promised"
        case e.CollectBlocked():
            return "held, not everything is safe: " + "; ".join(event.holds)
        case e.CollectFailed():
            return f"collecting is tried again: {event.reason}"
        case e.ReceiptWritten():
            return (
                f"all verified: {event.files} files, {format_size(event.bytes)}, receipt {event.digest[:12]}"
            )
        case e.EndRequested():
            return f"end requested by {event.by}" + (f": {event.reason}" if event.reason else "")
        case e.EndCancelled():
            return "end taken back"
        case e.Waived():
            return _waived(event)
        case e.HoldPlaced():
            return f"held by {event.by} ({event.name})" + (f": {event.reason}" if event.reason else "")
        case e.HoldReleased():
            return f"hold {event.name} released by {event.by}" + (f": {event.reason}" if event.reason else "")
        case e.StopRequested():
            return f"stop requested by {event.by}" + (f": {event.reason}" if event.reason else "")
        case e.StopSent():
            return f"stop of instance {event.instance_id} sent, permitted because {event.permit}"
        case e.StopFailed():
            return f"not stopped: {event.reason}"
        case e.Paused():
            return f"stopped, its disk kept: {event.evidence}"
        case e.WakeRequested():
            return f"start requested by {event.by}" + (f": {event.reason}" if event.reason else "")
        case e.Woken():
            return f"the machine runs again: {event.evidence}"
        case e.DestroySent():
            return f"destroy of instance {event.instance_id} sent, permitted by {event.permit[:24]}"
        case e.DestroyAccepted():
            return "destroy accepted by the provider"
        case e.DestroyFailed():
            return f"destroy not confirmed: {event.reason}"
        case e.Gone():
            return f"gone: {event.evidence}"
        case e.DudGone():
            return f"the bad machine is gone: {event.evidence}"
        case e.Lost():
            return f"lost: {event.evidence}"
        case e.Recovering():
            return recover.words(event)
        case e.TakenOver():
            return f"collects from instance {event.instance_id} of {event.of}, then ends it: {event.evidence}"
        case e.Returned():
            return f"instance {event.instance_id} came back after it counted as gone: {event.evidence}"
        case e.MachineListed():
            return f"instance {event.instance_id} is listed"
        case e.MachineUnseen():
            return f"rented, and nobody can see it: {event.evidence}"
        case e.MachineReturned():
            return f"instance {event.instance_id} of an earlier attempt is there; nothing ever ran on it"
        case e.StrayDestroySent():
            return f"destroy of instance {event.instance_id} sent again, permitted by: {event.permit}"
        case e.StrayDestroyAccepted():
            return "that destroy was accepted by the provider"
        case e.StrayDestroyFailed():
            return f"that destroy is not confirmed: {event.reason}"
        case e.StrayGone():
            return f"that machine is gone: {event.evidence}"
        case e.LetGo():
            where = "its box" if event.place == "box" else event.place
            still = ", ".join(event.stands)
            what = f"checkpoint {show_path(event.name)} ({format_size(event.bytes)})"
            return f"retention: {what} goes from {where}; it stands verified in {still}"
        case e.Buried():
            return f"off the books: {event.evidence}"
        case e.AlarmResolved():
            return f"the alarm about {event.label} was answered by {event.by}: {event.reason}"
        case e.AccountSeen():
            return f"the account at {event.provider} is {event.user or 'the one of this key'}"
        case e.GaveUp():
            return f"waits for a person: {event.reason}"


def _waived(event: e.Waived) -> str:
    """Who gave up what, each file with its size."""
    sizes = {f.path: format_size(f.size) for f in event.lost}
    names = event.files if event.files != ["*"] else ["everything", *sizes]
    shown = [f"{show_path(n)} ({sizes[n]})" if n in sizes else show_path(n) for n in names[:10]]
    more = f", … and {len(names) - 10} more" if len(names) > 10 else ""
    return f"waived by {event.by} ({event.reason}): {', '.join(shown)}{more}"


def next_step(run: Run, spec: RunSpec | None) -> str:
    """What happens next, and on what it waits."""
    ending = run.end_requested_by is not None
    if run.pins and (ending or run.state in (S.VERIFIED, S.DESTROYING)):
        pin = run.pins[0]
        return f"held by {pin.by} ({pin.name}); `gputui release {run.id} {pin.name}` lets it go on"
    match run.state:
        case S.REQUESTED:
            return "ends" if ending else "the cheapest offer that fits is rented"
        case S.RECOVERING:
            if ending:
                return "ends"
            home = recover.newest(run)
            begin = (
                f"checkpoint {show_path(home.name)} is put there" if home is not None else "it begins anew"
            )
            return f"another machine is rented, {begin}, and the job goes on"
        case S.RENTING:
            return "the provider's answer decides"
        case S.BOOTING:
            minutes = (spec.boot.timeout if spec is not None else 1200) / 60
            return (
                "destroyed"
                if ending
                else f"SSH has {minutes:.0f} min to answer, then the next offer is tried"
            )
        case S.PREPARING:
            return "destroyed" if ending else "upload, setup, then the job starts"
        case S.RUNNING:
            if ending:
                return "the job is stopped, then its files are collected"
            return "checkpoints come home as they appear; at the job's end everything is collected, then the machine is destroyed"
        case S.FINISHED | S.COLLECTING:
            return "everything promised is copied and verified, then the machine is destroyed"
        case S.VERIFIED:
            timed = spec is not None and spec.idle.after is not None
            keep = spec is not None and (timed or spec.idle.action != "collect-and-destroy") and not ending
            return (
                "kept as the spec says; `gputui destroy` ends it" if keep else "one last look, then destroy"
            )
        case S.PAUSED:
            if ending or run.wake_requested_by is not None:
                return "started again" + (", collected once more, then destroyed" if ending else "")
            return f"stopped until `gputui start {run.id}` or `gputui destroy {run.id}`; {disk_bill(run)}"
        case S.DESTROYING:
            accepted = run.machine is not None and run.machine.destroy is Phase.ACCEPTED
            return (
                "waiting until listings and a look-up agree that it is gone"
                if accepted
                else "the destroy is sent"
            )
        case S.FAILED:
            if not run.exists:
                return "nothing; mend the cause and launch again"
            if not run.data_at_risk:
                return f"`gputui destroy {run.id}` ends the machine"
            return f"a person decides: `gputui destroy {run.id}` tries again, --waive gives files up"
        case S.GONE:
            return "nothing; the machine is gone"
        case S.LOST:
            return "nothing; what was verified is in the vault"


def disk_bill(run: Run) -> str:
    """What a stopped machine costs."""
    price = stopped_price(run.machine) if run.machine is not None else 0
    return f"its disk costs {format_usd(price)}/h" if price else "what its disk costs is not known"


def attention(run: Run, trouble: str | None) -> str:
    """How urgently a person is needed: none, info, warn, alarm."""
    if run.state is S.FAILED:
        return "alarm" if run.exists else "warn"
    if run.state is S.LOST:
        return "alarm" if run.data_at_risk or run.job_ended_at is None else "warn"
    if run.state is S.GONE:
        return "none" if run.exit_code == 0 or (run.started_at is None and run.trouble is None) else "info"
    return "warn" if trouble is not None or run.state is S.RECOVERING or run.of is not None else "none"


def headline(run: Run) -> str:
    """Why the machine exists (or does not), in one sentence."""
    where = ""
    machine = run.machine
    if machine is not None and machine.instance_id is not None:
        where = f"{machine.provider} instance {machine.instance_id} ({machine.gpu_count} × {machine.gpu}, {format_usd(machine.price)}/h)"
    if run.of is not None and run.exists:
        return f"{where} exists until what it has of {run.of} is at home; that run goes on without it."
    match run.state:
        case S.GONE:
            return f"{where or 'No machine'} is gone." if where else "There is no machine."
        case S.LOST:
            return f"The provider took {where or 'the machine'}."
        case S.FAILED if run.exists:
            return f"{where or 'A machine may exist and'} is held because not everything it promised is safe."
        case S.FAILED:
            return "There is no machine; the run could not go on."
        case S.REQUESTED:
            return "There is no machine yet."
        case S.RECOVERING:
            return "There is no machine: the last one was lost, another is looked for."
        case S.RENTING:
            return "A machine is being rented."
        case S.RUNNING:
            return f"{where} exists because the job runs."
        case S.PAUSED:
            return f"{where} is stopped: nothing runs there, its disk is kept and billed."
        case S.FINISHED | S.COLLECTING:
            return f"{where} exists until everything it promised is verified at home."
        case S.DESTROYING:
            return f"{where} is being destroyed."
        case _:
            return f"{where} exists: {run.state.value}."
