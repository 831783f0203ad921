"""The RunPod adapter: our Provider contract on top of `transport` (calls), `parse` (answers) and `balance`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from gpuproviders import keys
from gpuproviders.checked import Malformed
from gpuproviders.errors import Ambiguous, Refused, Throttled, Unavailable
from gpuproviders.model import (
    GB,
    Account,
    Capabilities,
    Charge,
    Created,
    Instance,
    Listing,
    Offer,
    OfferQuery,
    Order,
    Permit,
    added_up,
)
from gpuproviders.runpod import balance, parse, sdk
from gpuproviders.runpod.command import command
from gpuproviders.runpod.spot import SpotMarket
from gpuproviders.runpod.transport import CALL_SECONDS, NAME, Transport

T = TypeVar("T")

URL = "https://api.runpod.io"
_MAX_PAGES = 200
_PAGE = 500
_COUNTS = (1, 2, 4, 8)
"""Numbers of GPUs to ask for when the query names none: one request per number and cloud."""
_CATALOG_SECONDS = 20.0
"""How long an answer of the catalog is used again; 8 requests make a full table, 60 a minute are allowed."""
_BALANCE_SECONDS = 300.0
"""How often the balance is asked for."""
_CREATE_PATIENCE = 2.0
"""A create gets so many times the limit of other calls: placing a pod takes RunPod some seconds."""
_LOG_BYTES = 100_000


class RunpodProvider:
    """One RunPod account. See `gpuproviders.model.Provider` for what each method promises.

    What a run makes lies on the pod's volume (`/workspace`), which a stop keeps; the container's own disk,
    which a stop loses, holds packages only.
    """

    name = NAME
    capabilities = Capabilities(stop_keeps_disk=True, spot=False, stop_keeps_host_key=False)

    def __init__(
        self,
        *,
        key: Callable[[], str | None] = keys.runpod,
        url: str | None = None,
        paced: bool = True,
        seconds: float = CALL_SECONDS,
        ask_balance: Callable[..., Any] = balance.ask,
        spot: bool = False,
    ) -> None:
        self._calls = Transport(
            key, url or os.environ.get("RUNPOD_API_BASE_URL") or URL, paced=paced, seconds=seconds
        )
        self._seconds = seconds
        self._ask_balance = ask_balance
        self._money: tuple[str, balance.Money] = ("", balance.UNKNOWN)
        """(fingerprint of the key, what was told for it)."""
        self._spot = SpotMarket(self._ask) if spot else None
        self.capabilities = replace(type(self).capabilities, spot=spot)
        self._asking: asyncio.Task[None] | None = None
        self._asked: float | None = None
        self._catalog: dict[tuple[bool, int], tuple[float, Any]] = {}

    async def _ask(self, query: str) -> sdk.Answer:
        """One GraphQL query, for what REST v2 does not have."""
        key = self._calls.key()
        if not key:
            return sdk.Answer(
                error="AuthenticationError", text=f"no RunPod API key: {keys.missing('runpod')}"
            )
        return await sdk.ask(key, self._calls.url, query, seconds=max(sdk.DEADLINE_SECONDS, self._seconds))

    # --- the account -----------------------------------------------------------------------------

    async def account(self) -> Account:
        """A small list call as the probe; the balance is asked beside it and told once it is known."""
        body = await self._calls.read("/v2/pods", limit="1")
        _shape(lambda: parse.page(body))
        mark = keys.fingerprint(self._calls.key() or "")
        self._refresh_balance(mark)
        known, money = self._money
        if known != mark:
            money = balance.UNKNOWN
        return Account(
            provider=NAME, user_id=money.user_id, credit=money.balance, key_id=mark, spending=money.spending, limit=money.limit
        )  # fmt: skip

    def _refresh_balance(self, mark: str) -> None:
        now = asyncio.get_running_loop().time()
        fresh = self._asked is not None and now - self._asked < _BALANCE_SECONDS and self._money[0] == mark
        if fresh or (self._asking is not None and not self._asking.done()):
            return
        self._asked = now
        self._asking = asyncio.create_task(self._balance(mark), name="runpod:balance")

    async def _balance(self, mark: str) -> None:
        told = await self._ask_balance(self._calls.key() or "", self._calls.url)
        before = self._money[1] if self._money[0] == mark else balance.UNKNOWN
        # an account's id does not change; its money does, and an old figure is worse than none
        user = told.user_id or before.user_id
        self._money = (mark, balance.Money(user, told.balance, told.spending, told.limit))

    # --- the market ------------------------------------------------------------------------------

    async def offers(self, query: OfferQuery) -> tuple[Offer, ...]:
        """The catalog's stock, one request per cloud and number of GPUs.

        RunPod sells no spot pods in REST v2 and rates no machines: `min_reliability` does not apply to it,
        and "verified" is the secure cloud. Spot offers come from GraphQL, where that is switched on.
        """
        if query.spot:
            return () if self._spot is None else await self._spot.offers(query)
        counts = _COUNTS if query.gpu_count is None else (query.gpu_count,)
        clouds = (True,) if query.verified_only else (True, False)
        found: list[Offer] = []
        for secure in clouds:
            for count in counts:
                for row in await self._stock(secure=secure, count=count):
                    found += parse.offers(row, secure=secure, count=count, disk=query.disk)
        fitting = [
            o
            for o in found
            if (not query.gpu_names or o.gpu_name in query.gpu_names)
            and (query.max_price is None or o.price <= query.max_price)
        ]
        ranked = sorted(fitting, key=lambda o: (o.price, -(o.stock.value if o.stock else 0), o.offer_id))
        return tuple(ranked[: query.limit])

    async def _stock(self, *, secure: bool, count: int) -> list[Any]:
        loop = asyncio.get_running_loop()
        kept = self._catalog.get((secure, count))
        if kept is not None and loop.time() - kept[0] < _CATALOG_SECONDS:
            return list(kept[1])
        body = await self._calls.read(
            "/v2/catalog/gpus", include="AVAILABILITY", product="POD", count=str(count),
            cloud="SECURE" if secure else "COMMUNITY",
        )  # fmt: skip
        rows = body.get("gpus") if isinstance(body, dict) else None
        if not isinstance(rows, list) or not any(isinstance(row, dict) for row in rows):
            raise Unavailable("RunPod's catalog has no readable GPU type", provider=NAME)
        self._catalog[secure, count] = (loop.time(), rows)
        return rows

    async def create(self, order: Order) -> Created:
        """Place a pod, once. A 422 that names the newer command fields is a refusal, after which `args` is tried."""
        if order.offer.spot:
            if self._spot is None:
                raise Refused(
                    "spot pods are off: [providers.runpod] spot = true (experimental)",
                    provider=NAME,
                    code="no-spot",
                )
            return await self._spot.create(order)
        try:
            body = _body(order)
        except Malformed as error:
            raise Refused(f"nothing was rented: {error}", provider=NAME, code="offer") from error
        start = command(order.image, order.onstart)
        if start is not None:
            body |= {"entrypoint": start[0], "cmd": start[1]}
        try:
            answer = await self._create(body)
        except Refused as error:
            if (
                start is None
                or error.code != "http-422"
                or not any(w in str(error) for w in ("'cmd'", "'entrypoint'"))
            ):
                raise
            # definitely nothing was bought: this deployment only knows the older field
            older = {k: v for k, v in body.items() if k not in ("cmd", "entrypoint")}
            older["args"] = json.dumps({"entrypoint": start[0], "cmd": start[1]})
            answer = await self._create(older)
        self._catalog.clear()
        try:
            return Created(parse.identifier(answer.get("id") if isinstance(answer, dict) else None))
        except Malformed as error:
            raise Ambiguous(f"RunPod's answer to create is unreadable: {error}", provider=NAME) from error

    async def _create(self, body: dict[str, Any]) -> Any:
        try:
            return await self._calls.write("POST", "/v2/pods", body, seconds=_CREATE_PATIENCE * self._seconds)
        except Refused:
            self._catalog.clear()  # what it promised was not so
            raise

    # --- pods ------------------------------------------------------------------------------------

    async def instances(self) -> Listing:
        """All pages, or Unavailable: a short or refused list is not an empty one (I3)."""
        rows: dict[str, Instance] = {}
        cursors: set[str] = set()
        query = {"limit": str(_PAGE)}
        for _ in range(_MAX_PAGES):
            body = await self._read("/v2/pods", **query)
            page, cursor = _shape(lambda body=body: parse.page(body))  # type: ignore[misc]
            for value in page:
                if not parse.terminated(value):
                    row = _shape(lambda value=value: parse.instance(value))  # type: ignore[misc]
                    rows[row.instance_id] = row
            if cursor is None:
                return Listing(tuple(rows.values()))
            if cursor in cursors:
                raise Unavailable("RunPod's list of pods pages in circles", provider=NAME)
            cursors.add(cursor)
            query = {"limit": str(_PAGE), "cursor": cursor}
        raise Unavailable("RunPod's list of pods does not end", provider=NAME)

    async def _read(self, path: str, **query: str) -> Any:
        """A read whose refusal says nothing about what exists."""
        try:
            return await self._calls.read(path, **query)
        except Refused as error:
            raise Unavailable(str(error), provider=NAME, code=error.code) from error

    async def instance(self, instance_id: str) -> Instance | None:
        """Look one up. None only for a spoken "not found", or a pod that says it is TERMINATED."""
        body = await self._pod(instance_id)
        if body is None or parse.terminated(body):
            return None
        row = _shape(lambda: parse.instance(body))
        if row.instance_id != instance_id:
            # what it names instead is a text of the vendor's, and may hold anything
            raise Unavailable(f"asked for pod {instance_id}, got another one", provider=NAME)
        return row

    async def _pod(self, instance_id: str) -> Any:
        """The pod's JSON, None when RunPod says in so many words that there is none."""
        try:
            return await self._calls.read(f"/v2/pods/{_path(instance_id)}")
        except Refused as error:
            if error.code == "not-found":
                return None
            raise Unavailable(str(error), provider=NAME, code=error.code) from error

    async def start(self, instance_id: str) -> None:
        """Start a stopped pod; one that comes back without GPUs is stopped again, because it would bill for nothing."""
        if self._spot is not None:
            pod = await self._pod(instance_id)
            bid, known = parse.bid(pod), None if pod is None else _shape(lambda: parse.instance(pod))
            if bid is not None and known is not None:
                await self._spot.resume(_path(instance_id), bid, known.gpu_count or 1)
                return
        answer = await self._act(instance_id, "start")
        gpu = answer.get("gpu") if isinstance(answer, dict) else None
        if isinstance(gpu, dict) and gpu.get("count") == 0:
            with contextlib.suppress(Refused, Throttled):
                await self._act(instance_id, "stop")
            raise Refused(
                "RunPod started the pod without GPUs; it was stopped again", provider=NAME, code="no-gpus"
            )

    async def stop(self, permit: Permit) -> None:
        """Stop. A pod without a volume would lose its work: that takes a permit that covers the loss (I1)."""
        instance_id = permit.instance_id
        body = await self._pod(instance_id)
        if body is None:
            raise Refused(f"there is no pod {instance_id}", provider=NAME, code="not-found")
        if not parse.keeps_data(body) and not permit.covers_loss:
            raise Refused(
                "stopping this pod would lose its disk: it has no volume; collect its files, then destroy it",
                provider=NAME, code="loses-disk",
            )  # fmt: skip
        permit.spend()
        if isinstance(body, dict) and body.get("status") == "EXITED":
            return
        await self._act(instance_id, "stop")

    async def _act(self, instance_id: str, action: str) -> Any:
        return await self._calls.write("POST", f"/v2/pods/{_path(instance_id)}/action", {"action": action})

    async def destroy(self, permit: Permit) -> None:
        """Terminate what the permit names. "Not found" counts as accepted; an auth error does not."""
        permit.spend()
        try:
            await self._calls.write("DELETE", f"/v2/pods/{_path(permit.instance_id)}")
        except Refused as error:
            if error.code != "not-found":
                raise

    async def charges(self, since: float) -> tuple[Charge, ...]:
        """`billing/pods` by the day, added up for each pod. It lags by hours, sometimes days."""
        begin = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        body = await self._read("/v2/billing/pods", startTime=begin, bucketSize="day")
        return added_up(_shape(lambda: parse.charges(body)))

    async def log(self, instance_id: str, lines: int = 200) -> str:
        """What the host and the container said: the stream's tail, read until it pauses."""
        found: list[str] = []
        path = f"/v2/pods/{_path(instance_id)}/logs"
        stream = self._calls.lines(
            path, seconds=15, idle=1.0, limit=_LOG_BYTES, tail=str(max(1, min(lines, 5000)))
        )
        try:
            async for line in stream:
                text = parse.log_line(line)
                if text is not None:
                    found.append(text)
        except Refused as error:
            raise Unavailable(str(error), provider=NAME, code=error.code) from error
        except (OSError, TimeoutError) as error:
            raise Unavailable(f"RunPod's log stream: {type(error).__name__}", provider=NAME) from error
        return "\n".join(found[-lines:])

    async def volumes(self) -> tuple[parse.NetworkVolume, ...]:
        """The account's network volumes, which outlive pods. Raises ProviderError."""
        body = await self._read("/v2/network-volumes")
        return _shape(lambda: parse.volumes(body))

    async def close(self) -> None:
        """Close the connections; a question about the balance is broken off."""
        if self._asking is not None and not self._asking.done():
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        await self._calls.close()


