"""Idle shutdown in the daemon: reports → looks → verdict → a wish. Custody decides over the wish as over any other (I1)."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from gpuwatch.box.sentinel import Report
from gpuwatch.daemon.context import Context
from gpuwatch.daemon.live import Live
from gpuwatch.idle.signals import Limits, Look
from gpuwatch.idle.timers import Act, due
from gpuwatch.idle.track import Track
from gpuwatch.idle.verdict import judge
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.run import Run, State
from gpuwatch.spec import RunSpec

log = structlog.get_logger()

JUDGED = (State.RUNNING, State.VERIFIED, State.FAILED)
"""States in which a machine can be idle; while we collect or destroy it is in use by us."""


async def watch_idleness(
    ctx: Context, run_id: str, spec: RunSpec, live: Live, nudge: Callable[[], None]
) -> None:
    """Judge every report; ask for the machine's end when the timers of the spec say so. Until cancelled."""
    if spec.idle.after is None:
        return
    track = Track(Limits(ssh_quiet=spec.idle.ssh_quiet))
    asked = told = False
    try:
        while True:
            await live.reported.wait()
            run, report = ctx.ledger.runs[run_id], live.report
            if report is None:
                continue
            if run.state not in JUDGED:
                track, live.idle = Track(Limits(ssh_quiet=spec.idle.ssh_quiet)), None
                continue
            if asked and run.end_requested_by is None and run.stop_requested_by is None:
                # a person took the wish back, or custody could not grant it: the silence starts anew
                track, asked = Track(Limits(ssh_quiet=spec.idle.ssh_quiet)), False
            track.observe(look_of(report, run, live, ctx.now()))
            verdict = judge(track.quiet, ctx.now(), spec.idle.after, alive=report.job.phase == "running")
            live.idle = due(spec.idle, verdict, held=bool(run.pins), can_stop=can_stop(ctx, run))
            live.idle_verdict = verdict
            act = live.idle.act
            # what custody refused once a person has to decide; asking again every quarter of an hour helps nobody
            if act is Act.END and run.end_requested_by is None and run.state is not State.FAILED:
                asked = True
                await ctx.ledger.append(run_id, e.EndRequested(by="idle", reason=verdict.text))
                nudge()
            if act is Act.STOP and run.stop_requested_by is None and run.end_requested_by is None:
                asked = True
                await ctx.ledger.append(run_id, e.StopRequested(by="idle", reason=verdict.text))
                nudge()
            if act in (Act.WARN, Act.NOTIFY) and not told:
                log.warning("idle", run=run_id, act=act.value, text=live.idle.text)
            told = act in (Act.WARN, Act.NOTIFY)
    finally:
        live.idle = live.idle_verdict = None


def can_stop(ctx: Context, run: Run) -> bool:
    """Whether this run's machine can be stopped and keep its disk, as far as its vendor has said."""
    machine = run.machine
    if machine is None or machine.unstoppable is not None or not run.data_at_risk:
        return False
    capabilities = ctx.fleets[machine.provider].provider.capabilities
    return capabilities.can_stop and capabilities.stop_keeps_disk


def look_of(report: Report, run: Run, live: Live, now: float) -> Look:
    """One report as a look at the box. Pure."""
    running = report.job.phase in ("starting", "running")
    ended = report.job.phase in ("ended", "vanished")
    return Look(
        at=now,
        job="running" if running else "ended" if ended else None,
        job_ended_at=run.job_ended_at,
        vitals=report.vitals,
        progress=report.progress,
        files=live.files_version,
        log_size=report.log_size,
        transferring=live.transfer is not None,
    )
