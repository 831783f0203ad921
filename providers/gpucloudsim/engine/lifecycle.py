"""How instances change: commands of the customer, acts of the host, and the passing of time.

Every function takes the world and a time and changes the world in memory; nothing here reads a
clock or touches a disk. `advance` processes events in their order, so a long pause (the simulator
was down) bills and changes exactly as many short ones would.
"""

from __future__ import annotations

import enum
import hashlib

from gpucloudsim.engine.market import HOUR, SECOND, Market, Offer, market
from gpucloudsim.engine.model import BootPlan, Instance, Phase, Quirks, RentRequest, SshKey, Want, World

BID_GRID = 5 * SECOND
"""Bids are compared with the market at multiples of this time."""


class RefusalReason(enum.Enum):
    """Why the cloud will not do what was asked."""

    NO_SUCH_OFFER = "no_such_offer"
    OFFER_GONE = "offer_gone"
    NO_CREDIT = "no_credit"
    NO_SUCH_INSTANCE = "no_such_instance"
    BID_TOO_LOW = "bid_too_low"
    INVALID = "invalid"
    EXPIRED = "expired"


class Refused(Exception):
    """The cloud understood and said no."""

    def __init__(self, reason: RefusalReason, text: str = "") -> None:
        super().__init__(text or reason.value)
        self.reason = reason


def the_market(world: World) -> Market:
    """The market in which this world lives."""
    return market(world.seed, world.market_us, world.price_factor)


def held(world: World) -> dict[int, int]:
    """GPUs under contract per machine index; stopped instances keep theirs."""
    taken: dict[int, int] = {}
    for instance in world.instances.values():
        if instance.exists:
            taken[instance.machine_index] = taken.get(instance.machine_index, 0) + instance.num_gpus
    return taken


def offers(world: World, now: int) -> list[Offer]:
    """Everything that can be rented at this time."""
    return the_market(world).listed(now, held(world), world.bumps)


def spent(world: World) -> int:
    """Micro-dollars spent so far by all instances, those destroyed included."""
    return sum(instance.cost for instance in world.instances.values())


def spent_since(world: World, since: int) -> int:
    """About what was spent after `since`, at the rates that hold now; bytes that moved are left out."""
    span = max(0, world.clock_us - since)
    units = 0
    for i in world.instances.values():
        lived = min(span, max(0, (i.destroyed_us or world.clock_us) - max(i.created_us, since)))
        units += min(i.disk_units, i.disk_rate * lived)
        if i.gpu_units:
            ran = min(lived, i.gpu_us)
            units += min(i.gpu_units, i.gpu_rate * ran)
    return units // HOUR


def credit(world: World) -> int:
    """Micro-dollars left (negative when an instance ran beyond the end)."""
    return world.deposited_micro - spent(world)


def _units_left(world: World) -> int:
    """Credit in micro-dollars per hour x microseconds: exact, so that running out is exact too."""
    used = sum(i.gpu_units + i.disk_units + i.transfer_cost * HOUR for i in world.instances.values())
    return world.deposited_micro * HOUR - used


def burn(world: World) -> int:
    """Micro-dollars per hour that are being spent now, bandwidth aside."""
    return sum(
        i.disk_rate + (i.gpu_rate if i.gpu_billed else 0) for i in world.instances.values() if i.exists
    )


def _note(instance: Instance, now: int, text: str) -> None:
    instance.history = [*instance.history, (now, text)]


def _enter(instance: Instance, phase: Phase, now: int, next_us: int | None = None) -> None:
    instance.phase = phase
    instance.next_us = next_us
    _note(instance, now, phase.value)
    if phase is Phase.RUNNING:
        instance.boots += 1
        instance.running_since_us = now
        instance.failure = None
    else:
        instance.running_since_us = None
    if phase in (Phase.STOPPED, Phase.OUTBID, Phase.FAILED):
        instance.stopped_us = now


def boot_time(world: World, instance: Instance) -> int:
    """Microseconds from creation to running."""
    return round(world.boot_us * instance.quirks.boot_factor)


def get(world: World, instance_id: int) -> Instance:
    """The standing contract with this id. Raises Refused(NO_SUCH_INSTANCE)."""
    instance = world.instances.get(instance_id)
    if instance is None or not instance.exists:
        raise Refused(RefusalReason.NO_SUCH_INSTANCE)
    return instance


