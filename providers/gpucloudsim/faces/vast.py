"""The Vast.ai API (console.vast.ai, as of November 2026) on the simulated cloud.

Every route takes its path with and without the trailing slash. Identities: the account key, and the
instance-scoped key of each instance, which may show, start, stop and destroy that instance only.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import shlex
import subprocess
import time
from typing import Any

from aiohttp import web

from gpucloudsim.cloud import Cloud
from gpucloudsim.engine import lifecycle
from gpucloudsim.engine.lifecycle import Refused, RefusalReason
from gpucloudsim.engine.market import SECOND
from gpucloudsim.engine.model import Instance, Phase, RentRequest, Want
from gpucloudsim.faces.http import Gate, Handler, Stop, answer, body_of, query_value
from gpucloudsim.faces.vast_query import BadQuery, conditions, offer_matches, ordered, row_matches
from gpucloudsim.faces.vast_rows import Row, dollars, instance_row, offer_row

SEARCH_CAP = 64
PAGE = 25
STORED_COLUMNS = frozenset({"id", "label", "actual_status", "gpu_name", "verification", "machine_id", "intended_status"})
THRESHOLDS = {
    "list": 1.0, "show": 2.0, "state": 1.0, "create": 4.5, "destroy": 3.0, "reboot": 1.0, "recycle": 1.0, "bid": 5.5,
    "prepay": 2.0, "execute": 1.5, "ssh_add": 1.0, "ssh_attach": 1.0, "ssh_detach": 2.0, "charges": 1.0,
    "invoices": 3.0, "secrets": 5.0, "search": 6.0, "templates": 3.0,
}  # fmt: skip
"""Documented minimum interval per endpoint and identity, in seconds (search: 10 a minute)."""

RESULT_LAG = 2
"""How often a fresh result URL answers 404 before the object is there."""
MISSING_XML = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message>'
    "<Key>{}</Key></Error>"
)


def error(code: str, text: str, status: int, **more: object) -> web.Response:
    """Vast's generic failure."""
    return answer({"success": False, "error": code, "msg": text, **more}, status)


def throttled(endpoint: str, kind: str, retry_after: float | None) -> web.Response:
    """429 in one of the bodies that were seen."""
    text = f"API requests too frequent endpoint threshold={THRESHOLDS.get(endpoint, 1.0)}"
    headers = {"Retry-After": f"{retry_after:g}"} if retry_after is not None else None
    if kind == "detail":
        return answer({"detail": text}, 429, headers)
    if kind == "text":
        return web.Response(body=b"API requests too frequent", status=429, content_type="text/plain", headers=headers)
    if kind == "quota":
        return answer({"success": False, "error": "search_quota_exceeded", "msg": "daily search quota exceeded"}, 429, headers)
    return answer({"success": False, "error": "rate_limit_exceeded", "msg": text}, 429, headers)


