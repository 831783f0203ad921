"""Steps from a wish to a machine: choose an offer, send the create once, find it by its label."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

import structlog

from gpuproviders import worth
from gpuproviders.errors import (
    Ambiguous,
    OfferGone,
    ProviderError,
    Refused,
    Throttled,
    Unauthorized,
    Unavailable,
)
from gpuproviders.model import Offer, OfferQuery, Order
from gpuproviders.money import MicroUsd, accrue, format_usd
from gpuwatch.clean import clean
from gpuwatch.daemon.accounting import day_ceiling_reached
from gpuwatch.daemon.context import Context
from gpuwatch.daemon.fleet import Fleet
from gpuwatch.daemon.live import Live
from gpuwatch.experience.book import Experience
from gpuwatch.experience.judge import Standing, expected
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.reconcile import LABEL_PREFIX, cap_reason, caps, same_account
from gpuwatch.lifecycle.recover import ceiling
from gpuwatch.lifecycle.run import Machine, Run
from gpuwatch.spec import RunSpec
from gpuwatch.spec.units import format_duration, parse_duration

log = structlog.get_logger()

FRESH = 60.0
"""Seconds for which a complete listing lets machines be ordered."""


def query_of(spec: RunSpec) -> OfferQuery:
    """What the spec asks of the market."""
    return OfferQuery(
        gpu_names=spec.gpu.names,
        gpu_count=spec.gpu.count,
        max_price=None if spec.gpu.max_price is None else MicroUsd(spec.gpu.max_price),
        spot=spec.gpu.spot,
        min_reliability=spec.gpu.min_reliability,
        disk=spec.disk,
        verified_only=spec.gpu.verified_only,
    )


def choose(run: Run, offers: list[Offer], rank: Rank | None = None) -> Offer | None:
    """The best offer that has not disappointed this run; the pinned one when a person picked it. Pure."""
    usable = [
        o
        for o in offers
        if f"{o.provider}:offer:{o.offer_id}" not in run.avoid
        and f"{o.provider}:machine:{o.machine_id}" not in run.avoid
    ]
    if run.pinned_offer is not None and run.attempt == 0:
        for offer in usable:
            if (offer.provider, offer.offer_id) == (run.pinned_provider, run.pinned_offer):
                return offer
        return None
    order = rank or ranking(None, worth.TRANSFER)
    ranked = [(order(offer), offer) for offer in usable]
    return min(
        ((place, offer) for place, offer in ranked if place is not None),
        key=lambda pair: pair[0],
        default=(None, None),
    )[1]


SHOWN = 3
Place = tuple[bool, float, float, int, str]
Rank = Callable[[Offer], Place | None]
"""Where an offer stands among others, the lowest first; None for one that a person excluded."""


def ranking(experience: Experience | None, transfer: int) -> Rank:
    """Cheapest all-in first, with the failures that its machine's past lets expect; then the most reliable, then what
    there is most of. A machine that experience avoids comes after all others, one that a person avoids not at all.
    """

    def rank(offer: Offer) -> Place | None:
        price = worth.compared(offer, transfer)
        machine, stands = (None, Standing()) if experience is None else experience.of(offer)
        if stands.excluded:
            return None
        stock = offer.stock.value if offer.stock else 0
        return (
            stands.until is not None,
            expected(price, machine, stands.forgiven),
            -(offer.reliability or 0),
            -stock,
            offer.offer_id,
        )

    return rank


async def _experienced(ctx: Context, spec: RunSpec) -> Rank:
    """The order of this spec's offers, by all that is known now."""
    if ctx.experience is not None:
        await ctx.experience.catch_up(ctx.ledger)
    return ranking(ctx.experience, spec.gpu.transfer)


