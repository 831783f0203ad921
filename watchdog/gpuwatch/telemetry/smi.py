"""nvidia-smi's answers, as they really are: `[N/A]`, `[Not Supported]`, `ERR!`, lost GPUs, sentences instead of tables. Pure.

Recorded shapes: `[N/A]` and `[Insufficient Permissions]` in cells of a MIG parent in a container;
`[Unknown Error]` and `ERR!` from a GPU that hangs; `[GPU is lost]` or the sentence "Unable to determine the
device handle for GPU…: Unknown Error" for one that fell off the bus; "Failed to initialize NVML:
Driver/library version mismatch" after a driver update on the host; `Field "…" is not a valid field to query.`
from drivers before 530, which call event reasons throttle reasons.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from gpuwatch.clean import clean
from gpuwatch.telemetry.sample import GpuProcess, Gpus, GpuSample, SmiProblem, Throttle

MIB = 1 << 20
MAX_GPUS = 64
MAX_PROCESSES = 256
STALE = 15.0
"""Seconds after which a row says nothing about now: nvidia-smi hangs when a GPU does."""

_HEX = re.compile(r"0[xX]([0-9a-fA-F]{1,16})")
_PROBLEMS: tuple[tuple[str, SmiProblem], ...] = (
    ("no answer yet", SmiProblem.NOT_YET),
    ("no such file", SmiProblem.NO_BINARY),
    ("not found on path", SmiProblem.NO_BINARY),
    ("command not found", SmiProblem.NO_BINARY),
    ("version mismatch", SmiProblem.MISMATCH),
    ("couldn't communicate with the nvidia driver", SmiProblem.NO_DRIVER),
    ("driver not loaded", SmiProblem.NO_DRIVER),
    ("no devices were found", SmiProblem.NO_DEVICES),
    ("no devices found", SmiProblem.NO_DEVICES),
    ("gpu is lost", SmiProblem.LOST),
    ("fallen off the bus", SmiProblem.LOST),
    ("unable to determine the device handle", SmiProblem.LOST),
)


def read_gpus(value: object) -> Gpus:
    """What the sentinel's `smi` part says: fields, rows with their age, processes, and complaints. Total."""
    if not isinstance(value, dict):
        return Gpus(problem=SmiProblem.NOT_YET, detail="the box did not say")
    said = value.get("problem")
    detail = clean(said, 300) if isinstance(said, str) else ""
    fields, raw = value.get("fields"), value.get("rows")
    rows: dict[int, GpuSample] = {}
    driver: str | None = None
    expected: int | None = None
    if isinstance(fields, list) and isinstance(raw, list) and all(isinstance(f, str) for f in fields):
        for entry in raw[:MAX_GPUS]:
            cells = _cells(fields, entry)
            row = None if cells is None else _row(*cells)
            if row is None or cells is None:
                continue
            rows[row.index] = row
            driver = clean(cells[0].get("driver_version", ""), 40) or driver
            expected = whole(cells[0].get("count", ""), MAX_GPUS) or expected
    fresh = tuple(row for _, row in sorted(rows.items()) if row.age <= STALE)
    problem = _problem(detail) if detail else None
    if problem is None and len(fresh) < len(rows):
        problem = SmiProblem.LOST if fresh else SmiProblem.OTHER
        gone = ", ".join(str(i) for i in sorted(rows) if rows[i].age > STALE)
        detail = f"GPU {gone}: no answer for {max(r.age for r in rows.values()):.0f} s"
    if problem is None and any(row.lost for row in fresh):
        problem, detail = SmiProblem.LOST, "the driver says that a GPU is lost"
    if problem is None and not fresh:
        problem, detail = SmiProblem.NOT_YET, "no GPU has been reported yet"
    return Gpus(
        rows=fresh, processes=_processes(value.get("apps")), expected=expected or (len(rows) or None), driver=driver,
        problem=problem, detail=detail,
    )  # fmt: skip


def _cells(fields: list[str], entry: object) -> tuple[dict[str, str], float] | None:
    """(field → cell, age) of one row; None when it has not the shape of one."""
    if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[1], list):
        return None
    age, cells = entry
    if isinstance(age, bool) or not isinstance(age, int | float) or not 0 <= age < 1e9:
        return None
    if len(cells) != len(fields) or not all(isinstance(c, str) for c in cells):
        return None
    return dict(zip(fields, cells, strict=True)), float(age)


def _row(cells: Mapping[str, str], age: float) -> GpuSample | None:
    index = whole(cells.get("index", ""), 1 << 16)
    if index is None:
        return None
    used, total = number(cells.get("memory.used"), 1e9), number(cells.get("memory.total"), 1e9)
    reasons = cells.get("clocks_event_reasons.active", cells.get("clocks_throttle_reasons.active", ""))
    return GpuSample(
        index=index,
        uuid=clean(cells.get("uuid", ""), 60),
        name=clean(cells.get("name", ""), 60),
        utilisation=number(cells.get("utilization.gpu"), 100),
        memory_used=None if used is None else int(used * MIB),
        memory_total=None if total is None else int(total * MIB),
        power=number(cells.get("power.draw"), 1e5),
        power_limit=number(cells.get("enforced.power.limit", cells.get("power.limit")), 1e5),
        temperature=number(cells.get("temperature.gpu"), 1e3),
        clock=number(cells.get("clocks.sm"), 1e5),
        clock_max=number(cells.get("clocks.max.sm"), 1e5),
        throttle=_throttle(reasons),
        ecc_errors=whole(cells.get("ecc.errors.uncorrected.volatile.total", ""), 1 << 62),
        mig=cells.get("mig.mode.current", "").casefold() == "enabled",
        lost=any("is lost" in cell.casefold() for cell in cells.values()),
        age=age,
    )


def _throttle(text: str) -> Throttle | None:
    match = _HEX.fullmatch(text.strip())
    if match is None:
        return None
    known = 0
    for reason in Throttle:
        known |= reason.value
    return Throttle(int(match[1], 16) & known)


def _processes(value: object) -> tuple[GpuProcess, ...]:
    """Rows of (GPU, pid, memory, name). A row per process and GPU; odd ones are left out."""
    found = []
    for row in value[:MAX_PROCESSES] if isinstance(value, list) else ():
        if not isinstance(row, list) or len(row) != 4 or not all(isinstance(c, str) for c in row):
            continue
        pid = whole(row[1], 1 << 31)
        used = number(row[2], 1e9)
        if pid is not None:
            found.append(
                GpuProcess(
                    clean(row[0], 60), pid, None if used is None else int(used * MIB), clean(row[3], 120)
                )
            )
    return tuple(found)


def _problem(text: str) -> SmiProblem:
    low = text.casefold()
    return next((problem for words, problem in _PROBLEMS if words in low), SmiProblem.OTHER)


def number(cell: str | None, high: float) -> float | None:
    """A number from 0 to `high`; `[N/A]`, `[Not Supported]`, `ERR!`, nan and the like are unknown."""
    try:
        value = float(cell) if cell is not None else -1.0
    except ValueError:
        return None
    return value if 0 <= value <= high else None


def whole(cell: str, high: int) -> int | None:
    """A whole number from 0 to `high` in ASCII digits, else unknown."""
    if not (cell.isascii() and cell.isdigit()) or len(cell) > 20:
        return None
    value = int(cell)
    return value if value <= high else None
