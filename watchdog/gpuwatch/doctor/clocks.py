"""The clock: plausible, steady, and not behind what was written down."""

from __future__ import annotations

import contextlib
import operator
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from gpuwatch.doctor.finding import Check, Found, Level, Patient, ok
from gpuwatch.spec.units import format_duration

_FIRST_YEAR, _LAST_YEAR = 2026, 2100


_SKEW = 2.0


_AHEAD = 300.0
"""Seconds that a record may lie in the future before the clock is suspected."""


def clock(patient: Patient) -> Found:
    """What speaks against the clock, now and in what was written down."""
    wall, steady = time.time(), time.monotonic()
    stepped = (wall - patient.started[0]) - (steady - patient.started[1])
    folder = patient.paths.state if patient.paths.state.is_dir() else Path(tempfile.gettempdir())
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".gpuwatch-doctor-") as file:
        disk = Path(file.name).stat().st_mtime - time.time()
    problems = clock_problems(wall, stepped=stepped, disk=disk, records=_records(patient))
    if problems:
        todo = "switch on time synchronisation (`timedatectl set-ntp true`, or chrony)"
        yield Check("clock", Level.WARN, "; ".join(problems), todo)
    else:
        yield ok("clock", f"{datetime.fromtimestamp(wall, UTC):%Y-%m-%d %H:%M:%S} UTC, no contradictions")


def _records(patient: Patient) -> Iterator[tuple[str, float]]:
    """Times that were once now: none of them should be in the future."""
    if patient.last_event is not None:
        yield "the ledger's newest event", patient.last_event
    for path in (patient.paths.ledger, patient.paths.lock, patient.paths.config_file):
        with contextlib.suppress(OSError):
            yield str(path), path.stat().st_mtime


def clock_problems(
    wall: float,
    *,
    stepped: float,
    disk: float,
    records: Iterator[tuple[str, float]] | Sequence[tuple[str, float]],
) -> list[str]:
    """What speaks against the system clock. Pure; seconds, `wall` and the records are Unix times."""
    problems = []
    # what the year is can be said without a time zone table, for any float
    year = 1970 + wall / (365.2425 * 86400)
    if not _FIRST_YEAR <= year < _LAST_YEAR:
        problems.append(f"the year {year:.0f} is not plausible")
    if abs(stepped) > _SKEW:
        problems.append(f"the clock jumped by {stepped:+.0f} s while this was running")
    if abs(disk) > _SKEW:
        problems.append(f"the disk's clock is {disk:+.0f} s off (a network disk?)")
    ahead = [(name, at - wall) for name, at in records if at - wall > _AHEAD]
    if ahead:
        name, seconds = max(ahead, key=operator.itemgetter(1))
        problems.append(f"{name} is {format_duration(seconds)} in the future: the clock went back")
    return problems
