"""RunPod's APIs (November 2026) on the simulated cloud: REST v2, what is left of GraphQL, v1 retired.

Identities: the account's key, and the pod-scoped key of each pod (RUNPOD_API_KEY inside it), which may
stop and terminate its own pod and read nothing.
"""

from __future__ import annotations

from aiohttp import web

from gpucloudsim.cloud import Cloud
from gpucloudsim.faces.http import Gate, Handler, Stop
from gpucloudsim.faces.runpod.account import AccountRoutes
from gpucloudsim.faces.runpod.answers import Limits, problem, request_id, throttled
from gpucloudsim.faces.runpod.desk import Desk
from gpucloudsim.faces.runpod.graphql import GraphQL
from gpucloudsim.faces.runpod.house import pod_id
from gpucloudsim.faces.runpod.logs import LogRoutes
from gpucloudsim.faces.runpod.pods import PodRoutes

_POD = "/v2/pods/{id}"
_VOLUME = "/v2/network-volumes/{id}"


class RunpodFace:
    """The routes, who may call them and how often."""

    def __init__(self, cloud: Cloud, limits: bool) -> None:
        self.cloud = cloud
        self._limits = Limits(enforced=limits)
        self._gate = Gate(cloud, throttled)
        desk = Desk(cloud)
        self._pods, self._logs, self._account = PodRoutes(desk), LogRoutes(desk), AccountRoutes(desk)
        self._graphql = GraphQL(desk)

    def routes(self) -> list[web.AbstractRouteDef]:
        """All routes."""
        pods, account = self._pods, self._account
        table: list[tuple[str, str, str, Handler]] = [
            ("GET", "/v2/pods", "list", pods.list_pods),
            ("POST", "/v2/pods", "create", pods.create),
            ("GET", _POD, "show", pods.show),
            ("PATCH", _POD, "change", pods.change),
            ("DELETE", _POD, "destroy", pods.delete),
            ("POST", f"{_POD}/action", "state", pods.act),
            ("GET", f"{_POD}/logs", "logs", self._logs.stream),
            ("GET", "/v2/account/ssh-keys", "ssh_list", account.ssh_keys),
            ("PUT", "/v2/account/ssh-keys", "ssh_add", account.put_ssh_keys),
            ("GET", "/v2/network-volumes", "volumes", account.volumes),
            ("POST", "/v2/network-volumes", "volume_create", account.new_volume),
            ("GET", _VOLUME, "volumes", account.volume),
            ("PATCH", _VOLUME, "volume_change", account.change_volume),
            ("DELETE", _VOLUME, "volume_delete", account.delete_volume),
            ("GET", "/v2/templates", "templates", account.templates),
            ("GET", "/v2/registries", "registries", account.registries),
            ("GET", "/v2/billing/pods", "charges", account.billing_pods),
            ("GET", "/v2/catalog/gpus", "search", account.gpus),
            ("GET", "/v2/catalog/gpus/{id}", "search", account.gpu),
            ("GET", "/v2/catalog/datacenters", "places", account.places),
            ("GET", "/v2/catalog/datacenters/{id}", "places", account.place),
            ("GET", "/v2/catalog/templates", "templates", account.templates),
        ]
        found: list[web.AbstractRouteDef] = [
            web.route(method, path, self._wrap(name, handler)) for method, path, name, handler in table
        ]
        found.append(web.post("/graphql", self._wrap_graphql()))
        found.append(web.route("*", "/v1/{rest:.*}", self._retired))
        found.append(web.route("*", "/v2/{rest:.*}", self._missing))
        return found

    async def _retired(self, request: web.Request) -> web.Response:
        """REST v1 ended on November 15, 2026."""
        self.cloud.calls["v1"] += 1
        return problem(410, "REST API v1 has been retired; use https://api.runpod.io/v2")

    async def _missing(self, request: web.Request) -> web.Response:
        return problem(404, "resource not found")

    def _wrap(self, endpoint: str, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            self._authorize(request, endpoint)
            headers, window = self._limits.count(strict=self.cloud.faults.take("rate_limits") is not None)
            request["headers"] = headers
            if window is not None:
                return problem(429, f"rate limit exceeded for the {window} window")
            if self.cloud.faults.take("forbidden", endpoint) is not None:
                return problem(403, "access denied")
            self.cloud.world.broke_means_gone = self.cloud.faults.take("balance_terminates") is not None
            self.cloud.advance()
            try:
                return await handler(request)
            except Stop as stop:
                return stop.response

        async def serve(request: web.Request) -> web.StreamResponse:
            response = await self._gate.pass_through(request, endpoint, guarded)
            if not response.prepared:
                response.headers["x-request-id"] = request_id()
                for name, value in request.get("headers", {}).items():
                    response.headers.setdefault(name, value)
            return response

        return serve

    def _authorize(self, request: web.Request, endpoint: str) -> None:
        """Who is it? Raises Stop(401), or Stop(403) for a pod's own key."""
        key = _key(request)
        if not key:
            raise Stop(problem(401, "missing bearer token"))
        if self.cloud.faults.take("auth_error", endpoint) is not None:
            raise Stop(problem(401, "invalid bearer token"))
        if key == self.cloud.api_key:
            request["account"] = True
            return
        owner = next((i for i in self.cloud.world.instances.values() if i.exists and i.api_key == key), None)
        if owner is None:
            raise Stop(problem(401, "invalid bearer token"))
        if endpoint not in ("state", "destroy") or request.match_info.get("id") != pod_id(owner):
            raise Stop(problem(403, "access denied"))

    def _wrap_graphql(self) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            key = _key(request)
            if key and key != self.cloud.api_key:
                return web.Response(status=401, text="Unauthorized")
            if self.cloud.faults.take("auth_error", "graphql") is None:
                request["account"] = bool(key)
            self.cloud.advance()
            return await self._graphql.serve(request)

        async def serve(request: web.Request) -> web.StreamResponse:
            return await self._gate.pass_through(request, "graphql", guarded)

        return serve


def _key(request: web.Request) -> str:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""
