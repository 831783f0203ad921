"""The daemon's way to its boxes: connections that come about, or not, over a simulated cloud."""

from __future__ import annotations

import asyncio
from typing import Any

from simulation.arriving import SimulatedSentinel
from simulation.cloud import Cloud
from simulation.faults import Faults, Kind
from simulation.shell import Connection
from simulation.vast import machine_of, run_of

from gpuproviders.model import Endpoint
from gpuwatch.box.errors import BoxAuth, BoxUnreachable
from gpuwatch.box.sentinel import Facts, Sentinel, install


class SimulatedBoxes:
    """The daemon's Boxes port over a Cloud."""

    def __init__(self, cloud: Cloud, faults: Faults) -> None:
        self._cloud = cloud
        self._faults = faults

    async def connect(self, endpoint: Endpoint, *, alias: str) -> Connection:
        """Log in, if the machine and the network between let us."""
        machine = machine_of(self._cloud, alias)
        run = run_of(machine.label) if machine is not None else None
        kind = await self._faults.call(
            "box connect", (Kind.HANG, Kind.ERROR_BEFORE, Kind.WRONG, Kind.DELAY), run
        )
        await asyncio.sleep(self._cloud.draw.uniform(0.1, 1.0) + (20 if kind is Kind.DELAY else 0))
        await self._faults.done(kind)
        if kind is Kind.WRONG:
            raise BoxAuth("the box does not take our key (yet)")
        if machine is None or not machine.alive or kind is Kind.HANG or self._faults.lasts(Kind.OFFLINE):
            await asyncio.sleep(45)
            raise BoxUnreachable("no route to host")
        connection = Connection(self._cloud, self._faults, machine, endpoint)
        if kind is Kind.ERROR_BEFORE or connection.cut_off():
            raise BoxUnreachable("connection refused")
        return connection

    async def install(self, connection: Any) -> Facts:
        """The product's own way of putting the sentinel there."""
        return await install(connection)

    def agent(self, connection: Any, workspace: str, run_id: str) -> Sentinel:
        """The sentinel of one run."""
        return SimulatedSentinel(connection, workspace, run_id)
