"""The Vast.ai API (console.vast.ai, as of November 2026) on the simulated cloud.

Every route takes its path with and without the trailing slash. Identities: the account key, and the
instance-scoped key of each instance, which may show, start, stop and destroy that instance only.
"""

from __future__ import annotations

import time

from aiohttp import web

from gpucloudsim.cloud import Cloud
from gpucloudsim.faces.http import Gate, Handler, Stop
from gpucloudsim.faces.vast.account import AccountRoutes
from gpucloudsim.faces.vast.acts import ActRoutes
from gpucloudsim.faces.vast.answers import SEARCHES, THRESHOLDS, error, throttled
from gpucloudsim.faces.vast.desk import Desk
from gpucloudsim.faces.vast.market import MarketRoutes
from gpucloudsim.faces.vast.reads import ReadRoutes
from gpucloudsim.faces.vast.results import ResultRoutes


class VastFace:
    """The routes, who may call them and how often."""

    def __init__(self, cloud: Cloud, limits: bool) -> None:
        self.cloud = cloud
        self._limits = limits
        self._gate = Gate(cloud, throttled)
        self._recent: dict[tuple[str, str], list[float]] = {}
        desk = Desk(cloud)
        self._market, self._reads, self._acts = MarketRoutes(desk), ReadRoutes(desk), ActRoutes(desk)
        self._results, self._account = ResultRoutes(desk), AccountRoutes(desk)

    def routes(self) -> list[web.AbstractRouteDef]:
        """All routes of the API."""
        table: list[tuple[str, str, str, Handler, str]] = [
            ("POST", "/api/v0/bundles", "search", self._market.search, "open"),
            ("PUT", "/api/v0/search/asks", "search", self._market.search_asks, "open"),
            ("PUT", r"/api/v0/asks/{id:\d+}", "create", self._market.create, "account"),
            ("GET", "/api/v1/instances", "list", self._reads.list_v1, "account"),
            ("GET", "/api/v0/instances", "list_v0", self._reads.list_v0, "account"),
            ("PUT", "/api/v0/instances", "state", self._acts.bulk_state, "account"),
            ("DELETE", "/api/v0/instances", "destroy", self._acts.bulk_destroy, "account"),
            ("GET", "/api/v0/instances/filters", "filters", self._reads.filters, "account"),
            ("GET", r"/api/v0/instances/{id:\d+}", "show", self._reads.show, "instance"),
            ("PUT", r"/api/v0/instances/{id:\d+}", "state", self._acts.manage, "instance"),
            ("DELETE", r"/api/v0/instances/{id:\d+}", "destroy", self._acts.destroy, "instance"),
            ("PUT", r"/api/v0/instances/reboot/{id:\d+}", "reboot", self._acts.reboot, "account"),
            ("PUT", r"/api/v0/instances/recycle/{id:\d+}", "recycle", self._acts.recycle, "account"),
            ("PUT", r"/api/v0/instances/bid_price/{id:\d+}", "bid", self._acts.bid, "account"),
            ("PUT", r"/api/v0/instances/request_logs/{id:\d+}", "logs", self._results.logs, "account"),
            ("PUT", r"/api/v0/instances/command/{id:\d+}", "execute", self._results.execute, "account"),
            ("GET", r"/api/v0/instances/balance/{id:\d+}", "balance", self._account.balance, "account"),
            ("GET", r"/api/v0/instances/{id:\d+}/ssh", "ssh_list", self._account.instance_keys, "account"),
            ("POST", r"/api/v0/instances/{id:\d+}/ssh", "ssh_attach", self._account.attach_key, "account"),
            (
                "DELETE",
                r"/api/v0/instances/{id:\d+}/ssh/{key:\d+}",
                "ssh_detach",
                self._account.detach_key,
                "account",
            ),
            ("GET", "/api/v0/ssh", "ssh_list", self._account.keys, "account"),
            ("POST", "/api/v0/ssh", "ssh_add", self._account.add_key, "account"),
            ("PUT", r"/api/v0/ssh/{key:\d+}", "ssh_add", self._account.change_key, "account"),
            ("DELETE", r"/api/v0/ssh/{key:\d+}", "ssh_delete", self._account.delete_key, "account"),
            ("GET", "/api/v0/users/current", "user", self._account.user, "account"),
            ("GET", "/api/v0/charges", "charges", self._account.charges, "account"),
            ("GET", "/api/v1/invoices", "invoices", self._account.invoices, "account"),
            ("GET", "/api/v0/secrets", "secrets", self._account.secrets, "account"),
            ("GET", "/api/v0/template", "templates", self._account.templates, "account"),
            ("GET", "/api/v0/auth/apikeys", "apikeys", self._account.apikeys, "account"),
            ("GET", "/api/v0/volumes", "volumes", self._account.volumes, "account"),
        ]
        return [
            web.route(method, path + "{_:/?}", self._wrap(name, handler, who))
            for method, path, name, handler, who in table
        ]

    def result_routes(self) -> list[web.AbstractRouteDef]:
        """The other origin, from which logs and command results are fetched without a key."""
        return [web.get("/vast.ai/instance_logs/{name}", self._results.result)]

    def _wrap(self, endpoint: str, handler: Handler, who: str) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            self._authorize(request, who)
            if self.cloud.faults.take("auth_error", endpoint) is not None:
                raise Stop(error("auth_error", "Invalid user key", 404))
            self._pace(request, endpoint)
            self.cloud.advance()
            return await handler(request)

        async def serve(request: web.Request) -> web.StreamResponse:
            return await self._gate.pass_through(request, endpoint, guarded)

        return serve

    def _authorize(self, request: web.Request, who: str) -> None:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if not key or scheme.lower() != "bearer":
            if who == "open":
                return
            raise Stop(error("auth_required", "This action requires login.", 403))
        if key.strip() == self.cloud.api_key:
            return
        owner = next(
            (i for i in self.cloud.world.instances.values() if i.exists and i.api_key == key.strip()), None
        )
        if owner is None:
            raise Stop(error("auth_error", "Invalid user key", 404))
        if who != "instance" or int(request.match_info["id"]) != owner.id:
            raise Stop(error("auth_error", "error 403/3586: this key has no permission for that", 403))

    def _pace(self, request: web.Request, endpoint: str) -> None:
        threshold = THRESHOLDS.get(endpoint)
        if threshold is None or not (self._limits or self.cloud.faults.take("rate_limits") is not None):
            return
        slot = (request.headers.get("Authorization", ""), endpoint)
        now = time.monotonic()
        # searches are so many a minute, everything else one in so many seconds
        most, window = (SEARCHES, 60.0) if endpoint == "search" else (1, threshold)
        recent = [at for at in self._recent.get(slot, []) if now - at < window]
        if len(recent) >= most:
            raise Stop(throttled(endpoint, "detail" if endpoint == "create" else "json", None))
        self._recent[slot] = [*recent, now]
