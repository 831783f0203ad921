"""What is wrong with a box, as pure functions. Each alarm has a stable name, a subject, and says what to do next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from gpuwatch.spec.units import format_duration, format_size
from gpuwatch.telemetry.history import Point
from gpuwatch.telemetry.sample import HOT, Gpus, JobProgress, SmiProblem, Throttle, Vitals, Xid


class Severity(Enum):
    """How urgently a person is needed."""

    NOTE = "note"
    WARN = "warn"
    ALARM = "alarm"


@dataclass(frozen=True, slots=True)
class Alarm:
    """One thing wrong. `name` and `subject` together identify it while it lasts."""

    name: str
    subject: str
    severity: Severity
    text: str


DISK_HORIZON = 2 * 3600.0
"""A disk that will be full within this many seconds is an alarm."""
DISK_LEAST = 0.02
"""Share of the disk below which it counts as full."""
STALL_FLOOR = 600.0
"""Seconds without a step after which a job without a heartbeat counts as stalled."""
HEARTBEAT_FLOOR = 120.0
"""The same for a job whose `status.json` tells the age of its last step."""
UNHURRIED = frozenset(
    {"starting", "compiling", "evaluating", "paused", "saving", "draining", "done", "failed"}
)
"""Phases of the run contract in which no steps are expected."""
HOT_SHARE = 0.25
"""Share of the last minutes that a GPU must have been throttled by heat: a moment of it is normal."""
MEMORY_LEAST = 0.03
"""Share of the container's memory that must stay free before the kernel ends the job."""

_HARDWARE = {
    48: "double-bit ECC error", 63: "ECC page retirement or row remapping", 64: "ECC page retirement or row remapper failed",
    61: "internal micro-controller error", 62: "internal micro-controller halt", 69: "graphics engine class error",
    74: "NVLink error", 79: "the GPU has fallen off the bus", 92: "high single-bit ECC error rate",
    94: "contained ECC error", 95: "uncontained ECC error", 119: "GSP RPC timeout", 120: "GSP error",
    122: "SPI failure", 123: "SPI failure", 140: "unrecovered ECC error", 143: "GPU initialization failure",
    149: "NVLink error",
}  # fmt: skip
_PROGRAM = {
    8: "the GPU stopped processing", 13: "graphics engine exception", 31: "memory page fault", 32: "invalid push buffer",
    43: "the GPU stopped processing (the program's fault)", 45: "preemptive cleanup after an earlier error",
    68: "video engine exception", 109: "context switch timeout",
}  # fmt: skip
"""Meanings from NVIDIA's Xid catalogue, shortened; those that a program can cause by itself stand apart."""


def gpu_alarms(gpus: Gpus, most_seen: int) -> list[Alarm]:
    """GPUs that do not answer, and GPUs with memory errors. `most_seen`: how many this box has shown at once."""
    found = []
    if gpus.problem not in (None, SmiProblem.NOT_YET):
        problem = SmiProblem.OTHER if gpus.problem is None else gpus.problem
        bad = problem is not SmiProblem.NO_BINARY or most_seen > 0
        advice = {
            SmiProblem.MISMATCH: "the host's driver was updated under the container: a restart of the machine helps",
            SmiProblem.LOST: "the job cannot go on there: resume on another machine",
        }.get(problem, "what the GPUs do is unknown, which never counts as idle")
        found.append(
            Alarm(
                "gpu-lost" if problem is SmiProblem.LOST else "no-gpu-readings", "", Severity.ALARM if bad else Severity.WARN,
                f"nvidia-smi: {problem.value} ({gpus.detail or 'no words'}); {advice}",
            )
        )  # fmt: skip
    elif len(gpus.rows) < most_seen:
        found.append(
            Alarm(
                "gpu-lost", "", Severity.ALARM,
                f"{len(gpus.rows)} GPUs answer, {most_seen} did before: one has fallen off the bus; resume on another machine",
            )
        )  # fmt: skip
    found.extend(
        Alarm(
            "ecc", f"gpu {row.index}", Severity.ALARM,
            f"GPU {row.index}: {row.ecc_errors} uncorrected memory errors; results since then may be wrong: resume elsewhere "
            "from a checkpoint made before",
        )
        for row in gpus.rows if row.ecc_errors
    )  # fmt: skip
    return found


def thermal(
    index: int, hot_share: float | None, throttle: Throttle | None, degrees: float | None
) -> Alarm | None:
    """A GPU that heat has slowed for a good part of the last minutes."""
    if hot_share is None or hot_share < HOT_SHARE or throttle is None or not throttle & HOT:
        return None
    at = f" at {degrees:.0f} °C" if degrees is not None else ""
    return Alarm(
        "thermal", f"gpu {index}", Severity.WARN,
        f"GPU {index} is slowed down by heat{at}, {hot_share:.0%} of the last 5 min: you pay for speed that this host cannot cool",
    )  # fmt: skip


def xid_alarms(xids: Sequence[Xid]) -> list[Alarm]:
    """Errors in the kernel's log, hardware ones as alarms, the program's own as warnings; one per bus and number."""
    found = []
    for xid in dict.fromkeys(xids):
        meaning = _HARDWARE.get(xid.number) or _PROGRAM.get(xid.number) or "see NVIDIA's Xid catalogue"
        program = xid.number in _PROGRAM
        advice = "look at the job's log" if program else "resume on another machine"
        found.append(
            Alarm(
                "xid", f"{xid.bus} {xid.number}", Severity.WARN if program else Severity.ALARM,
                f"Xid {xid.number} on {xid.bus}: {meaning}; {advice}",
            )
        )  # fmt: skip
    return found


