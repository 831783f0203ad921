"""The end of a machine: the one place that calls `Provider.destroy`, with a permit from custody (I1)."""

from __future__ import annotations

import asyncio

import structlog

from gpuproviders.errors import ProviderError
from gpuwatch.box.errors import BoxError
from gpuwatch.custody.holds import WAIT
from gpuwatch.custody.permit import (
    DestroyPermit,
    Refusal,
    grant,
    grant_empty,
    grant_given_up,
    grant_stray,
)
from gpuwatch.custody.rules import promised_globs
from gpuwatch.daemon.collecting import judge
from gpuwatch.daemon.context import Context
from gpuwatch.daemon.fleet import Fleet
from gpuwatch.daemon.link import Backoff, Link, alias
from gpuwatch.daemon.live import Live
from gpuwatch.daemon.renting import foreign
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.absence import AFTER_DESTROY, OUT_OF_THE_BLUE, Policy
from gpuwatch.lifecycle.decide import Destroy, decide
from gpuwatch.lifecycle.run import Machine, Phase, Run, State
from gpuwatch.spec import RunSpec
from gpuwatch.vault import receipt

log = structlog.get_logger()


async def destroy(ctx: Context, run: Run, spec: RunSpec, link: Link, live: Live) -> None:
    """Ask custody, write the intent, send the destroy. A refusal leads back to collecting.

    Returns without an act when the run is not to be destroyed any more.
    """
    machine = run.machine
    if machine is None or machine.instance_id is None:
        raise RuntimeError(f"run {run.id} destroys without a machine")
    fleet = ctx.fleets[machine.provider]
    backoff = Backoff(1, 60)
    while True:
        run = ctx.ledger.runs[run.id]
        if not isinstance(decide(run, spec), Destroy):
            return
        if machine.destroy is not Phase.NONE and await fleet.await_absence(
            machine.instance_id, _patience(ctx, machine)
        ):
            # the destroy whose answer was lost has worked
            await ctx.ledger.append(run.id, e.DestroyAccepted())
            return
        try:
            permit = await _permit(ctx, run, spec, link, live)
        except Refusal as refusal:
            live.say(f"custody refuses: {refusal}")
            if all(hold.name in WAIT for hold in refusal.holds):
                await backoff.wait()
                continue
            if run.data_at_risk and run.state in (State.VERIFIED, State.FAILED, State.DESTROYING):
                await ctx.ledger.append(run.id, e.CollectStarted())
                return
            await backoff.wait()
            continue
        except (BoxError, OSError) as error:
            live.say(f"the last look before destroying failed: {error}")
            await backoff.wait()
            continue
        # while we looked, the wish may have been taken back; from here to the event the loop does not turn
        if not isinstance(decide(ctx.ledger.runs[run.id], spec), Destroy):
            return
        why = foreign(ctx, machine, permit.instance_id)
        if why is not None:
            live.say(
                f"instance {permit.instance_id} {why}: it is not touched; if it is ours, give it that label back"
            )
            await backoff.wait()
            continue
        await ctx.ledger.append(run.id, e.DestroySent(permit=permit.ground, instance_id=permit.instance_id))
        try:
            await fleet.provider.destroy(permit)
        except (ProviderError, PermissionError) as error:
            # a permit that waited too long (a disk that hung over the record of it) was not spent: ask again
            live.say(str(error))
            await ctx.ledger.append(run.id, e.DestroyFailed(reason=str(error)))
            machine = ctx.ledger.runs[run.id].machine or machine
            await backoff.wait()
        else:
            live.say(None)
            await ctx.ledger.append(run.id, e.DestroyAccepted())
            return


