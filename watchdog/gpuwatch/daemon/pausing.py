"""A machine that is stopped and kept: the stop behind its permit, the time until it is ended, the start.

While it is stopped nobody can look at its disk, so it is never ended from there (but for a person who gave up
everything): it is started, collected again, and then goes through the same gate as every other (I1). What is
sent is written down first, and what came of it is taken from complete listings (I3, I4).
"""

from __future__ import annotations

import asyncio

import structlog

from gpuproviders.errors import ProviderError, Refused
from gpuproviders.model import Instance, Power
from gpuwatch.custody.holds import passing, placed
from gpuwatch.custody.permit import grant_stop
from gpuwatch.daemon.context import Context
from gpuwatch.daemon.idling import can_stop
from gpuwatch.daemon.link import Backoff, Link
from gpuwatch.daemon.live import Live
from gpuwatch.daemon.renting import foreign
from gpuwatch.idle.timers import Act, due
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.absence import OUT_OF_THE_BLUE
from gpuwatch.lifecycle.decide import Stop, Wake, decide
from gpuwatch.lifecycle.run import Machine, Run
from gpuwatch.spec import RunSpec

log = structlog.get_logger()

PATIENCE = 120.0
"""Seconds for which a machine may still be listed as running after its stop was accepted, before it is sent again."""
NEVER = frozenset({"loses-disk", "cannot-stop", "not-supported"})
"""Refusals after which asking again is of no use: stopping would lose the disk, or there is no such thing."""


async def stop(ctx: Context, run: Run, spec: RunSpec, link: Link, live: Live) -> None:
    """Permit, intent, stop, and a listing that shows it stopped. Returns without an act when it is not wanted any more."""
    backoff, loop, sent_at = Backoff(1, 60), asyncio.get_running_loop(), None
    while True:
        run = ctx.ledger.runs[run.id]
        if not isinstance(decide(run, spec), Stop):
            return
        machine = _machine(run)
        fleet = ctx.fleets[machine.provider]
        if run.stop_under_way:
            listing = await fleet.next_listing()
            seen = None if listing is None else listing.by_id(machine.instance_id or "")
            if seen is not None and seen.power is Power.STOPPED:
                await _paused(ctx, run, link, live, seen)
                return
            late = sent_at is None or loop.time() - sent_at > PATIENCE
            if seen is None or seen.power is not Power.RUNNING or not late:
                live.say("the machine is being stopped")
                await backoff.wait()
                continue
        if not can_stop(ctx, run):
            never = "it cannot be stopped and keep its disk; it runs on"
            await ctx.ledger.append(run.id, e.StopFailed(reason=never, never=True))
            return
        holds = (*placed(run), *passing(run, sessions=live.logins, transferring=live.bringing.locked()))
        why = foreign(ctx, machine, machine.instance_id or "")
        if holds or why is not None:
            live.say("not stopped: " + ("; ".join(map(str, holds)) or str(why)))
            await backoff.wait()
            continue
        permit = grant_stop(run, keeps_disk=True)
        await ctx.ledger.append(run.id, e.StopSent(permit=permit.ground, instance_id=permit.instance_id))
        sent_at = loop.time()
        try:
            await fleet.provider.stop(permit)
        except (ProviderError, PermissionError) as error:
            live.say(f"the stop was not accepted: {error}")
            never_ = isinstance(error, Refused) and error.code in NEVER
            refused = isinstance(error, Refused | PermissionError)
            failed = e.StopFailed(reason=str(error), refused=refused, never=never_)
            await ctx.ledger.append(run.id, failed)
            if never_:
                return
            await backoff.wait()


async def _paused(ctx: Context, run: Run, link: Link, live: Live, seen: Instance) -> None:
    await link.note(seen)
    await ctx.ledger.append(
        run.id, e.Paused(evidence=f"a complete listing shows it as {seen.status or 'stopped'}")
    )
    log.info("machine stopped", run=run.id, instance=seen.instance_id)
    await link.close()
    live.forget_box()
    live.say(None)


async def keep_paused(ctx: Context, run: Run, spec: RunSpec, live: Live) -> None:
    """Until its time is up (a wish to end it), somebody starts it, or the provider takes it away."""
    machine = _machine(run)
    fleet = ctx.fleets[machine.provider]
    while True:
        run = ctx.ledger.runs[run.id]
        since = run.paused_since
        if since is None:
            return
        if await _away(ctx, run, live):
            return
        seen = fleet.instance(machine.instance_id or "")
        if (
            fleet.problem is None
            and seen is not None
            and seen.power is Power.RUNNING
            and seen.wanted is not Power.STOPPED
        ):
            await ctx.ledger.append(run.id, e.Woken(evidence="it is listed as running; somebody started it"))
            return
        stopped = max(0.0, ctx.now() - max(since, run.kept_since or 0.0))
        live.idle = due(
            spec.idle, None, stopped_for=stopped, held=bool(run.pins), proved=run.receipt is not None
        )
        if live.idle.act is Act.END and run.end_requested_by is None:
            await ctx.ledger.append(run.id, e.EndRequested(by="idle", reason=live.idle.text))
            return
        live.bump()
        await asyncio.sleep(ctx.config.account_interval)


async def wake(ctx: Context, run: Run, spec: RunSpec, live: Live) -> None:
    """Ask the provider to start it until a listing shows it running. A refusal is told, and asked again; the disk stays."""
    backoff = Backoff(5, 300)
    while True:
        run = ctx.ledger.runs[run.id]
        if not isinstance(decide(run, spec), Wake) or await _away(ctx, run, live):
            return
        machine = _machine(run)
        fleet = ctx.fleets[machine.provider]
        listing = await fleet.next_listing()
        seen = None if listing is None else listing.by_id(machine.instance_id or "")
        if seen is not None and seen.power is Power.RUNNING:
            await ctx.ledger.append(run.id, e.Woken(evidence="it is listed as running"))
            live.idle = None
            live.say(None)
            return
        if seen is not None and seen.power is Power.STOPPED and seen.wanted is not Power.RUNNING:
            live.say("starting the machine" if run.end_requested_by is None else _TO_END)
            try:
                await fleet.provider.start(seen.instance_id)
            except ProviderError as error:
                live.say(
                    f"the machine does not start: {error}; its disk is kept and billed, and it is tried again; "
                    f"`gputui destroy {run.id} --waive-all` gives the disk up"
                )
        await backoff.wait()


_TO_END = "starting the machine, to look at its files once more before it is ended"


async def _away(ctx: Context, run: Run, live: Live) -> bool:
    """Whether the provider has taken the stopped machine, which is written down."""
    machine = _machine(run)
    fleet = ctx.fleets[machine.provider]
    if fleet.listing is None or fleet.instance(machine.instance_id or "") is not None:
        return False
    evidence = await fleet.await_absence(machine.instance_id or "", OUT_OF_THE_BLUE)
    if evidence is None:
        return False
    home = "" if run.receipt is None else "; everything it promised was home before it was stopped"
    await ctx.ledger.append(
        run.id, e.Lost(evidence=f"the provider took the stopped machine: {evidence}{home}")
    )
    live.forget_box()
    return True


def _machine(run: Run) -> Machine:
    if run.machine is None or run.machine.instance_id is None:
        raise RuntimeError(f"run {run.id} has no machine that could be stopped")
    return run.machine