async def candidates(ctx: Context, spec: RunSpec) -> tuple[list[Offer], list[str]]:
    """The offers that fit now as a launch would try them, and what it would do in words; nothing is rented."""
    offers: list[Offer] = []
    rank = await _experienced(ctx, spec)
    lines: list[str] = []
    for name in spec.providers:
        if name not in ctx.fleets:
            lines.append(f"  {name}: no account is configured")
            continue
        try:
            offers += await ctx.fleets[name].provider.offers(query_of(spec))
        except ProviderError as error:
            lines.append(f"  {name}: {clean(str(error), 200)}")
    placed = sorted(
        ((place, offer) for offer in offers if (place := rank(offer)) is not None), key=lambda pair: pair[0]
    )
    ranked = [offer for _, offer in placed]
    if len(ranked) < len(offers):
        lines.append(
            f"  {len(offers) - len(ranked)} offers are left out: you avoid their machines (gputui machines)"
        )
    if not ranked:
        return [], [*lines, "  no offer fits now"]
    for number, offer in enumerate(ranked[:SHOWN]):
        when = "now" if number == 0 else "else"
        while_stopped = (
            f", {format_usd(offer.disk_price)}/h of it also while stopped" if offer.disk_price else ""
        )
        where = f" in {clean(offer.region, 40)}" if offer.region else ""
        whole = worth.all_in(offer, spec.gpu.transfer)
        moving = " and what the vendor takes for transfer" if whole is None else ""
        lines.append(
            f"  {when}: {offer.gpu_count} × {offer.gpu_name} at {format_usd(whole or offer.price)}/h all-in{moving}"
            f"{while_stopped}{where} ({offer.provider}:{clean(offer.offer_id, 80)}){_past(ctx, offer)}"
        )
    if len(ranked) > SHOWN:
        lines.append(f"  and {len(ranked) - SHOWN} more offers fit")
    if spec.budget.max_time is not None:
        most = accrue(ranked[0].price, spec.budget.max_time)
        lines.append(
            f"  at most {format_usd(most)} for the {format_duration(spec.budget.max_time)} of its budget"
        )
    return ranked, lines


def _past(ctx: Context, offer: Offer) -> str:
    """What we know of its machine, for people."""
    machine, stands = (None, Standing()) if ctx.experience is None else ctx.experience.of(offer)
    if machine is None or not machine.tries:
        return ""
    last = (
        f", avoided if there is another: {clean(stands.reason or '', 80)}" if stands.until is not None else ""
    )
    return f"; it failed {len(machine.duds)} of {machine.tries} times here{last}"


async def find_offer(ctx: Context, run: Run, spec: RunSpec, live: Live) -> None:
    """Ask every provider of the spec; write the label of the best offer, or that there is none."""
    if run.attempt >= spec.recover.attempts:
        await ctx.ledger.append(
            run.id,
            e.NoOffer(reason=f"{run.attempt} machines tried, {spec.recover.attempts} allowed: {run.trouble}"),
        )
        return
    reached = ceiling(run, spec, ctx.now()) or (
        day_ceiling_reached(ctx, ctx.now()) if run.lost_at is not None else None
    )
    if reached is not None:
        await ctx.ledger.append(run.id, e.GaveUp(reason=f"{reached}: nothing more is rented for it"))
        return
    offers: list[Offer] = []
    problems: list[ProviderError] = []
    for name in spec.providers:
        if name not in ctx.fleets:
            continue  # `provider = ["vast", "runpod"]` is a wish; the accounts that are there serve it
        try:
            await may_rent(ctx, name)
            offers += await ctx.fleets[name].provider.offers(query_of(spec))
        except ProviderError as error:
            problems.append(error)
    rank = await _experienced(ctx, spec)
    offer = choose(run, offers, rank)
    if offer is None:
        if problems and not all(isinstance(p, Unauthorized | Refused) for p in problems):
            raise problems[0]  # unknown, not "none": asked again
        excluded = sum(rank(offer) is None for offer in offers)
        reason = str(problems[0]) if problems else no_offer_reason(run, spec, len(offers), excluded)
        if run.lost_at is not None and ctx.now() - run.lost_at < spec.recover.wait:
            # at night a market empties and fills: the wait costs nothing, no machine is rented
            left = format_duration(spec.recover.wait - (ctx.now() - run.lost_at))
            raise Unavailable(f"{reason}; looking for {left} more (recover.wait)", provider=spec.providers[0])
        await ctx.ledger.append(run.id, e.NoOffer(reason=reason))
        return
    live.say(None)
    label = f"{LABEL_PREFIX}{run.id}-{run.attempt + 1}-{secrets.token_hex(4)}"
    await ctx.ledger.append(
        run.id,
        e.OfferChosen(
            label=label, provider=offer.provider, offer_id=offer.offer_id, machine_id=offer.machine_id,
            gpu=offer.gpu_name, gpu_count=offer.gpu_count, gpu_memory=offer.gpu_memory, price=offer.price,
            disk_price=offer.disk_price, region=offer.region, transfer_price=offer.transfer_price,
        ),
    )  # fmt: skip


