"""Time as the daemon counts it: nobody can push it about."""

from __future__ import annotations

import time

from gpuwatch.daemon.clock import SteadyClock, since_boot


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


def test_the_real_clock_agrees_with_the_wall_at_its_start() -> None:
    assert abs(SteadyClock()() - time.time()) < 5
    assert since_boot() <= since_boot()
