"""One look at a box → what each signal says: active, quiet, unknown, or not there. Pure.

The rules are the lessons of other tools (the truth table in the tests names them): the busiest GPU counts and
not the mean of all; a failed nvidia-smi is unknown and not 0 %; our own copying is no activity; a log that grows is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from gpuwatch.spec.units import format_duration, format_size
from gpuwatch.telemetry.sample import Gpus, JobProgress, Processes, Session, Vitals


class Signal(Enum):
    """What can show that a machine is in use."""

    JOB = "job"
    GPU = "gpu"
    CPU = "cpu"
    DISK = "disk"
    NETWORK = "network"
    SSH = "ssh"
    STEP = "step"
    FILES = "files"
    LOG = "log"


class Says(Enum):
    """What a signal says at one moment."""

    ACTIVE = "active"
    QUIET = "quiet"
    UNKNOWN = "unknown"
    ABSENT = "absent"
    """This box has no such thing (a program without steps): no evidence either way, and none is needed."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One signal at one moment, with words for people."""

    says: Says
    text: str


@dataclass(frozen=True, slots=True)
class Limits:
    """Below these a signal is quiet."""

    gpu: float = 5.0
    """Per cent of the busiest GPU: a display or a monitor makes one or two."""
    cpu: float = 0.25
    """Cores, mean of a minute: what an idle Jupyter, cron and a syncing daemon use together."""
    disk: float = 256_000.0
    network: float = 200_000.0
    """Bytes per second, mean of a minute."""
    ssh_quiet: float = 3600.0
    """Seconds without a key or a line of output after which an open terminal is a forgotten one."""


@dataclass(frozen=True, slots=True)
class Look:
    """One look. `at` in seconds of one clock; what is None could not be learned this time."""

    at: float
    job: str | None = None
    """`running`, `ended` or None (unknown)."""
    job_ended_at: float | None = None
    vitals: Vitals | None = None
    progress: JobProgress = field(default_factory=JobProgress)
    files: object = None
    """Anything that is equal as long as the promised files are."""
    log_size: int | None = None
    transferring: bool = False
    """We copy to or from the box right now."""


BUSY_PHASES = frozenset({"starting", "compiling", "evaluating", "saving", "draining"})
"""Phases of the run contract in which GPUs may rest while the job works."""


def job(look: Look) -> Reading:
    """Whether the job lives. A living job is no activity by itself: it must move something."""
    if look.job == "running":
        phase = look.progress.phase
        if phase in BUSY_PHASES:
            return Reading(Says.ACTIVE, f"the job is {phase}")
        return Reading(Says.QUIET, "the job lives")
    if look.job == "ended":
        if look.job_ended_at is None:
            return Reading(Says.QUIET, "the job has ended")
        return Reading(Says.QUIET, f"job ended {format_duration(max(0.0, look.at - look.job_ended_at))} ago")
    return Reading(Says.UNKNOWN, "whether the job runs is unknown")


def gpu(gpus: Gpus | None, limits: Limits) -> Reading:
    """The busiest GPU. Quiet only when every GPU of the box tells its load and none is busy."""
    if gpus is None:
        return Reading(Says.UNKNOWN, "GPU load unknown")
    known = [(row.utilisation, row.index) for row in gpus.rows if row.utilisation is not None]
    busiest = max(known, default=None)
    if busiest is not None and busiest[0] > limits.gpu:
        name = "GPU" if len(gpus.rows) == 1 else f"GPU {busiest[1]}"
        return Reading(Says.ACTIVE, f"{name} at {busiest[0]:.0f} %")
    if busiest is None or not gpus.whole:
        why = gpus.problem.value if gpus.problem is not None else "not every GPU tells"
        if any(row.mig for row in gpus.rows):
            why = "a MIG slice does not tell"
        return Reading(Says.UNKNOWN, f"GPU load unknown ({why})")
    return Reading(Says.QUIET, f"GPU{'s' * (len(gpus.rows) > 1)} {busiest[0]:.0f} %")


def cpu(cores: float | None, limits: Limits) -> Reading:
    """Cores that everybody but us has used over the last minute."""
    if cores is None:
        return Reading(Says.UNKNOWN, "CPU use unknown")
    text = f"{cores:.1f} cores busy" if cores >= 0.05 else "CPU quiet"
    return Reading(Says.ACTIVE if cores > limits.cpu else Says.QUIET, text)


def disk(rate: float | None, limits: Limits) -> Reading:
    """Bytes per second that everybody but us has read and written over the last minute."""
    if rate is None:
        return Reading(Says.UNKNOWN, "disk use unknown")
    if rate > limits.disk:
        return Reading(Says.ACTIVE, f"disk {format_size(int(rate))}/s")
    return Reading(Says.QUIET, "disk quiet")


def network(rate: float | None, limits: Limits, *, shared: bool) -> Reading:
    """Bytes per second beyond our own over the last minute."""
    if shared:
        return Reading(Says.ABSENT, "network shared with other boxes")
    if rate is None:
        return Reading(Says.UNKNOWN, "network use unknown")
    if rate > limits.network:
        return Reading(Says.ACTIVE, f"network {format_size(int(rate))}/s")
    return Reading(Says.QUIET, "network quiet")


def foreign_traffic(vitals: Vitals, *, transferring: bool) -> float | None:
    """Bytes per second over the network that are not ours; None when that cannot be told.

    What we move is measured at the sshd that carries us. Headers and repeats add up to 15 %. While we
    copy and our share is unknown, nothing can be said.
    """
    if vitals.net_received is None or vitals.net_sent is None:
        return None
    total = vitals.net_received + vitals.net_sent
    ours = vitals.processes.own_net if vitals.processes is not None else None
    if ours is None:
        return None if transferring else total
    return max(0.0, total - 1.15 * ours)


def disk_traffic(processes: Processes | None) -> float | None:
    """Bytes per second read and written by everybody but us."""
    if processes is None or processes.disk_read is None or processes.disk_written is None:
        return None
    return processes.disk_read + processes.disk_written


def ssh(sessions: tuple[Session, ...] | None, limits: Limits) -> Reading:
    """Logins that are not ours. One of unknown age is in use."""
    if sessions is None:
        return Reading(Says.UNKNOWN, "SSH sessions unknown")
    if not sessions:
        return Reading(Says.QUIET, "no SSH sessions")
    count = f"{len(sessions)} SSH session{'s' * (len(sessions) > 1)}"
    ages = [s.quiet for s in sessions if s.quiet is not None]
    if len(ages) < len(sessions):
        return Reading(Says.ACTIVE, count)
    newest = format_duration(min(ages))
    if min(ages) < limits.ssh_quiet:
        return Reading(Says.ACTIVE, f"{count}, last touched {newest} ago")
    return Reading(Says.QUIET, f"{count} forgotten for {newest}")


def changed(before: object, now: object, what: str, *, ever: bool) -> Reading:
    """Whether a counter or a mark moved since the last look. `ever`: it has been seen before."""
    if now is None:
        return Reading(Says.UNKNOWN, f"{what} unknown") if ever else Reading(Says.ABSENT, f"no {what}")
    if before is None:
        # the first sight of it may be the moment it appeared
        return Reading(Says.ACTIVE, f"{what} seen")
    if before != now:
        return Reading(Says.ACTIVE, f"{what} moved")
    return Reading(Says.QUIET, f"{what} still")
