"""Runs as the app sees them: ledger + live facts → wire rows. Pure but for the clock handed in."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gpuproviders import worth
from gpuproviders.gpus import tflops
from gpuproviders.model import Offer
from gpuproviders.money import MicroUsd, accrue, format_usd
from gpuwatch.box.hostkeys import fingerprint
from gpuwatch.budget.cost import of_machine, stopped_price
from gpuwatch.clean import clean, show_path
from gpuwatch.client import wire
from gpuwatch.custody import holds as named
from gpuwatch.custody.facts import Copy, Inventory
from gpuwatch.custody.rules import assess, is_promised, is_safe, spoken
from gpuwatch.daemon import words
from gpuwatch.daemon.live import Live
from gpuwatch.daemon.telemetry import alarm_rows, gpu_rows
from gpuwatch.idle.signals import Says
from gpuwatch.idle.timers import Act
from gpuwatch.ledger import StoredEvent
from gpuwatch.lifecycle.run import FINAL, Machine, Run, State
from gpuwatch.spec import RunSpec
from gpuwatch.spec.units import format_duration, format_size

_HELD = {State.FAILED}


def machine_cost(machine: Machine, now: float) -> MicroUsd:
    """What a machine has cost so far at its offered price, micro-dollars."""
    if machine.rented_at is None:
        return MicroUsd(0)
    if machine.pauses:
        return MicroUsd(of_machine(machine, 0.0, now).total)
    return accrue(machine.price, (machine.gone_at or now) - machine.rented_at)


def run_cost(run: Run, now: float) -> int:
    """What all machines of a run have cost, micro-dollars."""
    machines = [*run.past, *([run.machine] if run.machine is not None else [])]
    return sum(machine_cost(m, now) for m in machines)


def burn(run: Run) -> int:
    """Micro-dollars per hour that this run costs now."""
    machine = run.machine
    return (
        (machine.price if run.paused_since is None else stopped_price(machine))
        if machine is not None and machine.rented_at is not None and machine.gone_at is None
        else 0
    )


def exposure(
    run: Run, spec: RunSpec | None, live: Live, copies: Mapping[str, Copy], now: float
) -> wire.Exposure:
    """Work that exists only on the box. Unknown (None) while the box has not been heard."""
    if not run.data_at_risk or run.state in FINAL:
        return wire.Exposure(bytes=0, seconds=0.0, files=0)
    if live.report is None or spec is None:
        return wire.Exposure(bytes=None, seconds=_age(run, now), files=None)
    unsafe = [f for f in live.files if is_promised(f.path, spec) and not is_safe(f, copies.get(f.path))]
    seconds = 0.0 if run.receipt is not None and not unsafe else _age(run, now)
    return wire.Exposure(bytes=sum(f.size for f in unsafe), seconds=seconds, files=len(unsafe))


def _age(run: Run, now: float) -> float | None:
    """Seconds of work since the newest verified copy (or the start of the job)."""
    since = run.last_verified_at or run.started_at
    until = run.job_ended_at or now
    return None if since is None else max(0.0, until - since)


def holds(run: Run, exposed: wire.Exposure, live: Live) -> list[wire.HoldRow]:
    """Named reasons not to destroy, as things stand."""
    found = [named.Hold(*_split(text)) for text in run.holds]
    if run.data_at_risk and run.state not in FINAL and not found:
        if run.state is State.RUNNING:
            found.append(named.Hold("job", "the job is running"))
        if exposed.bytes is None:
            found.append(named.Hold("unknown-state", "the box has not reported its files yet"))
        elif exposed.files:
            text = f"{exposed.files} files ({format_size(exposed.bytes)}) are not verified at home"
            found.append(named.Hold("artifacts", text))
        if run.receipt is None and run.state is not State.RUNNING and not exposed.files:
            found.append(named.Hold("receipt", "the final collection has not proved everything yet"))
    if run.exists:
        transferring = live.transfer is not None and not live.transfer.up
        stranger = None if live.stranger is None else fingerprint(live.stranger)
        passing = named.passing(run, sessions=live.logins, transferring=transferring, stranger=stranger)
        found = [*passing, *found]
    return [_hold_row(hold) for hold in (*named.placed(run), *found)]


def _split(text: str) -> tuple[str, str]:
    """`name: reason`, as a blocked collection wrote it, in its two parts."""
    name, _, reason = text.partition(": ")
    return (name, reason) if reason else ("artifacts", name)


def _hold_row(hold: named.Hold) -> wire.HoldRow:
    return wire.HoldRow(
        name=hold.name, reason=clean(hold.reason), by=None if hold.by is None else clean(hold.by, 60), at=hold.at,
        removal=named.removal(hold.name).value,
    )  # fmt: skip


def standing_holds(
    run: Run, spec: RunSpec | None, live: Live, copies: Mapping[str, Copy], *, now: float
) -> list[wire.HoldRow]:
    """The holds of a run with everything that they depend on."""
    return holds(run, exposure(run, spec, live, copies, now), live)


def run_row(
    run: Run, spec: RunSpec | None, live: Live, copies: Mapping[str, Copy], *, now: float, clock: float
) -> wire.RunRow:
    """One line of the fleet. `now` is wall time, `clock` the event loop's."""
    machine = run.machine or (run.past[-1] if run.past else None)
    report = live.report if run.state not in FINAL else None
    last = live.report or report
    exposed = exposure(run, spec, live, copies, now)
    transfer = live.transfer
    trouble = run.trouble if run.state in (State.FAILED, State.GONE, State.LOST) else live.trouble
    return wire.RunRow(
        id=run.id,
        name=run.name,
        state=run.state.value,
        attention=words.attention(run, live.trouble),
        reason=clean(trouble) if trouble else None,
        next=next_text(run, spec, live),
        attempt=max(1, run.attempt),
        provider=machine.provider if machine else None,
        instance_id=machine.instance_id if machine else None,
        gpu=machine.gpu if machine else None,
        gpu_count=machine.gpu_count if machine else None,
        price=machine.price if machine else None,
        cost=run_cost(run, now),
        exposure=exposed,
        holds=holds(run, exposed, live),
        gpus=gpu_rows(report),
        telemetry_age=None if report is None or live.report_at is None else max(0.0, clock - live.report_at),
        step=last.step if last else None,
        steps=last.steps if last else None,
        loss=last.loss if last else None,
        tokens_per_second=report.tokens_per_second if report else None,
        checkpoints=run.checkpoints,
        verified_bytes=run.verified_bytes,
        transfer=None
        if transfer is None
        else wire.TransferRow(
            path=show_path(transfer.path),
            files_done=transfer.files_done,
            files_total=transfer.files_total,
            bytes_done=transfer.bytes_done,
            bytes_total=transfer.bytes_total,
            rate=transfer.rate(clock),
            eta=_eta(transfer.bytes_total - transfer.bytes_done, transfer.rate(clock)),
            up=transfer.up,
        ),
        created_at=run.created_at,
        started_at=run.started_at,
        ended_at=run.ended_at,
        exit_code=run.exit_code,
        alarms=alarm_rows(live) if run.state not in FINAL else [],
    )


