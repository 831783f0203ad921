"""/v2/pods: list, create, show, change, act, delete."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
from aiohttp import web

from gpucloudsim.engine import lifecycle
from gpucloudsim.engine.lifecycle import Refused
from gpucloudsim.engine.model import Instance, Phase
from gpucloudsim.faces.http import Stop, answer
from gpucloudsim.faces.runpod import checks
from gpucloudsim.faces.runpod.answers import bare, problem
from gpucloudsim.faces.runpod.catalog import CAPACITY, TYPES
from gpucloudsim.faces.runpod.desk import Desk, NotDone, Wish
from gpucloudsim.faces.runpod.rows import ACTIONS, STATUS

BODY_LIMIT = 102_400
LIST_LIMIT = 1000


async def json_body(request: web.Request) -> dict[str, Any]:
    """The JSON object of a request. Raises Stop: 413 when it is too large, 400 when it is none."""
    raw = await request.read()
    if len(raw) > BODY_LIMIT:
        raise Stop(problem(413, "request body too large"))
    try:
        body = json.loads(raw or b"{}")
    except ValueError:
        raise Stop(problem(400, "request body is not valid JSON")) from None
    if not isinstance(body, dict):
        raise Stop(problem(422, "Request validation failed.", ["$: got array, want object"]))
    return body


def invalid(errors: list[str]) -> Stop:
    """The 422 with all that is wrong."""
    return Stop(problem(422, "Request validation failed.", errors))


def refusal(refused: NotDone) -> web.Response:
    """A refusal in REST v2's words."""
    return bare(refused.status, refused.text) if refused.bare else problem(refused.status, refused.text)


def command_of(body: dict[str, Any]) -> tuple[str, ...]:
    """What process 1 will be: `entrypoint` and `cmd`, or `args` as text or as JSON with both."""
    entry, words = body.get("entrypoint") or [], body.get("cmd") or []
    args = body.get("args") or ""
    if args and not entry and not words:
        try:
            both = json.loads(args)
        except ValueError:
            both = None
        if isinstance(both, dict):
            entry, words = both.get("entrypoint") or [], both.get("cmd") or []
        else:
            words = ["bash", "-c", args]
    return (*map(str, entry), *map(str, words))


