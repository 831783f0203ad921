"""Vast's JSON as our types. Pure. What does not fit becomes None or UNKNOWN; what must fit raises Malformed.

Facts by section of Vast's API as observed in 2026: gpu_ram is MiB per GPU, prices
are binary-float dollars per hour, HostPort is a string, addresses carry stray
white space, timestamps are float epoch seconds, and every field can be null.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gpuproviders.checked import Malformed, epoch, host, mapping, number, text, whole
from gpuproviders.checked import port as port_of
from gpuproviders.checked import price as price_of
from gpuproviders.errors import scrub
from gpuproviders.gpus import canonical, nominal_memory
from gpuproviders.model import (
    GB,
    MIB,
    Account,
    Charge,
    Endpoint,
    Instance,
    Offer,
    Power,
    Trouble,
)
from gpuproviders.money import ZERO, MicroUsd, parse_usd

NAME = "vast"


def identifier(value: object, what: str) -> str:
    """A positive integer id (Vast sends numbers, sometimes as text) in its shortest form, or Malformed."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise Malformed(f"{what} is {type(value).__name__}, not a number")
    if isinstance(value, str):
        if not value.isascii() or not value.isdigit() or len(value) > 18:
            raise Malformed(f"{what} is not a number: {scrub(value)[:40]!r}")
        value = int(value)
    if not 0 < value < 10**18:
        raise Malformed(f"{what} is not a positive number of at most 18 digits")
    return str(value)


def _machine(value: object) -> str | None:
    try:
        return identifier(value, "machine id")
    except Malformed:
        return None


def _either(row: Mapping[str, Any], first: str, second: str) -> object:
    """The first of two names for the same thing that is not null."""
    value = row.get(first)
    return row.get(second) if value is None else value


def offer(row: Mapping[str, Any], *, spot: bool) -> Offer | None:
    """One row of a search; None when it lacks what renting needs (id, GPU, count, price)."""
    try:
        offer_id = identifier(_either(row, "ask_contract_id", "id"), "offer id")
    except Malformed:
        return None
    gpu, count, price = (
        text(row.get("gpu_name")),
        whole(row.get("num_gpus"), 1024),
        price_of(row.get("dph_total")),
    )
    if gpu is None or not count or price is None:
        return None
    name = canonical(gpu)
    # the bounds keep every size below 2^63 bytes, which is what the wire and the ledger can carry
    memory = number(row.get("gpu_ram"), 0, 1e9)
    up_price = price_of(row.get("inet_up_cost"))
    down = number(row.get("inet_down"))
    up = number(row.get("inet_up"))
    ram = number(row.get("cpu_ram"), 0, 1e9)
    disk = number(row.get("disk_space"), 0, 1e9)
    cuda = number(row.get("cuda_max_good"), 1, 100)
    cores = number(row.get("cpu_cores_effective"), 0, 4096)
    machine = row.get("machine_id")
    return Offer(
        provider=NAME,
        offer_id=offer_id,
        machine_id=_machine(machine),
        gpu_name=name,
        gpu_count=count,
        gpu_memory=nominal_memory(name, int(memory * MIB)) if memory else 0,
        price=price,
        disk_price=price_of(row.get("storage_total_cost")) or ZERO,
        spot=spot,
        reliability=number(_either(row, "reliability2", "reliability"), 0, 1),
        verified=row.get("verification") == "verified",
        datacenter=row.get("hosting_type") == 1,
        region=text(row.get("geolocation"), 60),
        cpu_cores=cores,
        memory=int(ram * 10**6) if ram else None,
        disk=int(disk * GB) if disk is not None else None,
        download_speed=down * 1e6 if down is not None else None,
        upload_speed=up * 1e6 if up is not None else None,
        transfer_price=up_price,
        receive_price=price_of(row.get("inet_down_cost")),
        cuda=f"{cuda:.1f}" if cuda else None,
        direct_ssh=(whole(row.get("direct_port_count")) or 0) >= 1,
        ends_at=epoch(row.get("end_date")),
    )


_POWER = {
    "running": Power.RUNNING,
    "loading": Power.STARTING,
    "created": Power.STARTING,
    "rebooting": Power.STARTING,
    "recycling": Power.STARTING,
    "exited": Power.STOPPED,
    "stopped": Power.STOPPED,
    "frozen": Power.RUNNING,
    "offline": Power.OFFLINE,
}
_WANTED = {"running": Power.RUNNING, "stopped": Power.STOPPED}

