"""RunPod's REST v2 JSON as our types. Pure. What does not fit is None or UNKNOWN; what must fit raises Malformed.

Facts of the API as observed in 2026: prices are dollars per hour for one GPU, `cost` is 0 for a stopped
pod, `runtime` of a stopped pod may be stale, a catalog row's flags decide and not its price, `dataCenters`
may have stock that the row's own `availability` denies, and only the name or the environment can carry a
label.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gpuproviders.checked import Malformed, host, mapping, rfc3339, text, whole
from gpuproviders.checked import port as port_of
from gpuproviders.checked import price as price_of
from gpuproviders.gpus import canonical, nominal_memory
from gpuproviders.model import GB, Charge, Endpoint, Instance, Offer, Power, Stock, Trouble
from gpuproviders.money import MicroUsd, parse_usd

NAME = "runpod"
LABEL = "GPUTUI_LABEL"
"""Environment variable of a pod that carries our label; the name can be changed by hand."""
BID = "GPUTUI_BID"
"""The same for the bid per GPU (micro-dollars per hour) of a spot pod, which REST v2 cannot tell from another."""
CONTAINER_DISK = 20 * GB
"""Disk of the container itself: packages. What a run makes lies on the pod's volume."""
_HOURS = 720
"""Hours of a month for which a disk's price is given [docs]."""
CONTAINER_PRICE = 100_000
"""Micro-dollars per GB and month [docs: $0.10 while running]."""
VOLUME_PRICE = (100_000, 200_000)
"""The same for a pod's volume, running and stopped [docs: $0.10 and $0.20]."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_OFFER = re.compile(r"(secure|community)\.([A-Za-z0-9-]{1,40})\.(\d{1,4})\.([^\s.][^\s]{0,119})")
_STOCK = {"LOW": Stock.LOW, "MEDIUM": Stock.MEDIUM, "HIGH": Stock.HIGH}


def identifier(value: object) -> str:
    """A pod's id, or Malformed."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise Malformed("a pod without a proper id")
    return value


# --- offers --------------------------------------------------------------------------------------


def offer_id(*, secure: bool, place: str | None, count: int, gpu: str) -> str:
    """Everything that a create needs, in one word: `secure.US-KS-2.1.NVIDIA_GeForce_RTX_4090`."""
    return f"{'secure' if secure else 'community'}.{place or 'any'}.{count}.{gpu.replace(' ', '_')}"


def chosen(offer: str) -> tuple[bool, str | None, int, str]:
    """(secure, data centre, count, GPU type id) of an offer id. Raises Malformed."""
    found = _OFFER.fullmatch(offer)
    if found is None:
        raise Malformed(f"{text(offer, 60)!r} is no offer of RunPod")
    cloud, place, count, gpu = found.groups()
    return cloud == "secure", None if place == "any" else place, int(count), gpu.replace("_", " ")


