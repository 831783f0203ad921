"""The simulated cloud as a whole: engine, boxes, faults and memory, on the wall clock."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any

from gpucloudsim.boxes.fleet import Fleet, Wish
from gpucloudsim.engine import accidents, lifecycle
from gpucloudsim.engine.market import SECOND, Offer
from gpucloudsim.engine.model import Instance, Phase, RentRequest, World
from gpucloudsim.faces.vendor import Vendor
from gpucloudsim.faults import Faults
from gpucloudsim.store import Memory, Store

TICK_S = 0.1


class Cloud:
    """One account in one market, with boxes."""

    def __init__(self, store: Store, memory: Memory, directory: Path, vendor: Vendor) -> None:
        self.store = store
        self.vendor = vendor
        self.memory = memory
        self.faults = Faults(memory.world.seed, memory.faults)
        self.fleet = Fleet(directory / "boxes", self._transferred)
        self.url = ""
        self.results_url = ""
        self.calls: Counter[str] = Counter()
        self.log: deque[dict[str, Any]] = deque(maxlen=500)
        self._shape: object = None

    @property
    def world(self) -> World:
        """The engine's state."""
        return self.memory.world

    @property
    def api_key(self) -> str:
        """The account's key."""
        return self.memory.api_key

    @staticmethod
    def now() -> int:
        """Microseconds since the epoch."""
        return time.time_ns() // 1000

    def rent(self, offer_id: int, request: RentRequest) -> Instance:
        """Take an offer; the box gets the quirks that are switched on. Raises lifecycle.Refused."""
        now = self.now()
        lifecycle.advance(self.world, now)
        before = [(fault, fault.count, fault.hits, fault.skip) for fault in self.faults.active]
        quirks = self.faults.draw_quirks()
        try:
            return lifecycle.rent(self.world, offer_id, request, quirks, now)
        except lifecycle.Refused:
            for fault, count, hits, skip in before:
                fault.count, fault.hits, fault.skip = count, hits, skip
            raise

    def offers(self) -> list[Offer]:
        """What a search finds now."""
        if self.faults.take("stock_gone") is not None:
            return []
        return lifecycle.offers(self.world, self.now())

    def searched(self) -> None:
        """A search was answered; prices may move behind it."""
        if (factor := self.faults.take("market_jump")) is not None:
            self.world.price_factor *= float(factor or 1.5)

    @property
    def books(self) -> int:
        """Up to when (microseconds since the epoch) the vendor's bookkeeping knows what things cost."""
        lag = self.faults.take("billing_lag")
        return self.now() - (0 if lag is None else round(float(lag or 300) * SECOND))

    def credit(self) -> int:
        """Micro-dollars left, as the vendor's bookkeeping has it."""
        until = self.books
        return lifecycle.credit(self.world) + lifecycle.spent_since(self.world, until)

    def advance(self) -> None:
        """Let time pass up to now."""
        lifecycle.advance(self.world, self.now())

    async def commit(self) -> None:
        """Make what was decided durable, then real."""
        self.advance()
        self.store.save(self.memory)
        await self.fleet.reconcile(self.wishes())

    def wishes(self) -> list[Wish]:
        """How the boxes should be now."""
        machines = lifecycle.the_market(self.world).machines
        wishes = []
        for instance in self.world.instances.values():
            if not instance.exists:
                continue
            machine = machines[instance.machine_index]
            running = instance.phase is Phase.RUNNING
            since = (instance.running_since_us or 0) / SECOND
            spec = self.vendor.box(instance, self.url, self.fleet.directory.parent)
            wishes.append(
                Wish(
                    spec=spec,
                    gpu=machine.gpu,
                    driver=machine.driver,
                    cuda=machine.cuda,
                    boot=instance.boots if running else 0,
                    reachable=instance.host_online,
                    ssh_from=since + (instance.quirks.ssh_refused_s if instance.boots == 1 else 0.0),
                    keys=instance.keys,
                )
            )
        return wishes

    def _transferred(self, instance_id: int, from_box: int, to_box: int) -> None:
        instance = self.world.instances.get(instance_id)
        if instance is not None:
            instance.bytes_up += from_box
            instance.bytes_down += to_box

    async def run(self) -> None:
        """Keep time until cancelled."""
        await self.commit()
        await self.fleet.sweep()
        sampled = saved = 0.0
        while True:
            await asyncio.sleep(TICK_S)
            self.advance()
            shape = [(i.id, i.phase, i.boots, i.host_online) for i in self.world.instances.values()]
            now = time.monotonic()
            if shape != self._shape or now - saved > 2:
                self._shape, saved = shape, now
                self.store.save(self.memory)
            await self.fleet.reconcile(self.wishes())
            if now - sampled >= 1:
                sampled = now
                accidents.strike(self.world, self.faults, self.now())
                await self.fleet.sample()
