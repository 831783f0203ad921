"""Play schedules by the thousand, in several processes, and say what they found.

python tests/simulation/simulate.py --seed N              replay one seed, with the whole trace of a violation
python tests/simulation/simulate.py --seed N --count K    K seeds from N on, with the coverage of states by faults
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from simulation.faults import Kind
from simulation.schedule import play

from gpuwatch.lifecycle.run import FINAL, State

CHUNK = 25
"""Seeds that a worker plays before it reports."""
REPLAY = "python tests/simulation/simulate.py --seed"
STATES = tuple(s.value for s in State if s not in FINAL)
KINDS = tuple(k.value for k in Kind if k not in (Kind.CRASH_BEFORE, Kind.CRASH_AFTER))


@dataclass(slots=True)
class Report:
    """What some schedules did and found."""

    counts: Counter[str] = field(default_factory=Counter)
    struck: Counter[tuple[str, str]] = field(default_factory=Counter)
    violations: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: Report) -> None:
        """Take in another report."""
        self.counts += other.counts
        self.struck += other.struck
        self.violations += other.violations

    @property
    def missed(self) -> list[tuple[str, str]]:
        """The cells of the matrix that no fault has hit."""
        return [(kind, state) for kind in KINDS for state in STATES if not self.struck[kind, state]]


def play_some(seeds: range, keeping: bool = False) -> Report:
    """Play these seeds; a violation (or whatever else comes out) is noted and the next one is played."""
    sys.unraisablehook = lambda _: None  # frozen coroutines of crashed processes
    report = Report()
    for seed in seeds:
        try:
            world = play(seed, keeping=keeping)
        except Exception as error:  # noqa: BLE001 - the daemon must let out nothing at all
            report.violations.append((seed, f"{type(error).__name__}: {error}"))
            continue
        report.counts.update(
            schedules=1, deaths=world.crashes, machines=len(world.cloud.machines), calls=world.faults.total,
            unnoticed_rot=world.judge.unnoticed,
        )  # fmt: skip
        report.struck += world.faults.struck
    return report


def fan_out(first: int, count: int, *, jobs: int, keeping: bool = False) -> Iterator[Report]:
    """The reports of `count` seeds from `first` on, as they come, from `jobs` processes."""
    chunks = [range(at, min(at + CHUNK, first + count)) for at in range(first, first + count, CHUNK)]
    if jobs == 1:
        yield from (play_some(chunk, keeping) for chunk in chunks)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(play_some, chunk, keeping) for chunk in chunks]):
            yield done.result()


def matrix(struck: Counter[tuple[str, str]]) -> str:
    """Kinds of faults by the life-cycle states that they hit."""
    head = "".join(f"{state[:10]:>11}" for state in STATES)
    lines = [f"{'':<16}{head}"]
    for kind in KINDS:
        cells = "".join(f"{struck[kind, state] or '.':>11}" for state in STATES)
        lines.append(f"{kind:<16}{cells}")
    return "\n".join(lines)


def main() -> int:
    """Replay or search seeds from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="first seed")
    parser.add_argument("--count", type=int, default=1, help="how many")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes")
    parser.add_argument("--trace", action="store_true", help="print the digest of everything that happened")
    parser.add_argument("--keeping", action="store_true", help="days on which old checkpoints are let go")
    options = parser.parse_args()
    sys.unraisablehook = lambda _: None
    if options.count == 1:
        return _replay(options.seed, trace=options.trace, keeping=options.keeping)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that an ended search says what it found
    started, total = time.monotonic(), Report()
    with contextlib.suppress(KeyboardInterrupt):
        _search(options.seed, options.count, options.jobs, total, keeping=options.keeping)
    took = time.monotonic() - started
    print(matrix(total.struck))
    print(
        f"{total.counts['schedules']} of {options.count} schedules from seed {options.seed}: "
        f"{len(total.violations)} violations, {took:.1f} s",
        dict(total.counts),
    )
    return 1 if total.violations else 0


def _search(first: int, count: int, jobs: int, total: Report, *, keeping: bool) -> None:
    started = told = time.monotonic()
    for report in fan_out(first, count, jobs=jobs, keeping=keeping):
        total.add(report)
        for seed, what in report.violations:
            print(f"seed {seed}: {what}\n  {REPLAY} {seed}{' --keeping' if keeping else ''}", flush=True)
        if time.monotonic() - told > 60:
            told = time.monotonic()
            print(f"… {total.counts['schedules']} schedules, {told - started:.0f} s", flush=True)


def _replay(seed: int, *, trace: bool, keeping: bool) -> int:
    try:
        world = play(seed, keeping=keeping)
    except Exception:  # noqa: BLE001 - whatever it is, it is shown
        traceback.print_exc()
        return 1
    print(f"seed {seed}: no violation" + (f", trace {world.faults.trace}" if trace else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