class PodRoutes:
    """Pods."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.cloud = desk.cloud

    async def list_pods(self, request: web.Request) -> web.Response:
        """All pods, newest first, in pages when asked. Unknown parameters are ignored."""
        take = self.cloud.faults.take
        if take("list_retired") is not None:
            return problem(410, "this API has been retired")
        try:
            limit = int(request.query.get("limit", LIST_LIMIT))
            after = self._position(request.query.get("cursor"))
        except ValueError:
            raise invalid(["cursor or limit is not valid"]) from None
        if not 1 <= limit <= LIST_LIMIT:
            raise invalid([f"limit: maximum: got {limit}, want {LIST_LIMIT}"])
        if after is not None and take("list_page_error") is not None:
            return problem(500, "internal server error")
        shown = self.desk.visible()
        if take("list_empty") is not None:
            shown = []
        if after is not None:
            shown = [i for i in shown if (i.created_us, i.id) < after]
        if take("list_short_pages") is not None:
            limit = max(1, limit // 2)  # a page may be short although more follow
        part, rest = shown[:limit], shown[limit:]
        if rest and take("list_short") is not None:
            rest = []
        body: dict[str, Any] = {"pods": [self.desk.row(instance) for instance in part]}
        if take("no_pagination") is None:
            cursor = self._cursor(part[-1]) if rest else None
            body["pagination"] = {"nextCursor": cursor, "hasNextPage": bool(rest)}
        if take("list_null") is not None:
            body["pods"] = None
        return answer(body)

    @staticmethod
    def _cursor(last: Instance) -> str:
        return base64.urlsafe_b64encode(f"{last.created_us}:{last.id}".encode()).decode()

    @staticmethod
    def _position(cursor: str | None) -> tuple[int, int] | None:
        if cursor is None:
            return None
        at, _, number = base64.urlsafe_b64decode(cursor.encode()).decode().partition(":")
        return int(at), int(number)

    async def create(self, request: web.Request) -> web.Response:
        """Place a pod."""
        body = await json_body(request)
        errors = checks.create(body, newer=self.cloud.faults.take("no_cmd_field") is None)
        if errors:
            raise invalid(errors)
        try:
            instance = self.desk.place(self._wish(body))
        except NotDone as refused:
            return refusal(refused)
        await self.cloud.commit()
        row = self.desk.row(instance)
        row["runtime"] = {}  # as the spec's own example shows it, against its prose
        return answer(row, 201)

    def _wish(self, body: dict[str, Any]) -> Wish:
        """The rules between fields. Raises Stop."""
        if ("gpu" in body) == ("cpu" in body):
            raise Stop(problem(400, "exactly one of gpu or cpu is required"))
        if "cpu" in body:
            raise Stop(problem(400, CAPACITY))
        if "disk" not in body and "templateId" not in body:
            text = "You must either provide a template id or pod configuration parameters"
            raise Stop(problem(400, text))
        gpu, mounts = body["gpu"], body.get("mounts") or {}
        if gpu.get("minCudaVersion") and gpu.get("allowedCudaVersions"):
            raise Stop(problem(400, "minCudaVersion and allowedCudaVersions are mutually exclusive"))
        network = mounts.get("network") or []
        if mounts.get("persistent") and network:
            raise Stop(problem(400, "persistent and network mounts are mutually exclusive"))
        if network and network[0]["volumeId"] not in self.cloud.world.volumes:
            raise Stop(problem(400, "network volume not found"))
        if "count" not in gpu or gpu["id"] not in TYPES:
            raise Stop(problem(400, CAPACITY))  # misleading, and so observed
        places = body.get("dataCenterIds")
        cudas = gpu.get("allowedCudaVersions")
        return Wish(
            name=body["name"],
            image=body.get("image") or "runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404",
            gpu_id=gpu["id"],
            count=gpu["count"],
            clouds=(body.get("cloud", "SECURE"),),
            disk=body.get("disk", 50),
            env=body.get("env") or {},
            ports=body.get("ports") or [],
            places=frozenset(places) if places else None,
            min_cuda=float(gpu.get("minCudaVersion") or 0),
            cudas=frozenset(cudas) if cudas else None,
            persistent=mounts.get("persistent"),
            volume=network[0]["volumeId"] if network else None,
            volume_path=network[0]["path"] if network else "",
            command=command_of(body),
            start_ssh=bool(body.get("startSsh")),
            extra={
                name: body[key]
                for key, name in (("args", "args"), ("cmd", "cmd"), ("entrypoint", "entrypoint"),
                                  ("templateId", "template"), ("registry", "registry"))
                if body.get(key)
            },
        )  # fmt: skip

    async def show(self, request: web.Request) -> web.Response:
        """One pod; 404 when it is gone."""
        identity = request.match_info["id"]
        take = self.cloud.faults.take
        for instance in self.cloud.world.instances.values():
            if self.cloud.vendor.public_id(instance) != identity:
                continue
            if not instance.exists and take("show_terminated") is not None:
                return answer(self.desk.row(instance))
            if take("show_null") is not None or not self.desk.visible(instance.id):
                break
            return answer(self.desk.row(instance))
        return problem(404, "pod not found")

    async def change(self, request: web.Request) -> web.Response:
        """Change a pod; all but its name and its lock recreate the container."""
        body = await json_body(request)
        errors = checks.update(body, newer=True)
        if errors:
            raise invalid(errors)
        instance = self.desk.pod(request)
        if "name" in body:
            lifecycle.set_label(self.cloud.world, instance.id, body["name"], self.cloud.now())
        vendor = dict(instance.request.vendor)
        vendor.update(
            {k: body[k] for k in ("ports", "disk", "args", "cmd", "entrypoint", "locked") if k in body}
        )
        if {"args", "cmd", "entrypoint"} & set(body):
            vendor["command"] = list(command_of(body))
        instance.request = msgspec.structs.replace(
            instance.request, env=body.get("env", instance.request.env), image=body.get("image", instance.request.image),
            vendor=vendor,
        )  # fmt: skip
        if set(body) - {"name", "locked"}:
            await self._recreate(instance)
        await self.cloud.commit()
        return answer(self.desk.row(instance))

    async def _recreate(self, instance: Instance) -> None:
        """A new container: the old one's disk is lost."""
        if instance.phase is Phase.RUNNING:
            lifecycle.reboot(self.cloud.world, instance.id, self.cloud.now())
            await self.cloud.commit()

    async def act(self, request: web.Request) -> web.Response:
        """start | stop | restart | terminate."""
        body = await json_body(request)
        errors = checks.action(body, "$")
        if errors:
            raise invalid(errors)
        instance, wanted = self.desk.pod(request), body["action"]
        if wanted not in ACTIONS[STATUS[instance.phase]]:
            return problem(409, f"cannot {wanted} a pod that is {STATUS[instance.phase]}")
        if self.cloud.faults.take("action_noop") is not None:
            return answer(self.desk.row(instance))
        try:
            self._do(instance, wanted)
        except NotDone as refused:
            return refusal(refused)
        except Refused:
            return problem(409, f"cannot {wanted} this pod now")
        await self.cloud.commit()
        if wanted == "terminate" or self.cloud.faults.take("action_204") is not None:
            return web.Response(status=204)
        return answer(self.desk.row(instance))

    def _do(self, instance: Instance, wanted: str) -> None:
        world, now = self.cloud.world, self.cloud.now()
        match wanted:
            case "start":
                self.desk.start(instance)
            case "stop":
                lifecycle.stop(world, instance.id, now)
            case "restart":
                lifecycle.reboot(world, instance.id, now)
            case _:
                self.desk.terminate(instance)

    async def delete(self, request: web.Request) -> web.Response:
        """Terminate."""
        self.desk.terminate(self.desk.pod(request))
        await self.cloud.commit()
        return web.Response(status=204)
