"""The words of renting: offer, instance, endpoint, order, listing, permit, and the Provider contract.

Values only, no I/O. Prices are integer micro-dollars per hour, sizes bytes,
speeds bits per second, times UTC. `None` means "the vendor did not say": unknown,
never zero.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Protocol, runtime_checkable

from gpuproviders.money import MicroUsd

GB = 1_000_000_000
MIB = 1 << 20


class Stock(Enum):
    """How much of an offer's kind there is, where a vendor sells kinds and not machines."""

    LOW = 1
    MEDIUM = 2
    HIGH = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A listing that can be rented now. `offer_id` may be stale a minute later; `machine_id` is stable."""

    provider: str
    offer_id: str
    machine_id: str | None
    gpu_name: str
    gpu_count: int
    gpu_memory: int
    """Bytes per GPU, nominal (80 GB for an H100 although the driver reports less)."""
    price: MicroUsd
    """All-in micro-dollars per hour: GPUs and the disk size of the query."""
    disk_price: MicroUsd
    """The part of `price` that goes on while stopped, micro-dollars per hour."""
    spot: bool = False
    reliability: float | None = None
    verified: bool = False
    datacenter: bool = False
    region: str | None = None
    cpu_cores: float | None = None
    memory: int | None = None
    disk: int | None = None
    """Free disk that can be asked for, bytes."""
    download_speed: float | None = None
    upload_speed: float | None = None
    transfer_price: MicroUsd | None = None
    """Micro-dollars per GB out of the machine (what bringing a checkpoint home costs)."""
    receive_price: MicroUsd | None = None
    """Micro-dollars per GB into the machine (images, data)."""
    cuda: str | None = None
    direct_ssh: bool = False
    ends_at: datetime | None = None
    stock: Stock | None = None
    """None where an offer is one machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferQuery:
    """What to look for. Empty `gpu_names` means any; `max_price` is micro-dollars per hour, all-in."""

    gpu_names: tuple[str, ...] = ()
    gpu_count: int | None = None
    max_price: MicroUsd | None = None
    spot: bool = False
    min_reliability: float | None = None
    disk: int = 20 * GB
    verified_only: bool = True
    limit: int = 200


class Power(Enum):
    """What a machine is doing, as far as the vendor tells. Unknown strings are UNKNOWN, never "dead"."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPED = "stopped"
    OFFLINE = "offline"
    UNKNOWN = "unknown"


class Trouble(Enum):
    """Why a machine will not come up, read from the vendor's status text."""

    IMAGE = "image"
    CONTAINER = "container"
    DISK = "disk"
    GAVE_UP = "gave-up"
    """The vendor turned the wish to run into "stopped" without being asked."""
    NO_CREDIT = "no-credit"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where SSH may answer."""

    host: str
    port: int
    user: str = "root"
    kind: str = "direct"
    """`direct` or `proxy` (direct is tried first); `own`: as the user's SSH configuration says."""
    config: str | None = None
    """For `own`: the path of that configuration; address, user, keys and jump hosts are found there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A rented machine as one well-formed answer described it."""

    provider: str
    instance_id: str
    label: str | None
    power: Power
    wanted: Power | None = None
    """What the vendor is working towards (RUNNING, STOPPED), None when not said."""
    status: str | None = None
    """The vendor's status text, for people; control characters removed, at most 500 characters."""
    trouble: Trouble | None = None
    machine_id: str | None = None
    gpu_name: str | None = None
    gpu_count: int | None = None
    price: MicroUsd | None = None
    endpoints: tuple[Endpoint, ...] = ()
    spot: bool = False
    started_at: datetime | None = None
    ends_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """Every instance of the account: made only when all pages were read and well-formed (I3)."""

    instances: tuple[Instance, ...]

    def by_label(self, label: str) -> tuple[Instance, ...]:
        """All instances that carry exactly this label."""
        return tuple(i for i in self.instances if i.label == label)

    def by_id(self, instance_id: str) -> Instance | None:
        """The instance with this id, None when the complete listing has none."""
        return next((i for i in self.instances if i.instance_id == instance_id), None)