def rent(world: World, offer_id: int, request: RentRequest, quirks: Quirks, now: int) -> Instance:
    """Take an offer. The listing is consumed; the same machine may come back under another id.

    Raises Refused: NO_SUCH_OFFER (never existed), OFFER_GONE (stale or taken), NO_CREDIT.
    A bid below the market still makes a contract: it stands in OUTBID and bills its disk.
    """
    advance(world, now)
    the = the_market(world)
    if the.slot_of(offer_id) is None:
        raise Refused(RefusalReason.NO_SUCH_OFFER)
    slot = None if offer_id in world.consumed else the.resolve(offer_id, now, held(world), world.bumps)
    if slot is None:
        raise Refused(RefusalReason.OFFER_GONE)
    if credit(world) <= 0:
        raise Refused(RefusalReason.NO_CREDIT)
    machine = slot.machine
    offer = the.offer(slot, now, 0)
    if request.disk_gb > machine.disk_gb:
        raise Refused(
            RefusalReason.INVALID,
            f"disk {request.disk_gb:g} GB exceeds the {machine.disk_gb} GB of the machine",
        )
    instance_id = world.next_id
    world.next_id += 1 + offer_id % 7
    world.bumps[slot.index] = world.bumps.get(slot.index, 0) + 1
    world.consumed.add(offer_id)
    secret = hashlib.sha256(f"{world.seed}/{instance_id}/{now}".encode()).hexdigest()
    instance = Instance(
        id=instance_id,
        machine_index=machine.index,
        slot_index=slot.index,
        offer_id=offer_id,
        num_gpus=slot.num_gpus,
        created_us=now,
        request=request,
        api_key=secret,
        price_micro=offer.price_micro if request.price_micro is None else request.price_micro,
        storage_micro_per_gb_month=machine.storage_micro_per_gb_month,
        up_micro_per_gb=machine.up_micro_per_gb,
        down_micro_per_gb=machine.down_micro_per_gb,
        end_us=offer.end_us,
        quirks=quirks,
        label=request.label,
        bid_micro=request.bid_micro,
        keys={key.id: key.text for key in world.keys.values()},
        booting_since_us=now,
    )
    world.instances[instance_id] = instance
    if not request.start:
        instance.want = Want.STOPPED
        _enter(instance, Phase.STOPPED, now)
    elif _outbid(world, instance, now):
        _enter(instance, Phase.OUTBID, now)
    else:
        _enter(instance, Phase.CREATED, now, now + boot_time(world, instance) // 6)
    return instance


def _outbid(world: World, instance: Instance, now: int) -> bool:
    if instance.bid_micro is None:
        return False
    if instance.floor_micro is not None:
        return instance.bid_micro <= instance.floor_micro
    slot = the_market(world).slots[instance.slot_index]
    return instance.bid_micro < the_market(world).min_bid(slot, now)


def stop(world: World, instance_id: int, now: int) -> None:
    """Ask the host to stop the container; the disk stays and bills."""
    advance(world, now)
    instance = get(world, instance_id)
    instance.want = Want.STOPPED
    if instance.phase in (Phase.CREATED, Phase.LOADING, Phase.RUNNING, Phase.RESUMING):
        _enter(instance, Phase.STOPPING, now, now + min(SECOND, world.boot_us // 4))
    elif instance.phase is Phase.STOPPED:
        instance.next_us = None
    elif instance.phase is Phase.OUTBID:
        _enter(instance, Phase.STOPPED, now)


def start(world: World, instance_id: int, now: int) -> None:
    """Ask the host to run the container again. Raises Refused(NO_CREDIT, EXPIRED)."""
    advance(world, now)
    instance = get(world, instance_id)
    if credit(world) <= 0:
        raise Refused(RefusalReason.NO_CREDIT)
    if now >= instance.end_us:
        raise Refused(RefusalReason.EXPIRED)
    instance.want = Want.RUNNING
    if instance.phase in (Phase.STOPPED, Phase.STOPPING, Phase.FAILED, Phase.OUTBID):
        if _outbid(world, instance, now):
            if instance.phase is not Phase.OUTBID:
                _enter(instance, Phase.OUTBID, now)
            return
        instance.booting_since_us = now
        _enter(instance, Phase.RESUMING, now, now + world.boot_us // 5)


def queue_start(world: World, instance_id: int, now: int, delay: int) -> None:
    """The GPUs are taken; the start is queued and comes up later by itself, unless stopped before."""
    advance(world, now)
    instance = get(world, instance_id)
    instance.want = Want.RUNNING
    instance.next_us = now + delay
    _note(instance, now, "start queued")


def unschedule(world: World, instance_id: int, now: int) -> None:
    """A fresh contract that no host takes: it stands stopped and bills its disk."""
    instance = get(world, instance_id)
    instance.want = Want.STOPPED
    _enter(instance, Phase.STOPPED, now)


def reboot(world: World, instance_id: int, now: int) -> None:
    """Stop and start the container on the same GPUs; the disk stays."""
    advance(world, now)
    instance = get(world, instance_id)
    instance.want = Want.RUNNING
    instance.booting_since_us = now
    _enter(instance, Phase.RESUMING, now, now + world.boot_us // 5)


def destroy(world: World, instance_id: int, now: int, by: str = "customer") -> Instance:
    """End the contract. The disk and everything on it are gone."""
    advance(world, now)
    instance = get(world, instance_id)
    _enter(instance, Phase.DESTROYED, now)
    instance.destroyed_us = now
    instance.destroyed_by = by
    return instance


def set_bid(world: World, instance_id: int, bid_micro: int | None, now: int) -> None:
    """Change the bid of an interruptible instance; None bids just enough."""
    advance(world, now)
    instance = get(world, instance_id)
    if instance.bid_micro is None:
        raise Refused(RefusalReason.INVALID, "instance is not interruptible")
    the = the_market(world)
    floor = max(the.min_bid(the.slots[instance.slot_index], now), (instance.floor_micro or 0) + 1000)
    instance.bid_micro = floor if bid_micro is None else bid_micro
    _check_bid(world, instance, now)


def set_label(world: World, instance_id: int, label: str | None, now: int) -> None:
    """Name an instance."""
    advance(world, now)
    get(world, instance_id).label = label


def set_online(world: World, instance_id: int, online: bool, now: int) -> None:
    """The host of an instance disappears from, or comes back to, the network."""
    advance(world, now)
    instance = get(world, instance_id)
    instance.host_online = online
    _note(instance, now, "host online" if online else "host offline")


def force_outbid(world: World, instance_id: int, now: int) -> None:
    """Somebody bids more. An on-demand instance loses its GPU all the same (as after zero credit)."""
    advance(world, now)
    instance = get(world, instance_id)
    if instance.bid_micro is not None:
        instance.floor_micro = instance.bid_micro
    _enter(instance, Phase.OUTBID, now)


def evict(world: World, instance_id: int, now: int) -> None:
    """A spot pod is taken back: it is stopped, its volume stays, and it does not start again by itself."""
    advance(world, now)
    instance = get(world, instance_id)
    instance.want = Want.STOPPED
    _note(instance, now, "evicted")
    _enter(instance, Phase.STOPPED, now)


def release_floor(world: World, instance_id: int, now: int) -> None:
    """The competing bid is withdrawn; an outbid instance resumes by itself."""
    advance(world, now)
    instance = get(world, instance_id)
    instance.floor_micro = None
    if instance.phase is Phase.OUTBID and instance.want is Want.RUNNING:
        instance.booting_since_us = now
        _enter(instance, Phase.RESUMING, now, now + world.boot_us // 5)


def kill_container(world: World, instance_id: int, now: int) -> None:
    """The container dies on its own (out of memory, host accident); the contract still wants it."""
    advance(world, now)
    instance = get(world, instance_id)
    _enter(instance, Phase.STOPPED, now)


def add_key(world: World, text: str, now: int) -> SshKey:
    """Put a public key on the account; it reaches instances created from now on."""
    advance(world, now)
    key = SshKey(world.next_key, text, now)
    world.keys[key.id] = key
    world.next_key += 1
    return key


def attach_key(world: World, instance_id: int, text: str, now: int) -> int:
    """Put a public key on one instance. Returns the key's id."""
    advance(world, now)
    instance = get(world, instance_id)
    key_id = world.next_key
    world.next_key += 1
    instance.keys = {**instance.keys, key_id: text}
    return key_id


def deposit(world: World, amount_micro: int, now: int) -> None:
    """Change the account's credit by this much."""
    advance(world, now)
    world.deposited_micro += amount_micro


def _check_bid(world: World, instance: Instance, now: int) -> None:
    outbid = _outbid(world, instance, now)
    active = instance.phase in (Phase.CREATED, Phase.LOADING, Phase.RUNNING, Phase.RESUMING)
    if outbid and active:
        _enter(instance, Phase.OUTBID, now)
    elif (
        not outbid
        and instance.phase is Phase.OUTBID
        and instance.want is Want.RUNNING
        and instance.floor_micro is None
    ):
        instance.booting_since_us = now
        _enter(instance, Phase.RESUMING, now, now + world.boot_us // 5)


OCI_ERROR = (
    "Error response from daemon: failed to create task for container: failed to create shim task: "
    "OCI runtime create failed: runc create failed: unable to start container process: error during "
    "container init: failed to inject CDI devices: unresolvable CDI devices"
)


def _step(world: World, instance: Instance, now: int) -> None:
    """What happens when the instance's own timer goes off."""
    match instance.phase:
        case Phase.CREATED | Phase.RESUMING:
            whole = boot_time(world, instance) if instance.boots == 0 else world.boot_us // 2
            _enter(instance, Phase.LOADING, now, max(now + 1, instance.booting_since_us + whole))
            if instance.boots == 0 and instance.quirks.boot is BootPlan.STUCK:
                instance.next_us = None
        case Phase.LOADING:
            plan = instance.quirks.boot if instance.boots == 0 else BootPlan.NORMAL
            if plan in (BootPlan.OCI_ERROR, BootPlan.IMAGE_MISSING):
                instance.want = Want.STOPPED
                _enter(instance, Phase.FAILED, now)
                instance.failure = (
                    OCI_ERROR
                    if plan is BootPlan.OCI_ERROR
                    else f"Error response from daemon: manifest for {instance.request.image} not found: manifest unknown"
                )
            else:
                _enter(instance, Phase.RUNNING, now)
        case Phase.STOPPING:
            _enter(instance, Phase.STOPPED, now)
        case Phase.STOPPED if instance.want is Want.RUNNING:
            instance.booting_since_us = now
            _enter(instance, Phase.RESUMING, now, now + world.boot_us // 5)
        case _:
            instance.next_us = None


def _accrue(world: World, until: int) -> None:
    dt = until - world.clock_us
    if dt <= 0:
        return
    for instance in world.instances.values():
        if not instance.exists:
            continue
        instance.disk_units += instance.disk_rate * dt
        instance.disk_us += dt
        if instance.gpu_billed:
            instance.gpu_units += instance.gpu_rate * dt
            instance.gpu_us += dt
    world.clock_us = until


def _next_event(world: World, now: int) -> int | None:
    """Time of the earliest thing that happens by itself after the world's clock and up to now."""
    at: list[int] = []
    bids = False
    for instance in world.instances.values():
        if not instance.exists:
            continue
        if instance.next_us is not None:
            at.append(instance.next_us)
        if instance.phase is not Phase.STOPPED and instance.want is Want.RUNNING:
            at.append(instance.end_us)
            bids = bids or instance.bid_micro is not None
    if bids:
        at.append((world.clock_us // BID_GRID + 1) * BID_GRID)
    rate = burn(world)
    left = _units_left(world)
    if any(i.exists and i.want is Want.RUNNING for i in world.instances.values()):
        if left <= 0:
            at.append(world.clock_us)
        elif rate > 0:
            at.append(world.clock_us - (-left // rate))
    due = [max(moment, world.clock_us) for moment in at if moment <= now]
    return min(due) if due else None


def _expire(instance: Instance, now: int, why: str) -> None:
    instance.want = Want.STOPPED
    _note(instance, now, why)
    if instance.phase not in (Phase.STOPPED, Phase.FAILED):
        _enter(instance, Phase.STOPPED, now)


def _run_out(world: World, instance: Instance, now: int) -> None:
    if world.broke_means_gone:
        instance.want = Want.STOPPED
        _enter(instance, Phase.DESTROYED, now)
        instance.destroyed_us, instance.destroyed_by = now, "credit exhausted"
    else:
        _expire(instance, now, "credit exhausted")


def advance(world: World, now: int) -> None:
    """Let time pass: bill, boot, stop, outbid, expire, run out of credit.

    `advance(a); advance(b)` leaves the same world as `advance(b)` for a <= b; a time in the past
    changes nothing (a clock that steps back stands still for the cloud).
    """
    while (moment := _next_event(world, now)) is not None:
        _accrue(world, moment)
        for instance in world.instances.values():
            if not instance.exists:
                continue
            if instance.next_us is not None and instance.next_us <= moment:
                _step(world, instance, moment)
            if moment >= instance.end_us and instance.want is Want.RUNNING:
                _expire(instance, moment, "rental expired")
            if instance.bid_micro is not None and moment % BID_GRID == 0:
                _check_bid(world, instance, moment)
        if _units_left(world) <= 0:
            for instance in world.instances.values():
                if instance.exists and instance.want is Want.RUNNING:
                    _run_out(world, instance, moment)
    _accrue(world, now)
