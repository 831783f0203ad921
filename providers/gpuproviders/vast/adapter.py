"""The Vast.ai adapter: our Provider contract on top of `transport` (calls) and `parse` (answers)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from gpuproviders import keys
from gpuproviders.checked import Malformed
from gpuproviders.errors import Ambiguous, Refused, Unavailable, scrub
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
from gpuproviders.money import MicroUsd, usd
from gpuproviders.vast import parse
from gpuproviders.vast.transport import CALL_SECONDS, NAME, Transport

T = TypeVar("T")

URL = "https://console.vast.ai"
_PAGE = 25
_MAX_PAGES = 400
_MAX_ROWS = 1000
"""Rows of one answer; Vast sends 25 instances or 64 offers. What is longer is not from Vast."""
_SEARCH_CAP = 64
"""Vast returns at most 64 offers a search, whatever the limit says."""
_MAX_SEARCHES = 4
"""Searches for one GPU name: 10 a minute are allowed in all."""


class VastProvider:
    """One Vast account. See `gpuproviders.model.Provider` for what each method promises."""

    name = NAME
    capabilities = Capabilities(stop_keeps_disk=True)

    def __init__(
        self,
        *,
        key: Callable[[], str | None] = keys.vast,
        url: str | None = None,
        paced: bool = True,
        seconds: float = CALL_SECONDS,
    ) -> None:
        self._calls = Transport(key, url or os.environ.get("VAST_URL") or URL, paced=paced, seconds=seconds)
        self._known_keys: set[str] = set()

    async def account(self) -> Account:
        """`users/current`; the probe that tells a healthy account from a broken answer."""
        body = await self._calls.read("get", "/users/current", endpoint="user")
        return _shape(lambda: parse.account(body))

    async def offers(self, query: OfferQuery) -> tuple[Offer, ...]:
        """Search, one request per GPU name (the cap is per request), re-checked on our side."""
        names: tuple[str | None, ...] = query.gpu_names or (None,)
        found: dict[str, Offer] = {}
        for name in names:
            async for offer in self._pages(query, name):
                if _fits(offer, query):
                    found[offer.offer_id] = offer
        ranked = sorted(found.values(), key=lambda o: (o.price, o.offer_id))
        return tuple(ranked[: query.limit])

    async def _pages(self, query: OfferQuery, name: str | None) -> AsyncIterator[Offer]:
        """Searches from the cheapest price on, each beginning where the last one was cut off.

        Vast cuts every search at 64 rows, whatever the limit says.
        """
        least: MicroUsd | None = None
        seen: set[str] = set()
        for _ in range(min(_MAX_SEARCHES, -(-query.limit // _SEARCH_CAP))):
            rows, cut = await self._search(query, name, least)
            fresh = [offer for offer in rows if offer.offer_id not in seen]
            for offer in fresh:
                seen.add(offer.offer_id)
                yield offer
            if not cut or not fresh:
                return
            least = max(offer.price for offer in rows)

    async def _search(
        self, query: OfferQuery, name: str | None, least: MicroUsd | None = None
    ) -> tuple[list[Offer], bool]:
        """The readable offers, and whether the answer is cut off: as many rows as any answer has."""
        filters: dict[str, Any] = {
            "rentable": {"eq": True},
            "rented": {"eq": False},
            "external": {"eq": False},
            "disk_space": {"gte": query.disk / GB},
            "order": [["dph_total", "asc"]],
            "type": "bid" if query.spot else "on-demand",
            "allocated_storage": query.disk / GB,
            "limit": _SEARCH_CAP,
        }
        if name is not None:
            filters["gpu_name"] = {"eq": name}
        if query.gpu_count is not None:
            filters["num_gpus"] = {"eq": query.gpu_count}
        price: dict[str, float] = {}
        if query.max_price is not None:
            price["lte"] = float(usd(query.max_price))
        if least is not None:
            # prices are rounded to millionths here: a little less, so that no row of that price is passed over
            price["gte"] = float(usd(least - 1))
        if price:
            filters["dph_total"] = price
        if query.min_reliability is not None:
            filters["reliability2"] = {"gte": query.min_reliability}
        if query.verified_only:
            filters["verified"] = {"eq": True}
        body = await self._calls.read("post", "/bundles/", endpoint="search", json_data=filters)
        rows = body.get("offers") if isinstance(body, dict) else None
        if not isinstance(rows, list) or len(rows) > _MAX_ROWS:
            raise Unavailable("Vast's search answer has no list of offers", provider=NAME)
        parsed = (parse.offer(row, spot=query.spot) for row in rows if isinstance(row, dict))
        offers = [offer for offer in parsed if offer is not None]
        if rows and not offers:
            raise Unavailable("Vast's search answer has no readable offer", provider=NAME)
        return offers, len(rows) >= _SEARCH_CAP

    async def create(self, order: Order) -> Created:
        """Rent the offer, once. The SSH key is registered first, because it is installed at creation."""
        if order.ssh_public_key is not None:
            try:
                await self._ensure_key(order.ssh_public_key)
            except Unavailable as error:
                # no machine was asked for yet, so nothing can exist
                raise Refused(f"nothing was rented: {error}", provider=NAME, code="ssh-key") from error
        body: dict[str, Any] = {
            "client_id": "me",
            "image": order.image,
            "env": dict(order.env),
            "disk": order.disk / GB,
            "label": order.label,
            "onstart": order.onstart,
            "runtype": "ssh_direc ssh_proxy",
            # rather a refusal than a stopped machine that bills its disk
            "cancel_unavail": True,
        }
        if order.offer.spot:
            body["price"] = float(usd(order.offer.price))
        answer = await self._calls.write(
            "put", f"/asks/{order.offer.offer_id}/", endpoint="create", json_data=body
        )
        made = answer.get("new_contract") if isinstance(answer, dict) else None
        try:
            return Created(parse.identifier(made, "new_contract"))
        except Malformed as error:
            raise Ambiguous(f"Vast's answer to create is unreadable: {error}", provider=NAME) from error

    async def _ensure_key(self, public_key: str) -> None:
        wanted = " ".join(public_key.split()[:2])
        if wanted in self._known_keys:
            return
        try:
            body = await self._calls.read("get", "/ssh/", endpoint="ssh")
        except Refused:
            body = []  # "No SSH keys found for the user" comes as a 404
        rows = body if isinstance(body, list) else []
        texts = (row.get(field) for row in rows if isinstance(row, dict) for field in ("key", "public_key"))
        present = {" ".join(text.split()[:2]) for text in texts if isinstance(text, str)}
        if wanted not in present:
            try:
                await self._calls.write("post", "/ssh/", endpoint="ssh", json_data={"ssh_key": public_key})
            except Ambiguous as error:
                # no machine was asked for yet, so this is a plain refusal of the create
                raise Unavailable(f"could not register the SSH key: {error}", provider=NAME) from error
        self._known_keys.add(wanted)

    async def instances(self) -> Listing:
        """All pages of `v1/instances`, or Unavailable: a short or refused list is not an empty one (I3)."""
        rows: dict[str, Instance] = {}
        token: str | None = None
        for _ in range(_MAX_PAGES):
            query: dict[str, Any] = {"limit": _PAGE, "order_by": [{"col": "id", "dir": "asc"}]}
            if token is not None:
                query["after_token"] = token
            body = await self._list(query)
            whole = isinstance(body, dict) and body.get("success") is True and "next_token" in body
            page = body.get("instances") if whole else None
            if not isinstance(page, list) or len(page) > _MAX_ROWS:
                raise Unavailable("Vast's list of instances has not the shape of one", provider=NAME)
            before = len(rows)
            for value in page:
                row = _shape(lambda value=value: parse.instance(value))  # type: ignore[misc]
                rows[row.instance_id] = row
            following = body.get("next_token")
            if following is None:
                total = body.get("total_instances")
                if isinstance(total, bool) or not isinstance(total, int) or total != len(rows):
                    raise Unavailable(
                        f"Vast lists {len(rows)} instances and says there are {total}", provider=NAME
                    )
                return Listing(tuple(rows.values()))
            if not isinstance(following, str) or following == token or len(rows) == before:
                raise Unavailable("Vast's list of instances pages in circles", provider=NAME)
            token = following
        raise Unavailable("Vast's list of instances does not end", provider=NAME)

    async def _list(self, query: dict[str, Any]) -> Any:
        """A page. A refusal (410 after a retirement, say) tells nothing about what exists."""
        try:
            return await self._calls.read("get", "/api/v1/instances/", endpoint="list", query_args=query)
        except Refused as error:
            raise Unavailable(str(error), provider=NAME, code=error.code) from error

    async def instance(self, instance_id: str) -> Instance | None:
        """Look one up. None only for `{"instances": null}` or a not-found that is not an auth error."""
        try:
            body = await self._calls.read(
                "get", f"/instances/{instance_id}/", endpoint="show", query_args={"owner": "me"}
            )
        except Refused as error:
            if error.code in ("not_found", "no_such_instance"):
                return None
            raise Unavailable(str(error), provider=NAME, code=error.code) from error
        if not isinstance(body, dict) or "instances" not in body:
            raise Unavailable("Vast's answer about the instance has not the shape of one", provider=NAME)
        if body["instances"] is None:
            return None
        row = _shape(lambda: parse.instance(body["instances"]))
        if row.instance_id != instance_id:
            raise Unavailable(f"asked for instance {instance_id}, got {row.instance_id}", provider=NAME)
        return row

    async def start(self, instance_id: str) -> None:
        """Start a stopped machine; a queued start is cancelled again, because it would bill unseen."""
        try:
            await self._state(instance_id, "running")
        except Refused as error:
            if error.code == "resources_unavailable":
                await self._state(instance_id, "stopped")
            raise

    async def stop(self, permit: Permit) -> None:
        """Stop what the permit names; Vast keeps the disk, and bills it."""
        permit.spend()
        await self._state(permit.instance_id, "stopped")

    async def _state(self, instance_id: str, state: str) -> None:
        await self._calls.write(
            "put", f"/instances/{instance_id}/", endpoint="manage", json_data={"state": state}
        )

    async def destroy(self, permit: Permit) -> None:
        """Destroy what the permit names. "No such instance" counts as accepted; an auth error does not."""
        permit.spend()
        try:
            await self._calls.write("delete", f"/instances/{permit.instance_id}/", endpoint="destroy")
        except Refused as error:
            if error.code not in ("not_found", "no_such_instance"):
                raise

    async def charges(self, since: float) -> tuple[Charge, ...]:
        """`charges/`, all pages. Vast books by the day, and hours late; several rows of one instance are added up."""
        found: list[Charge] = []
        token: str | None = None
        for _ in range(_MAX_PAGES):
            query: dict[str, Any] = {
                "select_filters": {"day": {"gte": int(since)}, "type": {"in": ["instance"]}}, "limit": 100, "latest_first": True,
            }  # fmt: skip
            if token is not None:
                query["after_token"] = token
            try:
                body = await self._calls.read("get", "/charges/", endpoint="charges", query_args=query)
            except Refused as error:
                raise Unavailable(str(error), provider=NAME, code=error.code) from error
            page, following = _shape(lambda body=body: parse.charges(body))  # type: ignore[misc]
            found += page
            if following is None:
                return added_up(found)
            if following == token or not page:
                raise Unavailable("Vast's charges page in circles", provider=NAME)
            token = following
        raise Unavailable("Vast's charges do not end", provider=NAME)

    async def log(self, instance_id: str, lines: int = 200) -> str:
        """The container's log as Vast uploads it; it takes some seconds to appear."""
        body = await self._calls.write(
            "put", f"/instances/request_logs/{instance_id}/", endpoint="logs", json_data={"tail": str(lines)}
        )
        url = body.get("result_url") if isinstance(body, dict) else None
        if not isinstance(url, str) or not url.startswith(("https://", "http://127.0.0.1:")):
            raise Unavailable("Vast gave no address for the log", provider=NAME)
        loop = asyncio.get_running_loop()
        for _ in range(20):
            text = await loop.run_in_executor(None, _fetch, url)
            if text is not None:
                return "\n".join(scrub(line) for line in text.splitlines())
            await asyncio.sleep(0.5)
        raise Unavailable("Vast did not upload the log in time", provider=NAME)

    async def close(self) -> None:
        """Let the worker threads go."""
        self._calls.close()


def _fits(offer: Offer, query: OfferQuery) -> bool:
    """Vast does not always apply numeric filters, so they are applied again."""
    return (
        (not query.gpu_names or offer.gpu_name in query.gpu_names)
        and (query.gpu_count is None or offer.gpu_count == query.gpu_count)
        and (query.max_price is None or offer.price <= query.max_price)
        and (offer.disk is None or offer.disk >= query.disk)
        and (query.min_reliability is None or (offer.reliability or 0) >= query.min_reliability)
        and (offer.verified or not query.verified_only)
    )


def _shape(read: Callable[[], T]) -> T:
    try:
        return read()
    except Malformed as error:
        raise Unavailable(f"Vast's answer is not what it should be: {error}", provider=NAME) from error


def _fetch(url: str) -> str | None:
    """The uploaded log, None while it is not there yet. No credentials go along."""
    import urllib.request
    from http.client import HTTPException

    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - the scheme is checked by the caller
            return str(answer.read(100_000).decode("utf-8", "replace"))
    except (OSError, HTTPException, ValueError):  # the network, the answer, an address that is none
        return None
