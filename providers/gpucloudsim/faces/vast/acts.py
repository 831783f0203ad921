"""Acting on instances: start, stop, label, destroy, reboot, bids."""

from __future__ import annotations

import contextlib

from aiohttp import web

from gpucloudsim.engine import lifecycle
from gpucloudsim.engine.lifecycle import Refused
from gpucloudsim.engine.market import SECOND
from gpucloudsim.engine.model import Instance
from gpucloudsim.faces.http import answer, body_of
from gpucloudsim.faces.vast.answers import UNAVAILABLE, error, refusal
from gpucloudsim.faces.vast.desk import Desk

QUEUE_S = 30.0
"""When a queued start comes up by itself, unless the fault says otherwise."""


class ActRoutes:
    """What changes an instance."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.cloud = desk.cloud

    async def manage(self, request: web.Request) -> web.Response:
        """Start, stop or label."""
        body = await body_of(request)
        instance = self.desk.instance(request)
        if "label" in body:
            label = body["label"]
            if len(str(label or "")) > 1024:
                return error("label_too_long", "label must not exceed 1024 characters", 400)
            lifecycle.set_label(
                self.cloud.world, instance.id, None if label is None else str(label), self.cloud.now()
            )
        if "state" in body:
            refused = self._set_state(instance, body["state"])
            if refused is not None:
                await self.cloud.commit()
                return refused
        elif "label" not in body:
            return error("invalid_args", "error 400/3467: state or label expected", 400)
        await self.cloud.commit()
        return answer({"success": True})

    def _set_state(self, instance: Instance, state: object) -> web.Response | None:
        world, now = self.cloud.world, self.cloud.now()
        if state == "stopped":
            lifecycle.stop(world, instance.id, now)
            return None
        if state != "running":
            return error("invalid_args", f"error 400/3467: state {state!r}", 400)
        how = self.cloud.faults.take("start_refused")
        if how is not None:
            kind, _, seconds = how.partition(":")
            if kind != "reverted":
                lifecycle.queue_start(world, instance.id, now, round(float(seconds or QUEUE_S) * SECOND))
            text = f"{UNAVAILABLE[:-1]}, state change queued."
            return error("resources_unavailable", text, 200)
        try:
            lifecycle.start(world, instance.id, now)
        except Refused as refused:
            return refusal(refused)
        return None

    async def bulk_state(self, request: web.Request) -> web.Response:
        """Start or stop several."""
        body = await body_of(request)
        for number in body.get("ids") or []:
            with contextlib.suppress(Refused):
                refused = self._set_state(lifecycle.get(self.cloud.world, int(number)), body.get("state"))
                if refused is not None:
                    return refused
        await self.cloud.commit()
        return answer({"success": True})

    async def destroy(self, request: web.Request) -> web.Response:
        """End the contract; the box is deleted before the answer leaves."""
        instance = self.desk.instance(request)
        self._destroy(instance.id)
        await self.cloud.commit()
        return answer({"success": True, "msg": f"destroying instance {instance.id}."})

    def _destroy(self, number: int) -> None:
        lifecycle.destroy(self.cloud.world, number, self.cloud.now())
        if (reads := self.cloud.faults.take("lag_destroy")) is not None:
            self.desk.ghosts[number] = int(reads or 1)

    async def bulk_destroy(self, request: web.Request) -> web.Response:
        """End several contracts."""
        body = await body_of(request)
        for number in body.get("instance_ids") or []:
            with contextlib.suppress(Refused):
                self._destroy(int(number))
        await self.cloud.commit()
        return answer({"success": True})

    async def reboot(self, request: web.Request) -> web.Response:
        """Stop and start, same GPUs, same disk."""
        lifecycle.reboot(self.cloud.world, self.desk.instance(request).id, self.cloud.now())
        await self.cloud.commit()
        return answer({"success": True})

    async def recycle(self, request: web.Request) -> web.Response:
        """Recreate the container: its data is lost, the GPUs stay."""
        instance = self.desk.instance(request)
        lifecycle.reboot(self.cloud.world, instance.id, self.cloud.now())
        await self.cloud.commit()
        await self.cloud.fleet.blank(instance.id)
        return answer({"success": True})

    async def bid(self, request: web.Request) -> web.Response:
        """Change the bid; null bids just enough."""
        body = await body_of(request)
        instance = self.desk.instance(request)
        price = body.get("price")
        try:
            micro = None if price is None else round(float(price) * 1e6)
        except (TypeError, ValueError):
            return error("invalid_price", "price must be a number", 400)
        if micro is not None and not 1000 <= micro <= 32_000_000 * instance.num_gpus:
            return error("invalid_price", "price out of range", 400)
        try:
            lifecycle.set_bid(self.cloud.world, instance.id, micro, self.cloud.now())
        except Refused as refused:
            return refusal(refused)
        await self.cloud.commit()
        return answer({"success": True})
