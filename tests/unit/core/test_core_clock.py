"""Time as the daemon counts it: nobody can push it about."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from core_lives import EVENTS, REQUESTED, opened

from gpuwatch.daemon.clock import SteadyClock, boot_of_this_computer, resume, since_boot
from gpuwatch.lifecycle import events as e


class _Clocks:
    def __init__(self) -> None:
        self.wall, self.elapsed = 1_000_000.0, 50.0

    def steady(self) -> SteadyClock:
        return SteadyClock(lambda: self.wall, lambda: self.elapsed)


def test_a_wall_clock_that_is_set_moves_nothing_but_is_told() -> None:
    clocks = _Clocks()
    clock = clocks.steady()
    clocks.wall -= 86_400
    clocks.elapsed += 10
    assert clock() == 1_000_010.0
    assert clock.step == -86_410.0


def test_a_start_with_a_clock_that_is_behind_goes_on_from_the_newest_record() -> None:
    clocks = _Clocks()
    clock = clocks.steady()
    clock.not_before(1_500_000.0)
    clocks.elapsed += 7
    assert clock() == 1_500_007.0
    clock.not_before(3.0)
    assert clock() == 1_500_007.0


@pytest.mark.parametrize(
    ("boot", "live", "then"),
    [
        ("boot-1", True, 1_000_030.0),  # the ledger knows better than a wall clock that was set meanwhile
        ("boot-2", True, 1_090_030.0),  # what the old clock counted from is over
        ("boot-1", False, 1_090_030.0),  # no run's times depend on it: what people set is right
        (None, True, 1_090_030.0),  # a system that does not name its boots
    ],
)
async def test_a_restart_counts_on_within_a_boot_while_a_run_lives(
    boot: str | None, live: bool, then: float, tmp_path: Path
) -> None:
    clocks = _Clocks()
    path = tmp_path / "ledger.db"
    before = SteadyClock(lambda: clocks.wall, lambda: clocks.elapsed, boot="boot-1")
    async with opened(path, now=before) as ledger:
        await resume(before, ledger)
        await ledger.create("r1", REQUESTED)
        if not live:
            for kind in (e.EndRequested, e.Gone):
                await ledger.append("r1", EVENTS[kind])
    clocks.wall += 90_030
    clocks.elapsed += 30
    after = SteadyClock(lambda: clocks.wall, lambda: clocks.elapsed, boot=boot)
    async with opened(path, now=after) as ledger:
        await resume(after, ledger)
    assert after() == then


def test_this_computers_boot_has_a_name_where_the_system_gives_one() -> None:
    assert boot_of_this_computer() == boot_of_this_computer()
    assert (boot_of_this_computer() is not None) == Path("/proc/sys/kernel/random/boot_id").exists()


def test_the_real_clock_agrees_with_the_wall_at_its_start() -> None:
    assert abs(SteadyClock()() - time.time()) < 5
    assert since_boot() <= since_boot()
