"""State of the simulated cloud: plain values that can be written to disk and read back.

Times are integer microseconds since the epoch (UTC); money is integer micro-dollars. What an
instance has cost is kept as an exact integer of micro-dollars per hour x microseconds, so that
billing does not depend on how often the clock is looked at.
"""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from gpucloudsim.engine.market import HOUR, MONTH_HOURS


class Phase(enum.Enum):
    """Where the container of an instance stands. Faces translate it into a vendor's words."""

    CREATED = "created"
    """The contract exists, the host has not reported yet."""
    LOADING = "loading"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    RESUMING = "resuming"
    """Asked to run again; the host still reports the old exit."""
    OUTBID = "outbid"
    FAILED = "failed"
    """The container could not be created or started; the contract stays and bills its disk."""
    DESTROYED = "destroyed"


class Want(enum.Enum):
    """What the contract is meant to be."""

    RUNNING = "running"
    STOPPED = "stopped"


class BootPlan(enum.Enum):
    """What will happen when the instance boots (fault switches choose other than NORMAL)."""

    NORMAL = "normal"
    STUCK = "stuck"
    """Loads for ever."""
    OCI_ERROR = "oci-error"
    """The image arrives, the container cannot be created, the intent flips to stopped."""
    IMAGE_MISSING = "image-missing"
    """The image cannot be pulled, the intent flips to stopped."""
    STRANGE = "strange"
    """Boots, but reports status words nobody has documented on the way."""


class Quirks(msgspec.Struct, frozen=True):
    """What is odd about one box. Drawn from the fault switches when the instance is created."""

    boot: BootPlan = BootPlan.NORMAL
    boot_factor: float = 1.0
    ssh_refused_s: float = 0.3
    """Seconds after `running` during which the SSH ports refuse connections."""
    ssh_denied: int = 1
    """How many authentications fail before keys are known to the box."""
    ssh_silent: bool = False
    """The SSH port accepts connections and never says a word."""
    host_key_changes: bool = False
    port_changes: bool = False
    no_python: bool = False
    quota_bytes: int | None = None
    smi: str = ""
    """'' or one of missing, na, err, mismatch, nodriver, nodevices."""
    env_in_ssh: bool = False
    crash_after_s: float | None = None
    """Process 1 of the container ends after so many seconds of each of its starts."""
    runtime_fields_null: bool = False


class RentRequest(msgspec.Struct, frozen=True):
    """What a customer asks for, in vendor-neutral words."""

    image: str
    disk_gb: float
    label: str | None = None
    env: dict[str, str] = {}
    onstart: str | None = None
    runtype: str = "ssh"
    bid_micro: int | None = None
    """Bid per hour for all GPUs; None rents on demand."""
    start: bool = True
    price_micro: int | None = None
    """Micro-dollars per hour for all GPUs where the vendor has list prices; None takes the market's."""
    disk_micro: tuple[int, int] | None = None
    """Micro-dollars per hour for the disks (running, stopped); None prices `disk_gb` as the market does."""
    vendor: dict[str, Any] = {}
    """Fields that only the vendor's face understands and wants back."""


class Instance(msgspec.Struct):
    """One rented machine and its history."""

    id: int
    machine_index: int
    slot_index: int
    offer_id: int
    num_gpus: int
    created_us: int
    request: RentRequest
    api_key: str
    price_micro: int
    storage_micro_per_gb_month: int
    up_micro_per_gb: int
    down_micro_per_gb: int
    end_us: int
    phase: Phase = Phase.CREATED
    want: Want = Want.RUNNING
    quirks: Quirks = Quirks()
    label: str | None = None
    bid_micro: int | None = None
    next_us: int | None = None
    """When the phase changes by itself; None when it waits for something."""
    boots: int = 0
    """How often the container was started; a new number means a new start of the box."""
    booting_since_us: int = 0
    running_since_us: int | None = None
    stopped_us: int | None = None
    destroyed_us: int | None = None
    destroyed_by: str | None = None
    host_online: bool = True
    relief_us: int | None = None
    """When what a fault switch did to it (host lost, outbid) ends by itself; None: never."""
    failure: str | None = None
    floor_micro: int | None = None
    """A competing bid set by hand; the instance runs only with a higher bid."""
    keys: dict[int, str] = {}
    """SSH public keys, installed at creation or attached later, by id."""
    gpu_units: int = 0
    disk_units: int = 0
    gpu_us: int = 0
    disk_us: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    history: list[tuple[int, str]] = []

    @property
    def exists(self) -> bool:
        """Whether the contract still stands (and bills)."""
        return self.phase is not Phase.DESTROYED

    @property
    def gpu_rate(self) -> int:
        """Micro-dollars per hour for the GPUs while running."""
        return self.price_micro if self.bid_micro is None else self.bid_micro

    @property
    def disk_rate(self) -> int:
        """Micro-dollars per hour for the disk, in every phase until destroyed."""
        if self.request.disk_micro is not None:
            running, stopped = self.request.disk_micro
            return running if self.phase is Phase.RUNNING else stopped
        return round(self.request.disk_gb * self.storage_micro_per_gb_month / MONTH_HOURS)

    @property
    def gpu_billed(self) -> bool:
        """GPU time bills only while the container runs on a host that is there."""
        return self.phase is Phase.RUNNING and self.host_online

    @property
    def transfer_cost(self) -> int:
        """Micro-dollars for the bytes moved so far."""
        return (
            self.bytes_up * self.up_micro_per_gb + self.bytes_down * self.down_micro_per_gb
        ) // 1_000_000_000

    @property
    def gpu_cost(self) -> int:
        """Micro-dollars for GPU time so far."""
        return self.gpu_units // HOUR

    @property
    def disk_cost(self) -> int:
        """Micro-dollars for the disk so far."""
        return self.disk_units // HOUR

    @property
    def cost(self) -> int:
        """Micro-dollars in all."""
        return self.gpu_cost + self.disk_cost + self.transfer_cost


class SshKey(msgspec.Struct, frozen=True):
    """A public key of the account."""

    id: int
    text: str
    created_us: int


class NetworkVolume(msgspec.Struct):
    """A disk of the account that outlives the instances it is mounted on."""

    id: str
    name: str
    size_gb: int
    place: str
    kind: str = "STANDARD"


class World(msgspec.Struct):
    """Everything the simulated cloud knows. Small: the market itself is computed, not stored."""

    seed: int
    started_us: int
    deposited_micro: int
    clock_us: int = 0
    boot_us: int = 2_000_000
    next_id: int = 33_400_001
    next_key: int = 501
    instances: dict[int, Instance] = {}
    keys: dict[int, SshKey] = {}
    bumps: dict[int, int] = {}
    consumed: set[int] = set()
    volumes: dict[str, NetworkVolume] = {}
    broke_means_gone: bool = False
    """At the end of the credit instances are destroyed, not stopped."""
    price_factor: float = 1.0
    """All prices are so many times what the market's waves say."""
    market_us: int | None = None
    """The moment at which prices and stock stand still; None: they move with the clock."""
