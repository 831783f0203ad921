"""The promises of a provider, one function each. A broken one raises Broken with what was seen."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from gpuproviders.conformance.ground import SECONDS, Ground, OncePermit
from gpuproviders.errors import (
    Ambiguous,
    OfferGone,
    ProviderError,
    Refused,
    Throttled,
    Unauthorized,
    Unavailable,
)
from gpuproviders.model import GB, Created, Instance, Offer, Order, Power


class Broken(Exception):
    """A promise that was not kept."""


@dataclass(frozen=True)
class Check:
    """One promise. `needs_faults`: it can only be checked where faults can be switched on."""

    promise: str
    run: Callable[[Ground], Awaitable[None]]
    needs_faults: bool = False
    needs_keys: bool = False
    """The provider has an account with a key."""


def must(condition: object, said: str) -> None:
    """Raises Broken unless the condition holds."""
    if not condition:
        raise Broken(said)


PLACE = "place=$HOME/.gputui/workspace; [ -d $place ] || place=${WORKSPACE:-/workspace}"
"""Shell words that find where work lies, as the sentinel does."""

# --- tools ---------------------------------------------------------------------------------------


async def an_offer(ground: Ground) -> Offer:
    """Some offer. Raises Broken when there is none."""
    offers = await ground.provider.offers(ground.query)
    must(offers, "no offers for a query that must find some")
    return offers[0]


async def make(ground: Ground, label: str) -> Created:
    """Rent a machine under a label."""
    public = ground.ssh_key.with_suffix(".pub").read_text().strip()
    order = Order(
        label=label, offer=await an_offer(ground), image=ground.image, disk=20 * GB, ssh_public_key=public
    )
    return await ground.provider.create(order)


async def until(
    ground: Ground, instance_id: str, ready: Callable[[Instance | None], bool], what: str
) -> Instance | None:
    """The look-up by id, once `ready` accepts it. Raises Broken after a while."""
    seen: Instance | None = None
    try:
        async with asyncio.timeout(SECONDS):
            while True:
                seen = await ground.provider.instance(instance_id)
                if ready(seen):
                    return seen
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise Broken(f"{what} within {SECONDS:.0f} s; last seen: {seen}") from None


async def running(ground: Ground, instance_id: str) -> Instance:
    """The machine, running and with an address. Raises Broken."""
    seen = await until(
        ground, instance_id, lambda i: i is not None and i.power is Power.RUNNING and bool(i.endpoints), "not running with an address"
    )  # fmt: skip
    if seen is None:
        raise Broken("no machine")
    return seen


async def end(ground: Ground, instance_id: str) -> None:
    """Destroy a machine and see that it is gone."""
    await ground.provider.destroy(OncePermit(instance_id))
    await until(ground, instance_id, lambda i: i is None, "still there after destroy")


async def command(ground: Ground, instance_id: str, line: str) -> str:
    """What a command on the machine prints. Raises Broken when SSH does not answer in time."""
    import asyncssh

    problem = ""
    try:
        async with asyncio.timeout(SECONDS):
            while True:
                at = (await running(ground, instance_id)).endpoints[0]
                manner: dict[str, object] = {"config": [at.config]}
                if at.kind != "own":
                    manner = {"port": at.port, "username": at.user, "client_keys": [str(ground.ssh_key)], "known_hosts": None,
                              "config": None}  # fmt: skip
                try:
                    async with asyncssh.connect(at.host, **manner) as box:
                        return str((await box.run(line, check=True)).stdout)
                except (OSError, asyncssh.Error) as error:
                    problem = str(error)
                    await asyncio.sleep(0.2)
    except TimeoutError:
        raise Broken(f"SSH does not answer: {problem}") from None


async def raises(act: Awaitable[object], *kinds: type[ProviderError]) -> ProviderError:
    """The error of one of these very kinds. Raises Broken for any other outcome."""
    try:
        outcome = await act
    except ProviderError as error:
        must(
            type(error) in kinds,
            f"raised {type(error).__name__} ({error}), must be {' or '.join(k.__name__ for k in kinds)}",
        )
        return error
    raise Broken(f"returned {str(outcome)[:120]}, must raise {' or '.join(k.__name__ for k in kinds)}")


# --- good days -----------------------------------------------------------------------------------


async def account(ground: Ground) -> None:
    first, again = await ground.provider.account(), await ground.provider.account()
    must(first.provider == ground.name, f"the account says it is of {first.provider}")
    must(first.same_as(again), "two answers in a row are not surely of one account")


async def offers(ground: Ground) -> None:
    found = await ground.provider.offers(replace(ground.query, gpu_names=(), gpu_count=None))
    must(found, "no offers at all")
    must([o.price for o in found] == sorted(o.price for o in found), "not cheapest first")
    must(len({o.offer_id for o in found}) == len(found), "one offer twice")
    for offer in found:
        must(offer.provider == ground.name, f"an offer of {offer.provider}")
        must(offer.price >= offer.disk_price >= 0, f"{offer.offer_id}: its disk costs more than all of it")
        must(offer.gpu_count >= 1, f"{offer.offer_id} has no GPUs")
    dear = found[-1].price
    cheap = await ground.provider.offers(
        replace(ground.query, max_price=type(dear)(found[0].price - 1), gpu_names=())
    )
    must(not cheap, "an offer above the price asked for")
    must(
        len(await ground.provider.offers(replace(ground.query, gpu_names=(), limit=1))) == 1,
        "more offers than the limit",
    )


async def life(ground: Ground) -> None:
    label = ground.label()
    made = await make(ground, label)
    await until(ground, made.instance_id, lambda i: i is not None, "not found by its id")
    listed = (await ground.provider.instances()).by_label(label)
    must([i.instance_id for i in listed] == [made.instance_id], f"its label finds {listed}")
    machine = await running(ground, made.instance_id)
    must(machine.label == label, f"by id it has the label {machine.label}")
    await command(
        ground,
        made.instance_id,
        f"{PLACE}; mkdir -p $place; echo kept > $place/file",
    )
    if ground.provider.capabilities.can_stop:
        stop = OncePermit(made.instance_id, covers_loss=not ground.provider.capabilities.stop_keeps_disk)
        await ground.provider.stop(stop)
        must(stop.spent == 1, f"stop spent its permit {stop.spent} times")
        await until(
            ground, made.instance_id, lambda i: i is not None and i.power is Power.STOPPED, "not stopped"
        )
        await ground.provider.start(made.instance_id)
        if ground.provider.capabilities.stop_keeps_disk:
            kept = await command(ground, made.instance_id, f"{PLACE}; cat $place/file")
            must(kept == "kept\n", "a stop that keeps the disk lost a file")
    permit = OncePermit(made.instance_id)
    await ground.provider.destroy(permit)
    must(permit.spent == 1, f"destroy spent its permit {permit.spent} times")
    await until(ground, made.instance_id, lambda i: i is None, "still there after destroy")
    must((await ground.provider.instances()).by_id(made.instance_id) is None, "still listed after destroy")
    await ground.provider.destroy(OncePermit(made.instance_id))  # a second one is no error


async def several(ground: Ground) -> None:
    made = [(await make(ground, ground.label())).instance_id for _ in range(3)]
    listing = await ground.provider.instances()
    must(set(made) <= {i.instance_id for i in listing.instances}, "a machine is missing from the list")
    await end(ground, made[1])
    left = {i.instance_id for i in (await ground.provider.instances()).instances}
    must(made[1] not in left and {made[0], made[2]} <= left, "destroying one changed others")
    for one in (made[0], made[2]):
        await end(ground, one)


async def absent(ground: Ground) -> None:
    must(await ground.provider.instance(ground.absent_id) is None, "a machine that never was is found")


async def wrong_key(ground: Ground) -> None:
    for key in ("wrong-key", ""):
        stranger = ground.provider_for(key)
        try:
            await raises(stranger.instances(), Unauthorized)
            await raises(stranger.instance(ground.absent_id), Unauthorized)
            await raises(stranger.account(), Unauthorized)
        finally:
            await stranger.close()


# --- bad days ------------------------------------------------------------------------------------

LISTS = ("list_empty_object", "list_empty_array", "list_html", "list_truncated", "list_retired", "status_before=list:500",
         "status_before=list:404", "hang_before=list", "refuse=list")  # fmt: skip
# what a client may conclude from each: for lists and look-ups nothing, for creates see `lost_creates`
SHOWS = (
    "status_before=show:500",
    "status_before=show:404",
    "html=show",
    "empty_object=show",
    "truncate=show",
    "hang_before=show",
)
LOST = ("create_hang_after", "create_reset_after", "create_500_after", "create_502_after", "create_truncated")
NOTHING = ("create_500_before", "create_hang_before")
SOLD = {"vast": "create_no_such_ask", "runpod": "create_capacity"}


async def lists(ground: Ground) -> None:
    made = await make(ground, ground.label())
    for fault in LISTS:
        await ground.fault(f"{fault}*1")
        try:
            listing = await ground.provider.instances()
        except (Unavailable, Unauthorized) as error:
            must(str(error), f"{fault}: an error without words")
        else:  # a provider may ask again by itself; what it returns is complete
            must(listing.by_id(made.instance_id) is not None, f"{fault}: returned a list without the machine")
    listed = await ground.provider.instances()
    must(listed.by_id(made.instance_id) is not None, "a complete list lacks a machine that exists")
    await end(ground, made.instance_id)


async def shows(ground: Ground) -> None:
    made = await make(ground, ground.label())
    for fault in SHOWS:
        await ground.fault(f"{fault}*1")
        try:
            must(
                await ground.provider.instance(made.instance_id) is not None, f"{fault}: said that it is gone"
            )
        except Unavailable:
            continue
    await ground.fault("auth_error=show*1")
    await raises(ground.provider.instance(made.instance_id), Unauthorized)
    await end(ground, made.instance_id)


async def lost_creates(ground: Ground) -> None:
    for fault, exists in (*((f, True) for f in LOST), *((f, False) for f in NOTHING)):
        label = ground.label()
        before = await ground.calls("create")
        await ground.fault(f"{fault}*1")
        try:
            await raises(make(ground, label), Ambiguous)
        except Broken as broken:
            raise Broken(f"{fault}: {broken}") from None
        must(await ground.calls("create") == before + 1, f"{fault}: the create was sent more than once")
        must((label in await ground.living()) == exists, f"{fault}: not what the simulator did")
        found = (await ground.provider.instances()).by_label(label)
        must(len(found) == int(exists), f"{fault}: its label finds {len(found)} machines")
        for one in found:
            await end(ground, one.instance_id)


async def refusals(ground: Ground) -> None:
    before = await ground.living()
    for fault, kinds in (
        (SOLD[ground.name], (OfferGone,)),
        ("throttle=create", (Throttled,)),
        ("auth_error=create", (Unauthorized,)),
    ):
        await ground.fault(f"{fault}*1")
        try:
            await raises(make(ground, ground.label()), *kinds)
        except Broken as broken:
            raise Broken(f"{fault}: {broken}") from None
    must(await ground.living() == before, "a refused create made a machine")
    await ground.fault("throttle=list::1*1")
    throttled = await raises(ground.provider.instances(), Throttled)
    must(isinstance(throttled, Throttled) and throttled.retry_after == 1, "how long to wait was not read")


async def lags(ground: Ground) -> None:
    await ground.fault("lag_create=2*1")
    made = await make(ground, ground.label())
    await until(ground, made.instance_id, lambda i: i is not None, "never shown")
    await ground.fault("lag_destroy=2*1")
    await end(ground, made.instance_id)


async def fields(ground: Ground) -> None:
    made = await make(ground, ground.label())
    for fault in (
        "fields_null",
        "fields_wrong_type",
        "fields_extra",
        "status_unknown=levitating",
        "clock_skew=-7200",
    ):
        await ground.fault(f"{fault}*1")
        seen = (await ground.provider.instances()).by_id(made.instance_id)
        must(seen is not None, f"{fault}: the machine is not listed")
        must(
            fault.partition("=")[0] != "status_unknown" or (seen and seen.power is Power.UNKNOWN),
            "an unknown word is not UNKNOWN",
        )
    await end(ground, made.instance_id)


async def refused_start(ground: Ground) -> None:
    made = await make(ground, ground.label())
    await running(ground, made.instance_id)
    await ground.provider.stop(OncePermit(made.instance_id))
    await until(ground, made.instance_id, lambda i: i is not None and i.power is Power.STOPPED, "not stopped")
    await ground.fault("start_refused*1")
    await raises(ground.provider.start(made.instance_id), Refused)
    await end(ground, made.instance_id)


async def dud(ground: Ground) -> None:
    await ground.fault("boot_image_missing*1")
    made = await make(ground, ground.label())
    await until(
        ground, made.instance_id, lambda i: i is not None and i.trouble is not None, "no trouble shown"
    )
    await end(ground, made.instance_id)


async def nothing_left(ground: Ground) -> None:
    must(await ground.living() == [], f"machines are left: {await ground.living()}")


CHECKS: tuple[Check, ...] = (
    Check("the account answers, and two answers are surely of one account", account),
    Check("offers are unique, priced whole, cheapest first, and keep to the query", offers),
    Check("a machine is made, found by label and id, entered, stopped, started, destroyed, gone", life),
    Check("the list is complete, and destroying one machine touches no other", several),
    Check("an id that never was is none", absent),
    Check("a wrong or missing key is Unauthorized, never an empty account", wrong_key, needs_keys=True),
    Check("a list that is none, short or refused is unknown, never empty", lists, needs_faults=True),
    Check("a look-up says gone only when the vendor does", shows, needs_faults=True),
    Check(
        "a create without a clear answer is Ambiguous, sent once, and found by its label",
        lost_creates,
        needs_faults=True,
    ),
    Check("a refusal is told apart and makes nothing; Retry-After is read", refusals, needs_faults=True),
    Check("answers may lag behind what was done", lags, needs_faults=True),
    Check("fields that are null, mistyped, new or strange do not break a list", fields, needs_faults=True),
    Check("a refused start is Refused", refused_start, needs_faults=True),
    Check("a machine that cannot boot says so", dud, needs_faults=True),
    Check("nothing is left on the account", nothing_left, needs_faults=True),
)
