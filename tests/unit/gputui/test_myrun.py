"""What my run would cost there: measured where it can be, by peak where it must be, unknown where nothing is."""

from __future__ import annotations

import msgspec
import pytest
from ui.scenario import NOW, USD, offer_row, run_row

from gputui import myrun

HOUR = 3600.0
RUN = run_row(
    "a", "mine", "running", gpu="H100 SXM", gpu_count=1, step=500, steps=2000, started_at=NOW - HOUR, tokens_per_second=200_000.0,
)  # fmt: skip
HERE = offer_row(1, "H100 SXM", 1, 80, 2.0)


def mine() -> myrun.Mine:
    (found,) = myrun.candidates([RUN], NOW)
    return found


def test_the_length_of_the_whole_run_follows_from_its_pace() -> None:
    assert mine().seconds == 4 * HOUR


@pytest.mark.parametrize(
    "changes",
    [
        {"step": None}, {"steps": None}, {"step": 19}, {"started_at": NOW - 59}, {"started_at": None}, {"gpu": None},
        {"state": "failed"}, {"state": "gone", "ended_at": NOW, "exit_code": 1},
        {"state": "gone", "ended_at": NOW, "exit_code": 0},
    ],
    ids=str,
)  # fmt: skip
def test_a_run_whose_pace_or_end_is_not_known_is_no_measure(changes: dict[str, object]) -> None:
    assert myrun.candidates([msgspec.structs.replace(RUN, **changes)], NOW) == []


def test_what_works_now_comes_before_what_has_ended() -> None:
    done = msgspec.structs.replace(
        RUN, id="b", state="gone", step=2000, ended_at=NOW - HOUR / 2, exit_code=0, created_at=NOW
    )
    found = myrun.candidates([done, RUN], NOW)
    assert [one.run for one in found] == ["a", "b"]
    assert found[1].seconds == HOUR / 2


def test_on_the_same_gpus_it_takes_the_same_time() -> None:
    found = myrun.estimate(mine(), HERE, None)
    assert found is not None
    assert (found.cost, found.seconds, found.measured) == (8 * USD, 4 * HOUR, True)


def test_a_measured_speed_is_better_than_peak() -> None:
    there = offer_row(2, "RTX 4090", 1, 24, 0.5, tokens_per_second=50_000.0, measured_by="old")
    found = myrun.estimate(mine(), there, myrun.peak(mine(), [HERE]))
    assert found is not None
    assert (found.cost, found.seconds, found.how) == (8 * USD, 16 * HOUR, "by the speed of old")


def test_without_it_peak_scales_and_says_so() -> None:
    there = offer_row(3, "H100 SXM", 8, 80, 16.0)
    found = myrun.estimate(mine(), there, myrun.peak(mine(), [HERE]))
    assert found is not None
    assert (found.cost, found.seconds, found.measured) == (8 * USD, HOUR / 2, False)


def test_nothing_known_stays_unknown() -> None:
    there = offer_row(4, "RTX 9999", 1, 80, 1.0)
    assert myrun.estimate(mine(), there, 100.0) is None
    assert myrun.estimate(mine(), offer_row(5, "H200", 1, 141, 3.0), None) is None
