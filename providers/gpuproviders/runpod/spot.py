"""RunPod's spot pods, experimental: bids, the create and the restart through GraphQL; everything else is REST v2's.

RunPod took spot out of its documentation in May 2026 and REST v2 cannot tell a spot pod from another; the GraphQL that makes
them is to be retired early in 2027. So this is off unless the settings say `[providers.runpod] spot = true`. A spot pod
carries its bid in its environment (`GPUTUI_BID`), by which lists know it again. Queries are made by `query` functions that
are pure; each is sent once, by `sdk.ask`.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from gpuproviders.checked import Malformed, price, text, whole
from gpuproviders.errors import Ambiguous, OfferGone, Refused, Unauthorized, Unavailable
from gpuproviders.gpus import nominal_memory
from gpuproviders.model import GB, Created, Offer, OfferQuery, Order, Stock
from gpuproviders.money import MicroUsd
from gpuproviders.runpod import parse
from gpuproviders.runpod.command import command
from gpuproviders.runpod.sdk import Answer

_COUNTS = (1, 2, 4, 8)
_CATALOG_SECONDS = 20.0
_OFFER = re.compile(r"spot-(secure|community)\.(\d{1,9})\.(\d{1,4})\.([^\s.][^\s]{0,119})")
_CAPACITY = ("no longer any instances", "not enough free gpus", "no instances")
_BROKE = ("balance", "insufficient", "funds")
_STOCK = {"Low": Stock.LOW, "Medium": Stock.MEDIUM, "High": Stock.HIGH}

Ask = Callable[[str], Awaitable[Answer]]
"""Sends one query with the account's key."""


class SpotMarket:
    """Spot pods of one account."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._kept: dict[tuple[int, ...], tuple[float, list[Any]]] = {}

    async def offers(self, query: OfferQuery) -> tuple[Offer, ...]:
        """What can be had at the lowest bid that is listed now. Raises Unavailable, Unauthorized."""
        counts = _COUNTS if query.gpu_count is None else (query.gpu_count,)
        found = [
            offer
            for row in await self._types(counts)
            for offer in offers(row, counts, disk=query.disk, verified_only=query.verified_only)
            if (not query.gpu_names or offer.gpu_name in query.gpu_names)
            and (query.max_price is None or offer.price <= query.max_price)
        ]
        return tuple(sorted(found, key=lambda o: (o.price, o.offer_id))[: query.limit])

    async def _types(self, counts: tuple[int, ...]) -> list[Any]:
        loop = asyncio.get_running_loop()
        kept = self._kept.get(counts)
        if kept is not None and loop.time() - kept[0] < _CATALOG_SECONDS:
            return kept[1]
        answer = await self._ask(types_query(counts))
        rows = answer.data.get("gpuTypes") if answer.data is not None else None
        if not isinstance(rows, list):
            if answer.error == "AuthenticationError" or "unauthorized" in answer.text.lower():
                raise Unauthorized(
                    "RunPod's GraphQL does not know the key", provider=parse.NAME, code="http-401"
                )
            raise Unavailable(
                f"RunPod's spot market is not told ({answer.text or answer.error}): spot needs its GraphQL, which is to be "
                "retired; rent on demand, or set spot = false in [providers.runpod]", provider=parse.NAME, code="no-spot",
            )  # fmt: skip
        self._kept[counts] = (loop.time(), rows)
        return rows

    async def create(self, order: Order) -> Created:
        """Bid once. Raises OfferGone, Refused, Unauthorized (nothing was rented) or Ambiguous."""
        try:
            query = rent_mutation(order)
        except Malformed as error:
            raise Refused(f"nothing was rented: {error}", provider=parse.NAME, code="offer") from error
        self._kept.clear()
        row = _done(await self._ask(query), "podRentInterruptable")
        try:
            return Created(parse.identifier(row.get("id")))
        except Malformed as error:
            raise Ambiguous(
                f"RunPod's answer to the bid is unreadable: {error}", provider=parse.NAME
            ) from error

    async def resume(self, instance_id: str, bid: MicroUsd, count: int) -> None:
        """Start a stopped spot pod at the bid that it was made with. Raises like `create`."""
        _done(await self._ask(resume_mutation(instance_id, bid, count)), "podBidResume")


def _done(answer: Answer, field: str) -> Mapping[str, Any]:
    """The mutation's row; what else the answer allows to conclude is raised. Pure."""
    if answer.data is not None and isinstance(row := answer.data.get(field), dict):
        return row
    said = answer.text.lower()
    message = f"RunPod: {answer.text}" if answer.text else f"RunPod's GraphQL did not answer ({answer.error})"
    if answer.error == "AuthenticationError" or (answer.error == "QueryError" and "unauthorized" in said):
        raise Unauthorized(message, provider=parse.NAME, code="http-401")
    if answer.error == "QueryError" and any(words in said for words in _CAPACITY):
        raise OfferGone(message, provider=parse.NAME, code="capacity")
    if answer.error == "QueryError" and any(words in said for words in _BROKE):
        raise Refused(message, provider=parse.NAME, code="http-402")
    # a server's error in other words may have come after the deed: the label tells
    raise Ambiguous(message, provider=parse.NAME, code="graphql")


