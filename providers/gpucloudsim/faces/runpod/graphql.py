"""POST /graphql: what the official SDK (1.11, 1.12) and a look at the balance send, on graphql-core.

Client errors come with HTTP 200 and `errors`; gpuTypes and dataCenters are public. stopAfter and
terminateAfter are taken and never acted upon, as by the real service.
"""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web
from graphql import GraphQLError, GraphQLSchema, build_schema, graphql_sync, parse, validate

from gpucloudsim.engine import lifecycle
from gpucloudsim.engine.model import Instance
from gpucloudsim.faces.http import answer
from gpucloudsim.faces.runpod import catalog
from gpucloudsim.faces.runpod.answers import problem
from gpucloudsim.faces.runpod.catalog import PLACES, TYPES, Wanted
from gpucloudsim.faces.runpod.desk import NO_FREE_GPUS, Desk, NotDone, Wish
from gpucloudsim.faces.runpod.house import pod_id
from gpucloudsim.faces.runpod.pods import command_of
from gpucloudsim.faces.runpod.rows import STATUS

Row = dict[str, Any]
OURS = "There are not enough free GPUs on the host machine to start this pod."

SDL = """
scalar Any
enum CloudTypeEnum { ALL SECURE COMMUNITY }
input GpuTypeFilter { id: String ids: [String] }
input GpuLowestPriceInput {
  gpuCount: Int secureCloud: Boolean dataCenterId: String countryCode: String minDisk: Int minMemoryInGb: Int
  minVcpuCount: Int minCudaVersion: String supportPublicIp: Boolean
}
input PodFilter { podId: String! }
input EnvironmentVariableInput { key: String! value: String! }
input PodFindAndDeployOnDemandInput {
  name: String imageName: String cloudType: CloudTypeEnum gpuTypeId: String gpuCount: Int dataCenterId: String
  countryCode: String containerDiskInGb: Int volumeInGb: Int volumeMountPath: String networkVolumeId: String
  ports: String env: [EnvironmentVariableInput] startSsh: Boolean startJupyter: Boolean supportPublicIp: Boolean
  templateId: String dockerArgs: String containerRegistryAuthId: String minCudaVersion: String
  allowedCudaVersions: [String] minVcpuCount: Int minMemoryInGb: Int minDownload: Int minUpload: Int deployCost: Float
  compliance: [String] stopAfter: String terminateAfter: String bidPerGpu: Float instanceId: String
}
input PodResumeInput { podId: String! gpuCount: Int bidPerGpu: Float }
input UpdateUserSettingsInput { pubKey: String }
type LowestPrice {
  minimumBidPrice: Float uninterruptablePrice: Float minVcpu: Int minMemory: Int stockStatus: String
  availableGpuCounts: [Int] maxUnreservedGpuCount: Int compliance: [String] countryCode: String
}
type GpuType {
  id: String displayName: String memoryInGb: Int manufacturer: String cudaCores: Int secureCloud: Boolean
  communityCloud: Boolean securePrice: Float communityPrice: Float secureSpotPrice: Float communitySpotPrice: Float
  oneWeekPrice: Float oneMonthPrice: Float threeMonthPrice: Float sixMonthPrice: Float maxGpuCount: Int
  maxGpuCountCommunityCloud: Int maxGpuCountSecureCloud: Int minPodGpuCount: Int
  lowestPrice(input: GpuLowestPriceInput): LowestPrice
}
type GpuStock { gpuTypeId: String displayName: String stockStatus: String available: Boolean }
type DataCenter { id: String name: String location: String listed: Boolean storageSupport: Boolean gpuAvailability: [GpuStock] }
type Port { ip: String isIpPublic: Boolean privatePort: Int publicPort: Int type: String }
type GpuLoad { id: String gpuUtilPercent: Int memoryUtilPercent: Int }
type ContainerLoad { cpuPercent: Int memoryPercent: Int }
type Runtime { uptimeInSeconds: Int ports: [Port] gpus: [GpuLoad] container: ContainerLoad }
type Machine { podHostId: String gpuDisplayName: String }
type Pod {
  id: String name: String imageName: String env: [String] machineId: String machine: Machine desiredStatus: String
  containerDiskInGb: Int costPerHr: Float dockerArgs: String dockerId: String gpuCount: Int lastStatusChange: String
  memoryInGb: Int podType: String port: Int ports: String uptimeSeconds: Int vcpuCount: Float volumeInGb: Int
  volumeMountPath: String runtime: Runtime
}
type Volume { id: String name: String size: Int dataCenterId: String }
type User {
  id: String email: String clientBalance: Float currentSpendPerHr: Float spendLimit: Float minBalance: Float
  underBalance: Boolean pubKey: String networkVolumes: [Volume] pods: [Pod] containerRegistryCreds: [Any]
}
type Query { myself: User pod(input: PodFilter): Pod gpuTypes(input: GpuTypeFilter): [GpuType] dataCenters: [DataCenter] }
type Mutation {
  podFindAndDeployOnDemand(input: PodFindAndDeployOnDemandInput): Pod
  podRentInterruptable(input: PodFindAndDeployOnDemandInput): Pod
  podResume(input: PodResumeInput): Pod
  podBidResume(input: PodResumeInput): Pod
  podStop(input: PodFilter): Pod
  podTerminate(input: PodFilter): Any
  updateUserSettings(input: UpdateUserSettingsInput): User
}
"""
_SCHEMA: list[GraphQLSchema] = []


