"""A sample as the sentinel sent it → values. Total: what does not fit is unknown (I6)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gpuwatch.clean import clean
from gpuwatch.telemetry.sample import JobProgress, Processes, Session, Vitals, Xid
from gpuwatch.telemetry.smi import read_gpus

_MOST = 1 << 62
_RATE = 1e15
_SESSIONS = 64
_XIDS = 64


def read_vitals(value: object) -> Vitals:
    """The `vitals` part of a report; all unknown when it is none."""
    if not isinstance(value, dict):
        return Vitals()
    limits = _mapping(value.get("limits"))
    memory, net, disk, inodes = (
        _pair(v) for v in (limits.get("memory"), value.get("net"), value.get("disk"), value.get("inodes"))
    )
    quota, cores = real(limits.get("cores"), 1e5), real(value.get("cores"), 1e5)
    return Vitals(
        gpus=read_gpus(value.get("smi")),
        xids=_xids(value.get("xids")),
        processes=_processes(value.get("processes")),
        cores=min((c for c in (quota, cores) if c), default=None),
        load=real(value.get("load"), 1e6),
        memory_used=memory[0],
        memory_limit=memory[1],
        net_received=None if net[0] is None else float(net[0]),
        net_sent=None if net[1] is None else float(net[1]),
        disk_free=disk[0],
        disk_total=disk[1],
        inodes_free=inodes[0],
        inodes_total=inodes[1],
        shared=value.get("shared") is True,
    )


def read_progress(metrics: object, trainer: object, steps: object) -> JobProgress:
    """The job's own words: the newest line of `metrics.jsonl` and what `status.json` says."""
    line, status = _mapping(metrics), _mapping(trainer)
    loss = line.get("loss")
    phase = status.get("phase")
    return JobProgress(
        step=size(line.get("step")),
        steps=size(steps) if size(steps) is not None else size(status.get("total_steps")),
        loss=real(loss, 1e12),
        diverged=isinstance(loss, float) and not math.isfinite(loss),
        tokens_per_second=real(line.get("tokens_per_second"), 1e12),
        phase=clean(phase, 40) if isinstance(phase, str) else None,
        last_step_age=_positive(status.get("last_step_age")),
        step_seconds=_positive(status.get("step_s_ema")),
        eta=_positive(status.get("eta_s")),
    )


def _processes(value: object) -> Processes | None:
    row = _mapping(value)
    count = size(row.get("count"))
    if count is None:
        return None
    return Processes(
        count=count,
        cpu=_positive(row.get("cpu")),
        disk_read=_positive(row.get("read")),
        disk_written=_positive(row.get("written")),
        own_cpu=_positive(row.get("own_cpu")),
        own_moved=_positive(row.get("own_moved")),
        own_net=_positive(row.get("own_net")),
        sessions=_sessions(row.get("sessions")),
    )


def _sessions(value: object) -> tuple[Session, ...] | None:
    """Logins. One row that is not understood is a login too: unknown is not nobody."""
    if not isinstance(value, list):
        return None
    found = []
    for row in value[:_SESSIONS]:
        fits = isinstance(row, list) and len(row) == 2 and isinstance(row[0], str)
        found.append(Session(clean(row[0], 20), _positive(row[1])) if fits else Session("unknown", None))
    return tuple(found)


def _xids(value: object) -> tuple[Xid, ...] | None:
    if not isinstance(value, list):
        return None
    rows = [row for row in value[-_XIDS:] if isinstance(row, list) and len(row) == 2]
    return tuple(
        Xid(clean(str(bus), 40), number)
        for bus, number in rows
        if isinstance(number, int) and not isinstance(number, bool) and 0 < number < 10_000
    )


def size(value: object) -> int | None:
    """A whole number from 0, else unknown."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST else None


def real(value: object, high: float) -> float | None:
    """A number within ±`high`, else unknown."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if -high <= value <= high else None


def _positive(value: object) -> float | None:
    found = real(value, _RATE)
    return found if found is not None and found >= 0 else None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _pair(value: object) -> tuple[int | None, int | None]:
    if not isinstance(value, list) or len(value) != 2:
        return None, None
    first, second = size(value[0]), size(value[1])
    return (first, second) if first is not None and second is not None else (None, None)