def _eta(left: int, rate: float) -> float | None:
    return left / rate if rate > 1 else None


def event_row(stored: StoredEvent) -> wire.EventRow:
    """One line of a timeline."""
    data = msgspec.to_builtins(stored.event)
    kind = str(data.pop("kind"))
    data.pop("spec", None)
    return wire.EventRow(
        seq=stored.seq,
        time=stored.at,
        run=stored.run,
        kind=kind,
        text=words.describe(stored.event),
        data=data,
    )


def offer_row(
    offer: Offer,
    *,
    transfer: int = worth.TRANSFER,
    seen: wire.SeenRow | None = None,
    speed: tuple[float, str] | None = None,
) -> wire.OfferRow:
    """One offer. `transfer`: bytes an hour each way; `speed`: tokens per second on such GPUs, and the run that did it."""
    whole = worth.all_in(offer, transfer)
    compared = offer.price if whole is None else whole
    tokens, by = speed if speed is not None else (None, None)
    return wire.OfferRow(
        provider=offer.provider, offer_id=offer.offer_id, machine_id=offer.machine_id, gpu=offer.gpu_name,
        gpu_count=offer.gpu_count, gpu_memory=offer.gpu_memory, price=offer.price, disk_price=offer.disk_price,
        spot=offer.spot, reliability=offer.reliability, verified=offer.verified, datacenter=offer.datacenter,
        region=offer.region, cpu_cores=offer.cpu_cores, memory=offer.memory, disk=offer.disk,
        download_speed=offer.download_speed, upload_speed=offer.upload_speed, transfer_price=offer.transfer_price,
        cuda=offer.cuda, ends_at=None if offer.ends_at is None else offer.ends_at.timestamp(),
        stock=None if offer.stock is None else offer.stock.name.lower(), receive_price=offer.receive_price,
        all_in=whole, tflops=tflops(offer.gpu_name, offer.gpu_count),
        tflop_price=worth.per_tflop(compared, offer.gpu_name, offer.gpu_count), tokens_per_second=tokens,
        measured_by=by, token_price=worth.per_billion_tokens(compared, tokens), seen=seen,
    )  # fmt: skip