class VastFace:
    """The routes."""

    def __init__(self, cloud: Cloud, limits: bool) -> None:
        self.cloud = cloud
        self._limits = limits
        self._gate = Gate(cloud, throttled)
        self._last: dict[tuple[str, str], float] = {}
        self._hidden: dict[int, int] = {}
        self._ghosts: dict[int, int] = {}
        self._results: dict[str, tuple[int, str]] = {}
        self._secrets: dict[str, str] = {}

    def routes(self) -> list[web.AbstractRouteDef]:
        """All routes of the API."""
        table: list[tuple[str, str, str, Handler, str]] = [
            ("POST", "/api/v0/bundles", "search", self.search, "open"),
            ("PUT", "/api/v0/search/asks", "search", self.search_asks, "open"),
            ("PUT", r"/api/v0/asks/{id:\d+}", "create", self.create, "account"),
            ("GET", "/api/v1/instances", "list", self.list, "account"),
            ("GET", "/api/v0/instances", "list_v0", self.list_v0, "account"),
            ("PUT", "/api/v0/instances", "state", self.bulk_state, "account"),
            ("DELETE", "/api/v0/instances", "destroy", self.bulk_destroy, "account"),
            ("GET", "/api/v0/instances/filters", "filters", self.filters, "account"),
            ("GET", r"/api/v0/instances/{id:\d+}", "show", self.show, "instance"),
            ("PUT", r"/api/v0/instances/{id:\d+}", "state", self.manage, "instance"),
            ("DELETE", r"/api/v0/instances/{id:\d+}", "destroy", self.destroy, "instance"),
            ("PUT", r"/api/v0/instances/reboot/{id:\d+}", "reboot", self.reboot, "account"),
            ("PUT", r"/api/v0/instances/recycle/{id:\d+}", "recycle", self.recycle, "account"),
            ("PUT", r"/api/v0/instances/bid_price/{id:\d+}", "bid", self.bid, "account"),
            ("PUT", r"/api/v0/instances/request_logs/{id:\d+}", "logs", self.logs, "account"),
            ("PUT", r"/api/v0/instances/command/{id:\d+}", "execute", self.execute, "account"),
            ("GET", r"/api/v0/instances/balance/{id:\d+}", "balance", self.balance, "account"),
            ("GET", r"/api/v0/instances/{id:\d+}/ssh", "ssh_list", self.instance_keys, "account"),
            ("POST", r"/api/v0/instances/{id:\d+}/ssh", "ssh_attach", self.attach_key, "account"),
            ("DELETE", r"/api/v0/instances/{id:\d+}/ssh/{key:\d+}", "ssh_detach", self.detach_key, "account"),
            ("GET", "/api/v0/ssh", "ssh_list", self.keys, "account"),
            ("POST", "/api/v0/ssh", "ssh_add", self.add_key, "account"),
            ("PUT", r"/api/v0/ssh/{key:\d+}", "ssh_add", self.change_key, "account"),
            ("DELETE", r"/api/v0/ssh/{key:\d+}", "ssh_delete", self.delete_key, "account"),
            ("GET", "/api/v0/users/current", "user", self.user, "account"),
            ("GET", "/api/v0/charges", "charges", self.charges, "account"),
            ("GET", "/api/v1/invoices", "invoices", self.invoices, "account"),
            ("GET", "/api/v0/secrets", "secrets", self.secrets, "account"),
            ("GET", "/api/v0/template", "templates", self.templates, "account"),
            ("GET", "/api/v0/auth/apikeys", "apikeys", self.apikeys, "account"),
            ("GET", "/api/v0/volumes", "volumes", self.volumes, "account"),
        ]
        return [web.route(method, path + "{_:/?}", self._wrap(name, handler, who)) for method, path, name, handler, who in table]

    def result_routes(self) -> list[web.AbstractRouteDef]:
        """The other origin, from which logs and command results are fetched without a key."""
        return [web.get("/vast.ai/instance_logs/{name}", self.result)]

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

    # Who calls, and how often.

    def _authorize(self, request: web.Request, who: str) -> None:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if not key or scheme.lower() != "bearer":
            if who == "open":
                return
            raise Stop(error("auth_required", "This action requires login.", 403))
        if key.strip() == self.cloud.api_key:
            return
        owner = next((i for i in self.cloud.world.instances.values() if i.exists and i.api_key == key.strip()), None)
        if owner is None:
            raise Stop(error("auth_error", "Invalid user key", 404))
        if who != "instance" or int(request.match_info["id"]) != owner.id:
            raise Stop(error("auth_error", "error 403/3586: this key has no permission for that", 403))

    def _pace(self, request: web.Request, endpoint: str) -> None:
        threshold = THRESHOLDS.get(endpoint)
        if not self._limits or threshold is None:
            return
        slot = (request.headers.get("Authorization", ""), endpoint)
        now = time.monotonic()
        last = self._last.get(slot)
        if last is not None and now - last < threshold:
            raise Stop(throttled(endpoint, "detail" if endpoint == "create" else "json", None))
        self._last[slot] = now

    def _instance(self, request: web.Request) -> Instance:
        number = int(request.match_info["id"])
        try:
            return lifecycle.get(self.cloud.world, number)
        except Refused:
            raise Stop(error("no_such_instance", f"error 404/3000: instance {number} not found", 404)) from None

    # Market.

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
        now = self.cloud.now()
        bid = query.get("type") in ("bid", "interruptible")
        try:
            storage = float(query.get("allocated_storage", 8.0))
            limit = min(int(query.get("limit") or SEARCH_CAP), SEARCH_CAP)
            order = [(str(column), str(direction)) for column, direction in query.get("order") or [["score", "desc"]]]
        except (TypeError, ValueError) as problem:
            return error("bad_request", f"q: {problem}", 400)
        rows = [offer_row(offer, bid, storage, now) for offer in lifecycle.offers(self.cloud.world, now)]
        rows = [row for row in rows if row["disk_space"] >= storage and offer_matches(row, found)]
        if self.cloud.faults.take("fields_extra") is not None:
            rows = [{**row, "flux_rating": 3, "nested_new": {"a": [1]}} for row in rows]
        return answer({"offers": ordered(rows, order)[:limit]})

    async def create(self, request: web.Request) -> web.Response:
        """Rent an offer."""
        offer_id = int(request.match_info["id"])
        body = await body_of(request)
        take = self.cloud.faults.take
        if take("create_false_without_contract") is not None:
            return error("resources_unavailable", "Required resources are currently unavailable.", 200)
        if (code := take("create_insufficient_credit")) is not None:
            return error("insufficient_credit", "Your account lacks credit; see the billing page.", int(code or 200))
        if (code := take("create_no_such_ask")) is not None:
            return self._gone(offer_id, int(code or 410))
        wanted = self._request_of(body)
        pending = take("create_false_with_contract") is not None
        unscheduled = take("create_unscheduled") is not None
        if unscheduled and body.get("cancel_unavail"):
            return error("resources_unavailable", "Required resources are currently unavailable.", 200)
        try:
            instance = self.cloud.rent(offer_id, wanted)
        except Refused as refused:
            return self._refusal(refused, offer_id)
        if (instance.phase is Phase.OUTBID or pending or unscheduled) and instance.phase is not Phase.STOPPED:
            if instance.phase is Phase.OUTBID and body.get("cancel_unavail"):
                lifecycle.destroy(self.cloud.world, instance.id, self.cloud.now(), "cancel_unavail")
                await self.cloud.commit()
                return error("resources_unavailable", "Required resources are currently unavailable.", 200)
            if instance.phase is not Phase.OUTBID:
                instance.phase, instance.next_us, instance.want = Phase.STOPPED, None, Want.STOPPED
            pending = True
        if (reads := take("lag_create")) is not None:
            self._hidden[instance.id] = int(reads or 1)
        await self.cloud.commit()
        return answer({"success": not pending, "new_contract": instance.id, "instance_api_key": instance.api_key})

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

    def _gone(self, offer_id: int, status: int) -> web.Response:
        if status == 404:
            text = f"error 404/3603: no_such_ask Instance type by id {offer_id} is not available."
            return error("invalid_args", text, 404, ask_id=offer_id)
        text = f"error 410/3907: no_such_ask Instance type {offer_id} is no longer available."
        return error("no_such_ask", text, status, ask_id=offer_id)

    def _refusal(self, refused: Refused, offer_id: int = 0) -> web.Response:
        match refused.reason:
            case RefusalReason.NO_SUCH_OFFER:
                return self._gone(offer_id, 404)
            case RefusalReason.OFFER_GONE:
                return self._gone(offer_id, 410)
            case RefusalReason.NO_CREDIT:
                return error("insufficient_credit", "Your account lacks credit; see the billing page.", 200)
            case RefusalReason.EXPIRED:
                return error("resources_unavailable", "The rental contract of this instance has ended.", 200)
            case _:
                return error("invalid_args", f"error 400/3467: {refused}", 400)

    # Reading.

    def _row(self, instance: Instance) -> Row:
        cloud = self.cloud
        now = cloud.now()
        box = cloud.fleet.boxes.get(instance.id)
        machine = lifecycle.the_market(cloud.world).machines[instance.machine_index]
        row = instance_row(
            instance, machine, now, box.ports if box else None, cloud.fleet.gpus.get(instance.id),
            cloud.fleet.disk_used.get(instance.id), dollars(lifecycle.credit(cloud.world)),
        )  # fmt: skip
        return self._spoil(row)

    def _spoil(self, row: Row) -> Row:
        take = self.cloud.faults.take
        if take("fields_null") is not None:
            row.update(dict.fromkeys(("start_date", "extra_env", "ports", "label", "public_ipaddr", "geolocation", "dph_total")))
        if take("fields_wrong_type") is not None:
            row.update(dph_total=str(row["dph_total"]), ssh_port=str(row["ssh_port"]), label=17, num_gpus=str(row["num_gpus"]))
        if take("fields_extra") is not None:
            row.update(flux_rating=3, nested_new={"a": [1, None]})
        if (word := take("status_unknown")) is not None:
            row["actual_status"] = word or "quiescing"
        if (skew := take("clock_skew")) is not None:
            for name in ("start_date", "end_date"):
                row[name] = (row[name] or 0.0) + float(skew or 0)
        return row

    def _visible(self, only: int | None = None) -> list[Instance]:
        """Instances that a read shows now, with the lags that are switched on."""
        shown = []
        for instance in self.cloud.world.instances.values():
            if only is not None and instance.id != only:
                continue
            lag = self._hidden if instance.exists else self._ghosts
            waiting = lag.get(instance.id, 0)
            if waiting:
                lag[instance.id] = waiting - 1
            if instance.exists == (waiting == 0):
                shown.append(instance)
        return shown

    async def list(self, request: web.Request) -> web.Response:
        """GET /api/v1/instances/: pages of at most 25, by id unless ordered otherwise."""
        take = self.cloud.faults.take
        if take("list_retired") is not None:
            return self._retired("/api/v1/instances/", "/api/v2/instances/")
        filters = query_value(request, "select_filters") or {}
        columns = query_value(request, "select_cols")
        order = query_value(request, "order_by") or [{"col": "id", "dir": "asc"}]
        limit = query_value(request, "limit")
        token = request.query.get("after_token")
        if take("list_page_error") is not None and token:
            return error("internal_error", "internal server error", 500)
        if not isinstance(filters, dict) or not isinstance(order, list):
            return error("invalid_request", "select_filters must be an object, order_by a list", 400)
        strange = [name for name in filters if name not in STORED_COLUMNS]
        if strange:
            return error("invalid_request", f"column {strange[0]} cannot be filtered", 400)
        try:
            found = conditions(filters)
            count = min(int(PAGE if limit is None else limit), PAGE)
            offset = _offset(token) if token else 0
            keys = [(str(item["col"]), str(item.get("dir", "asc"))) for item in order]
        except (BadQuery, ValueError, TypeError, KeyError) as problem:
            return error("invalid_token" if token and isinstance(problem, ValueError) else "invalid_request", str(problem), 400)
        everything = [self._row(instance) for instance in self._visible()]
        rows = ordered([row for row in everything if row_matches(row, found)], keys)
        if take("list_empty") is not None:
            rows = everything = []
        part = rows[offset : offset + count]
        following = _token(offset + count) if offset + count < len(rows) else None
        if following and take("list_short") is not None:
            following = None
        labels: dict[str, int] = {}
        for row in everything:
            labels[str(row["label"] or "")] = labels.get(str(row["label"] or ""), 0) + 1
        if isinstance(columns, list) and "*" not in columns:
            part = [{"id": row["id"], **{name: row.get(name) for name in map(str, columns)}} for row in part]
        return answer(
            {
                "success": True,
                "instances_found": len(rows),
                "total_instances": len(everything) + (3 if take("list_bad_total") is not None else 0),
                "label_counts": labels,
                "next_token": following,
                "instances": part,
            }
        )

    @staticmethod
    def _retired(old: str, new: str) -> web.Response:
        return error("deprecated_endpoint", f"{old} is deprecated. Use {new} instead.", 410)

    async def list_v0(self, request: web.Request) -> web.Response:
        """The retired list."""
        return self._retired("/api/v0/instances/", "/api/v1/instances/")

    async def filters(self, request: web.Request) -> web.Response:
        """Distinct values that can be filtered."""
        rows = [self._row(instance) for instance in self._visible()]
        names = ("actual_status", "gpu_name", "verification", "label")
        return answer({"success": True, "filters": [{name: row[name] for name in names} for row in rows]})

    async def show(self, request: web.Request) -> web.Response:
        """One instance under the plural key; null when it is gone."""
        shown = self._visible(int(request.match_info["id"]))
        if not shown or self.cloud.faults.take("show_null") is not None:
            return answer({"instances": None})
        row = self._row(shown[0])
        row.pop("volume_info", None)
        return answer({"instances": row})

    # Acting.

    async def manage(self, request: web.Request) -> web.Response:
        """Start, stop or label."""
        body = await body_of(request)
        instance = self._instance(request)
        if "label" in body:
            label = body["label"]
            if len(str(label or "")) > 1024:
                return error("label_too_long", "label must not exceed 1024 characters", 400)
            lifecycle.set_label(self.cloud.world, instance.id, None if label is None else str(label), self.cloud.now())
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
            if how != "reverted":
                instance.want = Want.RUNNING
            text = "Required resources are currently unavailable, state change queued."
            return error("resources_unavailable", text, 200)
        try:
            lifecycle.start(world, instance.id, now)
        except Refused as refused:
            return self._refusal(refused)
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
        instance = self._instance(request)
        self._destroy(instance.id)
        await self.cloud.commit()
        return answer({"success": True, "msg": f"destroying instance {instance.id}."})

    def _destroy(self, number: int) -> None:
        lifecycle.destroy(self.cloud.world, number, self.cloud.now())
        if (reads := self.cloud.faults.take("lag_destroy")) is not None:
            self._ghosts[number] = int(reads or 1)

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
        lifecycle.reboot(self.cloud.world, self._instance(request).id, self.cloud.now())
        await self.cloud.commit()
        return answer({"success": True})

    async def recycle(self, request: web.Request) -> web.Response:
        """Recreate the container: its data is lost, the GPUs stay."""
        instance = self._instance(request)
        lifecycle.reboot(self.cloud.world, instance.id, self.cloud.now())
        await self.cloud.commit()
        await self.cloud.fleet.blank(instance.id)
        return answer({"success": True})

    async def bid(self, request: web.Request) -> web.Response:
        """Change the bid; null bids just enough."""
        body = await body_of(request)
        instance = self._instance(request)
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
            return self._refusal(refused)
        await self.cloud.commit()
        return answer({"success": True})

    # Results on another origin.

    def _publish(self, text: str) -> str:
        name = hashlib.sha256(f"{time.time_ns()}{text}".encode()).hexdigest()
        self._results[name] = (RESULT_LAG, text)
        return f"{self.cloud.results_url}/vast.ai/instance_logs/{name}.log"

    async def result(self, request: web.Request) -> web.Response:
        """A result object; 404 with XML until it is uploaded."""
        name = request.match_info["name"].removesuffix(".log")
        lag, text = self._results.get(name, (1, ""))
        if lag > 0 or self.cloud.faults.take("logs_never") is not None:
            if name in self._results:
                self._results[name] = (lag - 1, text)
            return web.Response(body=MISSING_XML.format(name).encode(), status=404, content_type="application/xml")
        return web.Response(body=text.encode(), content_type="text/plain")

    async def logs(self, request: web.Request) -> web.Response:
        """Have the container's log uploaded."""
        body = await body_of(request)
        instance = self._instance(request)
        box = self.cloud.fleet.boxes.get(instance.id)
        if body.get("daemon_logs") in ("true", True):
            text = "".join(f"{time.strftime('%F %T', time.gmtime(at / SECOND))} {what}\n" for at, what in instance.history)
        else:
            text = box.log_text() if box else ""
        lines = text.splitlines(keepends=True)
        if body.get("filter"):
            lines = [line for line in lines if str(body["filter"]) in line]
        if str(body.get("tail") or "").isdigit():
            lines = lines[-int(str(body["tail"])) :]
        return answer({"success": True, "result_url": self._publish("".join(lines)), "msg": "log request sent"})

    async def execute(self, request: web.Request) -> web.Response:
        """ls, rm and du on the disk of an instance (no shell)."""
        body = await body_of(request)
        instance = self._instance(request)
        box = self.cloud.fleet.boxes.get(instance.id)
        words = shlex.split(str(body.get("command") or ""))
        if len(str(body.get("command") or "")) > 512 or not words or words[0] not in ("ls", "rm", "du") or box is None:
            return error("invalid_args", "only ls, rm and du are allowed", 400)
        base = box.path
        mapped = [words[0], *(_into(str(base), word) if word.startswith("/") else word for word in words[1:])]
        done = subprocess.run(mapped, cwd=base, capture_output=True, text=True, errors="replace", timeout=10, check=False)  # noqa: S603
        text = (done.stdout + done.stderr).replace(str(base), "")
        path = "/var/lib/docker/overlay2/writeable"
        return answer({"success": True, "writeable_path": path, "result_url": self._publish(text), "msg": "Executing..."})

    # Keys.

    def _key_rows(self) -> list[Row]:
        return [
            {"id": key.id, "user_id": 4242, "key": key.text, "created_at": _iso(key.created_us), "deleted_at": None}
            for key in self.cloud.world.keys.values()
        ]

    async def keys(self, request: web.Request) -> web.Response:
        """Keys of the account; 404 when there are none."""
        rows = self._key_rows()
        return answer(rows) if rows else error("not_found", "No SSH keys found for the user.", 404)

    async def add_key(self, request: web.Request) -> web.Response:
        """Add a key to the account."""
        text = str((await body_of(request)).get("ssh_key") or "").strip()
        if not text.startswith(("ssh-", "ecdsa-", "sk-")):
            return error("invalid_args", "ssh_key: invalid public key", 400)
        if any(key.text == text for key in self.cloud.world.keys.values()):
            return error("invalid_args", "error 400: SSH key already exists", 400)
        key = lifecycle.add_key(self.cloud.world, text, self.cloud.now())
        await self.cloud.commit()
        row = {"id": key.id, "user_id": 4242, "public_key": text, "created_at": _iso(key.created_us), "deleted_at": None}
        return answer({"success": True, "key": row})

    async def change_key(self, request: web.Request) -> web.Response:
        """Replace a key of the account."""
        number = int(request.match_info["key"])
        text = str((await body_of(request)).get("ssh_key") or "").strip()
        if number not in self.cloud.world.keys:
            return error("no_ssh_key", "no such ssh key", 400)
        self.cloud.world.keys[number] = type(self.cloud.world.keys[number])(number, text, self.cloud.now())
        await self.cloud.commit()
        return answer({"success": True})

    async def delete_key(self, request: web.Request) -> web.Response:
        """Remove a key from the account (instances keep it)."""
        if self.cloud.world.keys.pop(int(request.match_info["key"]), None) is None:
            return error("no_ssh_key", "no such ssh key", 400)
        await self.cloud.commit()
        return answer({"success": True})

    async def instance_keys(self, request: web.Request) -> web.Response:
        """Keys of one instance: `ssh_keys` is JSON inside a string."""
        import json

        instance = self._instance(request)
        rows = [{"id": key_id, "public_key": text} for key_id, text in instance.keys.items()]
        return answer({"success": True, "ssh_keys": json.dumps(rows)})

    async def attach_key(self, request: web.Request) -> web.Response:
        """Put a key on one instance."""
        instance = self._instance(request)
        text = str((await body_of(request)).get("ssh_key") or "").strip()
        if not text.startswith(("ssh-", "ecdsa-", "sk-")):
            return error("invalid_args", "ssh_key: invalid public key", 400)
        lifecycle.attach_key(self.cloud.world, instance.id, text, self.cloud.now())
        await self.cloud.commit()
        return answer({"success": True, "msg": "SSH key added to instance."})

    async def detach_key(self, request: web.Request) -> web.Response:
        """Take a key off one instance."""
        instance = self._instance(request)
        kept = dict(instance.keys)
        text = kept.pop(int(request.match_info["key"]), None)
        if text is None:
            return error("no_ssh_key", "no such ssh key", 400)
        instance.keys = kept
        box = self.cloud.fleet.boxes.get(instance.id)
        if box is not None:
            box.drop_key(text)
        await self.cloud.commit()
        return answer({"success": True})

    # Money and the rest.

    async def user(self, request: web.Request) -> web.Response:
        """The account; `credit` is what is left."""
        left: float | None = round(dollars(lifecycle.credit(self.cloud.world)), 6)
        if self.cloud.faults.take("credit_null") is not None:
            left = None
        return answer(
            {
                "id": 4242,
                "email": "sim@example.org",
                "username": "sim",
                "fullname": "Simulated Customer",
                "credit": left,
                "balance": 0.0,
                "balance_threshold": 1.0,
                "balance_threshold_enabled": False,
                "autobill_threshold": None,
                "can_pay": True,
                "has_billing": True,
                "email_verified": True,
                "ssh_key": next((key.text for key in self.cloud.world.keys.values()), None),
                "api_key": self.cloud.api_key,
            }
        )

    async def charges(self, request: web.Request) -> web.Response:
        """What each instance has cost, pages of at most 500."""
        filters = query_value(request, "select_filters") or {}
        day = filters.get("day") if isinstance(filters, dict) else None
        low, high = (float(day.get("gte", 0)), float(day.get("lte", 1e12))) if isinstance(day, dict) else (0.0, 1e12)
        try:
            limit = max(1, min(int(query_value(request, "limit") or 100), 500))
            token = request.query.get("after_token")
            offset = _offset(token) if token else 0
        except (TypeError, ValueError) as problem:
            return error("invalid_token", str(problem), 400)
        rows = [_charge(i, self.cloud.now()) for i in self.cloud.world.instances.values()]
        rows = [row for row in rows if row["end"] >= low and row["start"] <= high + 86400]
        rows.sort(key=lambda row: row["start"], reverse=bool(query_value(request, "latest_first")))
        more = _token(offset + limit) if offset + limit < len(rows) else None
        part = rows[offset : offset + limit]
        return answer({"success": True, "count": len(part), "total": len(rows), "next_token": more, "results": part})

    async def invoices(self, request: web.Request) -> web.Response:
        """Payments made into the account."""
        filters = query_value(request, "select_filters")
        if not isinstance(filters, dict) or "when" not in filters:
            return error("invalid_request", "a date range is required", 200)
        world = self.cloud.world
        row = {"start": world.started_us / SECOND, "end": world.started_us / SECOND, "type": "invoice", "source": "stripe_payments",
               "description": "Credit", "amount": dollars(world.deposited_micro), "metadata": {}, "items": []}  # fmt: skip
        return answer({"success": True, "count": 1, "total": 1, "next_token": None, "results": [row]})

    async def balance(self, request: web.Request) -> web.Response:
        """Reserved deposit of an instance (there is none on demand)."""
        self._instance(request)
        return answer({"success": True, "balance": 0.0, "discount": 0.0})

    async def secrets(self, request: web.Request) -> web.Response:
        """Environment variables of the account."""
        return answer({"success": True, "secrets": self._secrets})

    async def templates(self, request: web.Request) -> web.Response:
        """No templates are simulated."""
        return answer({"success": True, "templates_found": 0, "templates": []})

    async def apikeys(self, request: web.Request) -> web.Response:
        """Keys of the account, without their text."""
        return answer({"success": True, "apikeys": [{"id": 1, "name": "default", "permissions": {"api": {}}}]})

    async def volumes(self, request: web.Request) -> web.Response:
        """No volumes are simulated yet."""
        return answer({"success": True, "volumes": []})


