"""Vast's JSON as our types. Pure. What does not fit becomes None or UNKNOWN; what must fit raises Malformed.

Facts by section of Vast's API as observed in 2026: gpu_ram is MiB per GPU, prices
are binary-float dollars per hour, HostPort is a string, addresses carry stray
white space, timestamps are float epoch seconds, and every field can be null.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from gpuproviders.errors import scrub
from gpuproviders.gpus import canonical, nominal_memory
from gpuproviders.model import (
    GB,
    MIB,
    Account,
    Endpoint,
    Instance,
    Offer,
    Power,
    Trouble,
)
from gpuproviders.money import ZERO, MicroUsd, parse_usd

NAME = "vast"
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:-]{0,252}[A-Za-z0-9])?")
_YEAR_2100 = 4_102_444_800


class Malformed(Exception):
    """A vendor answer that does not have the shape it must have."""


def mapping(value: object, what: str) -> Mapping[str, Any]:
    """`value` as a JSON object, or Malformed."""
    if not isinstance(value, dict):
        raise Malformed(f"{what} is {type(value).__name__}, not an object")
    return value


def identifier(value: object, what: str) -> str:
    """A positive integer id (Vast sends numbers, sometimes as text), or Malformed."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise Malformed(f"{what} is {type(value).__name__}, not a number")
    text = str(value)
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise Malformed(f"{what} is not a number: {scrub(text)[:40]!r}")
    return text


def _number(value: object, low: float = 0, high: float = 1e15) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if low <= value <= high else None


def _whole(value: object, high: float = 1e15) -> int | None:
    number = _number(value, 0, high)
    return None if number is None else int(number)


def _text(value: object, limit: int = 200) -> str | None:
    if not isinstance(value, str) or not value.strip():
        return None
    return scrub(value.strip())[:limit]


def _time(value: object) -> datetime | None:
    seconds = _number(value, 1, _YEAR_2100)
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def offer(row: Mapping[str, Any], *, spot: bool) -> Offer | None:
    """One row of a search; None when it lacks what renting needs (id, GPU, count, price)."""
    try:
        offer_id = identifier(row.get("ask_contract_id", row.get("id")), "offer id")
    except Malformed:
        return None
    gpu, count, price = (
        _text(row.get("gpu_name")),
        _whole(row.get("num_gpus"), 1024),
        parse_usd(row.get("dph_total")),
    )
    if gpu is None or not count or price is None or price < 0:
        return None
    name = canonical(gpu)
    memory = _number(row.get("gpu_ram"))
    up_price = parse_usd(row.get("inet_up_cost"))
    down = _number(row.get("inet_down"))
    up = _number(row.get("inet_up"))
    ram = _number(row.get("cpu_ram"))
    disk = _number(row.get("disk_space"))
    cuda = _number(row.get("cuda_max_good"), 1, 100)
    cores = _number(row.get("cpu_cores_effective"), 0, 4096)
    machine = row.get("machine_id")
    return Offer(
        provider=NAME,
        offer_id=offer_id,
        machine_id=str(machine) if isinstance(machine, int) and not isinstance(machine, bool) else None,
        gpu_name=name,
        gpu_count=count,
        gpu_memory=nominal_memory(name, int(memory * MIB)) if memory else 0,
        price=price,
        disk_price=parse_usd(row.get("storage_total_cost")) or ZERO,
        spot=spot,
        reliability=_number(row.get("reliability2", row.get("reliability")), 0, 1),
        verified=row.get("verification") == "verified",
        datacenter=row.get("hosting_type") == 1,
        region=_text(row.get("geolocation"), 60),
        cpu_cores=cores,
        memory=int(ram * 10**6) if ram else None,
        disk=int(disk * GB) if disk is not None else None,
        download_speed=down * 1e6 if down is not None else None,
        upload_speed=up * 1e6 if up is not None else None,
        transfer_price=up_price,
        cuda=f"{cuda:.1f}" if cuda else None,
        direct_ssh=(_whole(row.get("direct_port_count")) or 0) >= 1,
        ends_at=_time(row.get("end_date")),
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
    """Why a machine that should run will not, or None while there is hope."""
    for pattern, kind in _TROUBLE:
        if status and pattern.search(status):
            return kind
    # "stopped" is also seen in cur_state during a pull, so only the wish (intended_status) counts
    if wanted is Power.STOPPED and power is not Power.RUNNING:
        return Trouble.GAVE_UP
    return None


def _endpoints(row: Mapping[str, Any]) -> tuple[Endpoint, ...]:
    found: list[Endpoint] = []
    address = row.get("public_ipaddr")
    ports = row.get("ports")
    if isinstance(address, str) and _HOST.fullmatch(address.strip()) and isinstance(ports, dict):
        bindings = ports.get("22/tcp")
        for binding in bindings if isinstance(bindings, list) else []:
            port = _port(binding.get("HostPort")) if isinstance(binding, dict) else None
            if port is not None:
                found.append(Endpoint(address.strip(), port, kind="direct"))
                break
    host, port = row.get("ssh_host"), _port(row.get("ssh_port"))
    if isinstance(host, str) and _HOST.fullmatch(host.strip()) and port is not None:
        runtype = row.get("image_runtype")
        if isinstance(runtype, str) and "jupyter" in runtype and port < 65535:
            port += 1  # the proxy's jupyter rule: SSH answers one port up
        proxy = Endpoint(host.strip(), port, kind="proxy")
        if (proxy.host, proxy.port) not in {(e.host, e.port) for e in found}:
            found.append(proxy)
    return tuple(found)


def _port(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    text = str(value).strip()
    if not text.isascii() or not text.isdigit() or len(text) > 5:
        return None
    port = int(text)
    return port if 0 < port < 65536 else None


def instance(value: object) -> Instance:
    """One instance row. Malformed without an id; every other field may be unknown."""
    row = mapping(value, "instance")
    instance_id = identifier(row.get("id"), "instance id")
    status = _text(row.get("status_msg"), 500)
    actual = row.get("actual_status")
    wanted = _WANTED.get(str(row.get("intended_status")))
    power = Power.STARTING if actual is None else _POWER.get(str(actual), Power.UNKNOWN)
    label = row.get("label")
    machine = row.get("machine_id")
    gpu = _text(row.get("gpu_name"))
    return Instance(
        provider=NAME,
        instance_id=instance_id,
        label=label if isinstance(label, str) and label and len(label) <= 256 else None,
        power=power,
        wanted=wanted,
        status=status,
        trouble=trouble(status, power, wanted),
        machine_id=str(machine) if isinstance(machine, int) and not isinstance(machine, bool) else None,
        gpu_name=canonical(gpu) if gpu else None,
        gpu_count=_whole(row.get("num_gpus"), 1024),
        price=parse_usd(row.get("dph_total")),
        endpoints=_endpoints(row),
        spot=row.get("is_bid") is True,
        started_at=_time(row.get("start_date")),
        ends_at=_time(row.get("end_date")),
    )


def account(value: object) -> Account:
    """`users/current`. Malformed without a user id."""
    row = mapping(value, "account")
    credit = parse_usd(row.get("credit"))
    return Account(
        provider=NAME,
        user_id=identifier(row.get("id"), "user id"),
        credit=MicroUsd(credit) if credit is not None else None,
    )