def custody_report(
    run: Run, spec: RunSpec | None, live: Live, copies: Mapping[str, Copy], *, now: float
) -> wire.CustodyReport:
    """What would be lost now. Judged on the newest report; the gate itself always looks afresh."""
    exposed = exposure(run, spec, live, copies, now)
    held = holds(run, exposed, live)
    verified = [
        wire.ArtifactRow(path=show_path(c.path), size=c.size, sha256=c.sha256, state="verified", verified_at=c.verified_at, step=c.step)
        for c in sorted(copies.values(), key=lambda c: c.path)
    ]  # fmt: skip
    unsafe: list[wire.ArtifactRow] = []
    if spec is not None and run.data_at_risk and run.state not in FINAL and live.boot_id is not None:
        inventory = Inventory("", live.boot_id, now, live.files, links=live.links)
        verdict = assess(spec, inventory, copies, run.waivers, job_succeeded=run.exit_code == 0)
        moving = live.transfer.path if live.transfer is not None and not live.transfer.up else None
        for file in verdict.unsafe:
            state = "downloading" if file.path == moving else "on-box"
            unsafe.append(_artifact(spoken(file.path), file.size, state))
        unsafe += [_artifact(spoken(f.path), f.size, "waived") for f in verdict.waived]
        if run.state is not State.RUNNING:
            missing = [h.reason.split(" does not exist")[0] for h in verdict.holds if h.name == "missing"]
            unsafe += [_artifact(name, 0, "missing") for name in missing]
    return wire.CustodyReport(
        run=run.id,
        allowed=not held and (not run.data_at_risk or run.receipt is not None),
        summary=_summary(run, exposed, held, len(verified)),
        holds=held,
        verified=verified,
        unsafe=unsafe,
        exposure=exposed,
        receipt=run.receipt.digest if run.receipt is not None else None,
    )


def _artifact(path: str, size: int, state: str) -> wire.ArtifactRow:
    # `path` is what a waiver must name, so it is whole; the app cleans what it shows
    return wire.ArtifactRow(path=path, size=size, sha256=None, state=state, verified_at=None, step=None)


