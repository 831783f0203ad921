"""The state of one run, as its events have made it."""

from __future__ import annotations

from enum import Enum

import msgspec


class State(Enum):
    """Where a run is in its life (design: requested → … → gone)."""

    REQUESTED = "requested"
    RENTING = "renting"
    BOOTING = "booting"
    PREPARING = "preparing"
    RUNNING = "running"
    FINISHED = "finished"
    COLLECTING = "collecting"
    VERIFIED = "verified"
    PAUSED = "paused"
    DESTROYING = "destroying"
    FAILED = "failed"
    RECOVERING = "recovering"
    GONE = "gone"
    LOST = "lost"


EVERYTHING = "*"
"""The waiver that gives up all files, listed or not: the only way out when a box cannot be reached any more."""

FINAL = frozenset({State.GONE, State.LOST})
"""Nothing happens after these, unless the machine comes back."""


class Phase(Enum):
    """How far a create or a destroy has come: written before it is sent, then resolved."""

    NONE = "none"
    SENT = "sent"
    UNKNOWN = "unknown"
    ACCEPTED = "accepted"


class Pause(msgspec.Struct, frozen=True, kw_only=True):
    """A time in which a machine was stopped and kept its disk, Unix seconds; `until` is None while it lasts."""

    since: float
    until: float | None = None


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The machine of the current attempt. `instance_id` is None until one is known to exist."""

    label: str
    provider: str
    offer_id: str
    machine_id: str | None
    gpu: str
    gpu_count: int
    gpu_memory: int
    price: int
    """Micro-dollars per hour, all-in, as offered."""
    disk_price: int
    chosen_at: float
    transfer_price: int | None = None
    """Micro-dollars per GB that leaves the machine, None when the vendor did not say."""
    instance_id: str | None = None
    create: Phase = Phase.NONE
    create_sent_at: float | None = None
    rented_at: float | None = None
    host: str | None = None
    port: int | None = None
    user: str = "root"
    fingerprint: str | None = None
    boot_id: str | None = None
    workspace: str | None = None
    job_started_at: float | None = None
    """When the order to start the job was written down: from then on there may be something to lose."""
    job_pid: int | None = None
    restored: str | None = None
    """The checkpoint that was put on it before the job."""
    stop: Phase = Phase.NONE
    """How far the stop is that was sent last; NONE again once the machine runs."""
    unstoppable: str | None = None
    """Why it cannot be stopped and keep its disk, once its vendor has said so."""
    pauses: tuple[Pause, ...] = ()
    started_by: str | None = None
    """Who started it again after a stop, None when that was only to look at it and end it."""
    destroy: Phase = Phase.NONE
    destroy_sent_at: float | None = None
    gone_at: float | None = None
    dud: str | None = None


class ReceiptRef(msgspec.Struct, frozen=True, kw_only=True):
    """The newest receipt: its digest and what it is bound to."""

    digest: str
    boot_id: str
    files: int
    bytes: int
    at: float
    waived: tuple[str, ...] = ()


class PlacedHold(msgspec.Struct, frozen=True, kw_only=True):
    """A hold that a person placed, or the release of one: who, when (Unix seconds UTC) and why."""

    name: str
    by: str
    at: float
    reason: str = ""


class Home(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint that came home whole. `digest` is of its paths and their SHA-256; `at` Unix seconds UTC."""

    name: str
    step: int | None
    digest: str
    files: int
    bytes: int
    at: float


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run. Made only by `evolve`; times are Unix seconds UTC of the events."""

    id: str
    name: str
    state: State
    spec: str
    file: str
    base: str
    key: str
    created_at: float
    since: float
    """When the current state was entered."""
    attempt: int = 0
    """Machines tried so far."""
    pinned_provider: str | None = None
    pinned_offer: str | None = None
    machine: Machine | None = None
    past: tuple[Machine, ...] = ()
    """Machines of earlier attempts: confirmed gone, counted as lost, or handed to a run that collects from them."""
    avoid: tuple[str, ...] = ()
    """Offers and machines that did not work out, as `provider:offer:id` or `provider:machine:id`."""
    started_at: float | None = None
    job_ended_at: float | None = None
    exit_code: int | None = None
    ended_at: float | None = None
    end_requested_by: str | None = None
    end_reason: str = ""
    stop_requested_by: str | None = None
    """Who wants the machine stopped; a hold that a person places takes the wish back."""
    wake_requested_by: str | None = None
    kept_since: float | None = None
    """When a person last took a wish back or let a hold go: timers of a stopped machine begin anew then."""
    waivers: tuple[str, ...] = ()
    receipt: ReceiptRef | None = None
    holds: tuple[str, ...] = ()
    """What the last collection could not prove, each `name: reason`."""
    pins: tuple[PlacedHold, ...] = ()
    """Holds that people placed; nothing ends the machine while there is one."""
    released: tuple[PlacedHold, ...] = ()
    """Holds made by facts (`ssh-session`) that a person removed, for this machine."""
    trouble: str | None = None
    """Why it failed or waits, for people."""
    verified_files: int = 0
    verified_bytes: int = 0
    last_verified_at: float | None = None
    checkpoints: int = 0
    last_step: int | None = None
    """Step of the newest verified checkpoint."""
    homes: tuple[Home, ...] = ()
    """The newest checkpoints that stand whole at home, newest last."""
    losses: int = 0
    """Machines on which a job ran and that this run has gone on without."""
    lost_at: float | None = None
    """When the last of them was given up, until the job runs again."""
    resume_from: str | None = None
    """The checkpoint that was asked for at the launch (`events.Requested`)."""
    of: str | None = None
    """The run whose machine this one only collects from; None for every run that people asked for."""
    proved: int = 0
    """Of such a run: files of its machine that were at home when it was taken over."""

    @property
    def exists(self) -> bool:
        """Whether a machine of this run exists or may exist."""
        m = self.machine
        return (
            m is not None and m.gone_at is None and (m.instance_id is not None or m.create is not Phase.NONE)
        )

    @property
    def on_box(self) -> str:
        """The id under which this run's files lie on its machine."""
        return self.of or self.id

    @property
    def paused_since(self) -> float | None:
        """Since when the machine has been stopped, None when it is not."""
        pauses = self.machine.pauses if self.machine is not None else ()
        return pauses[-1].since if pauses and pauses[-1].until is None else None

    @property
    def stop_under_way(self) -> bool:
        """Whether a stop was sent and it is not known yet what came of it."""
        return self.machine is not None and self.machine.stop in (Phase.SENT, Phase.UNKNOWN)

    @property
    def given_up(self) -> bool:
        """Whether a person waived everything on the machine."""
        return EVERYTHING in self.waivers

    def has_released(self, name: str) -> bool:
        """Whether a person removed the hold of this name for the current machine."""
        return any(hold.name == name for hold in self.released)

    @property
    def data_at_risk(self) -> bool:
        """Whether a job ever ran on the current machine, so that there may be something to lose."""
        return (
            self.machine is not None
            and self.machine.gone_at is None
            and self.machine.job_started_at is not None
        )