@dataclass(frozen=True, slots=True)
class Account:
    """Who we are to the vendor. The answer doubles as the health probe of I3."""

    provider: str
    user_id: str | None
    """None while the vendor does not say."""
    credit: MicroUsd | None
    """Money left that the fleet can spend, None when the vendor does not say."""
    key_id: str | None = None
    """A fingerprint of the key that was used: the same key is the same account, whatever else is unknown."""
    spending: MicroUsd | None = None
    """Micro-dollars per hour that the account spends now, by the vendor's own count."""
    limit: MicroUsd | None = None
    """Micro-dollars per hour that the vendor lets the account spend."""

    def same_as(self, other: Account) -> bool:
        """Whether both are surely one account; what cannot be told is "no" (I3)."""
        if self.key_id is not None and self.key_id == other.key_id:
            return True
        return self.user_id is not None and self.user_id == other.user_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One create. `label` is unique and already in the ledger when the order is sent (I2)."""

    label: str
    offer: Offer
    image: str
    disk: int
    """Bytes."""
    env: dict[str, str] = field(default_factory=dict)
    ssh_public_key: str | None = None
    onstart: str | None = None


@dataclass(frozen=True, slots=True)
class Created:
    """The vendor's word that the order made this instance."""

    instance_id: str


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What differs between vendors in ways that decisions depend on."""

    stop_keeps_disk: bool
    can_stop: bool = True
    spot: bool = True
    stop_keeps_host_key: bool = True
    """False where every start makes a new container, whose SSH host key is a new one."""


@dataclass(frozen=True, slots=True)
class Charge:
    """What the vendor's own books say one instance has cost so far."""

    instance_id: str
    amount: MicroUsd
    until: float | None = None
    """Unix seconds up to which that is, None where the vendor does not say."""


def added_up(charges: Iterable[Charge]) -> tuple[Charge, ...]:
    """One charge for each instance: the sum of its rows, up to the latest of them. Pure."""
    found: dict[str, Charge] = {}
    for charge in charges:
        before = found.get(charge.instance_id)
        if before is not None:
            ends = [u for u in (before.until, charge.until) if u is not None]
            charge = Charge(
                charge.instance_id, MicroUsd(before.amount + charge.amount), max(ends, default=None)
            )
        found[charge.instance_id] = charge
    return tuple(found.values())


@runtime_checkable
class Billing(Protocol):
    """A provider that tells its own charges. They come hours late and are only compared, never acted upon."""

    async def charges(self, since: float) -> tuple[Charge, ...]:
        """One for each instance that cost anything since then (Unix seconds); all of them, or Unavailable."""


class Permit(ABC):
    """What `destroy` and `stop` take. Only `gpuwatch.custody` has concrete ones (I1); each names one machine."""

    @property
    @abstractmethod
    def instance_id(self) -> str:
        """The only instance that this permit is about."""

    @property
    @abstractmethod
    def covers_loss(self) -> bool:
        """Whether the machine's disk may be lost by the act. A permit to stop on the ground that the disk stays does not."""

    @abstractmethod
    def spend(self) -> None:
        """Use the permit up. Raises PermissionError when it was used before or is too old."""


class Provider(Protocol):
    """A vendor account. Every method may raise any `gpuproviders.errors.ProviderError`.

    Reads raise Unavailable rather than return something short: a Listing is complete
    or it does not exist. Writes that spend money are sent exactly once.
    """

    @property
    def name(self) -> str:
        """Short lower-case name: `vast`, `runpod`, `ssh`."""

    @property
    def capabilities(self) -> Capabilities:
        """What this vendor can do."""

    async def account(self) -> Account:
        """The account behind the key."""

    async def offers(self, query: OfferQuery) -> tuple[Offer, ...]:
        """Offers that match, cheapest first, at most `query.limit`."""

    async def create(self, order: Order) -> Created:
        """Rent, once. Raises OfferGone/Refused (nothing exists), Throttled (nothing exists), Ambiguous."""

    async def instances(self) -> Listing:
        """All instances of the account, all pages."""

    async def instance(self, instance_id: str) -> Instance | None:
        """Look up by id; None only when the vendor says in so many words that there is none."""

    async def start(self, instance_id: str) -> None:
        """Ask a stopped machine to run again. Refused when its GPU was let to someone else."""

    async def stop(self, permit: Permit) -> None:
        """Stop the machine that the permit names. Custody knows where that loses the disk (I1)."""

    async def destroy(self, permit: Permit) -> None:
        """Destroy the machine that the permit names. Returning means "accepted", not "gone"."""

    async def log(self, instance_id: str, lines: int = 200) -> str:
        """The vendor's own log of the machine, for people, at most 100 kB."""

    async def close(self) -> None:
        """Release sockets and threads."""
