"""Thousands of bad days for the whole daemon: random specs, faults at any call, kill -9 at any turn of its loop.

A failure prints its seed; `python tests/simulation/schedule.py --seed N` replays it.
GPUTUI_SCHEDULES sets how many are played (default 400; `make simulate` plays any number).
"""

from __future__ import annotations

import os

import pytest
from simulation.cloud import Violation
from simulation.schedule import play

COUNT = int(os.environ.get("GPUTUI_SCHEDULES", "400"))
BATCHES = 8

FOUND = {
    200038: "a job that had started was taken for a machine on which nothing ever ran, and destroyed with its files",
    954: "a failed clean-up swallowed the cancellation, and the daemon never ended",
    773: "the provider took the machine in the middle of a step, and the run tripped over its own event",
    101355: "the same as 954, by another way",
}


@pytest.mark.parametrize("seed", FOUND, ids=[f"{seed}" for seed in FOUND])
def test_a_day_that_once_went_wrong_goes_well(seed: int) -> None:
    play(seed)


@pytest.mark.parametrize("batch", range(BATCHES))
def test_nothing_is_lost_orphaned_or_rented_twice(batch: int) -> None:
    for number in range(COUNT // BATCHES):
        seed = 1_000_000 + batch * 100_000 + number
        try:
            play(seed)
        except Violation as violation:
            pytest.fail(
                f"{violation}\nreplay: python tests/simulation/schedule.py --seed {seed}", pytrace=False
            )
