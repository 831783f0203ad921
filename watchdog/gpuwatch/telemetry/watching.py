"""Folds a box's samples: keeps the history, remembers what only a sequence can tell, says which alarms stand."""

from __future__ import annotations

from dataclasses import dataclass, field

from gpuwatch.telemetry import alarms
from gpuwatch.telemetry.alarms import Alarm
from gpuwatch.telemetry.history import History
from gpuwatch.telemetry.sample import HOT, JobProgress, Vitals, Xid

RECENT, HOUR = 300.0, 3600.0
JUDGE_EVERY = 15.0
"""Seconds between two judgements: alarms look at minutes, a sample comes every 2 s."""
MOST_XIDS = 32


@dataclass(slots=True)
class Watching:
    """The memory of one box's telemetry. Times are seconds of one clock that the caller chooses."""

    history: History = field(default_factory=History)
    vitals: Vitals = field(default_factory=Vitals)
    progress: JobProgress = field(default_factory=JobProgress)
    most_gpus: int = 0
    alarms: tuple[Alarm, ...] = ()
    """As of the last judgement."""
    _xids: dict[Xid, None] = field(default_factory=dict)
    _known_xids: frozenset[Xid] | None = None
    _stepped_at: float | None = None
    _pace: float | None = None
    _judged_at: float | None = None

    def observe(
        self, at: float, vitals: Vitals, progress: JobProgress, *, cpu: float | None, running: bool
    ) -> None:
        """Take in one sample; alarms are judged anew now and then. `cpu`: per cent of the machine's cores."""
        self._step(at, progress)
        self.vitals, self.progress = vitals, progress
        if vitals.gpus.problem is None:
            self.most_gpus = max(self.most_gpus, len(vitals.gpus.rows))
        if vitals.xids is not None:
            if self._known_xids is None:
                # what stood in the log before we came is of an earlier renter's day
                self._known_xids = frozenset(vitals.xids)
            for xid in vitals.xids:
                if xid not in self._known_xids and len(self._xids) < MOST_XIDS:
                    self._xids[xid] = None
        self.history.record(at, values_of(vitals, progress, cpu))
        if self._judged_at is None or at - self._judged_at >= JUDGE_EVERY or at < self._judged_at:
            self._judged_at = at
            self.alarms = self.judge(at, running=running)

    def _step(self, at: float, progress: JobProgress) -> None:
        if progress.step is None:
            return
        if progress.step != self.progress.step:
            if self._stepped_at is not None:
                took = max(0.0, at - self._stepped_at)
                self._pace = took if self._pace is None else 0.9 * self._pace + 0.1 * took
            self._stepped_at = at
        elif self._stepped_at is None:
            self._stepped_at = at

    def judge(self, now: float, *, running: bool) -> tuple[Alarm, ...]:
        """Every alarm that stands now."""
        v, p, history = self.vitals, self.progress, self.history
        found: list[Alarm | None] = [*alarms.gpu_alarms(v.gpus, self.most_gpus)]
        for row in v.gpus.rows:
            hot = history.points(f"gpu{row.index}.hot", RECENT, now)
            share = sum(point.mean for point in hot) / len(hot) if len(hot) >= 10 else None
            found.append(alarms.thermal(row.index, share, row.throttle, row.temperature))
        found += alarms.xid_alarms(tuple(self._xids))
        unchanged = None if self._stepped_at is None else now - self._stepped_at
        minutes = history.minutes
        tokens = minutes.points("tokens_per_second", now - HOUR - RECENT)
        single = (
            alarms.disk(v.disk_free, v.disk_total, minutes.points("disk.free", now - 1800)),
            alarms.inodes(v.inodes_free, v.inodes_total),
            alarms.memory(v),
            alarms.diverged(p),
            alarms.stalled(p, running=running, unchanged=unchanged, pace=self._pace),
            alarms.slowed([t for t in tokens if t.at >= now - RECENT], [t for t in tokens if t.at < now - RECENT])
            if running else None,
            alarms.loader_bound(p, self._busiest(now), self._mean("cores", now), v.cores) if running else None,
        )  # fmt: skip
        return tuple(alarm for alarm in (*found, *single) if alarm is not None)

    def _busiest(self, now: float) -> float | None:
        means = [self._mean(f"gpu{row.index}.utilisation", now) for row in self.vitals.gpus.rows]
        known = [m for m in means if m is not None]
        return max(known) if known and len(known) == len(means) else None

    def _mean(self, name: str, now: float) -> float | None:
        points = self.history.points(name, RECENT, now)
        return sum(p.mean for p in points) / len(points) if len(points) >= 30 else None


def values_of(vitals: Vitals, progress: JobProgress, cpu: float | None) -> dict[str, float | None]:
    """A sample as the history's series. Pure."""
    values: dict[str, float | None] = {
        "cpu": cpu,
        "memory": None if vitals.memory_used is None else float(vitals.memory_used),
        "disk.free": None if vitals.disk_free is None else float(vitals.disk_free),
        "net.received": vitals.net_received,
        "net.sent": vitals.net_sent,
        "load": vitals.load,
        "step": None if progress.step is None else float(progress.step),
        "loss": progress.loss,
        "tokens_per_second": progress.tokens_per_second,
    }
    if vitals.processes is not None:
        values |= {
            "cores": vitals.processes.cpu,
            "disk.read": vitals.processes.disk_read,
            "disk.written": vitals.processes.disk_written,
        }
    for row in vitals.gpus.rows:
        key = f"gpu{row.index}"
        values |= {
            f"{key}.utilisation": row.utilisation,
            f"{key}.memory": None if row.memory_used is None else float(row.memory_used),
            f"{key}.power": row.power,
            f"{key}.temperature": row.temperature,
            f"{key}.clock": row.clock,
            f"{key}.hot": None if row.throttle is None else float(bool(row.throttle & HOT)),
        }
    return values
