"""The market as a pure function of (seed, time).

Machines are drawn once from the seed. Prices, the ids of offers and what strangers have rented are
computed from the time, so there is no market state to keep: only what *we* hold is state. Times are
integer microseconds since the epoch (UTC), money is integer micro-dollars.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from gpucloudsim.engine.catalog import CATALOG, GpuModel

SECOND = 1_000_000
HOUR = 3600 * SECOND
MONTH_HOURS = 720
"""Vast divides a month's storage price by 720 to get the hourly one."""

OFFER_LIFE = 600 * SECOND
"""An offer id is good for about this long; then the same machine is listed under another id."""
OFFER_GRACE = 60 * SECOND
"""The previous id is still honoured for this long, so that a person can read a list and choose."""
FIRST_OFFER_ID = 21_000_000
MARKET_EPOCH = 1_767_225_600 * SECOND
"""2026-01-01T00:00Z; listings are counted from here so that ids have a familiar length."""

PLACES: tuple[tuple[str, float, float], ...] = (
    ("Texas, US", 0.0, 0.003),
    ("California, US", 0.004, 0.006),
    ("Virginia, US", 0.003, 0.004),
    ("Quebec, CA", 0.002, 0.003),
    ("Sweden, SE", 0.001, 0.001),
    ("Norway, NO", 0.0, 0.0),
    ("Germany, DE", 0.003, 0.003),
    ("Czechia, CZ", 0.002, 0.002),
    ("Poland, PL", 0.004, 0.004),
    ("Japan, JP", 0.006, 0.008),
    ("Vietnam, VN", 0.008, 0.010),
    ("Utah, US", 0.002, 0.004),
)
"""Place and the usual prices of upload and download there (USD per GB)."""

CPUS: tuple[tuple[str, int], ...] = (
    ("AMD EPYC 7763 64-Core Processor", 128),
    ("AMD EPYC 9354 32-Core Processor", 64),
    ("Xeon® Platinum 8468", 96),
    ("AMD Ryzen 9 7950X 16-Core Processor", 32),
    ("Xeon® E5-2698 v4", 40),
)
DRIVERS: tuple[tuple[str, float], ...] = (
    ("550.127.05", 12.4),
    ("560.35.03", 12.6),
    ("570.133.20", 12.8),
    ("580.95.05", 13.0),
)


@dataclass(frozen=True)
class Machine:
    """A host in the market. Everything here stays the same for ever."""

    index: int
    machine_id: int
    host_id: int
    gpu: GpuModel
    num_gpus: int
    price_micro: int
    """Per GPU and hour, before the movement of the market."""
    storage_micro_per_gb_month: int
    up_micro_per_gb: int
    down_micro_per_gb: int
    place: str
    datacenter: bool
    verification: str
    reliability: float
    disk_gb: int
    disk_bw: float
    inet_up: float
    inet_down: float
    cpu_name: str
    cpu_cores: int
    cpu_ram_mb: int
    driver: str
    cuda: float
    static_ip: bool
    direct_ports: int
    contract_days: float


@dataclass(frozen=True)
class Offer:
    """A listing at one moment: a machine, a number of its GPUs, an id that will not last."""

    offer_id: int
    machine: Machine
    num_gpus: int
    price_micro: int
    """On-demand price of all its GPUs per hour, without storage."""
    min_bid_micro: int
    """Lowest price per hour at which an interruptible instance runs, all its GPUs."""
    end_us: int
    """When the host takes the machine off the market."""


STOCKED_US = 1_768_043_400 * SECOND
"""A time at which nearly every machine of the first market is free."""


def moment_of(text: str) -> int:
    """A market's moment in microseconds: `stocked`, or seconds since 1970. Raises ValueError."""
    if text == "stocked":
        return STOCKED_US
    seconds = float(text)
    if not 0 <= seconds < 1e11:
        raise ValueError("not a time of this millennium")
    return round(seconds * SECOND)