def slope(points: Sequence[tuple[float, float]]) -> float | None:
    """Least-squares slope of (seconds, value), per second; None with fewer than 3 points or no spread in time."""
    if len(points) < 3:
        return None
    mean_x = math.fsum(x for x, _ in points) / len(points)
    mean_y = math.fsum(y for _, y in points) / len(points)
    spread = math.fsum((x - mean_x) ** 2 for x, _ in points)
    if spread <= 0:
        return None
    return math.fsum((x - mean_x) * (y - mean_y) for x, y in points) / spread


def disk(free: int | None, total: int | None, points: Sequence[Point]) -> Alarm | None:
    """A disk that is full, or will be soon at the rate of the last minutes.

    `points` are of free bytes by the minute. What a checkpoint writes and retention deletes again swings;
    so the lows decide, and only a fall that goes on over ten minutes is a forecast.
    """
    if free is None or not total:
        return None
    if free < total * DISK_LEAST:
        return Alarm(
            "disk", "", Severity.ALARM,
            f"the disk is full: {format_size(free)} of {format_size(total)} are free; the next checkpoint may fail",
        )  # fmt: skip
    if len(points) < 3 or points[-1].at - points[0].at < 600:
        return None
    rate = slope([(p.at, p.low) for p in points])
    half = len(points) // 2
    falling = min(p.low for p in points[half:]) < min(p.low for p in points[:half])
    if rate is None or rate >= 0 or not falling:
        return None
    left = (free - total * DISK_LEAST) / -rate
    if left > DISK_HORIZON:
        return None
    return Alarm(
        "disk", "", Severity.ALARM if left < 1800 else Severity.WARN,
        f"the disk is full in {format_duration(left)} at this rate ({format_size(int(-rate * 60))} a minute, "
        f"{format_size(free)} free): keep fewer checkpoints on the box",
    )  # fmt: skip


def inodes(free: int | None, total: int | None) -> Alarm | None:
    """A disk with space that takes no more files."""
    if free is None or not total or free > total * DISK_LEAST:
        return None
    return Alarm("inodes", "", Severity.ALARM, f"the disk takes only {free} more files, whatever their size")


def memory(vitals: Vitals) -> Alarm | None:
    """A container close to the limit at which the kernel ends its largest process."""
    used, limit = vitals.memory_used, vitals.memory_limit
    if used is None or not limit or used < limit * (1 - MEMORY_LEAST):
        return None
    return Alarm(
        "memory", "", Severity.WARN,
        f"{format_size(used)} of the container's {format_size(limit)} of memory are in use: the kernel may end the job",
    )  # fmt: skip


def diverged(progress: JobProgress) -> Alarm | None:
    """The loss is no number any more."""
    if not progress.diverged:
        return None
    at = f" at step {progress.step}" if progress.step is not None else ""
    return Alarm(
        "nan", "", Severity.ALARM, f"the loss is not a number{at}: every further step is money for nothing"
    )


def stalled(
    progress: JobProgress, *, running: bool, unchanged: float | None, pace: float | None
) -> Alarm | None:
    """A job that lives and makes no steps.

    `unchanged`: seconds for which the step in `metrics.jsonl` has stood still while we watched; `pace`:
    seconds that a change of it usually takes. A heartbeat (`status.json`) knows better and goes first.
    """
    if not running or progress.phase in UNHURRIED:
        return None
    if progress.last_step_age is not None:
        waited, patience = progress.last_step_age, max(HEARTBEAT_FLOOR, 20 * (progress.step_seconds or 0))
    elif unchanged is not None and progress.step is not None:
        waited, patience = unchanged, max(STALL_FLOOR, 20 * (pace or 0))
    else:
        return None
    if waited <= patience:
        return None
    return Alarm(
        "stalled", "", Severity.ALARM,
        f"no step for {format_duration(waited)} although the job lives (after step {progress.step}): a hung collective or "
        "data loader? `gputui logs` shows its last words",
    )  # fmt: skip


def slowed(recent: Sequence[Point], before: Sequence[Point]) -> Alarm | None:
    """Tokens per second at half or less of what they were. Medians, over 5 min against the hour before."""
    if len(recent) < 3 or len(before) < 10:
        return None
    now, then = _median([p.mean for p in recent]), _median([p.mean for p in before])
    if then <= 0 or now > then / 2:
        return None
    return Alarm(
        "slowed", "", Severity.WARN,
        f"{now:,.0f} tokens/s, {then:,.0f} in the hour before: each token costs {then / now:.1f} times as much"
        if now > 0 else f"0 tokens/s, {then:,.0f} in the hour before",
    )  # fmt: skip


def loader_bound(
    progress: JobProgress, busiest: float | None, cpu: float | None, cores: float | None
) -> Alarm | None:
    """Steps go on, the GPUs wait, the CPUs are full: the data loader is the limit.

    `busiest`: mean utilisation of the busiest GPU over 5 min; `cpu`: mean cores used over the same time.
    """
    if progress.phase in UNHURRIED or progress.step is None or busiest is None or cpu is None or not cores:
        return None
    if not 2 <= busiest < 60 or cpu < 0.9 * cores:
        return None
    return Alarm(
        "loader-bound", "", Severity.NOTE,
        f"the busiest GPU works {busiest:.0f} % of the time while {cpu:.1f} of {cores:g} cores are busy: "
        "the data loader holds it up",
    )  # fmt: skip


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
