"""What the parts of the RunPod face share: finding pods, placing new ones, how they look to a reader."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

from gpucloudsim.cloud import Cloud
from gpucloudsim.engine import lifecycle
from gpucloudsim.engine.lifecycle import RefusalReason, Refused
from gpucloudsim.engine.market import HOUR, MONTH_HOURS, SECOND
from gpucloudsim.engine.model import Instance, Phase, RentRequest
from gpucloudsim.faces.http import Stop
from gpucloudsim.faces.runpod import catalog
from gpucloudsim.faces.runpod.answers import problem
from gpucloudsim.faces.runpod.catalog import CAPACITY, Wanted
from gpucloudsim.faces.runpod.house import pod_id
from gpucloudsim.faces.runpod.rows import Row, pod_row, runtime

NO_FREE_GPUS = "not enough free GPUs on the host machine"


class NotDone(Exception):
    """The cloud refuses: HTTP status and text of REST v2 (GraphQL sends the text with a 200)."""

    def __init__(self, status: int, text: str, *, bare: bool = False) -> None:
        super().__init__(text)
        self.status, self.text, self.bare = status, text, bare


@dataclass
class Wish:
    """A pod to be placed, in neither dialect."""

    name: str
    image: str
    gpu_id: str
    count: int
    clouds: tuple[str, ...]
    disk: int
    env: dict[str, str] = field(default_factory=dict)
    ports: list[str] = field(default_factory=list)
    places: frozenset[str] | None = None
    countries: frozenset[str] | None = None
    min_cuda: float = 0.0
    cudas: frozenset[str] | None = None
    persistent: dict[str, Any] | None = None
    volume: str | None = None
    volume_path: str = "/workspace"
    command: tuple[str, ...] = ()
    start_ssh: bool = False
    bid_micro: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)


class Desk:
    """The cloud as seen through RunPod's APIs."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.hidden: dict[int, int] = {}
        """New pods that the next so many reads do not show."""
        self.ghosts: dict[int, int] = {}
        """Terminated pods that the next so many reads still show."""

    def find(self, identity: str) -> Instance:
        """The pod with this id. Raises NotDone(404)."""
        for instance in self.cloud.world.instances.values():
            if instance.exists and pod_id(instance) == identity:
                return instance
        raise NotDone(404, "pod not found")

    def pod(self, request: web.Request) -> Instance:
        """The pod in the path. Raises Stop(404)."""
        try:
            return self.find(request.match_info["id"])
        except NotDone as refused:
            raise Stop(problem(404, refused.text)) from None

    # --- placing ---------------------------------------------------------------------------------

    def place(self, wish: Wish) -> Instance:
        """Rent a machine for a pod. Raises NotDone."""
        take = self.cloud.faults.take
        if take("create_capacity") is not None or take("stock_gone") is not None:
            raise NotDone(400, CAPACITY)
        if take("create_402") is not None:
            raise NotDone(402, "Insufficient balance")
        for cloud in wish.clouds:
            instance = self._place_in(cloud, wish)
            if instance is not None:
                if (reads := take("lag_create")) is not None:
                    self.hidden[instance.id] = int(reads or 1)
                return instance
        raise NotDone(400, CAPACITY)

    def _place_in(self, cloud: str, wish: Wish) -> Instance | None:
        world, now = self.cloud.world, self.cloud.now()
        secure = cloud == "SECURE"
        places = wish.places
        if wish.volume is not None:
            home = frozenset({world.volumes[wish.volume].place})
            if not secure or (places is not None and not places & home):
                raise NotDone(400, "network volume is not in the requested data center")
            places = home
        wanted = Wanted(secure, wish.count, places, wish.countries, wish.min_cuda, wish.cudas)
        fitting = catalog.free(lifecycle.offers(world, now), wanted).get(wish.gpu_id, [])
        if wish.bid_micro is not None:
            fitting = [
                o for o in fitting if o.min_bid_micro <= wish.bid_micro
            ]  # others would outbid it at once
        for offer in sorted(fitting, key=lambda o: (-o.machine.reliability, o.offer_id)):
            gpu = offer.machine.gpu
            price = catalog.list_price(gpu, secure=secure, factor=world.price_factor) * wish.count
            if lifecycle.credit(world) < price:
                raise NotDone(402, "Insufficient balance")
            place = catalog.place_of(offer.machine)
            size = wish.persistent["size"] if wish.persistent else 0
            disks = (
                (wish.disk * catalog.CONTAINER_MICRO_PER_GB_MONTH + size * catalog.VOLUME_MICRO_PER_GB_MONTH[0]) // MONTH_HOURS,
                size * catalog.VOLUME_MICRO_PER_GB_MONTH[1] // MONTH_HOURS,
            )  # fmt: skip
            request = RentRequest(
                image=wish.image, disk_gb=0.0, label=wish.name, env=self._env(wish), runtype="pod", price_micro=price,
                disk_micro=disks, bid_micro=wish.bid_micro,
                vendor={
                    "cloud": cloud, "place": place.id if place else None, "disk": wish.disk, "ports": wish.ports,
                    "persistent": wish.persistent, "volume": wish.volume, "volume_path": wish.volume_path,
                    "command": list(wish.command), "no_direct": self.cloud.faults.take("no_direct_ssh") is not None,
                    **wish.extra,
                },
            )  # fmt: skip
            try:
                instance = self.cloud.rent(offer.offer_id, request)
            except Refused as refused:
                if refused.reason is RefusalReason.NO_CREDIT:
                    raise NotDone(402, "Insufficient balance") from None
                continue
            # a new container has new ports and new host keys at each start
            instance.quirks = msgspec.structs.replace(
                instance.quirks, port_changes=True, host_key_changes=True
            )
            instance.keys = {}
            instance.history = [(now, "created"), *instance.history[1:]]
            return instance
        return None

    def _env(self, wish: Wish) -> dict[str, str]:
        env = dict(wish.env)
        keys = [key.text for key in self.cloud.world.keys.values()]
        if wish.start_ssh and keys and "PUBLIC_KEY" not in env:
            env["PUBLIC_KEY"] = "\n".join(keys)
        return env

    # --- acting ----------------------------------------------------------------------------------

    def start(self, instance: Instance) -> None:
        """Start a stopped pod. Raises NotDone when its GPUs were let to someone else."""
        take = self.cloud.faults.take
        if take("start_refused") is not None:
            raise NotDone(400, NO_FREE_GPUS, bare=True)
        zero = take("start_zero_gpus") is not None
        try:
            lifecycle.start(self.cloud.world, instance.id, self.cloud.now())
        except Refused as refused:
            broke = refused.reason is RefusalReason.NO_CREDIT
            raise NotDone(402 if broke else 400, "Insufficient balance" if broke else NO_FREE_GPUS) from None
        if zero:
            instance.num_gpus = 0

    def terminate(self, instance: Instance) -> None:
        """End a pod; its disks are deleted, a network volume stays."""
        lifecycle.destroy(self.cloud.world, instance.id, self.cloud.now())
        if (reads := self.cloud.faults.take("lag_destroy")) is not None:
            self.ghosts[instance.id] = int(reads or 1)

    # --- showing ---------------------------------------------------------------------------------

    def visible(self, only: int | None = None) -> list[Instance]:
        """Pods that a read shows now, newest first, with the lags that are switched on."""
        shown = []
        for instance in self.cloud.world.instances.values():
            if only is not None and instance.id != only:
                continue
            lag = self.hidden if instance.exists else self.ghosts
            waiting = lag.get(instance.id, 0)
            if waiting:
                lag[instance.id] = waiting - 1
            if instance.exists == (waiting == 0):
                shown.append(instance)
        return sorted(shown, key=lambda i: (-i.created_us, -i.id))

    def row(self, instance: Instance) -> Row:
        """One pod with all fields, spoiled by the switches that are on."""
        cloud = self.cloud
        box = cloud.fleet.boxes.get(instance.id)
        machine = lifecycle.the_market(cloud.world).machines[instance.machine_index]
        ports, gpus = (box.ports if box else None), cloud.fleet.gpus.get(instance.id)
        row = pod_row(instance, machine, cloud.now(), ports, gpus)
        return self._spoil(row, instance, ports, gpus)

    def _spoil(
        self, row: Row, instance: Instance, ports: tuple[int, int] | None, gpus: list[Row] | None
    ) -> Row:
        take = self.cloud.faults.take
        if (
            instance.phase in (Phase.STOPPED, Phase.OUTBID)
            and instance.boots
            and take("stale_runtime") is not None
        ):
            row["runtime"] = runtime(instance, instance.stopped_us or 0, ports, gpus)
        if take("fields_null") is not None:
            row.update(dict.fromkeys(("env", "mounts", "gpu", "ssh", "createdAt", "cost", "name")))
        if take("fields_wrong_type") is not None:
            row.update(cost=str(row["cost"]), name=17, gpu="one", ssh=[], ports="22/tcp")
        if take("fields_extra") is not None:
            row.update(flux_rating=3, nested_new={"a": [1, None]})
        if (word := take("status_unknown")) is not None:
            row["status"] = word or "MIGRATING"
        if (skew := take("clock_skew")) is not None:
            from gpucloudsim.faces.runpod.rows import iso

            row["createdAt"] = iso(instance.created_us + round(float(skew or 0) * SECOND))
        return row


def cost_of(instance: Instance, since: int, until: int) -> tuple[float, float]:
    """Dollars of (GPU, disk) of a pod; exact only for a span that holds its whole life."""
    if instance.created_us >= until or (instance.destroyed_us or until) < since:
        return 0.0, 0.0
    return instance.gpu_units / HOUR / 1e6, instance.disk_units / HOUR / 1e6
