"""Search and create."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from gpucloudsim.engine import lifecycle
from gpucloudsim.engine.lifecycle import Refused
from gpucloudsim.engine.model import Phase, RentRequest
from gpucloudsim.faces.http import Stop, answer, body_of
from gpucloudsim.faces.vast.answers import UNAVAILABLE, error, gone, refusal
from gpucloudsim.faces.vast.desk import Desk
from gpucloudsim.faces.vast.query import BadQuery, conditions, offer_matches, ordered
from gpucloudsim.faces.vast.rows import offer_row

SEARCH_CAP = 64
"""At most so many offers per search, whatever the limit says."""


class MarketRoutes:
    """Offers: finding and taking them."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.cloud = desk.cloud

    async def search(self, request: web.Request) -> web.Response:
        """Offers that fit a query, at most 64."""
        return self._offers(await body_of(request))

    async def search_asks(self, request: web.Request) -> web.Response:
        """The newer form of the same search."""
        body = await body_of(request)
        query = body.get("q")
        if not isinstance(query, dict):
            return error("bad_request", "q: Input should be a valid dictionary", 400)
        return self._offers(query)

    def _offers(self, query: dict[str, Any]) -> web.Response:
        try:
            found = conditions(query)
        except BadQuery as problem:
            return error("bad_request", str(problem), 400)
        if self.cloud.faults.take("search_quota") is not None:
            text = "You have used up today's searches; the quota is renewed at 00:00 UTC."
            return error("search_quota_exceeded", text, 429)
        now = self.cloud.now()
        bid = query.get("type") in ("bid", "interruptible")
        try:
            storage = float(query.get("allocated_storage", 8.0))
            limit = min(int(query.get("limit") or SEARCH_CAP), SEARCH_CAP)
            order = [
                (str(column), str(direction))
                for column, direction in query.get("order") or [["score", "desc"]]
            ]
        except (TypeError, ValueError) as problem:
            return error("bad_request", f"q: {problem}", 400)
        rows = [offer_row(offer, bid, storage, now) for offer in self.cloud.offers()]
        rows = [row for row in rows if row["disk_space"] >= storage and offer_matches(row, found)]
        if self.cloud.faults.take("fields_extra") is not None:
            rows = [{**row, "flux_rating": 3, "nested_new": {"a": [1]}} for row in rows]
        self.cloud.searched()
        return answer({"offers": ordered(rows, order)[:limit]})

    async def create(self, request: web.Request) -> web.Response:
        """Rent an offer."""
        offer_id = int(request.match_info["id"])
        body = await body_of(request)
        take = self.cloud.faults.take
        if take("create_false_without_contract") is not None:
            return error("resources_unavailable", UNAVAILABLE, 200)
        if (code := take("create_insufficient_credit")) is not None:
            return error(
                "insufficient_credit", "Your account lacks credit; see the billing page.", int(code or 200)
            )
        if (code := take("create_no_such_ask")) is not None:
            return gone(offer_id, int(code or 410))
        if take("stock_gone") is not None:
            return gone(offer_id, 410)
        wanted = self._request_of(body)
        pending = take("create_false_with_contract") is not None
        unscheduled = take("create_unscheduled") is not None
        if unscheduled and body.get("cancel_unavail"):
            return error("resources_unavailable", UNAVAILABLE, 200)
        try:
            instance = self.cloud.rent(offer_id, wanted)
        except Refused as refused:
            return refusal(refused, offer_id)
        now = self.cloud.now()
        if instance.phase is Phase.OUTBID and body.get("cancel_unavail"):
            lifecycle.destroy(self.cloud.world, instance.id, now, "cancel_unavail")
            await self.cloud.commit()
            return error("resources_unavailable", UNAVAILABLE, 200)
        if pending or unscheduled:
            lifecycle.unschedule(self.cloud.world, instance.id, now)
        granted = not (pending or unscheduled or instance.phase is Phase.OUTBID)
        if (reads := take("lag_create")) is not None:
            self.desk.hidden[instance.id] = int(reads or 1)
        await self.cloud.commit()
        return answer({"success": granted, "new_contract": instance.id, "instance_api_key": instance.api_key})

    def _request_of(self, body: dict[str, Any]) -> RentRequest:
        """The create body, checked as the service checks it."""
        image = body.get("image")
        template = body.get("template_hash_id")
        if not isinstance(image, str) or not image.strip():
            if not template:
                raise Stop(error("invalid_args", "error 400/3467: image is required", 400))
            image = "vastai/base-image:cuda-12.8.1-auto"
        label, onstart = body.get("label"), body.get("onstart")
        if len(image) > 1024 or len(str(onstart or "")) > 4096 or len(str(label or "")) > 256:
            raise Stop(error("invalid_args", "error 400/3467: argument too long", 400))
        try:
            disk = float(body.get("disk") or 10)
            price = None if body.get("price") is None else float(body["price"])
        except (TypeError, ValueError):
            raise Stop(error("invalid_args", "error 400/3467: disk and price must be numbers", 400)) from None
        if disk < 8:
            raise Stop(error("invalid_args", "error 400/3467: disk must be at least 8", 400))
        if price is not None and not 0.001 <= price <= 128:
            raise Stop(error("invalid_price", "error 400/3471: price out of range", 400))
        raw_env = body.get("env")
        env = {str(k): str(v) for k, v in raw_env.items()} if isinstance(raw_env, dict) else {}
        return RentRequest(
            image=image,
            disk_gb=disk,
            label=None if label is None else str(label),
            env=env,
            onstart=None if onstart is None else str(onstart),
            runtype=str(body.get("runtype") or "ssh_proxy"),
            bid_micro=None if price is None else round(price * 1e6),
            start=body.get("target_state") != "stopped",
            vendor={"args": body.get("args"), "template_hash_id": template},
        )
