"""Whether a run's machine is still there and runs; and what is done when it does not: wake it, go on elsewhere, or be lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from gpuproviders.errors import ProviderError
from gpuproviders.model import Instance, Power
from gpuwatch.daemon.context import Context
from gpuwatch.daemon.link import Link
from gpuwatch.daemon.live import Live
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle import recover
from gpuwatch.lifecycle.absence import OUT_OF_THE_BLUE
from gpuwatch.lifecycle.run import Run, State
from gpuwatch.spec import RunSpec
from gpuwatch.spec.units import format_duration

log = structlog.get_logger()

LISTING_GAP = 180.0
"""Seconds between two complete listings after which nobody knows what was in between."""
_WANTED = (State.RUNNING, State.FINISHED, State.COLLECTING)
LOOKS = 3
"""Complete listings that must agree before a machine counts as one that does not run."""


WAKING = "the machine is stopped (its dead-man switch, a higher bid, a hand); asking it to start, to collect its files"


DOWN = {
    Power.STOPPED: "the provider lists the machine as stopped (its credit, the end of its contract, a hand in the console): "
    "nothing on it runs, its disk is kept and bills; started there, it is heard again and its files are collected",
    Power.OFFLINE: "the provider lists the machine's host as offline: nobody knows what is on it until it is back",
}
"""What is said of a machine that does not run and that the daemon does not start."""


async def _wake(ctx: Context, run_id: str, spec: RunSpec, live: Live) -> None:
    """A machine that its dead-man switch or a higher bid has stopped is started, so that its files can be collected (I5)."""
    run = ctx.ledger.runs[run_id]
    machine = run.machine
    if run.stop_under_way or run.state is State.PAUSED:
        return  # we are stopping it ourselves
    listed = _listed(ctx, run)
    if listed is not None and listed.power is Power.RUNNING and live.trouble in (WAKING, *DOWN.values()):
        live.say(None)
    elif listed is not None and listed.power in DOWN and live.trouble is None:
        live.say(DOWN[listed.power])
    # one that was stopped once, and runs no more although its files are wanted
    sleeps = (
        machine is not None and machine.pauses and (run.state in _WANTED or run.end_requested_by is not None)
    )
    wakes = spec.deadman.after is not None or run.of is not None or sleeps
    if not wakes or machine is None or machine.instance_id is None or not run.data_at_risk:
        return
    fleet = ctx.fleets[machine.provider]
    if listed is None or listed.power is not Power.STOPPED or listed.wanted is Power.RUNNING:
        return
    live.say(WAKING)
    log.warning("machine found stopped", run=run_id, instance=machine.instance_id)
    try:
        await fleet.provider.start(machine.instance_id)
    except ProviderError as error:
        live.say(
            f"the machine is stopped and does not start: {error}; its disk is kept, and it is tried again"
        )
    fleet.hurry()


def _listed(ctx: Context, run: Run) -> Instance | None:
    """What the newest complete listing says of the run's machine."""
    machine = run.machine
    if machine is None or machine.instance_id is None:
        return None
    return ctx.fleets[machine.provider].instance(machine.instance_id)


async def watch_presence(
    ctx: Context,
    run_id: str,
    spec: RunSpec,
    link: Link,
    live: Live,
    nudge: Callable[[], None],
    start_run: Callable[[str], None],
) -> None:
    """Notice that the machine is lost or does not run any more: only after long, consistent evidence (I3).

    Wake one that sleeps. What a loss means for the run is `lifecycle.recover`'s to say. Returns when the run
    has left the machine.
    """
    stranding = Stranding()
    while True:
        await link.note(_listed(ctx, ctx.ledger.runs[run_id]))
        await _wake(ctx, run_id, spec, live)
        machine = ctx.ledger.runs[run_id].machine
        if machine is None or machine.instance_id is None:
            return
        fleet = ctx.fleets[machine.provider]
        if fleet.listing is not None and fleet.instance(machine.instance_id) is None:
            evidence = await fleet.await_absence(machine.instance_id, OUT_OF_THE_BLUE)
            if evidence is not None:
                if ctx.ledger.runs[run_id].state is not State.DESTROYING:
                    await _lost(ctx, run_id, spec, live, f"the provider took the machine: {evidence}")
                    nudge()
                return
        listed, at = fleet.instance(machine.instance_id), fleet.listed_at
        if fleet.problem is None and listed is not None and at is not None:
            stranding.observe(at, listed.power)
            why = stranding.verdict(spec, spot=spec.gpu.spot or listed.spot)
            if why is not None and await leave(ctx, run_id, spec, live, why, start_run):
                nudge()
                return
        await asyncio.sleep(ctx.config.account_interval)


