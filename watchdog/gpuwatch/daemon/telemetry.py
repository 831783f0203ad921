"""Telemetry as the app sees it: a box's newest report, history and alarms → wire rows. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

from gpuwatch.box.sentinel import Report
from gpuwatch.client import wire
from gpuwatch.daemon.live import Live
from gpuwatch.telemetry.alarms import Severity
from gpuwatch.telemetry.history import Point
from gpuwatch.telemetry.sample import GpuSample

MOST_POINTS = 200_000
"""Points of one answer, so that it fits into a line of the protocol."""


def gpu_rows(report: Report | None) -> list[wire.GpuRow]:
    """The GPUs of one report."""
    detail = {} if report is None else {g.index: g for g in report.vitals.gpus.rows}
    rows = []
    for gpu in (report.gpus or ()) if report is not None else ():
        more = detail.get(gpu.index)
        rows.append(
            wire.GpuRow(
                index=gpu.index, name=gpu.name, utilisation=gpu.utilisation, memory_used=gpu.memory_used,
                memory_total=gpu.memory_total, power=gpu.power, temperature=gpu.temperature,
                power_limit=more.power_limit if more else None, clock=more.clock if more else None,
                clock_max=more.clock_max if more else None, throttle=throttle_words(more),
                ecc_errors=more.ecc_errors if more else None,
            )
        )  # fmt: skip
    return rows


def throttle_words(gpu: GpuSample | None) -> list[str]:
    """Why a GPU runs below its clock, in NVML's words."""
    if gpu is None or gpu.throttle is None:
        return []
    return [str(reason.name).lower().replace("_", "-") for reason in gpu.throttle]


def sample_row(report: Report) -> wire.Sample:
    """One telemetry sample."""
    vitals = report.vitals
    processes = vitals.processes
    return wire.Sample(
        time=report.at, gpus=gpu_rows(report), cpu=report.cpu, memory_used=report.memory_used,
        memory_total=report.memory_total, disk_free=report.disk_free, disk_total=report.disk_total,
        step=report.step, loss=report.loss, tokens_per_second=report.tokens_per_second,
        cores=processes.cpu if processes else None, load=vitals.load, net_received=vitals.net_received,
        net_sent=vitals.net_sent, disk_read=processes.disk_read if processes else None,
        disk_written=processes.disk_written if processes else None,
        sessions=len(processes.sessions) if processes and processes.sessions is not None else None,
    )  # fmt: skip


def past_samples(live: Live) -> list[wire.Sample]:
    """The last minutes as samples, oldest first, made from the history."""
    level = live.watching.history.seconds
    columns = {name: {p.at: p.mean for p in level.points(name)} for name in level.names()}
    times = sorted({at for column in columns.values() for at in column})

    def value(name: str, at: float) -> float | None:
        return columns.get(name, {}).get(at)

    known = live.report.gpus or () if live.report is not None else ()
    found = []
    for at in times:
        gpus = [
            wire.GpuRow(
                index=g.index, name=g.name, utilisation=value(f"gpu{g.index}.utilisation", at),
                memory_used=_whole(value(f"gpu{g.index}.memory", at)), memory_total=g.memory_total,
                power=value(f"gpu{g.index}.power", at), temperature=value(f"gpu{g.index}.temperature", at),
            )
            for g in known
        ]  # fmt: skip
        found.append(
            wire.Sample(
                time=at, gpus=gpus, cpu=value("cpu", at), memory_used=_whole(value("memory", at)), memory_total=None,
                disk_free=_whole(value("disk.free", at)), disk_total=None, step=_whole(value("step", at)),
                loss=value("loss", at), tokens_per_second=value("tokens_per_second", at), cores=value("cores", at),
                load=value("load", at), net_received=value("net.received", at), net_sent=value("net.sent", at),
                disk_read=value("disk.read", at), disk_written=value("disk.written", at),
            )
        )  # fmt: skip
    return found


def series(run: str, live: Live, order: wire.SeriesRead, now: float) -> wire.SeriesOf:
    """The history of some series, as asked."""
    history = live.watching.history
    seconds = order.seconds if math.isfinite(order.seconds) else 3600.0
    names = order.series or list(history.quarters.names())
    found, left = [], MOST_POINTS
    for name in names[:512]:
        points = history.points(name, seconds, now)[-left:] if left > 0 else []
        left -= len(points)
        if points:
            found.append(wire.Series(name=name, span=points[0].span, points=[_point(p) for p in points]))
    return wire.SeriesOf(run=run, series=found)


def _point(point: Point) -> list[float]:
    return [point.at, point.low, point.mean, point.high]


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def alarm_rows(live: Live) -> list[wire.AlarmRow]:
    """What telemetry finds wrong with a box."""
    return [
        wire.AlarmRow(name=a.name, subject=a.subject, severity=a.severity.value, text=a.text)
        for a in live.watching.alarms
    ]


def alarm_lines(lives: Mapping[str, Live]) -> list[str]:
    """The alarms of these boxes, for `gpuwatch status`."""
    return [
        f"{run}: {alarm.text}"
        for run, live in lives.items()
        for alarm in live.watching.alarms
        if alarm.severity is Severity.ALARM
    ]
