"""What really exists: machines, the boxes inside them, the jobs that run there.

The faces (`vast`, `shell`) answer for it, sometimes late, wrongly or not at all. Destroy
really deletes, so a lost file is really lost, and at that moment the judge compares the
box with the vault: outside the code under test.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from simulation.clock import Time

from gpuproviders.model import Trouble


class Violation(AssertionError):
    """An invariant was broken."""


@dataclass(slots=True)
class File:
    """One file on a box; its identity changes with each write."""

    content: bytes
    mtime_ns: int
    inode: int
    writer_until: float = 0.0

    @property
    def identity(self) -> list[int]:
        """Size, mtime, ctime, inode."""
        return [len(self.content), self.mtime_ns, self.mtime_ns, self.inode]


@dataclass(slots=True)
class Job:
    """What runs on a box: a plan of (seconds after the start, what happens then)."""

    plan: list[tuple[float, Callable[[Box, float], None]]]
    length: float
    exit_code: int
    started: float | None = None
    ended: float | None = None
    vanished: bool = False
    done: int = 0


@dataclass(slots=True)
class Box:
    """The inside of a machine."""

    job: Job
    boot: int = 1
    files: dict[str, File] = field(default_factory=dict)
    log: bytearray = field(default_factory=bytearray)
    inodes: int = 0
    changes: int = 0
    dead: bool = False
    sessions: int | None = None
    """People logged in, None when the box cannot tell."""
    step: int | None = None
    """The job's step, for jobs that tell."""

    def write(self, path: str, size: int, at: float, *, busy: float = 0.0) -> None:
        """Create or replace a file; someone keeps it open for `busy` seconds."""
        self.inodes += 1
        self.changes += 1
        seed = f"{path}:{self.inodes}:".encode("utf-8", "surrogateescape")
        content = (seed * (size // len(seed) + 1))[: max(1, size)]
        self.files[path] = File(content, int(at * 1e9), self.inodes, at + busy)

    def put(self, path: str, content: bytes, at: float) -> None:
        """A file that somebody else puts there: an upload."""
        self.inodes += 1
        self.changes += 1
        self.files[path] = File(content, int(at * 1e9), self.inodes)

    def remove(self, path: str) -> None:
        """A file is deleted: by the job, or as its order says by the sentinel."""
        self.changes += 1
        del self.files[path]

    def run_to(self, now: float) -> None:
        """Let the job do what it does up to `now`."""
        job = self.job
        if job.started is None or job.ended is not None or self.dead:
            return
        while job.done < len(job.plan) and job.started + job.plan[job.done][0] <= now:
            job.plan[job.done][1](self, job.started + job.plan[job.done][0])
            job.done += 1
        if now >= job.started + job.length:
            job.ended = job.started + job.length
            self.log += b"bye\n"

    def reboot(self, now: float) -> None:
        """The host restarts the container: processes are gone, files stay."""
        self.run_to(now)
        self.boot += 1
        if self.job.started is not None and self.job.ended is None:
            self.job.ended, self.job.vanished = now, True


@dataclass(slots=True)
class Machine:
    """One rented machine, as it truly is."""

    instance_id: str
    label: str
    offer_id: str
    created: float
    box: Box
    boots_at: float
    vendor: str = "vast"
    price: float = 0.3
    """USD per hour."""
    trouble: Trouble | None = None
    destroyed: float | None = None
    taken: float | None = None
    """When the provider took it away by itself (spot, host loss)."""
    takes: int = 0
    """How often that happened: machines come back."""
    stopped: list[tuple[float, float, str]] = field(default_factory=list)
    """From when to when its vendor lists it and does not run it, and the status it shows (`offline`, `exited`)."""
    halts: list[tuple[float, float | None]] = field(default_factory=list)
    """From when to when (None: still) it is stopped because the daemon asked for it, its disk kept."""
    seen_from: float = 0.0
    seen_until: float = 0.0
    cut_off: list[tuple[float, float]] = field(default_factory=list)
    """When its own network is down."""

    def billed(self, now: float) -> float:
        """USD that it has cost by `now`, as long as it was there."""
        end = min(t for t in (self.destroyed, self.taken, now) if t is not None)
        halted = sum(max(0.0, min(end, b if b is not None else end) - a) for a, b in self.halts)
        return max(0.0, end - self.created - halted) / 3600 * self.price

    @property
    def alive(self) -> bool:
        return self.destroyed is None and self.taken is None

    @property
    def halted(self) -> bool:
        """Whether it is stopped because the daemon asked for it."""
        return bool(self.halts) and self.halts[-1][1] is None

    def down(self, now: float) -> str | None:
        """The status of a machine that is there and does not run, None when it runs."""
        if self.halted:
            return "exited"
        return next((status for start, end, status in self.stopped if start <= now < end), None)


class Cloud:
    """The truth. The judge's functions are called at the moment of a create and a destroy."""

    def __init__(self, time: Time, draw: random.Random) -> None:
        self.time = time
        self.draw = draw
        self.machines: dict[str, Machine] = {}
        self.foreign: dict[str, str | None] = {}
        """Machines of the account that are none of ours: id → label."""
        self.make_box: Callable[[str], Box] = lambda _label: Box(Job([], 1.0, 0))
        self.boot_seconds: Callable[[], float] = lambda: 20.0
        self.dud: Callable[[], Trouble | None] = lambda: None
        self.judge_destroy: Callable[[Machine], None] = lambda _: None
        self.judge_forget: Callable[[Machine, str], None] = lambda _machine, _path: None
        """Asked before a file is removed from a box."""
        self.judge_create: Callable[[str], None] = lambda _: None
        self.judge_stop: Callable[[Machine], None] = lambda _: None
        self.lag_create = 0.0
        self.lag_destroy = 0.0
        self.offers_taken: set[str] = set()
        self.credit: dict[str, float] = {"vast": 10.0, "runpod": 10.0}
        """USD on each account at the beginning; `left` is what remains."""
        self.meters = False
        """Whether machines use the credit up."""
        self.violations: list[Violation] = []
        self.back_at = 0.0
        """When the last machine that had been taken came back."""

    def left(self, vendor: str) -> float:
        """USD that an account has now."""
        used = sum(m.billed(self.time.now) for m in self.machines.values() if m.vendor == vendor)
        return self.credit[vendor] - used if self.meters else self.credit[vendor]

    def rent(self, label: str, offer_id: str, *, vendor: str = "vast", price: float = 0.3) -> Machine:
        """A machine under `label`; it may show up in listings later than it exists."""
        self.judged(lambda: self.judge_create(label))
        number = str(33_000_001 + len(self.machines))
        if vendor == "runpod":
            number = f"pod{number}"
        now = self.time.now
        self.offers_taken.add(offer_id)
        machine = Machine(
            instance_id=number, label=label, offer_id=offer_id, created=now, box=self.make_box(label),
            boots_at=now + self.boot_seconds(), trouble=self.dud(), seen_from=now + self.lag_create, vendor=vendor,
            price=price,
        )  # fmt: skip
        self.machines[number] = machine
        return machine

    def destroy(self, instance_id: str) -> bool:
        """End a machine and everything on it; False when there is none."""
        if instance_id in self.foreign:
            self.violations.append(Violation(f"I2: machine {instance_id}, which is not ours, was destroyed"))
        machine = self.machines.get(instance_id)
        if machine is None or not machine.alive:
            return False
        machine.box.run_to(self.time.now)
        self.judged(lambda: self.judge_destroy(machine))
        machine.destroyed = self.time.now
        machine.seen_until = self.time.now + self.lag_destroy
        machine.box.dead = True
        return True

    def halt(self, machine: Machine) -> None:
        """Stop a machine on the daemon's word: its processes are gone, its disk stays."""
        machine.box.run_to(self.time.now)
        if machine.halted:
            return
        self.judged(lambda: self.judge_stop(machine))
        job = machine.box.job
        if job.started is not None and job.ended is None:
            job.ended, job.vanished = self.time.now, True
        machine.halts.append((self.time.now, None))

    def resume(self, machine: Machine) -> None:
        """Start it again: another boot of the same disk."""
        if machine.halted:
            machine.halts[-1] = (machine.halts[-1][0], self.time.now)
            machine.box.boot += 1
            machine.boots_at = self.time.now + self.boot_seconds()

    def take(self, machine: Machine) -> None:
        """The provider takes the machine away."""
        machine.box.run_to(self.time.now)
        machine.taken = self.time.now
        machine.takes += 1
        machine.seen_until = self.time.now
        machine.box.dead = True

    def give_back(self, machine: Machine, *, reboot: bool = True) -> None:
        """A machine that was taken is there again, with its disk; its processes are gone, unless it was only away."""
        machine.taken = None
        self.back_at = self.time.now
        machine.box.dead = False
        if reboot:
            machine.box.reboot(self.time.now)

    def stop(self, machine: Machine, seconds: float, status: str, *, reboots: bool = True) -> None:
        """The vendor does not run the machine for a while: its host is offline, or somebody bid more.

        Unless it `reboots`, only the host's network was away, and the box goes on.
        """
        now = self.time.now
        if reboots:
            machine.box.reboot(now)
        machine.stopped.append((now, now + seconds, status))
        machine.cut_off.append((now, now + seconds))

    def judged(self, verdict: Callable[[], None]) -> None:
        """Remember a violation: the daemon must not be able to catch its own judge."""
        try:
            verdict()
        except Violation as violation:
            self.violations.append(violation)
        except Exception as error:  # noqa: BLE001 - a judge that stumbles has not acquitted anybody
            self.violations.append(Violation(f"the judge stumbled: {error!r}"))

    def living(self) -> list[Machine]:
        """All machines that exist and bill."""
        return [m for m in self.machines.values() if m.alive]

    def visible(self, machine: Machine) -> bool:
        """Whether the provider shows it."""
        now = self.time.now
        return machine.seen_from <= now and (machine.alive or now < machine.seen_until)

    def status(self, machine: Machine) -> dict[str, Any]:
        """How Vast describes it (the fields that the adapter reads)."""
        up = self.time.now >= machine.boots_at
        trouble = machine.trouble if up else None
        down = machine.down(self.time.now)
        return {
            "id": int(machine.instance_id),
            "label": machine.label,
            "actual_status": down or ("running" if up and trouble is None else "loading"),
            "is_bid": down == "exited" and not machine.halted,
            "intended_status": "stopped" if trouble is Trouble.GAVE_UP or machine.halted else "running",
            "status_msg": _WORDS.get(trouble, "success, running img") if up else "pulling layers",
            "machine_id": int(machine.offer_id) + 5000,
            "gpu_name": "RTX 4090",
            "num_gpus": 1,
            "dph_total": 0.3,
            "public_ipaddr": "203.0.113.7",
            "ports": {"22/tcp": [{"HostPort": str(int(machine.instance_id) % 60_000 + 1024)}]} if up else {},
        }


_WORDS = {
    Trouble.IMAGE: "manifest for img:latest not found",
    Trouble.CONTAINER: "OCI runtime create failed",
    Trouble.DISK: "write /x: no space left on device",
    Trouble.GAVE_UP: "stopped",
}
