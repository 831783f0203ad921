"""The simulator's own controls under /_sim/: for tests, for the demo's proof, for fault injection."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any

import msgspec
from aiohttp import web

from gpucloudsim.cloud import Cloud
from gpucloudsim.engine import lifecycle
from gpucloudsim.engine.lifecycle import Refused
from gpucloudsim.engine.market import SECOND, moment_of
from gpucloudsim.engine.model import Instance
from gpucloudsim.faces.http import answer, body_of
from gpucloudsim.faults import Fault, UnknownFaultError, parse
from gpucloudsim.switches import KINDS

POLL_S = 0.02


class Control:
    """Routes that no vendor has."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud

    def routes(self) -> list[web.AbstractRouteDef]:
        """All routes."""
        return [
            web.get("/_sim/state", self.state),
            web.get("/_sim/faults", self.list_faults),
            web.post("/_sim/faults", self.add_fault),
            web.delete("/_sim/faults", self.clear_faults),
            web.get(r"/_sim/instances/{id:\d+}/wait", self.wait),
            web.post(r"/_sim/instances/{id:\d+}/{act}", self.act),
            web.post("/_sim/credit", self.credit),
            web.post("/_sim/market", self.market),
        ]

    async def state(self, request: web.Request) -> web.Response:
        """Everything the simulator knows, destroyed instances included."""
        cloud = self.cloud
        cloud.advance()
        world = cloud.world
        return answer(
            {
                "pid": os.getpid(),
                "url": cloud.url,
                "offers": len(lifecycle.offers(world, cloud.now())),
                "credit": lifecycle.credit(world) / 1e6,
                "spent": lifecycle.spent(world) / 1e6,
                "burn_per_hour": lifecycle.burn(world) / 1e6,
                "instances": [self._instance(instance) for instance in world.instances.values()],
                "calls": dict(cloud.calls),
                "log": list(cloud.log)[-100:],
                "faults": msgspec.to_builtins(cloud.faults.active),
            }
        )

    def _instance(self, instance: Instance) -> dict[str, Any]:
        box = self.cloud.fleet.boxes.get(instance.id)
        return {
            "id": instance.id,
            "public_id": self.cloud.vendor.public_id(instance),
            "label": instance.label,
            "phase": instance.phase.value,
            "want": instance.want.value,
            "gpus": instance.num_gpus,
            "boots": instance.boots,
            "created": instance.created_us / SECOND,
            "destroyed": instance.destroyed_us / SECOND if instance.destroyed_us else None,
            "destroyed_by": instance.destroyed_by,
            "history": [[at / SECOND, what] for at, what in instance.history],
            "cost": instance.cost / 1e6,
            "gpu_seconds": instance.gpu_us / 1e6,
            "gpu_cost": instance.gpu_cost / 1e6,
            "disk_cost": instance.disk_cost / 1e6,
            "transfer_cost": instance.transfer_cost / 1e6,
            "bytes_from_box": instance.bytes_up,
            "bytes_to_box": instance.bytes_down,
            "directory": str(self.cloud.fleet.directory / str(instance.id)),
            "ssh": {"listening": box.listening, "ports": box.ports, "connections": box.connections}
            if box
            else None,
        }

    async def list_faults(self, request: web.Request) -> web.Response:
        """All switches with what they do, and those that are on."""
        kinds = {name: kind.doc for name, kind in KINDS.items()}
        return answer({"kinds": kinds, "active": msgspec.to_builtins(self.cloud.faults.active)})

    async def add_fault(self, request: web.Request) -> web.Response:
        """Switch one on: {"name", "arg", "count", "probability", "skip"}, or {"set": "name=arg*1@2"}."""
        body = await body_of(request)
        try:
            fault = (
                parse(str(body["set"]))
                if "set" in body
                else msgspec.convert({**body, "arg": str(body.get("arg") or "")}, Fault)
            )
            self.cloud.faults.add(fault)
        except (UnknownFaultError, msgspec.ValidationError, ValueError) as problem:
            return answer({"error": str(problem)}, 400)
        await self.cloud.commit()
        return answer({"active": msgspec.to_builtins(self.cloud.faults.active)})

    async def clear_faults(self, request: web.Request) -> web.Response:
        """Switch off all, or ?name=."""
        self.cloud.faults.clear(request.query.get("name"))
        await self.cloud.commit()
        return answer({"active": msgspec.to_builtins(self.cloud.faults.active)})

    async def act(self, request: web.Request) -> web.Response:
        """outbid | win | offline | online | kill | expire one instance."""
        number, act = int(request.match_info["id"]), request.match_info["act"]
        world, now = self.cloud.world, self.cloud.now()
        try:
            match act:
                case "outbid":
                    lifecycle.force_outbid(world, number, now)
                case "win":
                    lifecycle.release_floor(world, number, now)
                case "offline" | "online":
                    lifecycle.set_online(world, number, act == "online", now)
                case "kill":
                    lifecycle.kill_container(world, number, now)
                case "expire":
                    lifecycle.get(world, number).end_us = now
                case _:
                    return answer({"error": f"no such act: {act}"}, 404)
        except Refused as refused:
            return answer({"error": refused.reason.value}, 404)
        await self.cloud.commit()
        return answer({"instance": self._instance(world.instances[number])})

    async def wait(self, request: web.Request) -> web.Response:
        """Answer once ?phase= is reached (and, with ?ssh=1, SSH listens), or 408 after ?limit= seconds."""
        number, phase = int(request.match_info["id"]), request.query.get("phase", "running")
        with_ssh, limit = bool(request.query.get("ssh")), float(request.query.get("limit", "10"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                while True:
                    self.cloud.advance()
                    instance = self.cloud.world.instances.get(number)
                    if instance is None:
                        return answer({"error": "no_such_instance"}, 404)
                    box = self.cloud.fleet.boxes.get(number)
                    settled = not with_ssh or (box is not None and box.listening)
                    if (
                        instance.phase.value == phase
                        and settled
                        and self.cloud.fleet.follows(instance.id, instance.boots)
                    ):
                        return answer({"instance": self._instance(instance)})
                    await asyncio.sleep(POLL_S)
        return answer({"error": f"instance {number} did not become {phase} within {limit:g} s"}, 408)

    async def market(self, request: web.Request) -> web.Response:
        """{"at": SECONDS SINCE 1970 or "stocked"} stops prices and stock at that moment, {"at": null} lets them move."""
        body = await body_of(request)
        try:
            at = None if body.get("at") is None else moment_of(str(body["at"]))
        except ValueError:
            return answer({"error": "at must be seconds since 1970, 'stocked' or null"}, 400)
        self.cloud.world.market_us = at
        await self.cloud.commit()
        return answer({"at": None if at is None else at / 1e6})

    async def credit(self, request: web.Request) -> web.Response:
        """{"amount": 5.0} adds to the credit, {"set": 1.5} makes it that much (USD)."""
        body = await body_of(request)
        world, now = self.cloud.world, self.cloud.now()
        lifecycle.advance(world, now)
        try:
            amount = round(float(body.get("amount", 0)) * 1e6)
            if "set" in body:
                amount = round(float(body["set"]) * 1e6) - lifecycle.credit(world)
        except (TypeError, ValueError):
            return answer({"error": "amount must be a number"}, 400)
        lifecycle.deposit(world, amount, now)
        await self.cloud.commit()
        return answer({"credit": lifecycle.credit(world) / 1e6})
