"""One run's driver: decide, perform, record, again. Everything it needs to go on is in the ledger."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec
import structlog

from gpuproviders.errors import ProviderError
from gpuwatch.box.errors import BoxError, BoxFault, HostKeyChanged
from gpuwatch.box.sentinel import Report
from gpuwatch.daemon import collecting, destroying, pausing, preparing, renting
from gpuwatch.daemon.companion import accompany
from gpuwatch.daemon.context import Context
from gpuwatch.daemon.fleet import Fleet
from gpuwatch.daemon.link import Backoff, Link
from gpuwatch.daemon.live import Live
from gpuwatch.daemon.presence import leave
from gpuwatch.lifecycle import decide as d
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.evolve import Impossible
from gpuwatch.lifecycle.run import FINAL, Phase, Run, State
from gpuwatch.spec import RunSpec
from gpuwatch.telemetry.history import Point

log = structlog.get_logger()

SUSTAINED = 600.0
"""Seconds at a job's end over which its speed is told."""
_ATOMIC = (d.CreateMachine, d.Stop, d.Destroy)
"""Steps that are never interrupted: they have a request in flight that costs or ends something."""


class Actor:
    """Drives one run to its end. `nudge` makes it decide again after someone else's event."""

    def __init__(
        self,
        ctx: Context,
        run_id: str,
        spec: RunSpec,
        live: Live,
        start_run: Callable[[str], None],
    ) -> None:
        self._start_run = start_run
        self._ctx = ctx
        self._id = run_id
        self._spec = spec
        self.live = live
        self.link = Link(ctx, run_id, live)
        self._nudged = asyncio.Event()

    def nudge(self) -> None:
        """Something outside changed the run: decide again."""
        self._nudged.set()

    async def drive(self) -> None:
        """Until the run is over. Raises only programming errors and ledger failures, which end the daemon."""
        companion: asyncio.Task[None] | None = None
        fleet: Fleet | None = None
        backoff = Backoff(1, 60)
        try:
            while True:
                run = self._run
                if run.machine is not None and run.exists:
                    wanted = self._ctx.fleets[run.machine.provider]
                    if fleet is not wanted:  # the first machine, or the next one at another provider
                        if fleet is not None:
                            fleet.release()
                        fleet = wanted
                        fleet.need()
                companion = await self._companion(run, companion)
                step = d.decide(run, self._spec)
                if isinstance(step, d.Rest):
                    if run.state in FINAL:
                        return
                    await self._nudged.wait()
                    self._nudged.clear()
                    continue
                try:
                    await self._perform(step, run)
                    backoff.reset()
                except Impossible:
                    # beside the step something else happened (the provider took the machine): decide anew
                    if self._run.state is run.state:
                        raise
                except (ProviderError, BoxError) as error:
                    if not isinstance(error, HostKeyChanged):  # the link has said that, and what to do
                        self.live.say(str(error))
                    log.warning("step failed", run=self._id, step=type(step).__name__, problem=str(error))
                    await self._pause(backoff)
        finally:
            if companion is not None:
                await _cancel(companion)
            if fleet is not None:
                fleet.release()
            await self.link.close()

    @property
    def _run(self) -> Run:
        return self._ctx.ledger.runs[self._id]

    async def _perform(self, step: d.Step, run: Run) -> None:
        """Do one step; a nudge that changes the decision cuts short whatever can be cut short."""
        task = asyncio.create_task(self._step(step, run), name=f"{self._id}:{type(step).__name__}")
        try:
            while not task.done():
                nudge = asyncio.create_task(self._nudged.wait())
                try:
                    await asyncio.wait({task, nudge}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    nudge.cancel()
                if task.done():
                    break
                self._nudged.clear()
                changed = type(d.decide(self._run, self._spec)) is not type(step)
                if changed and not isinstance(step, _ATOMIC):
                    return
        finally:
            if not task.done():
                await _cancel(task)
        await task

    def _step(self, step: d.Step, run: Run) -> Coroutine[Any, Any, None]:
        ctx, spec, link, live = self._ctx, self._spec, self.link, self.live
        match step:
            case d.FindOffer():
                return renting.find_offer(ctx, run, spec, live)
            case d.CreateMachine():
                return renting.create_machine(ctx, run, spec)
            case d.FindByLabel():
                return renting.find_by_label(ctx, run, live)
            case d.Boot():
                return preparing.boot(ctx, run, spec, link, live)
            case d.Prepare():
                return preparing.prepare(ctx, run, spec, link, live)
            case d.WatchJob():
                return self._watch_job()
            case d.StopJob():
                return self._stop_job()
            case d.Collect():
                return collecting.collect(ctx, run, spec, link, live)
            case d.Stop():
                return pausing.stop(ctx, run, spec, link, live)
            case d.KeepPaused():
                return pausing.keep_paused(ctx, run, spec, live)
            case d.Wake():
                return pausing.wake(ctx, run, spec, live)
            case d.Destroy():
                return destroying.destroy(ctx, run, spec, link, live)
            case d.ConfirmGone():
                return destroying.confirm_gone(ctx, run, link, live)
            case d.EndWithoutMachine():
                return destroying.end_without_machine(ctx, run)
            case d.Rest():
                raise RuntimeError("resting is no step")

    def _ended(self, phase: str, exit_code: int | None) -> e.JobEnded:
        """The job's end, with the speed that it sustained."""
        tokens = sustained(
            self.live.watching.history.minutes.points("tokens_per_second", self._ctx.now() - SUSTAINED)
        )
        return msgspec.structs.replace(job_ended(phase, exit_code), tokens_per_second=tokens)

    async def _watch_job(self) -> None:
        """Until a report says that the job is over (or the run was taken elsewhere)."""
        while self._run.state is State.RUNNING:
            reported = self.live.reported
            report = self.live.report
            if report is not None and report.job.phase in ("ended", "vanished"):
                if await self._restarted(report):
                    return
                await self._ctx.ledger.append(self._id, self._ended(report.job.phase, report.job.exit_code))
                return
            ledger = asyncio.create_task(self._ctx.ledger.changed())
            waiting = asyncio.create_task(reported.wait())
            try:
                await asyncio.wait({ledger, waiting}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                ledger.cancel()
                waiting.cancel()

    async def _restarted(self, report: Report) -> bool:
        """The box restarted under the job: the run goes on elsewhere, if it may. A job that ended by itself does not."""
        machine = self._run.machine
        restarted = machine is not None and machine.boot_id not in (None, report.boot_id)
        if report.job.phase != "vanished" or not restarted:
            return False
        why = "its box restarted under the job"
        return await leave(self._ctx, self._id, self._spec, self.live, why, self._start_run)

    async def _stop_job(self) -> None:
        """End the job's processes on the box: SIGTERM, a grace for its own checkpoint, SIGKILL."""
        sentinel = await self.link.sentinel()
        self.live.say("stopping the job")
        state = await sentinel.stop("job", grace=30)
        if state.phase in ("starting", "running"):
            raise BoxFault("the job was told to stop and still runs; it is told again")
        self.live.say(None)
        if self._run.state in (State.RUNNING, State.PREPARING):
            await self._ctx.ledger.append(self._id, self._ended(state.phase, state.exit_code))

    async def _companion(self, run: Run, task: asyncio.Task[None] | None) -> asyncio.Task[None] | None:
        machine = run.machine
        wanted = (
            machine is not None
            and machine.workspace is not None
            and machine.gone_at is None
            and machine.destroy is Phase.NONE
            and run.paused_since is None
            and run.state not in FINAL
        )
        if wanted and task is None:
            self.live.reported.clear()
            return asyncio.create_task(
                accompany(self._ctx, self._id, self._spec, self.link, self.live, self.nudge, self._start_run),
                name=f"{self._id}:companion",
            )
        if not wanted and task is not None:
            await _cancel(task)
            return None
        if task is not None and task.done():
            task.result()
        return task

    async def _pause(self, backoff: Backoff) -> None:
        """Wait before the next try; a nudge ends the wait."""
        waits = {asyncio.create_task(self._nudged.wait()), asyncio.create_task(backoff.wait())}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self._nudged.clear()


def sustained(minutes: Sequence[Point]) -> float | None:
    """The median of a speed over its last minutes, None when there is none. Pure."""
    means = [point.mean for point in minutes if point.mean > 0]
    return round(statistics.median(means), 1) if means else None


def job_ended(phase: str, exit_code: int | None) -> e.JobEnded:
    """The event for a job that is over, with a reason when that is not a plain exit. Pure."""
    if phase == "vanished":
        return e.JobEnded(
            exit_code=None,
            reason="the job's processes vanished (killed, out of memory, or the box restarted)",
        )
    if exit_code is not None and exit_code < 0:
        return e.JobEnded(exit_code=exit_code, reason=f"the job was ended by signal {-exit_code}")
    if exit_code:
        return e.JobEnded(exit_code=exit_code, reason=f"the job exited with {exit_code}")
    return e.JobEnded(exit_code=exit_code)


async def _cancel(task: asyncio.Task[None]) -> None:
    """End a task and wait for it. Our own cancellation goes through: only the task's outcome is put aside."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("ended with an error", task=task.get_name(), problem=str(error))
