"""The ledger's figures: durable events a second beside the disk's own fsync rate, memory, start-up with a million events.

`python tests/bench/ledger.py` prints them alone; `make bench` takes them in as rows.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.rows import Row

from gpuwatch.ledger import Ledger
from gpuwatch.lifecycle import events as e

MILLION = 1_000_000
RUNS = 5_000
ALONE = 1_500
TOGETHER = 20_000
WRITERS = 64
ROUNDS = 3

START = """
import asyncio, resource, sys, time
from pathlib import Path
from gpuwatch.ledger import Ledger

async def main():
    began = time.perf_counter()
    ledger = await Ledger.open(Path(sys.argv[1]))
    took = time.perf_counter() - began
    print(took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, ledger.last_seq)
    await ledger.close()

asyncio.run(main())
"""


@dataclass(frozen=True)
class Figures:
    """Rates per second, seconds, bytes."""

    fsyncs: float
    alone: float
    together: float
    start: float
    start_memory: int
    empty_memory: int
    growth: int


def fsyncs(folder: Path, seconds: float = 1.5) -> float:
    """How many appends of a page the disk makes durable in a second, one after the other."""
    descriptor = os.open(folder / "fsync", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    block, count, began = os.urandom(4096), 0, time.perf_counter()
    try:
        while time.perf_counter() - began < seconds:
            os.write(descriptor, block)
            os.fdatasync(descriptor)
            count += 1
    finally:
        os.close(descriptor)
    return count / (time.perf_counter() - began)


def request(name: str) -> e.Requested:
    """A run with a spec of usual length."""
    return e.Requested(name=name, spec="x = 1\n" * 150, file="r.toml", base="/home/me", key=name)


async def rate(path: Path, events: int, writers: int) -> float:
    """Durable events a second: each writer waits for its event before it writes the next."""
    ledger = await Ledger.open(path)
    task = asyncio.create_task(ledger.write())
    for n in range(writers):
        await ledger.create(f"r{n}", request(f"r{n}"))

    async def write(name: str) -> None:
        for n in range(events // writers):
            await ledger.append(name, e.EndRequested(by=str(n)))

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for n in range(writers):
            group.create_task(write(f"r{n}"))
    took = time.perf_counter() - began
    ledger.stop()
    await task
    await ledger.close()
    return (events // writers) * writers / took


async def prepare(path: Path) -> None:
    """An empty ledger in today's format."""
    ledger = await Ledger.open(path)
    await ledger.close()


def fill(path: Path) -> None:
    """A million events of thousands of runs that are over, as the daemon leaves them, written in bulk."""
    from gpuwatch.ledger import rows
    from gpuwatch.lifecycle.evolve import create
    from gpuwatch.lifecycle.run import State

    asyncio.run(prepare(path))
    db = sqlite3.connect(path)
    db.execute("PRAGMA synchronous=OFF")
    sql = rows.event_row(0, 0.0, None, e.CollectStarted())[0]
    data = e.ENCODER.encode(e.FilesVerified(files=3, bytes=10**9, step=100, path="ckpt/step-100"))
    per_run = MILLION // RUNS
    for n in range(RUNS):
        name = f"old-{n:05}"
        run = msgspec.structs.replace(
            create(name, request(name), float(n)), state=State.GONE, ended_at=float(n)
        )
        db.execute(*rows.run_row(run, (n + 1) * per_run, new=True))
        db.execute(*rows.launch_row(name, name))
        first = n * per_run
        db.executemany(
            sql, ((first + k, float(first + k), name, "files-verified", data) for k in range(1, per_run + 1))
        )
    db.commit()
    db.close()


def start(path: Path) -> tuple[float, int]:
    """Seconds and resident bytes of a process that opens the ledger."""
    done = subprocess.run(
        [sys.executable, "-c", START, str(path)], capture_output=True, text=True, check=True
    )
    took, memory, _ = done.stdout.split()
    return float(took), int(memory)


async def growth(path: Path, events: int = 60_000) -> int:
    """Resident bytes that so many events more of one run add to a process."""
    import psutil

    ledger = await Ledger.open(path)
    task = asyncio.create_task(ledger.write())
    await ledger.create("grows", request("grows"))

    async def write(count: int) -> None:
        for _ in range(count // WRITERS):
            async with asyncio.TaskGroup() as group:
                for n in range(WRITERS):
                    group.create_task(ledger.append("grows", e.EndRequested(by=str(n))))

    await write(10_000)  # SQLite's own cache fills once
    before = psutil.Process().memory_info().rss
    await write(events)
    after = psutil.Process().memory_info().rss
    ledger.stop()
    await task
    await ledger.close()
    return max(0, after - before)


def measure() -> Figures:
    """All figures, on the disk where temporary files lie; the rates interleaved, the middle of three."""
    with tempfile.TemporaryDirectory(prefix="gputui-ledger-") as folder:
        place = Path(folder)
        raw, alone, together = [], [], []
        for n in range(ROUNDS):
            raw.append(fsyncs(place))
            alone.append(asyncio.run(rate(place / f"a{n}.db", ALONE, 1)))
            together.append(asyncio.run(rate(place / f"t{n}.db", TOGETHER, WRITERS)))
        grown = asyncio.run(growth(place / "grow.db"))
        asyncio.run(prepare(place / "empty.db"))
        fill(place / "old.db")
        starts = [start(place / "old.db") for _ in range(ROUNDS)]
        empties = [start(place / "empty.db") for _ in range(ROUNDS)]
    middle = statistics.median
    return Figures(
        fsyncs=middle(raw),
        alone=middle(alone),
        together=middle(together),
        start=middle(s for s, _ in starts),
        start_memory=int(middle(m for _, m in starts)),
        empty_memory=int(middle(m for _, m in empties)),
        growth=grown,
    )


def rows(_home: Path) -> list[Row]:
    """The ledger's rows of `make bench`."""
    figures = measure()
    disk = f"this disk: {figures.fsyncs:.0f} fsyncs/s, one after the other"
    return [
        Row("ledger, 64 writers", figures.together, 1000, "ev/s", f"durable; {disk}", at_least=True),
        Row("ledger, one writer", figures.alone / figures.fsyncs, 0.8, "x", f"{figures.alone:.0f} ev/s; {disk}", at_least=True),
        Row("ledger start, 10^6 events", figures.start, 2, "s", f"{RUNS} runs that are over stay on the disk"),
        Row("ledger memory, 10^6 events", (figures.start_memory - figures.empty_memory) / 2**20, 8, "MiB", "more than an empty ledger takes"),
        Row("ledger growth, 6*10^4 events", figures.growth / 2**20, 8, "MiB", "more than before them"),
    ]  # fmt: skip


if __name__ == "__main__":
    sys.stdout.write(f"{measure()}\n")
