"""One sample of a box. `None` means that nobody said: unknown, never zero (I3)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, Flag


class Throttle(Flag):
    """Why a GPU runs slower than it could, as NVML's `nvmlClocksEventReasons` bits."""

    IDLE = 0x1
    APPLICATION_CLOCKS = 0x2
    POWER_CAP = 0x4
    HW_SLOWDOWN = 0x8
    SYNC_BOOST = 0x10
    SW_THERMAL = 0x20
    HW_THERMAL = 0x40
    HW_POWER_BRAKE = 0x80
    DISPLAY = 0x100


HOT = Throttle.SW_THERMAL | Throttle.HW_THERMAL
"""The reasons that a cooler machine would not have. HW_SLOWDOWN alone may also be power."""


class SmiProblem(Enum):
    """Why nvidia-smi does not answer for (all) GPUs."""

    NOT_YET = "has not answered yet"
    NO_BINARY = "is not installed"
    MISMATCH = "driver and library versions differ"
    NO_DRIVER = "the driver does not run"
    NO_DEVICES = "no GPU is visible"
    LOST = "a GPU is lost"
    OTHER = "failed"


@dataclass(frozen=True, slots=True)
class GpuSample:
    """One GPU: per cent, bytes, watts, °C, MHz."""

    index: int
    uuid: str
    name: str
    utilisation: float | None
    memory_used: int | None
    memory_total: int | None
    power: float | None
    power_limit: float | None
    temperature: float | None
    clock: float | None
    clock_max: float | None
    throttle: Throttle | None
    ecc_errors: int | None
    """Uncorrected ECC errors since the driver was loaded."""
    mig: bool
    """Split into MIG slices: the driver does not tell what such a GPU does as a whole."""
    lost: bool
    """The driver says that this GPU does not answer any more."""
    age: float
    """Seconds since nvidia-smi printed this row."""


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that computes on a GPU. Containers often hide the names and sometimes all of them."""

    gpu: str
    pid: int
    memory: int | None
    name: str


@dataclass(frozen=True, slots=True)
class Gpus:
    """All GPUs of a box. `problem` is set when the answer is missing or not whole."""

    rows: tuple[GpuSample, ...] = ()
    processes: tuple[GpuProcess, ...] = ()
    expected: int | None = None
    """How many the driver says that there are."""
    driver: str | None = None
    problem: SmiProblem | None = None
    detail: str = ""

    @property
    def whole(self) -> bool:
        """Whether every GPU has a fresh row with a utilisation: only then this is evidence of anything."""
        return (
            self.problem is None
            and bool(self.rows)
            and (self.expected is None or len(self.rows) == self.expected)
            and all(row.utilisation is not None and not row.lost for row in self.rows)
        )


@dataclass(frozen=True, slots=True)
class Xid:
    """An error that the driver wrote into the kernel's log."""

    bus: str
    number: int


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who is logged in and is not us. `quiet`: seconds since a key or a line of output."""

    kind: str
    quiet: float | None


@dataclass(frozen=True, slots=True)
class Processes:
    """Everybody but us: cores used, bytes per second from and to the disk; and what we use ourselves."""

    count: int
    cpu: float | None = None
    disk_read: float | None = None
    disk_written: float | None = None
    own_cpu: float | None = None
    own_moved: float | None = None
    """Bytes per second through our own descriptors, disk and network together."""
    own_net: float | None = None
    """Bytes per second that the SSH server moves for us, None when it cannot be told from others'."""
    sessions: tuple[Session, ...] | None = None


@dataclass(frozen=True, slots=True)
class Vitals:
    """What one look at a box found beyond job and files."""

    gpus: Gpus = Gpus()
    xids: tuple[Xid, ...] | None = None
    """None when the container may not read the kernel's log."""
    processes: Processes | None = None
    cores: float | None = None
    """Cores that the container may use."""
    load: float | None = None
    memory_used: int | None = None
    memory_limit: int | None = None
    """The container's own limit, None when it has none."""
    net_received: float | None = None
    net_sent: float | None = None
    """Bytes per second over all interfaces, ours included."""
    disk_free: int | None = None
    disk_total: int | None = None
    inodes_free: int | None = None
    inodes_total: int | None = None
    shared: bool = False
    """Other boxes live on the same kernel, so that network figures are not this box's alone."""


@dataclass(frozen=True, slots=True)
class JobProgress:
    """What the job says of itself: `metrics.jsonl`, and `status.json` when it speaks the run contract."""

    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    diverged: bool = False
    """The last loss is no number."""
    tokens_per_second: float | None = None
    phase: str | None = None
    last_step_age: float | None = None
    """Seconds since the main loop made a step, by the box's own clock."""
    step_seconds: float | None = None
    eta: float | None = None
    """Seconds to the job's end as it says."""