def _iso(micro: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(micro / SECOND))


def _token(offset: int) -> str:
    return base64.urlsafe_b64encode(f"after:{offset}".encode()).decode()


def _offset(token: str) -> int:
    """Raises ValueError for a token that is not ours."""
    text = base64.urlsafe_b64decode(token.encode()).decode(errors="replace")
    word, _, number = text.partition(":")
    if word != "after" or not number.isdigit():
        raise ValueError("invalid after_token")
    return int(number)


def _into(base: str, path: str) -> str:
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    return "/".join([base, *parts])


def _charge(instance: Instance, now: int) -> Row:
    end = instance.destroyed_us or now
    items = [
        {"type": "gpu", "amount": dollars(instance.gpu_cost),
         "description": f"{instance.gpu_us / 3.6e9:.3f} hours at ${dollars(instance.gpu_rate):.3f}/hour"},
        {"type": "disk", "amount": dollars(instance.disk_cost),
         "description": f"{instance.disk_us / 3.6e9:.3f} hours at ${dollars(instance.disk_rate):.3f}/hour"},
        {"type": "bwu", "amount": dollars(instance.bytes_up * instance.up_micro_per_gb // 10**9),
         "description": f"{instance.bytes_up / 1e9:.3f} GB at ${dollars(instance.up_micro_per_gb):.4f}/GB"},
        {"type": "bwd", "amount": dollars(instance.bytes_down * instance.down_micro_per_gb // 10**9),
         "description": f"{instance.bytes_down / 1e9:.3f} GB at ${dollars(instance.down_micro_per_gb):.4f}/GB"},
    ]  # fmt: skip
    return {
        "start": instance.created_us / SECOND,
        "end": end / SECOND,
        "type": "instance",
        "source": f"instance-{instance.id}",
        "description": f"Instance {instance.id} GPU charges",
        "amount": round(sum(float(str(item["amount"])) for item in items), 6),
        "metadata": {"label": instance.label},
        "items": items,
    }