def disk_prices(disk: int) -> tuple[MicroUsd, MicroUsd]:
    """Micro-dollars per hour (running, stopped) for a volume of `disk` bytes and the container's own disk."""
    size, own = -(-disk // GB), CONTAINER_DISK // GB
    running = (size * VOLUME_PRICE[0] + own * CONTAINER_PRICE) // _HOURS
    return MicroUsd(running), MicroUsd(size * VOLUME_PRICE[1] // _HOURS)


def offers(value: object, *, secure: bool, count: int, disk: int) -> Iterator[Offer]:
    """The offers of one catalog row for one cloud and number of GPUs: one per data centre with stock."""
    if not isinstance(value, dict):
        return
    row: Mapping[str, Any] = value
    cloud = "secure" if secure else "community"
    gpu, prices, most = row.get("id"), row.get("price"), row.get("maxCount")
    if (
        not isinstance(gpu, str)
        or not gpu.strip()
        or gpu == "unknown"
        or "_" in gpu
        or row.get(cloud) is not True
    ):
        return
    if isinstance(most, dict) and (whole(most.get(cloud), 1024) or 0) < count:
        return
    each = price_of(prices.get(cloud)) if isinstance(prices, dict) else None
    if not each:
        return  # a price of 0 is a price that is not there
    running, stopped = disk_prices(disk)
    memory = whole(row.get("memory"), 100_000)
    name = gpu_name(gpu)
    cudas = [c.get("version") for c in _rows(row.get("cudaVersions")) if c.get("available") is True]
    versions = [v for c in cudas if isinstance(c, str) and (v := _version(c)) is not None]
    for place, stock in _places(row):
        yield Offer(
            provider=NAME,
            offer_id=offer_id(secure=secure, place=place, count=count, gpu=gpu),
            machine_id=None,
            gpu_name=name,
            gpu_count=count,
            gpu_memory=nominal_memory(name, memory * GB) if memory else 0,
            price=MicroUsd(each * count + running),
            disk_price=stopped,
            verified=secure,
            datacenter=secure,
            region=place,
            stock=stock,
            transfer_price=MicroUsd(0),
            receive_price=MicroUsd(0),
            cuda=f"{max(versions):.1f}" if versions else None,
            direct_ssh=secure,
        )


@dataclass(frozen=True, slots=True)
class NetworkVolume:
    """A network volume: it lives in one data centre and outlives its pods. `size` in bytes."""

    volume_id: str
    name: str
    size: int
    place: str


def volumes(value: object) -> tuple[NetworkVolume, ...]:
    """All network volumes of an answer. Malformed when one cannot be read."""
    rows = mapping(value, "volumes").get("networkVolumes")
    if not isinstance(rows, list) or len(rows) > 10_000:
        raise Malformed("networkVolumes is no list")
    found = []
    for entry in rows:
        row = mapping(entry, "volume")
        size, place = whole(row.get("size"), 1_000_000), text(row.get("dataCenter"), 40)
        if size is None or place is None:
            raise Malformed("a network volume has no size or data centre")
        found.append(
            NetworkVolume(identifier(row.get("id")), text(row.get("name"), 60) or "", size * GB, place)
        )
    return tuple(found)


def gpu_name(gpu: str) -> str:
    """RunPod's type id (what the driver calls the product) as the canonical name."""
    return canonical(gpu)


def _version(text_: str) -> float | None:
    try:
        found = float(text_)
    except ValueError:
        return None
    return found if 1 < found < 100 else None


def _rows(value: object) -> list[Mapping[str, Any]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _places(row: Mapping[str, Any]) -> list[tuple[str | None, Stock]]:
    """Data centres with stock; the row's own word only where none are named (the community cloud)."""
    found: list[tuple[str | None, Stock]] = []
    for place in _rows(row.get("dataCenters")):
        stock, name = _STOCK.get(str(place.get("availability"))), place.get("id")
        if stock is not None and isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9-]{1,40}", name):
            found.append((name, stock))
    if found:
        return found
    stock = _STOCK.get(str(row.get("availability")))
    return [] if stock is None else [(None, stock)]


# --- pods ----------------------------------------------------------------------------------------

_POWER = {
    "PROVISIONING": Power.STARTING,
    "STARTING": Power.STARTING,
    "RUNNING": Power.RUNNING,
    "EXITED": Power.STOPPED,
    "ERROR": Power.STOPPED,
}
TERMINATED = "TERMINATED"


def terminated(value: object) -> bool:
    """Whether a pod object says in so many words that the pod is no more."""
    return isinstance(value, dict) and value.get("status") == TERMINATED


def instance(value: object) -> Instance:
    """One pod. Malformed without an id; every other field may be unknown."""
    row = mapping(value, "pod")
    status = row.get("status")
    power = _POWER.get(status, Power.UNKNOWN) if isinstance(status, str) else Power.UNKNOWN
    runtime = row.get("runtime")
    if power is Power.RUNNING and not (isinstance(runtime, dict) and runtime):
        power = Power.STARTING  # the status runs ahead of the container
    gpu = row.get("gpu") if isinstance(row.get("gpu"), dict) else {}
    kind = text(gpu.get("id")) if isinstance(gpu, dict) else None
    trouble = Trouble.CONTAINER if status == "ERROR" else Trouble.GAVE_UP if status == "EXITED" else None
    return Instance(
        provider=NAME,
        instance_id=identifier(row.get("id")),
        label=_label(row),
        power=power,
        wanted=Power.STOPPED if status == "EXITED" else None,
        status=text(status, 100),
        trouble=trouble,
        gpu_name=gpu_name(kind) if kind else None,
        gpu_count=whole(gpu.get("count"), 1024) if isinstance(gpu, dict) else None,
        price=price_of(row.get("cost")) or None,  # 0 says "stopped", not "free"
        endpoints=_endpoints(row) if power is Power.RUNNING else (),
        spot=bid(row) is not None,
        started_at=rfc3339(row.get("startedAt")),
    )


def bid(value: object) -> MicroUsd | None:
    """The bid per GPU that a pod was made with, None for one that is no spot pod of ours."""
    env = value.get("env") if isinstance(value, dict) else None
    said = env.get(BID) if isinstance(env, dict) else None
    return MicroUsd(int(said)) if isinstance(said, str) and re.fullmatch(r"[0-9]{1,9}", said) else None


def _label(row: Mapping[str, Any]) -> str | None:
    env = row.get("env")
    for value in (env.get(LABEL) if isinstance(env, dict) else None, row.get("name")):
        if isinstance(value, str) and value and len(value) <= 256:
            return value
    return None


def _endpoints(row: Mapping[str, Any]) -> tuple[Endpoint, ...]:
    """Direct SSH only: RunPod's proxy gives a terminal and nothing else."""
    ssh = row.get("ssh")
    direct = ssh.get("direct") if isinstance(ssh, dict) else None
    if not isinstance(direct, dict):
        return ()
    address, port = host(direct.get("host")), port_of(direct.get("port"))
    user = direct.get("username")
    if address is None or port is None:
        return ()
    return (
        Endpoint(
            address,
            port,
            user if isinstance(user, str) and re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", user) else "root",
        ),
    )


def keeps_data(value: object) -> bool:
    """Whether a stop leaves the pod's work alone: it has a volume. False when that is not known."""
    mounts = value.get("mounts") if isinstance(value, dict) else None
    return isinstance(mounts, dict) and bool(mounts.get("persistent") or mounts.get("network"))


def charges(value: object) -> list[Charge]:
    """The records of `billing/pods`. Raises Malformed, also where there are none to be had (`null`)."""
    body = mapping(value, "billing")
    rows = body.get("records")
    if not isinstance(rows, list):
        raise Malformed("RunPod has no figures yet")
    found = []
    for row in rows:
        record = mapping(row, "a record of billing")
        amount = parse_usd(record.get("totalAmount"))
        if amount is None:
            raise Malformed("a record of billing without an amount")
        ends = rfc3339(record.get("endTime"))
        found.append(
            Charge(identifier(record.get("podId")), amount, None if ends is None else ends.timestamp())
        )
    return found


def page(value: object) -> tuple[list[object], str | None]:
    """(pods, cursor of the next page). Malformed when it is not the shape of a page (I3)."""
    body = mapping(value, "list of pods")
    rows = body.get("pods")
    if not isinstance(rows, list):
        raise Malformed("the list of pods has no pods")
    paging = body.get("pagination")
    if paging is None:
        return rows, None  # older deployments send everything at once
    paging = mapping(paging, "pagination")
    more, cursor = paging.get("hasNextPage"), paging.get("nextCursor")
    if more is False:
        return rows, None
    if more is not True or not isinstance(cursor, str) or not 0 < len(cursor) <= 4096:
        raise Malformed("the list of pods does not say how it goes on")
    return rows, cursor


def log_line(line: bytes) -> str | None:
    """One `data:` line of the log stream as text for people, None for the other lines."""
    import json

    if not line.startswith(b"data:"):
        return None
    try:
        row = json.loads(line[5:])
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("line"), str):
        return None
    where = "" if row.get("source") == "container" else "[host] "
    return where + (text(row["line"], 500) or "")