async def _permit(ctx: Context, run: Run, spec: RunSpec, link: Link, live: Live) -> DestroyPermit:
    """A permit, on the ground that fits the run. Raises Refusal, BoxError, VaultUnusable."""
    if not run.data_at_risk:
        return grant_empty(run, sessions=live.logins)
    if run.given_up:
        return grant_given_up(run, sessions=live.logins, transferring=live.bringing.locked())
    sentinel = await link.sentinel()
    instance_id = run.machine.instance_id if run.machine is not None else None
    inventory = await sentinel.inventory(promised_globs(spec), instance_id or "")
    verdict = await judge(ctx, run, spec, inventory)
    # what happened while the box answered counts: a pin that came meanwhile, for one
    run = ctx.ledger.runs[run.id]
    proof = run.receipt
    if proof is not None and not await asyncio.to_thread(receipt.stands, ctx.vault, run.id, proof.digest):
        proof = None  # written, and not there any more: it is collected again
    run = ctx.ledger.runs[run.id]
    return grant(run, proof, verdict, inventory, now=ctx.now(), transferring=live.bringing.locked())


def _patience(ctx: Context, machine: Machine) -> Policy:
    """What convinces us that it is gone: of a machine that no listing ever had, two without it say little.

    A vendor may show a new machine a minute late, and until then a destroy may be answered with 404.
    """
    entry = ctx.ledger.register.get(machine.label)
    return OUT_OF_THE_BLUE if entry is not None and entry.listed_at is None else AFTER_DESTROY


async def confirm_gone(ctx: Context, run: Run, link: Link, live: Live) -> None:
    """Watch until complete listings and a look-up agree; a machine that stays is destroyed again."""
    machine = run.machine
    if machine is None or machine.instance_id is None:
        raise RuntimeError(f"run {run.id} confirms without a machine")
    await link.close()
    fleet = ctx.fleets[machine.provider]
    patience = 24
    for _ in range(patience):
        evidence = await fleet.await_absence(machine.instance_id, _patience(ctx, machine))
        if evidence is not None:
            live.say(None)
            run = ctx.ledger.runs[run.id]
            again = machine.dud is not None and run.end_requested_by is None
            await ctx.ledger.append(
                run.id, e.DudGone(evidence=evidence) if again else e.Gone(evidence=evidence)
            )
            try:
                await asyncio.to_thread(ctx.hostkeys.forget, alias(machine))
            except OSError as error:  # a pin too many does no harm: instance ids are not used again
                log.warning("host key not forgotten", run=run.id, problem=str(error))
            return
        live.say("the provider accepted the destroy and still lists the machine")
        await asyncio.sleep(5)
    await ctx.ledger.append(
        run.id, e.DestroyFailed(reason="the machine is still listed after the destroy was accepted")
    )


async def end_without_machine(ctx: Context, run: Run) -> None:
    """There is nothing to destroy."""
    await ctx.ledger.append(run.id, e.Gone(evidence="no machine exists"))


async def end_stray(ctx: Context, fleet: Fleet, label: str) -> None:
    """End a machine that came back and on which nothing ever ran: permit, destroy, confirmed gone."""
    backoff = Backoff(1, 60)
    while True:
        entry = ctx.ledger.register.get(label)
        if entry is None or entry.gone_at is not None or entry.instance_id is None:
            return
        if entry.destroying:
            evidence = await fleet.await_absence(entry.instance_id, AFTER_DESTROY)
            if evidence is not None:
                await ctx.ledger.note(e.StrayGone(label=label, evidence=evidence))
                return
        try:
            run = (await ctx.ledger.record(entry.run)).run
            permit = grant_stray(entry, run, entry.instance_id)
        except Refusal as refusal:
            log.warning("a stray is held", label=label, holds=str(refusal))
            await backoff.wait()
            continue
        listed = fleet.instance(entry.instance_id)
        if listed is not None and listed.label not in (label, None):
            await backoff.wait()  # somebody else's by its label: the alarm stands, nothing is done
            continue
        await ctx.ledger.note(
            e.StrayDestroySent(label=label, instance_id=permit.instance_id, permit=permit.ground)
        )
        try:
            await fleet.provider.destroy(permit)
        except ProviderError as error:
            await ctx.ledger.note(e.StrayDestroyFailed(label=label, reason=str(error)))
        else:
            await ctx.ledger.note(e.StrayDestroyAccepted(label=label))
        await backoff.wait()