def _body(order: Order) -> dict[str, Any]:
    """The create's JSON without a command. Raises Malformed for an offer that is not RunPod's."""
    secure, place, count, gpu = parse.chosen(order.offer.offer_id)
    env = dict(order.env) | {parse.LABEL: order.label}
    if order.ssh_public_key is not None:
        env["PUBLIC_KEY"] = order.ssh_public_key  # wins over the account's keys, which stay as they are
    body: dict[str, Any] = {
        "name": order.label,
        "image": order.image,
        "gpu": {"id": gpu, "count": count},
        "cloud": "SECURE" if secure else "COMMUNITY",
        "disk": parse.CONTAINER_DISK // GB,
        "mounts": {"persistent": {"size": max(10, -(-order.disk // GB)), "path": "/workspace"}},
        "ports": ["22/tcp"],
        "env": env,
        "startSsh": True,
    }
    if place is not None:
        body["dataCenterIds"] = [place]
    return body


def _path(instance_id: str) -> str:
    """A pod's id as part of a path. Raises Refused for anything that could lead elsewhere."""
    try:
        return parse.identifier(instance_id)
    except Malformed as error:
        raise Refused(f"{instance_id!r} is no pod's id", provider=NAME, code="bad-id") from error


def _shape(read: Callable[[], T]) -> T:
    try:
        return read()
    except Malformed as error:
        raise Unavailable(f"RunPod's answer is not what it should be: {error}", provider=NAME) from error