def schema() -> GraphQLSchema:
    """The part of RunPod's schema that is served, built when first asked for."""
    if not _SCHEMA:
        _SCHEMA.append(build_schema(SDL))
    return _SCHEMA[0]


class Failure(Exception):
    """A client error, answered with HTTP 200."""


class GraphQL:
    """One endpoint for everything that REST v2 does not have."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.cloud = desk.cloud

    async def serve(self, request: web.Request) -> web.Response:
        """Answer a query or carry out a mutation."""
        if self.cloud.faults.take("graphql_gone") is not None:
            return problem(410, "the GraphQL API has been retired; use https://api.runpod.io/v2")
        try:
            body = json.loads(await request.read())
            query, variables = str(body["query"]), body.get("variables")
        except (ValueError, KeyError, TypeError):
            return answer(
                {
                    "errors": [
                        {"message": "POST body missing, invalid Content-Type, or JSON object has no keys."}
                    ]
                },
                400,
            )
        try:
            document = parse(query)
        except GraphQLError as error:
            return _errors([error], "GRAPHQL_PARSE_FAILED")
        problems = validate(schema(), document)
        if problems:
            return _errors(problems, "GRAPHQL_VALIDATION_FAILED")
        known = bool(request.get("account"))
        done = graphql_sync(schema(), query, Root(self.desk, known=known), variable_values=variables)
        await self.cloud.commit()
        reply: Row = {"data": done.data}
        if done.errors:
            reply = {
                "errors": [
                    {"message": e.message, "path": e.path or [], "extensions": {"code": "RUNPOD"}} for e in done.errors
                ],
                "data": done.data,
            }  # fmt: skip
        return answer(reply)


def _errors(errors: list[GraphQLError], code: str) -> web.Response:
    rows = [{"message": error.message, "extensions": {"code": code}} for error in errors]
    return answer({"errors": rows}, 400)


class Root:
    """The resolvers of one request."""

    # names and signatures are GraphQL's: one resolver per field, called as (info, **arguments)

    def __init__(self, desk: Desk, *, known: bool) -> None:
        self._desk = desk
        self._cloud = desk.cloud
        self._known = known

    def _login(self) -> None:
        if not self._known:
            raise Failure("Unauthorized")

    def myself(self, info: Any) -> Row:
        """The account: the only source of its balance."""
        self._login()
        world = self._cloud.world
        credit: float | None = self._cloud.credit() / 1e6
        if self._cloud.faults.take("credit_null") is not None:
            credit = None
        return {
            "id": "user_2simulatedcustomer0000", "email": "sim@example.org", "clientBalance": credit,
            "currentSpendPerHr": lifecycle.burn(world) / 1e6, "spendLimit": 80.0, "minBalance": 0.0,
            "underBalance": lifecycle.credit(world) <= 0,
            "pubKey": "\n".join(key.text for key in world.keys.values()),
            "networkVolumes": [
                {"id": v.id, "name": v.name, "size": v.size_gb, "dataCenterId": v.place} for v in world.volumes.values()
            ],
            "pods": [self._pod(i) for i in self._desk.visible()],
            "containerRegistryCreds": [],
        }  # fmt: skip

    def pod(self, info: Any, input: Row) -> Row | None:  # noqa: A002 - GraphQL's name
        """One pod, null when there is none."""
        self._login()
        try:
            return self._pod(self._desk.find(input["podId"]))
        except NotDone:
            return None

    def gpuTypes(self, info: Any, input: Row | None = None) -> list[Row]:  # noqa: A002, N802
        """GPU types, public."""
        only = (input or {}).get("id")
        return [self._gpu(name) for name in TYPES if only is None or name == only]

    def dataCenters(self, info: Any) -> list[Row]:  # noqa: N802
        """Data centres, public."""
        stock = catalog.free(self._cloud.offers(), Wanted(secure=True))
        rows = [catalog.place_row(place, stock) for place in PLACES]
        return [
            {"id": r["id"], "name": r["name"], "location": r["name"], "listed": True, "storageSupport": True,
             "gpuAvailability": [
                 {"gpuTypeId": g["id"], "displayName": g["name"], "stockStatus": g["availability"].title(), "available": True}
                 for g in r["gpuAvailability"]
             ]}
            for r in rows
        ]  # fmt: skip

    def _gpu(self, name: str) -> Row:
        gpu = TYPES[name]
        row = catalog.type_row(gpu, None, secure=True)
        most = row["maxCount"]

        def lowest(info: Any, input: Row | None = None) -> Row:  # noqa: A002
            asked = input or {}
            secure = asked.get("secureCloud")
            clouds = (True, False) if secure is None else (bool(secure),)
            count = int(asked.get("gpuCount") or 1)
            listed = self._cloud.offers()
            stock = {c: catalog.free(listed, Wanted(c, count)).get(name, []) for c in clouds}
            prices = [
                catalog.list_price(gpu, secure=c, factor=self._cloud.world.price_factor) / 1e6
                for c in clouds
                if stock[c]
            ]
            bids = [o.min_bid_micro / count / 1e6 for c in clouds for o in stock[c]]
            level = catalog.level(sum(map(len, stock.values()))).title()
            return {
                "minimumBidPrice": min(bids, default=None), "uninterruptablePrice": min(prices, default=None),
                "stockStatus": None if level == "None" else level, "availableGpuCounts": list(gpu.counts) if prices else [],
            }  # fmt: skip

        return {
            "id": name, "displayName": row["name"], "memoryInGb": row["memory"], "manufacturer": "NVIDIA",
            "secureCloud": row["secure"], "communityCloud": row["community"], "securePrice": row["price"]["secure"],
            "communityPrice": row["price"]["community"], "maxGpuCount": max(most.values()),
            "maxGpuCountSecureCloud": most["secure"], "maxGpuCountCommunityCloud": most["community"], "minPodGpuCount": 1,
            "lowestPrice": lowest,
        }  # fmt: skip

    def _pod(self, instance: Instance) -> Row:
        row = self._desk.row(instance)
        vendor = instance.request.vendor
        running = row["status"] == "RUNNING"
        ports = (row.get("runtime") or {}).get("ports", [])
        identity = pod_id(instance)
        return {
            "id": identity, "name": row["name"], "imageName": row["image"],
            "env": [f"{k}={v}" for k, v in instance.request.env.items()],
            "machineId": f"m{instance.machine_index:09d}ab",
            "machine": {"podHostId": f"{identity}-64410f23", "gpuDisplayName": catalog.type_name(TYPES[row["gpu"]["id"]])},
            # what was asked for, and no sign of readiness
            "desiredStatus": "RUNNING" if STATUS[instance.phase] in ("PROVISIONING", "STARTING", "RUNNING") else "EXITED",
            "containerDiskInGb": row["disk"], "costPerHr": instance.gpu_rate / 1e6, "dockerArgs": row["args"],
            "dockerId": None, "gpuCount": instance.num_gpus, "lastStatusChange": "Rented by User", "memoryInGb": 64,
            "podType": "RESERVED" if instance.bid_micro is None else "INTERRUPTABLE", "port": None,
            "ports": ",".join(row["ports"]), "uptimeSeconds": 0, "vcpuCount": 16.0,
            "volumeInGb": (vendor.get("persistent") or {}).get("size", 0),
            "volumeMountPath": (vendor.get("persistent") or {}).get("path"),
            "runtime": {
                "uptimeInSeconds": row["runtime"]["uptime"],
                "ports": [
                    {"ip": p["ip"], "isIpPublic": p["type"] == "tcp", "privatePort": p["private"], "publicPort": p["public"],
                     "type": p["type"]}
                    for p in ports
                ],
                "gpus": [], "container": {"cpuPercent": 4, "memoryPercent": 11},
            } if running and row["runtime"] else None,
        }  # fmt: skip

    # --- mutations -------------------------------------------------------------------------------

    def podFindAndDeployOnDemand(self, info: Any, input: Row) -> Row:  # noqa: A002, N802
        """Place a pod on demand."""
        return self._deploy(input, None)

    def podRentInterruptable(self, info: Any, input: Row) -> Row:  # noqa: A002, N802
        """Place a spot pod (undocumented since May 2026)."""
        return self._deploy(input, round(float(input.get("bidPerGpu") or 0) * 1e6))

    def _deploy(self, wanted: Row, bid: int | None) -> Row:
        self._login()
        clouds = {"ALL": ("SECURE", "COMMUNITY")}.get(
            wanted.get("cloudType") or "ALL", (str(wanted.get("cloudType")),)
        )
        size, volume = int(wanted.get("volumeInGb") or 0), wanted.get("networkVolumeId")
        if volume is not None and volume not in self._cloud.world.volumes:
            raise Failure("Network volume not found")
        count = int(wanted.get("gpuCount") or 1)
        place, country = wanted.get("dataCenterId"), wanted.get("countryCode")
        args = wanted.get("dockerArgs") or ""
        wish = Wish(
            name=wanted.get("name") or "", image=wanted.get("imageName") or "", gpu_id=wanted.get("gpuTypeId") or "",
            count=count, clouds=clouds, disk=int(wanted.get("containerDiskInGb") or 20),
            env={e["key"]: e["value"] for e in wanted.get("env") or []},
            ports=[p.strip() for p in (wanted.get("ports") or "8888/http,22/tcp").split(",") if p.strip()],
            places=frozenset({place}) if place else None, countries=frozenset({country}) if country else None,
            min_cuda=float(wanted.get("minCudaVersion") or 0),
            cudas=frozenset(wanted["allowedCudaVersions"]) if wanted.get("allowedCudaVersions") else None,
            persistent={"size": size, "path": wanted.get("volumeMountPath") or "/workspace"} if size else None,
            volume=volume, volume_path=wanted.get("volumeMountPath") or "/workspace",
            command=command_of({"args": args}), start_ssh=bool(wanted.get("startSsh")),
            bid_micro=None if bid is None else bid * count, extra={"args": args} if args else {},
        )  # fmt: skip
        try:
            return self._pod(self._desk.place(wish))
        except NotDone as refused:
            raise Failure(refused.text) from None

    def podResume(self, info: Any, input: Row) -> Row:  # noqa: A002, N802
        """Start a stopped pod."""
        self._login()
        try:
            instance = self._desk.find(input["podId"])
            if instance.bid_micro is not None and input.get("bidPerGpu"):
                instance.bid_micro = round(float(input["bidPerGpu"]) * 1e6) * instance.num_gpus
            self._desk.start(instance)
        except NotDone as refused:
            raise Failure(OURS if refused.text == NO_FREE_GPUS else refused.text) from None
        return self._pod(instance)

    podBidResume = podResume  # noqa: N815

    def podStop(self, info: Any, input: Row) -> Row:  # noqa: A002, N802
        """Stop a pod."""
        self._login()
        try:
            instance = self._desk.find(input["podId"])
        except NotDone as refused:
            raise Failure(refused.text) from None
        lifecycle.stop(self._cloud.world, instance.id, self._cloud.now())
        return {**self._pod(instance), "desiredStatus": "EXITED"}

    def podTerminate(self, info: Any, input: Row) -> None:  # noqa: A002, N802
        """Terminate a pod; the answer is null."""
        self._login()
        try:
            self._desk.terminate(self._desk.find(input["podId"]))
        except NotDone:
            raise Failure("pod not found to terminate") from None

    def updateUserSettings(self, info: Any, input: Row) -> Row:  # noqa: A002, N802
        """Replace the account's public keys, one a line."""
        self._login()
        world, now = self._cloud.world, self._cloud.now()
        world.keys = {}
        for line in (input.get("pubKey") or "").splitlines():
            if line.strip():
                lifecycle.add_key(world, line.strip(), now)
        return self.myself(info)