class Stranding:
    """For how long complete listings have said, without a gap, that a machine does not run. Monotonic seconds."""

    def __init__(self) -> None:
        self._power: Power | None = None
        self._since = self._last = 0.0
        self._looks = 0

    def observe(self, at: float, power: Power) -> None:
        """What one complete listing, taken at `at`, says; the same listing counts once."""
        if power is not self._power or at - self._last > LISTING_GAP:
            self._power, self._since, self._last, self._looks = power, at, at, 1
        elif at > self._last:
            self._last, self._looks = at, self._looks + 1

    def verdict(self, spec: RunSpec, *, spot: bool) -> str | None:
        """Why the run need not wait for this machine any longer, None while it should.

        A stopped machine is only left when it is a spot machine, which its vendor stops for a higher bid:
        any other was stopped by a person, by its dead-man switch or for want of money, and stays theirs.
        """
        down = self._power is Power.OFFLINE or (self._power is Power.STOPPED and spot)
        seconds = self._last - self._since
        if not down or self._looks < LOOKS or seconds < spec.recover.patience:
            return None
        what = (
            "outbid or taken back: it is stopped" if self._power is Power.STOPPED else "its host is offline"
        )
        return f"{what}, in {self._looks} complete listings over {format_duration(seconds)}"


async def _lost(ctx: Context, run_id: str, spec: RunSpec, live: Live, evidence: str) -> None:
    """The machine is gone: the run goes on elsewhere, or is lost."""
    run = ctx.ledger.runs[run_id]
    why_not = recover.refusal(run, spec, ctx.now())
    if why_not is None:
        left = recover.leaving(run, evidence, _loss(ctx, run, live))
        await ctx.ledger.append(run_id, left)
        log.warning("machine lost", run=run_id, text=recover.words(left))
    else:
        await ctx.ledger.append(
            run_id, e.Lost(evidence=f"{evidence}; the run does not go on elsewhere: {why_not}")
        )
    live.forget_box()


async def leave(
    ctx: Context, run_id: str, spec: RunSpec, live: Live, why: str, start_run: Callable[[str], None]
) -> bool:
    """The machine exists and is of no more use: the run goes on elsewhere, another collects from it. False: it stays."""
    run = ctx.ledger.runs[run_id]
    machine = run.machine
    if machine is None or not run.data_at_risk or recover.refusal(run, spec, ctx.now()) is not None:
        return False
    taken = recover.taken_over(
        run, machine, f"left by {run_id}: {why}", stranded=True, proved=proved_of(ctx, run, machine.boot_id)
    )
    left = recover.leaving(run, why, _loss(ctx, run, live), handed_to=taken.taker)
    if await ctx.ledger.known(taken.taker):
        return False
    # while the disk was asked, somebody may have asked for its end
    if ctx.ledger.runs[run_id] is not run:
        return False
    await ctx.ledger.take_over(taken, left)
    log.warning("machine left", run=run_id, text=recover.words(left))
    live.forget_box()
    start_run(taken.taker)
    return True


def proved_of(ctx: Context, run: Run, boot_id: str | None) -> int:
    """How many of the run's copies at home are of this boot of its machine."""
    return sum(1 for copy in ctx.ledger.copies(run.id).values() if copy.boot_id == boot_id)


def _loss(ctx: Context, run: Run, live: Live) -> recover.Loss:
    clock = asyncio.get_running_loop().time()
    heard = None if live.report_at is None else ctx.now() - max(0.0, clock - live.report_at)
    step = live.report.step if live.report is not None else None
    return recover.loss(run, step=step, heard_at=heard, now=ctx.now())