# Texts that mean "this will never run". Build output may contain the word "error", so nothing looser.
_TROUBLE: tuple[tuple[re.Pattern[str], Trouble], ...] = (
    (re.compile(r"manifest( for .*)? (unknown|not found)|pull access denied|pull rate limit|unauthorized", re.IGNORECASE), Trouble.IMAGE),
    (re.compile(r"no space left on device", re.IGNORECASE), Trouble.DISK),
    (
        re.compile(
            r"OCI runtime create failed|nvidia-container-cli|failed to create shim task|unresolvable CDI devices", re.IGNORECASE
        ),
        Trouble.CONTAINER,
    ),
)  # fmt: skip


def trouble(status: str | None, power: Power, wanted: Power | None) -> Trouble | None:
    """Why a machine that should run will not, or None while there is hope (or it runs)."""
    if power is Power.RUNNING:
        return None  # "success, running <image>" may hold any word of the image's name
    for pattern, kind in _TROUBLE:
        if status and pattern.search(status):
            return kind
    # "stopped" is also seen in cur_state during a pull, so only the wish (intended_status) counts
    if wanted is Power.STOPPED:
        return Trouble.GAVE_UP
    return None


def _endpoints(row: Mapping[str, Any]) -> tuple[Endpoint, ...]:
    found: list[Endpoint] = []
    address = host(row.get("public_ipaddr"))
    ports = row.get("ports")
    if address is not None and isinstance(ports, dict):
        bindings = ports.get("22/tcp")
        for binding in bindings if isinstance(bindings, list) else []:
            port = port_of(binding.get("HostPort")) if isinstance(binding, dict) else None
            if port is not None:
                found.append(Endpoint(address, port, kind="direct"))
                break
    name, port = host(row.get("ssh_host")), port_of(row.get("ssh_port"))
    if name is not None and port is not None:
        runtype = row.get("image_runtype")
        if isinstance(runtype, str) and "jupyter" in runtype and port < 65535:
            port += 1  # the proxy's jupyter rule: SSH answers one port up
        proxy = Endpoint(name, port, kind="proxy")
        if (proxy.host, proxy.port) not in {(e.host, e.port) for e in found}:
            found.append(proxy)
    return tuple(found)


def instance(value: object) -> Instance:
    """One instance row. Malformed without an id; every other field may be unknown."""
    row = mapping(value, "instance")
    instance_id = identifier(row.get("id"), "instance id")
    status = text(row.get("status_msg"), 500)
    actual = row.get("actual_status")
    intended = row.get("intended_status")
    wanted = _WANTED.get(intended) if isinstance(intended, str) else None
    power = _POWER.get(actual, Power.UNKNOWN) if isinstance(actual, str) else Power.UNKNOWN
    if actual is None and "actual_status" in row:
        power = Power.STARTING  # null until the host has reported for the first time
    label = row.get("label")
    machine = row.get("machine_id")
    gpu = text(row.get("gpu_name"))
    return Instance(
        provider=NAME,
        instance_id=instance_id,
        label=label if isinstance(label, str) and label and len(label) <= 256 else None,
        power=power,
        wanted=wanted,
        status=status,
        trouble=trouble(status, power, wanted),
        machine_id=_machine(machine),
        gpu_name=canonical(gpu) if gpu else None,
        gpu_count=whole(row.get("num_gpus"), 1024),
        price=price_of(row.get("dph_total")),
        endpoints=_endpoints(row),
        spot=row.get("is_bid") is True,
        started_at=epoch(row.get("start_date")),
        ends_at=epoch(row.get("end_date")),
    )


def charges(value: object) -> tuple[list[Charge], str | None]:
    """A page of charges, and the token of the next. Raises Malformed for anything that is not one."""
    body = mapping(value, "charges")
    rows, following = body.get("results"), body.get("next_token")
    if body.get("success") is not True or not isinstance(rows, list) or not isinstance(following, str | None):
        raise Malformed("Vast's charges have not the shape of a page")
    found = []
    for row in rows:
        charge = mapping(row, "a charge")
        source = text(charge.get("source")) or ""
        if not source.startswith("instance-"):
            continue  # a volume, a subscription: no machine of ours
        amount = parse_usd(charge.get("amount"))
        if amount is None:
            raise Malformed("a charge of Vast's without an amount")
        until = number(charge.get("end"), high=1e11)
        found.append(
            Charge(identifier(source.removeprefix("instance-"), "a charge's instance"), amount, until)
        )
    return found, following


def account(value: object) -> Account:
    """`users/current`. Malformed without a user id."""
    row = mapping(value, "account")
    credit = parse_usd(row.get("credit"))
    return Account(
        provider=NAME,
        user_id=identifier(row.get("id"), "user id"),
        credit=MicroUsd(credit) if credit is not None else None,
    )