def _summary(run: Run, exposed: wire.Exposure, held: list[wire.HoldRow], verified: int) -> str:
    if run.state in FINAL or not run.exists:
        return f"no machine exists; {verified} files are verified in the vault"
    if not run.data_at_risk:
        return "no job ever ran on the machine: nothing can be lost"
    if not held:
        return f"everything promised is verified: {verified} files in the vault"
    if exposed.bytes is None:
        return "the box has not been heard: what is on it is unknown, and unknown is not nothing"
    return f"{format_size(exposed.bytes)} in {exposed.files} files exist only on the box; {verified} files are verified"


def next_text(run: Run, spec: RunSpec | None, live: Live) -> str:
    """What happens next; the idle timers when they are what decides."""
    idle = live.idle
    if (
        run.state is State.PAUSED
        and idle is not None
        and run.end_requested_by is None
        and not run.wake_requested_by
    ):
        return f"{clean(idle.text, 300)}; {words.disk_bill(run)}"
    decides = run.state is State.VERIFIED or (
        run.state is State.RUNNING and idle is not None and idle.act is not Act.NOTHING
    )
    if idle is not None and decides and run.end_requested_by is None:
        return clean(idle.text, 400)
    return words.next_step(run, spec)


def idle_lines(live: Live) -> list[str]:
    """Each signal's verdict, a line each, when idle timers watch the machine."""
    if live.idle is None or live.idle_verdict is None:
        return []
    lines = [f"idle timers: {clean(live.idle.text, 400)}"]
    for line in live.idle_verdict.lines:
        lasted = f" for {format_duration(line.quiet)}" if line.says is Says.QUIET else ""
        lines.append(f"  {line.signal.value}: {line.says.value}{lasted} ({clean(line.text, 120)})")
    return lines


def why(run: Run, spec: RunSpec | None, live: Live, copies: Mapping[str, Copy], *, now: float) -> wire.Why:
    """`gputui why`: the facts behind a machine's existence, in plain words."""
    exposed = exposure(run, spec, live, copies, now)
    held = holds(run, exposed, live)
    lines = [f"state: {run.state.value} for {format_duration(now - run.since)}"]
    if run.trouble or live.trouble:
        lines.append(f"trouble: {clean(live.trouble or run.trouble or '')}")
    if run.end_requested_by is not None and run.state not in FINAL:
        lines.append(
            f"end requested by {run.end_requested_by}"
            + (f": {clean(run.end_reason)}" if run.end_reason else "")
        )
    if run.job_ended_at is not None and run.state not in FINAL:
        code = "unknown" if run.exit_code is None else str(run.exit_code)
        lines.append(f"the job ended {format_duration(now - run.job_ended_at)} ago, exit code {code}")
    if burn(run):
        lines.append(f"it costs {format_usd(burn(run))}/h, {format_usd(run_cost(run, now))} so far")
    elif run_cost(run, now):
        lines.append(f"it cost {format_usd(run_cost(run, now))}")
    if run.exists and run.data_at_risk:
        if exposed.bytes is None:
            lines.append("exposure: unknown, the box has not reported yet")
        elif exposed.files:
            age = f", {format_duration(exposed.seconds)} of work" if exposed.seconds is not None else ""
            lines.append(
                f"exposure: {format_size(exposed.bytes)} in {exposed.files} files{age} exist only on the box"
            )
        else:
            lines.append("exposure: none, every promised file is verified at home")
    if run.checkpoints:
        lines.append(f"{run.checkpoints} checkpoints verified, the newest of step {run.last_step}")
    lines += idle_lines(live)
    if live.report is not None and live.report.deadman is not None:
        lines.append(f"its dead-man switch acted: {live.report.deadman}")
    if run.receipt is not None:
        lines.append(
            f"receipt {run.receipt.digest[:16]}: {run.receipt.files} files, {format_size(run.receipt.bytes)}"
        )
    return wire.Why(
        run=run.id, headline=words.headline(run), lines=lines, holds=held, exposure=exposed,
        next=next_text(run, spec, live),
    )  # fmt: skip