def _unit(*parts: object) -> float:
    """A reproducible number in [0, 1) that depends on nothing but its arguments."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _draw_machine(rng: random.Random, index: int, gpu: GpuModel) -> Machine:
    place, up, down = rng.choice(PLACES)
    cpu_name, cores = rng.choice(CPUS)
    driver, cuda = rng.choice(DRIVERS[2:] if gpu.compute_cap >= 1000 else DRIVERS)
    datacenter = rng.random() < gpu.datacenter_share
    verified = datacenter or rng.random() < 0.85
    return Machine(
        index=index,
        machine_id=rng.randrange(2_000, 60_000) * 100 + index,
        host_id=rng.randrange(1_000, 400_000),
        gpu=gpu,
        num_gpus=max(gpu.counts),
        price_micro=round(gpu.price_micro * rng.uniform(0.82, 1.35) * (1.12 if datacenter else 1.0)),
        storage_micro_per_gb_month=rng.choice((100_000, 149_333, 150_000, 200_000, 266_667)),
        up_micro_per_gb=round(up * 1e6 * rng.uniform(0.8, 1.3)),
        down_micro_per_gb=round(down * 1e6 * rng.uniform(0.8, 1.3)),
        place=place,
        datacenter=datacenter,
        verification="verified" if verified else rng.choice(("unverified", "unverified", "deverified")),
        reliability=round(min(0.9999, (0.985 if verified else 0.93) + rng.random() * 0.0149), 7),
        disk_gb=rng.choice((180, 420, 780, 1500, 2900, 6100)),
        disk_bw=round(rng.uniform(480, 7100), 1),
        inet_up=round(rng.uniform(90, 9000 if datacenter else 900), 1),
        inet_down=round(rng.uniform(120, 9500 if datacenter else 950), 1),
        cpu_name=cpu_name,
        cpu_cores=cores,
        cpu_ram_mb=max(gpu.counts) * rng.choice((32_000, 64_000, 128_000)),
        driver=driver,
        cuda=cuda,
        static_ip=datacenter or rng.random() < 0.4,
        direct_ports=rng.choice((0, 12, 100, 250, 999)) if not datacenter else 999,
        contract_days=rng.choice((3.0, 8.0, 31.0, 90.0, 365.0)),
    )


@dataclass(frozen=True)
class Slot:
    """One way in which a machine is let: so many of its GPUs."""

    index: int
    machine: Machine
    num_gpus: int


@dataclass(frozen=True)
class Market:
    """All machines and the ways in which they are let."""

    seed: int
    machines: tuple[Machine, ...]
    slots: tuple[Slot, ...]
    still_us: int | None = None
    """When set, prices, stock and offer ids are for ever those of this moment."""
    factor: float = 1.0
    """All prices are so many times what the waves say."""

    def _moment(self, now: int) -> int:
        return now if self.still_us is None else self.still_us

    def wave(self, machine: Machine, now: int) -> float:
        """How far the price stands from its mean at this time, about 0.9 to 1.1."""
        phase = _unit(self.seed, machine.index, "phase") * 2 * math.pi
        hours = self._moment(now) / HOUR
        return (
            1
            + 0.06 * math.sin(hours * 2 * math.pi / 7 + phase)
            + 0.03 * math.sin(hours * 2 * math.pi / 1.3 + 2 * phase)
        )

    def price(self, slot: Slot, now: int) -> int:
        """On-demand price of the slot's GPUs in micro-dollars per hour, in whole steps of 100."""
        mean = slot.machine.price_micro * slot.num_gpus * self.factor
        return round(mean * self.wave(slot.machine, now) / 100) * 100

    def min_bid(self, slot: Slot, now: int) -> int:
        """Bid that runs at this time; moves faster and wider than the on-demand price."""
        phase = _unit(self.seed, slot.machine.index, "bid") * 2 * math.pi
        swing = 1 + 0.12 * math.sin(self._moment(now) / HOUR * 2 * math.pi / 2.1 + phase)
        share = 0.38 + 0.25 * _unit(self.seed, slot.machine.index, "share")
        return round(slot.machine.price_micro * slot.num_gpus * self.factor * share * swing / 100) * 100

    def serial(self, slot: Slot, now: int) -> int:
        """Which successive listing of the slot is up now."""
        shift = int(_unit(self.seed, slot.index, "shift") * OFFER_LIFE)
        return max(0, self._moment(now) - MARKET_EPOCH + shift) // OFFER_LIFE

    def let_to_strangers(self, machine: Machine, now: int) -> int:
        """GPUs of the machine that somebody else has rented now (stock comes and goes)."""
        tide = int(_unit(self.seed, machine.index, "tide") * 3 * OFFER_LIFE)
        epoch = (self._moment(now) + tide) // (3 * OFFER_LIFE)
        draw = _unit(self.seed, machine.index, "let", epoch)
        if draw > 0.12:
            return 0
        return machine.num_gpus if draw < 0.06 else machine.num_gpus // 2

    def offer_id(self, slot: Slot, serial: int) -> int:
        """The public id of one listing; ids are not stable, machines are."""
        return FIRST_OFFER_ID + serial * len(self.slots) + slot.index

    def slot_of(self, offer_id: int) -> Slot | None:
        """The slot that an id, valid or stale, was made from."""
        return (
            self.slots[(offer_id - FIRST_OFFER_ID) % len(self.slots)] if offer_id >= FIRST_OFFER_ID else None
        )

    def offer(self, slot: Slot, now: int, bumps: int) -> Offer:
        """The listing of the slot at this time; `bumps` counts how often it was consumed."""
        serial = self.serial(slot, now) + bumps
        days = slot.machine.contract_days * (0.3 + 0.7 * _unit(self.seed, slot.machine.index, "end"))
        day = 24 * HOUR
        return Offer(
            offer_id=self.offer_id(slot, serial),
            machine=slot.machine,
            num_gpus=slot.num_gpus,
            price_micro=self.price(slot, now),
            min_bid_micro=self.min_bid(slot, now),
            end_us=(now // day) * day + round(days * day) + 2 * day,
        )

    def listed(self, now: int, held: Mapping[int, int], bumps: Mapping[int, int]) -> list[Offer]:
        """Every offer up at this time. `held`: GPUs we hold per machine index; `bumps`: per slot index."""
        free = {
            machine.index: machine.num_gpus - held.get(machine.index, 0) - self.let_to_strangers(machine, now)
            for machine in self.machines
        }
        return [
            self.offer(slot, now, bumps.get(slot.index, 0))
            for slot in self.slots
            if free[slot.machine.index] >= slot.num_gpus
        ]

    def resolve(
        self, offer_id: int, now: int, held: Mapping[int, int], bumps: Mapping[int, int]
    ) -> Slot | None:
        """The slot that can be rented under this id now, or None when the listing is gone."""
        slot = self.slot_of(offer_id)
        if slot is None:
            return None
        machine = slot.machine
        bump = bumps.get(slot.index, 0)
        valid = {
            self.offer_id(slot, self.serial(slot, now) + bump),
            self.offer_id(slot, self.serial(slot, now - OFFER_GRACE) + bump),
        }
        free = machine.num_gpus - held.get(machine.index, 0)
        fresh = min(self.let_to_strangers(machine, now), self.let_to_strangers(machine, now - OFFER_GRACE))
        return slot if offer_id in valid and free - fresh >= slot.num_gpus else None


@lru_cache(maxsize=16)
def market(seed: int, still_us: int | None = None, factor: float = 1.0) -> Market:
    """The market that grows from a seed: about 150 offers of 30 GPU models; `still_us` stops it at a moment."""
    rng = random.Random(seed)
    machines: list[Machine] = []
    slots: list[Slot] = []
    for gpu in CATALOG:
        for _ in range(gpu.machines):
            machine = _draw_machine(rng, len(machines), gpu)
            machines.append(machine)
            slots += [Slot(len(slots) + i, machine, count) for i, count in enumerate(gpu.counts)]
    return Market(seed, tuple(machines), tuple(slots), still_us, factor)