# --- queries: GraphQL's strings are JSON's -------------------------------------------------------


def types_query(counts: tuple[int, ...]) -> str:
    """Lowest bids of every GPU type in both clouds for these numbers of GPUs."""
    fields = " ".join(
        f"{cloud[0]}{count}: lowestPrice(input: {{gpuCount: {count}, secureCloud: {json.dumps(cloud == 'secure')}}}) "
        "{ minimumBidPrice stockStatus }"
        for cloud in ("secure", "community")
        for count in counts
    )
    return f"query spot {{ gpuTypes {{ id memoryInGb secureCloud communityCloud {fields} }} }}"


def rent_mutation(order: Order) -> str:
    """The bid for a pod. Raises Malformed for an offer that is not a spot offer of ours."""
    secure, bid, count, gpu = chosen(order.offer.offer_id)
    env = dict(order.env) | {parse.LABEL: order.label, parse.BID: str(bid)}
    if order.ssh_public_key is not None:
        env["PUBLIC_KEY"] = order.ssh_public_key
    given: dict[str, str] = {
        "bidPerGpu": f"{bid / 1e6:.6f}", "cloudType": "SECURE" if secure else "COMMUNITY", "gpuTypeId": json.dumps(gpu),
        "gpuCount": str(count), "name": json.dumps(order.label), "imageName": json.dumps(order.image),
        "containerDiskInGb": str(parse.CONTAINER_DISK // GB), "volumeInGb": str(max(10, -(-order.disk // GB))),
        "volumeMountPath": json.dumps("/workspace"), "ports": json.dumps("22/tcp"), "startSsh": "true", "supportPublicIp": "true",
        "env": "[" + ", ".join(f"{{key: {json.dumps(k)}, value: {json.dumps(v)}}}" for k, v in env.items()) + "]",
    }  # fmt: skip
    start = command(order.image, order.onstart)
    if start is not None:
        given["dockerArgs"] = json.dumps(json.dumps({"entrypoint": start[0], "cmd": start[1]}))
    fields = ", ".join(f"{name}: {value}" for name, value in given.items())
    return f"mutation {{ podRentInterruptable(input: {{{fields}}}) {{ id }} }}"


def resume_mutation(instance_id: str, bid: MicroUsd, count: int) -> str:
    """The restart of a spot pod."""
    pod = json.dumps(parse.identifier(instance_id))
    return f"mutation {{ podBidResume(input: {{podId: {pod}, bidPerGpu: {bid / 1e6:.6f}, gpuCount: {count}}}) {{ id }} }}"


# --- offers --------------------------------------------------------------------------------------


def offer_id(*, secure: bool, bid: MicroUsd, count: int, gpu: str) -> str:
    """Everything that a bid needs, in one word: `spot-secure.210000.1.NVIDIA_GeForce_RTX_4090`."""
    return f"spot-{'secure' if secure else 'community'}.{bid}.{count}.{gpu.replace(' ', '_')}"


def chosen(offer: str) -> tuple[bool, MicroUsd, int, str]:
    """(secure, bid per GPU in micro-dollars per hour, count, GPU type id) of an offer id. Raises Malformed."""
    found = _OFFER.fullmatch(offer)
    if found is None:
        raise Malformed(f"{text(offer, 60)!r} is no spot offer of RunPod")
    cloud, bid, count, gpu = found.groups()
    return cloud == "secure", MicroUsd(int(bid)), int(count), gpu.replace("_", " ")


def offers(value: object, counts: tuple[int, ...], *, disk: int, verified_only: bool) -> Iterator[Offer]:
    """The spot offers of one GPU type: one for each cloud and number of GPUs that has stock and a bid. Pure."""
    if not isinstance(value, dict):
        return
    gpu = value.get("id")
    if not isinstance(gpu, str) or not gpu.strip() or gpu == "unknown" or "_" in gpu or len(gpu) > 120:
        return
    running, stopped = parse.disk_prices(disk)
    memory = whole(value.get("memoryInGb"), 100_000)
    name = parse.gpu_name(gpu)
    for secure in (True,) if verified_only else (True, False):
        if value.get("secureCloud" if secure else "communityCloud") is not True:
            continue
        for count in counts:
            row = value.get(f"{'s' if secure else 'c'}{count}")
            stock = _STOCK.get(str(row.get("stockStatus"))) if isinstance(row, dict) else None
            bid = price(row.get("minimumBidPrice")) if isinstance(row, dict) else None
            if stock is None or not bid:
                continue  # without stock a price is a phantom
            yield Offer(
                provider=parse.NAME, offer_id=offer_id(secure=secure, bid=MicroUsd(bid), count=count, gpu=gpu), machine_id=None,
                gpu_name=name, gpu_count=count, gpu_memory=nominal_memory(name, memory * GB) if memory else 0,
                price=MicroUsd(bid * count + running), disk_price=stopped, spot=True, verified=secure, datacenter=secure,
                region=None, stock=stock, transfer_price=MicroUsd(0), receive_price=MicroUsd(0), direct_ssh=secure,
            )  # fmt: skip
