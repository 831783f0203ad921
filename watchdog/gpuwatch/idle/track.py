"""Remembers since when each signal has been quiet, without gaps. A gap starts the count anew (I3)."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from gpuwatch.idle import signals
from gpuwatch.idle.signals import Limits, Look, Reading, Says, Signal

MINUTE = 60.0
GAP = 60.0
"""Seconds between two looks after which the time between them is unknown."""


@dataclass(frozen=True, slots=True)
class Quiet:
    """What is known of one signal: what it said last, when, and since when it has said nothing else."""

    reading: Reading
    at: float
    since: float | None
    """Start of the unbroken quiet time, None while it is active or unknown."""

    @property
    def lasted(self) -> float:
        """Seconds for which it was seen quiet: up to the last look, not up to now."""
        return 0.0 if self.since is None else max(0.0, self.at - self.since)


@dataclass(slots=True)
class _Mean:
    """The mean of what is known of the last minute; unknown when the newest value is."""

    rows: deque[tuple[float, float | None]] = field(default_factory=deque)

    def add(self, at: float, value: float | None) -> float | None:
        self.rows.append((at, value))
        while self.rows and (self.rows[0][0] < at - MINUTE or self.rows[0][0] > at):
            self.rows.popleft()
        known = [v for _, v in self.rows if v is not None]
        return sum(known) / len(known) if value is not None and known else None


@dataclass(slots=True)
class Track:
    """The memory of one machine. Feed it every look; ask `quiet`."""

    limits: Limits = field(default_factory=Limits)
    quiet: dict[Signal, Quiet] = field(default_factory=dict)
    job: str | None = None
    _last: Look | None = None
    _step: int | None = None
    _files: object = None
    _log: int | None = None
    _means: dict[Signal, _Mean] = field(default_factory=dict)

    def observe(self, look: Look) -> None:
        """Take in one look. Time that runs backwards counts as a gap."""
        gap = self._last is None or not 0 <= look.at - self._last.at <= GAP
        for signal, reading in self._readings(look, fresh=gap).items():
            before = self.quiet.get(signal)
            since: float | None = None
            if reading.says in (Says.QUIET, Says.ABSENT):
                since = look.at if gap or before is None or before.since is None else before.since
            self.quiet[signal] = Quiet(reading, look.at, since)
        self._last, self.job = look, look.job
        self._step = look.progress.step if look.progress.step is not None else self._step
        self._files = look.files if look.files is not None else self._files
        self._log = look.log_size if look.log_size is not None else self._log

    def _readings(self, look: Look, *, fresh: bool) -> Mapping[Signal, Reading]:
        v, limits = look.vitals, self.limits
        processes = v.processes if v is not None else None
        step_gone = look.progress.step is None and look.job == "ended"
        found = {
            Signal.JOB: signals.job(look),
            Signal.GPU: signals.gpu(v.gpus if v is not None else None, limits),
            Signal.CPU: signals.cpu(
                self._mean(Signal.CPU, look.at, processes.cpu if processes is not None else None), limits
            ),
            Signal.DISK: signals.disk(
                self._mean(Signal.DISK, look.at, signals.disk_traffic(processes)), limits
            ),
            Signal.NETWORK: signals.network(
                self._mean(
                    Signal.NETWORK,
                    look.at,
                    signals.foreign_traffic(v, transferring=look.transferring) if v is not None else None,
                ),
                limits,
                shared=v is not None and v.shared,
            ),
            Signal.SSH: signals.ssh(processes.sessions if processes is not None else None, limits),
            Signal.STEP: signals.changed(
                self._step, look.progress.step, "step", ever=self._step is not None and not step_gone
            ),
            Signal.FILES: signals.changed(self._files, look.files, "promised files", ever=True),
            Signal.LOG: signals.changed(self._log, look.log_size, "log", ever=True),
        }
        if fresh:
            # what moved while nobody looked moved at an unknown time: not now
            for signal in (Signal.STEP, Signal.FILES, Signal.LOG):
                if found[signal].says is Says.ACTIVE:
                    found[signal] = Reading(Says.QUIET, found[signal].text)
        return found

    def _mean(self, signal: Signal, at: float, value: float | None) -> float | None:
        return self._means.setdefault(signal, _Mean()).add(at, value)