async def may_rent(ctx: Context, provider: str) -> None:
    """Return when this account may be rented on. Raises Unavailable, which says why not and what to do.

    It must list its machines now and be the account that ours are of; and no machine may be
    missing that it said it made: whoever cannot see what was rented must not rent more.
    """
    fleet = ctx.fleets[provider]
    fresh = fleet.problem is None and fleet.age is not None and fleet.age < FRESH
    if not fresh and await fleet.next_listing() is None:
        raise fleet.failure or Unavailable("the account cannot be listed", provider=provider)
    await introduce(ctx, fleet)
    missing = caps(ctx.ledger.register.values(), provider)
    if missing:
        raise Unavailable(cap_reason(missing[0]), provider=provider, code="capped")


async def introduce(ctx: Context, fleet: Fleet) -> None:
    """Write down who we are to this vendor, durably, before any machine is ordered there."""
    account = fleet.account
    if account is None:
        return
    known = ctx.ledger.accounts.get(account.provider)
    same = known is not None and same_account(known, account)
    # what this answer does not say stays known, as long as it is surely the same account
    user = account.user_id or (known.user if known is not None and same else None)
    key_id = account.key_id or (known.key_id if known is not None and same else None)
    seen = e.AccountSeen(provider=account.provider, user=user, key_id=key_id)
    if seen != known:
        await ctx.ledger.know_account(seen)


def no_offer_reason(run: Run, spec: RunSpec, found: int, excluded: int = 0) -> str:
    """Why nothing can be rented, and what to change."""
    if run.pinned_offer is not None and run.attempt == 0:
        return f"offer {run.pinned_provider}:{run.pinned_offer} is not there any more; choose another or launch without one"
    wish = f"{spec.gpu.count} × {' or '.join(spec.gpu.names) or 'any GPU'}"
    if spec.gpu.max_price is not None:
        wish += f" up to {format_usd(spec.gpu.max_price)}/h"
    if excluded:
        return (
            f"{found} offers of {wish}, {excluded} of them on machines that you avoid and the rest failed this run "
            "already; `gputui machines` lists them, `gputui forgive MACHINE` takes one back"
        )
    if found:
        return f"all {found} offers of {wish} have failed this run already; try again later"
    return f"no offer of {wish} now; raise gpu.max_price, allow more names, or try again later"


async def create_machine(ctx: Context, run: Run, spec: RunSpec) -> None:
    """Send the create, once: CreateSent is durable before it goes out (I2, I4)."""
    machine = _machine(run)
    order = Order(
        label=machine.label,
        offer=_offer(machine, spec),
        image=spec.image,
        disk=spec.disk,
        ssh_public_key=ctx.public_key,
    )
    fleet = ctx.fleets[machine.provider]
    await may_rent(ctx, machine.provider)
    await ctx.ledger.append(run.id, e.CreateSent(label=machine.label))
    try:
        created = await fleet.provider.create(order)
    except OfferGone as error:
        await ctx.ledger.append(
            run.id, e.CreateRefused(label=machine.label, reason=str(error), offer_gone=True)
        )
    except (Refused, Unauthorized, Throttled) as error:
        await ctx.ledger.append(run.id, e.CreateRefused(label=machine.label, reason=str(error)))
    except Ambiguous as error:
        if error.instance_id is not None:
            # the answer names a machine: it exists, whatever else the answer says
            await _adopt(ctx, run, machine, error.instance_id, adopted=True)
        else:
            await ctx.ledger.append(run.id, e.CreateUnknown(label=machine.label, reason=str(error)))
    except ProviderError as error:
        # whatever is no plain refusal may have made a machine: unknown is not "no" (I3)
        await ctx.ledger.append(run.id, e.CreateUnknown(label=machine.label, reason=str(error)))
    else:
        await _adopt(ctx, run, machine, created.instance_id, adopted=False)


