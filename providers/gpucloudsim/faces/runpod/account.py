"""The account: SSH keys, network volumes, templates, registries, billing, the catalog's routes."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from gpucloudsim.engine import lifecycle
from gpucloudsim.engine.market import SECOND
from gpucloudsim.engine.model import NetworkVolume
from gpucloudsim.faces.http import Stop, answer
from gpucloudsim.faces.runpod import catalog, checks
from gpucloudsim.faces.runpod.answers import problem, request_id
from gpucloudsim.faces.runpod.catalog import PLACES, TYPES, Wanted
from gpucloudsim.faces.runpod.desk import Desk, cost_of
from gpucloudsim.faces.runpod.house import pod_id
from gpucloudsim.faces.runpod.pods import invalid, json_body
from gpucloudsim.faces.runpod.rows import iso

Row = dict[str, Any]
_CUDA = re.compile(r"\d+\.\d+")
DAY = 86_400 * SECOND


class AccountRoutes:
    """What belongs to the account."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.cloud = desk.cloud

    async def ssh_keys(self, request: web.Request) -> web.Response:
        """The account's public keys."""
        return answer({"keys": [key.text for key in self.cloud.world.keys.values()]})

    async def put_ssh_keys(self, request: web.Request) -> web.Response:
        """Replace the whole list."""
        body = await json_body(request)
        errors = checks.ssh_keys(body, "$")
        if errors:
            raise invalid(errors)
        world, now = self.cloud.world, self.cloud.now()
        world.keys = {}
        for text in dict.fromkeys(body["keys"]):
            lifecycle.add_key(world, text, now)
        await self.cloud.commit()
        return await self.ssh_keys(request)

    # --- network volumes -------------------------------------------------------------------------

    def _volume(self, request: web.Request) -> NetworkVolume:
        volume = self.cloud.world.volumes.get(request.match_info["id"])
        if volume is None:
            raise Stop(problem(404, "resource not found"))
        return volume

    async def volumes(self, request: web.Request) -> web.Response:
        """All network volumes."""
        return answer({"networkVolumes": [_volume_row(v) for v in self.cloud.world.volumes.values()]})

    async def volume(self, request: web.Request) -> web.Response:
        """One network volume."""
        return answer(_volume_row(self._volume(request)))

    async def new_volume(self, request: web.Request) -> web.Response:
        """Make a network volume in one data centre."""
        body = await json_body(request)
        errors = checks.new_volume(body, "$")
        if errors:
            raise invalid(errors)
        if body["dataCenter"] not in {place.id for place in PLACES}:
            return problem(400, "data center not found")
        volume = NetworkVolume(
            request_id()[:10], body["name"], body["size"], body["dataCenter"], body.get("type", "STANDARD")
        )
        self.cloud.world.volumes[volume.id] = volume
        await self.cloud.commit()
        return answer(_volume_row(volume), 201)

    async def change_volume(self, request: web.Request) -> web.Response:
        """Rename or enlarge."""
        body = await json_body(request)
        errors = checks.changed_volume(body)
        if errors:
            raise invalid(errors)
        volume = self._volume(request)
        if body.get("size", volume.size_gb) < volume.size_gb:
            return problem(400, "a network volume cannot be made smaller")
        volume.name, volume.size_gb = body.get("name", volume.name), body.get("size", volume.size_gb)
        await self.cloud.commit()
        return answer(_volume_row(volume))

    async def delete_volume(self, request: web.Request) -> web.Response:
        """Delete with everything on it; refused while a pod mounts it (the code is a guess)."""
        volume = self._volume(request)
        if any(
            i.exists and i.request.vendor.get("volume") == volume.id
            for i in self.cloud.world.instances.values()
        ):
            return problem(400, "network volume is in use")
        del self.cloud.world.volumes[volume.id]
        await self.cloud.commit()
        return web.Response(status=204)

    # --- things of which there are none ----------------------------------------------------------

    async def templates(self, request: web.Request) -> web.Response:
        """No templates are simulated."""
        return answer({"templates": []})

    async def registries(self, request: web.Request) -> web.Response:
        """No registries are simulated."""
        return answer({"registries": []})

    # --- billing ---------------------------------------------------------------------------------

    async def billing_pods(self, request: web.Request) -> web.Response:
        """What pods have cost: one record per pod and day of its start (the real one lags by hours)."""
        now = self.cloud.now()
        since, until = now - 30 * DAY, now
        try:
            if "startTime" in request.query:
                since = _micro(request.query["startTime"])
            if "endTime" in request.query:
                until = _micro(request.query["endTime"])
        except ValueError:
            raise invalid(["startTime or endTime is not a timestamp"]) from None
        only = request.query.get("podId")
        records: list[Row] = []
        known = self.cloud.books
        for instance in self.cloud.world.instances.values():
            if instance.created_us > known:
                continue
            identity = pod_id(instance)
            gpu, disk = cost_of(instance, since, until)
            if (only is not None and identity != only) or gpu + disk == 0:
                continue
            begin = instance.created_us // DAY * DAY
            amounts = {"totalAmount": gpu + disk, "gpuAmount": gpu, "cpuAmount": 0.0, "diskAmount": disk}
            records.append(
                {"startTime": iso(begin), "endTime": iso(begin + DAY), "podId": identity, **amounts}
            )
        names = ("totalAmount", "gpuAmount", "cpuAmount", "diskAmount")
        query: Row = {"startTime": iso(since), "endTime": iso(until), "bucketSize": "day"}
        if only is not None:
            query["podId"] = only
        body: Row = {
            "records": records,
            "metadata": {
                "query": query,
                "recordCount": len(records),
                "uniquePodCount": len({r["podId"] for r in records}),
                "totals": {name: sum(r[name] for r in records) for name in names},
            },
        }
        if self.cloud.faults.take("billing_null") is not None:
            body["records"] = None
        return answer(body)

    # --- catalog ---------------------------------------------------------------------------------

    def _wanted(self, request: web.Request) -> Wanted | None:
        """The filters, None when availability was not asked for. Raises Stop."""
        query = request.query
        filters = {"count", "cloud", "countryCodes", "minCudaVersion", "cudaVersions"} & set(query)
        if query.get("include") != "AVAILABILITY":
            if "product" in query or filters:
                raise Stop(problem(400, "product and filters require include=AVAILABILITY"))
            return None
        if "product" not in query:
            raise Stop(problem(400, "product is required with include=AVAILABILITY"))
        if "minCudaVersion" in query and "cudaVersions" in query:
            raise Stop(problem(400, "minCudaVersion and cudaVersions are mutually exclusive"))
        countries = query["countryCodes"].split(",") if "countryCodes" in query else None
        cudas = query["cudaVersions"].split(",") if "cudaVersions" in query else None
        low = query.get("minCudaVersion")
        try:
            count = int(query.get("count", "1"))
        except ValueError:
            raise invalid(["count: got string, want integer"]) from None
        if (
            count < 1
            or query.get("cloud", "SECURE") not in ("SECURE", "COMMUNITY")
            or any(not re.fullmatch(r"[A-Z]{2}", c) for c in countries or [])
            or any(not _CUDA.fullmatch(c) for c in [*(cudas or []), *([low] if low else [])])
        ):
            raise invalid(["a filter of the catalog is not valid"])
        return Wanted(
            secure=query.get("cloud", "SECURE") == "SECURE",
            count=count,
            countries=frozenset(countries) if countries else None,
            min_cuda=float(low or 0),
            cudas=frozenset(cudas) if cudas else None,
        )

    async def gpus(self, request: web.Request) -> web.Response:
        """All GPU types; with availability and countries only those found there."""
        wanted = self._wanted(request)
        factor = self.cloud.world.price_factor
        stock = None if wanted is None else catalog.free(self.cloud.offers(), wanted)
        secure = wanted is None or wanted.secure
        rows = [catalog.type_row(gpu, stock, secure=secure, factor=factor) for gpu in TYPES.values()]
        self.cloud.searched()
        if wanted is not None and wanted.countries:
            rows = [row for row in rows if row["id"] in (stock or {})]
        odd = [dict(catalog.UNKNOWN_ROW), dict(catalog.MIG_ROW)]
        if wanted is not None:
            odd = [row | {"availability": "NONE", "cudaVersions": []} for row in odd]
        rows += odd
        if self.cloud.faults.take("catalog_top_none") is not None:
            for row in rows:
                row["availability"] = "NONE"
        if self.cloud.faults.take("fields_extra") is not None:
            rows = [{**row, "flux_rating": 3} for row in rows]
        return answer({"gpus": rows})

    async def gpu(self, request: web.Request) -> web.Response:
        """One GPU type, also one that is nowhere in stock."""
        gpu = TYPES.get(request.match_info["id"])
        if gpu is None:
            return problem(404, "resource not found")
        wanted = self._wanted(request)
        stock = None if wanted is None else catalog.free(self.cloud.offers(), wanted)
        factor = self.cloud.world.price_factor
        return answer(catalog.type_row(gpu, stock, secure=wanted is None or wanted.secure, factor=factor))

    async def places(self, request: web.Request) -> web.Response:
        """Data centres, with their stock when asked."""
        include = request.query.get("include", "")
        regions = request.query["regions"].split(",") if "regions" in request.query else None
        stock = None
        if "GPU_AVAILABILITY" in include:
            stock = catalog.free(self.cloud.offers(), Wanted(secure=True))
        rows = [catalog.place_row(p, stock) for p in PLACES if regions is None or p.region in regions]
        return answer({"dataCenters": rows})

    async def place(self, request: web.Request) -> web.Response:
        """One data centre."""
        for place in PLACES:
            if place.id == request.match_info["id"]:
                return answer(catalog.place_row(place, None))
        return problem(404, "resource not found")


def _volume_row(volume: NetworkVolume) -> Row:
    return {
        "id": volume.id,
        "name": volume.name,
        "size": volume.size_gb,
        "dataCenter": volume.place,
        "type": volume.kind,
    }


def _micro(text: str) -> int:
    return round(datetime.fromisoformat(text).astimezone(UTC).timestamp() * SECOND)
