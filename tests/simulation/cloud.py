"""A cloud and its boxes inside the simulation: truth, faults, and the invariants that watch over both.

The cloud knows what really exists; the provider face below answers for it, sometimes late,
wrongly or not at all. Destroy really deletes, so a lost file is really lost, and at that
moment the judge compares the box with the vault: outside the code under test.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from simulation.clock import Time

from gpuproviders.errors import Ambiguous, OfferGone, Refused, Throttled, Unavailable
from gpuproviders.model import (
    Account,
    Capabilities,
    Created,
    Endpoint,
    Instance,
    Listing,
    Offer,
    OfferQuery,
    Order,
    Permit,
    Power,
    Trouble,
)
from gpuproviders.money import MicroUsd
from gpuwatch.custody.facts import BoxFile
from gpuwatch.spec import RunSpec


class Violation(AssertionError):
    """An invariant was broken."""


@dataclass(slots=True)
class File:
    """One file on a box: its content is a token, its identity changes with each write."""

    content: bytes
    size: int
    mtime_ns: int
    inode: int
    writer_until: float = 0.0


@dataclass(slots=True)
class Job:
    """What runs on a box: a plan of (seconds after the start, what happens)."""

    plan: list[tuple[float, Callable[[Box], None]]]
    length: float
    exit_code: int
    started: float | None = None
    ended: float | None = None
    done: int = 0


@dataclass(slots=True)
class Box:
    """The inside of a machine."""

    job: Job
    boot: int = 1
    files: dict[str, File] = field(default_factory=dict)
    log: bytearray = field(default_factory=bytearray)
    inodes: int = 0
    dead: bool = False

    def write(self, path: str, size: int, at: float, *, busy: float = 0.0) -> None:
        """Create or replace a file; someone keeps it open for `busy` seconds."""
        self.inodes += 1
        token = f"{path}:{self.inodes}:{size}".encode()
        # big files are their token and a hole: as long as they say, and cheap
        self.files[path] = File(token, max(size, len(token)), int(at * 1e9), self.inodes, at + busy)

    def run_to(self, now: float) -> None:
        """Let the job do what it does up to `now`."""
        job = self.job
        if job.started is None or job.ended is not None or self.dead:
            return
        while job.done < len(job.plan) and job.started + job.plan[job.done][0] <= now:
            job.plan[job.done][1](self)
            job.done += 1
        if now >= job.started + job.length:
            job.ended = job.started + job.length
            self.log += b"bye\n"

    def listing(self, now: float) -> dict[str, BoxFile]:
        return {
            p: BoxFile(p, f.size, f.mtime_ns, f.mtime_ns, f.inode, writer=f.writer_until > now)
            for p, f in self.files.items()
        }


@dataclass(slots=True)
class Machine:
    """One rented machine, as it truly is."""

    instance_id: str
    label: str
    offer_id: str
    created: float
    box: Box
    boots_at: float
    trouble: Trouble | None = None
    destroyed: float | None = None
    taken: float | None = None
    """When the provider took it away by itself (spot, host loss)."""
    seen_from: float = 0.0
    seen_until: float = 0.0

    @property
    def alive(self) -> bool:
        return self.destroyed is None and self.taken is None


@dataclass(slots=True)
class Faults:
    """How badly calls go: probability per call, until `quiet_from`, after which everything works."""

    rate: float = 0.0
    quiet_from: float = 0.0
    outage: tuple[float, float] = (0.0, 0.0)
    """The local network is down in this window."""


class Cloud:
    """The truth. `judge` is asked whenever a machine is destroyed."""

    def __init__(self, time: Time, draw: random.Random, faults: Faults) -> None:
        self.time = time
        self.draw = draw
        self.faults = faults
        self.machines: dict[str, Machine] = {}
        self.make_box: Callable[[Order], Box] = lambda _: Box(Job([], 1.0, 0))
        self.boot_seconds: Callable[[], float] = lambda: 20.0
        self.dud: Callable[[], Trouble | None] = lambda: None
        self.judge: Callable[[Machine], None] = lambda _: None
        self.judge_create: Callable[[Order], None] = lambda _: None
        self.lag_create = 0.0
        self.lag_destroy = 0.0
        self.offers_taken: set[str] = set()
        self.calls: dict[str, int] = {}
        self.violations: list[Violation] = []
        self.hook: Callable[[str], None] = lambda _: None
        """Called with the name of each external call before it is made: the k-th-fault sweeps use it."""
        time.watchers.append(self._pass)

    def _pass(self, now: float) -> None:
        for machine in self.machines.values():
            if machine.alive:
                machine.box.run_to(now)

    def rent(self, order: Order) -> Machine:
        self._judged(lambda: self.judge_create(order))
        number = str(33_000_001 + len(self.machines))
        now = self.time.now
        machine = Machine(
            instance_id=number, label=order.label, offer_id=order.offer.offer_id, created=now, box=self.make_box(order),
            boots_at=now + self.boot_seconds(), trouble=self.dud(), seen_from=now + self.lag_create,
        )  # fmt: skip
        self.machines[number] = machine
        return machine

    def destroy(self, instance_id: str) -> bool:
        machine = self.machines.get(instance_id)
        if machine is None or not machine.alive:
            return False
        self._judged(lambda: self.judge(machine))
        machine.destroyed = self.time.now
        machine.seen_until = self.time.now + self.lag_destroy
        machine.box.dead = True
        machine.box.files.clear()
        return True

    def _judged(self, verdict: Callable[[], None]) -> None:
        """Remember a violation: the daemon must not be able to catch its own judge."""
        try:
            verdict()
        except Violation as violation:
            self.violations.append(violation)

    def take(self, machine: Machine) -> None:
        """The provider takes the machine away."""
        machine.taken = self.time.now
        machine.seen_until = self.time.now
        machine.box.dead = True

    def living(self) -> list[Machine]:
        return [m for m in self.machines.values() if m.alive]

    def visible(self, machine: Machine) -> bool:
        now = self.time.now
        return machine.seen_from <= now and (machine.alive or now < machine.seen_until)

    @property
    def offline(self) -> bool:
        start, end = self.faults.outage
        return start <= self.time.now < end

    def strikes(self) -> bool:
        """Whether this call goes wrong."""
        return self.time.now < self.faults.quiet_from and self.draw.random() < self.faults.rate


class SimulatedProvider:
    """The provider face of a Cloud: the contract, with faults."""

    name = "vast"
    capabilities = Capabilities(stop_keeps_disk=True)

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def _call(self, name: str, *, write: bool = False) -> str:
        """One round trip; returns `ok` or, for writes, `after` (do it, then fail)."""
        cloud = self._cloud
        cloud.calls[name] = cloud.calls.get(name, 0) + 1
        cloud.hook(name)
        if cloud.offline:
            await asyncio.sleep(20)
            raise Ambiguous("no network") if write else Unavailable("no network")
        await asyncio.sleep(cloud.draw.uniform(0.05, 0.6))
        if not cloud.strikes():
            return "ok"
        kind = cloud.draw.choice(
            ["hang", "before", "after", "throttle", "refuse"] if write else ["hang", "error", "throttle"]
        )
        if kind == "throttle":
            raise Throttled("too fast", retry_after=cloud.draw.choice([None, 3.0]))
        if kind == "refuse":
            raise Refused("no")
        if kind == "hang":
            await asyncio.sleep(20)
            if write and cloud.draw.random() < 0.5:
                return "after"
        if kind == "after":
            return "after"
        raise Ambiguous("lost") if write else Unavailable("bad answer")

    async def account(self) -> Account:
        await self._call("account")
        return Account("vast", "1", MicroUsd(10_000_000))

    async def offers(self, query: OfferQuery) -> tuple[Offer, ...]:
        await self._call("offers")
        return tuple(
            Offer(
                provider="vast", offer_id=str(n), machine_id=f"m{n}", gpu_name="RTX 4090", gpu_count=1, gpu_memory=24 * 10**9,
                price=MicroUsd(300_000 + n), disk_price=MicroUsd(1000),
            )
            for n in range(100, 140)
            if str(n) not in self._cloud.offers_taken
        )  # fmt: skip

    async def create(self, order: Order) -> Created:
        mode = await self._call("create", write=True)
        if order.offer.offer_id in self._cloud.offers_taken or (
            mode == "ok" and self._cloud.draw.random() < 0.05
        ):
            raise OfferGone("taken")
        self._cloud.offers_taken.add(order.offer.offer_id)
        machine = self._cloud.rent(order)
        self._cloud.hook("create:after")
        if mode == "after":
            raise Ambiguous(
                "lost", instance_id=machine.instance_id if self._cloud.draw.random() < 0.3 else None
            )
        return Created(machine.instance_id)

    def _row(self, machine: Machine) -> Instance:
        up = self._cloud.time.now >= machine.boots_at and machine.trouble is None
        return Instance(
            provider="vast", instance_id=machine.instance_id, label=machine.label,
            power=Power.RUNNING if up else Power.STARTING, wanted=Power.RUNNING,
            trouble=machine.trouble if self._cloud.time.now >= machine.boots_at else None,
            status="x", machine_id=f"m{machine.offer_id}",
            endpoints=(Endpoint("box", int(machine.instance_id) % 60_000 + 1024),) if up else (),
        )  # fmt: skip

    async def instances(self) -> Listing:
        await self._call("list")
        return Listing(tuple(self._row(m) for m in self._cloud.machines.values() if self._cloud.visible(m)))

    async def instance(self, instance_id: str) -> Instance | None:
        await self._call("show")
        machine = self._cloud.machines.get(instance_id)
        return self._row(machine) if machine is not None and self._cloud.visible(machine) else None

    async def start(self, instance_id: str) -> None:
        raise Refused("not simulated")

    async def stop(self, permit: Permit) -> None:
        raise Refused("not simulated")

    async def destroy(self, permit: Permit) -> None:
        permit.spend()
        mode = await self._call("destroy", write=True)
        self._cloud.destroy(permit.instance_id)
        self._cloud.hook("destroy:after")
        if mode == "after":
            raise Ambiguous("lost")

    async def log(self, instance_id: str, lines: int = 200) -> str:
        return ""

    async def close(self) -> None:
        return None


def promised(spec: RunSpec, path: str) -> bool:
    """A second opinion on what is promised, simpler than the product's globs: prefixes and names."""
    if spec.checkpoints is not None and path.startswith(spec.checkpoints.path + "/") and "/." not in path:
        return True
    return any(path == a.path for a in spec.artifacts)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def at_home(vault: Path, run: str, path: str, content: bytes) -> bool:
    """Whether the vault holds exactly this content under this name."""
    target = vault / run / path
    if not target.is_file():
        return False
    with target.open("rb") as file:
        return file.read(len(content)) == content