async def _adopt(ctx: Context, run: Run, machine: Machine, instance_id: str, *, adopted: bool) -> None:
    """Take the machine that the answer names for ours; unless it cannot be, then the label decides."""
    why = foreign(ctx, machine, instance_id)
    if why is None:
        rented = e.Rented(label=machine.label, instance_id=instance_id, adopted=adopted)
        await ctx.ledger.append(run.id, rented)
    else:
        reason = f"the answer names instance {instance_id}, which {why}"
        log.error("not ours", run=run.id, problem=reason)
        await ctx.ledger.append(run.id, e.CreateUnknown(label=machine.label, reason=reason))


def foreign(ctx: Context, machine: Machine, instance_id: str) -> str | None:
    """Why an instance cannot be the one that was made under this machine's label, None when it can."""
    listed = ctx.fleets[machine.provider].instance(instance_id)
    if listed is not None and listed.label != machine.label:
        return f"is listed under the label {clean(str(listed.label), 80)}, not {machine.label}"
    for run in ctx.ledger.runs.values():
        for other in (*run.past, *([run.machine] if run.machine is not None else [])):
            if (other.provider, other.instance_id) == (machine.provider, instance_id) and (
                other.label != machine.label
            ):
                return f"is the machine of run {run.id}"
    for entry in ctx.ledger.register.values():
        if (entry.provider, entry.instance_id) == (machine.provider, instance_id) and (
            entry.label != machine.label
        ):
            return f"is the machine of run {entry.run}"
    return None


async def find_by_label(ctx: Context, run: Run, live: Live) -> None:
    """A create may have worked: adopt the machine with our label, or conclude after a long absence."""
    machine = _machine(run)
    fleet = ctx.fleets[machine.provider]
    loop = asyncio.get_running_loop()
    patience = parse_duration(ctx.config.watch.lost_create)
    started, looks = loop.time(), 0
    live.say("the answer to the create was lost; looking for the machine by its label")
    while True:
        listing = await fleet.next_listing()
        if listing is not None:
            looks += 1
            found = sorted(listing.by_label(machine.label), key=lambda i: (len(i.instance_id), i.instance_id))
            if found:
                # one create, one label: a second one would be the vendor's doing, and stays listed as an orphan
                live.say(None)
                rented = e.Rented(label=machine.label, instance_id=found[0].instance_id, adopted=True)
                await ctx.ledger.append(run.id, rented)
                return
            if loop.time() - started >= patience and looks >= 3:
                live.say(None)
                reason = f"the create never showed up: {looks} complete listings over {patience:.0f} s have no such label"
                absent = e.CreateRefused(label=machine.label, reason=reason, absent=True)
                await ctx.ledger.append(run.id, absent)
                return
        await asyncio.sleep(min(5.0, patience / 4))


def _machine(run: Run) -> Machine:
    if run.machine is None:
        raise RuntimeError(f"run {run.id} has no machine in state {run.state.value}")
    return run.machine


def _offer(machine: Machine, spec: RunSpec) -> Offer:
    return Offer(
        provider=machine.provider, offer_id=machine.offer_id, machine_id=machine.machine_id, gpu_name=machine.gpu,
        gpu_count=machine.gpu_count, gpu_memory=machine.gpu_memory, price=MicroUsd(machine.price),
        disk_price=MicroUsd(machine.disk_price), spot=spec.gpu.spot,
    )  # fmt: skip
