"""What the parts of the Vast face share: the cloud, and how its instances look to a reader."""

from __future__ import annotations

import hashlib
import time

from aiohttp import web

from gpucloudsim.cloud import Cloud
from gpucloudsim.engine import lifecycle
from gpucloudsim.engine.lifecycle import Refused
from gpucloudsim.engine.model import Instance
from gpucloudsim.faces.http import Stop
from gpucloudsim.faces.vast.answers import error
from gpucloudsim.faces.vast.rows import Row, dollars, instance_row

RESULT_LAG = 2
"""How often a fresh result URL answers 404 before the object is there."""


class Desk:
    """The cloud as seen through the Vast API."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.hidden: dict[int, int] = {}
        """New instances that the next so many reads do not show."""
        self.ghosts: dict[int, int] = {}
        """Destroyed instances that the next so many reads still show."""
        self.results: dict[str, tuple[int, str]] = {}
        """Uploaded texts by name, with how many reads they still miss."""

    def instance(self, request: web.Request) -> Instance:
        """The instance in the path. Raises Stop(404)."""
        number = int(request.match_info["id"])
        try:
            return lifecycle.get(self.cloud.world, number)
        except Refused:
            raise Stop(
                error("no_such_instance", f"error 404/3000: instance {number} not found", 404)
            ) from None

    def rows(self, instances: list[Instance]) -> list[Row]:
        """Instances with all fields, spoiled by the switches that are on."""
        cloud = self.cloud
        now = cloud.now()
        machines = lifecycle.the_market(cloud.world).machines
        credit = dollars(cloud.credit())
        fleet = cloud.fleet
        rows = []
        for instance in instances:
            box = fleet.boxes.get(instance.id)
            row = instance_row(
                instance, machines[instance.machine_index], now, box.ports if box else None,
                fleet.gpus.get(instance.id), fleet.disk_used.get(instance.id), credit,
            )  # fmt: skip
            rows.append(self._spoil(row))
        return rows

    def _spoil(self, row: Row) -> Row:
        take = self.cloud.faults.take
        if take("fields_null") is not None:
            row.update(
                dict.fromkeys(
                    ("start_date", "extra_env", "ports", "label", "public_ipaddr", "geolocation", "dph_total")
                )
            )
        if take("fields_wrong_type") is not None:
            row.update(
                dph_total=str(row["dph_total"]),
                ssh_port=str(row["ssh_port"]),
                label=17,
                num_gpus=str(row["num_gpus"]),
            )
        if take("fields_extra") is not None:
            row.update(flux_rating=3, nested_new={"a": [1, None]})
        if (word := take("status_unknown")) is not None:
            row["actual_status"] = word or "quiescing"
        if row["cur_state"] == "running" and take("cur_state_stopped") is not None:
            row["cur_state"] = "stopped"
        if (skew := take("clock_skew")) is not None:
            for name in ("start_date", "end_date"):
                row[name] = (row[name] or 0.0) + float(skew or 0)
        return row

    def visible(self, only: int | None = None) -> list[Instance]:
        """Instances that a read shows now, with the lags that are switched on."""
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
        return shown

    def publish(self, text: str) -> str:
        """Put a text on the other origin. Returns its URL, at which it will appear a little later."""
        name = hashlib.sha256(f"{time.time_ns()}{text}".encode()).hexdigest()
        self.results[name] = (RESULT_LAG, text)
        return f"{self.cloud.results_url}/vast.ai/instance_logs/{name}.log"
