"""Values read well, and unknown never reads as zero."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gputui import spark
from gputui import wording as say

NUMBERS = st.none() | st.floats() | st.just(math.nan)


@pytest.mark.parametrize(
    "words",
    [
        say.money,
        say.rate,
        say.size,
        say.gigabytes,
        say.speed,
        say.network,
        say.duration,
        say.ago,
        say.clock,
        say.percent,
        say.loss,
        say.count,
    ],
)
def test_unknown_is_a_dash(words: object) -> None:
    assert words(None) == say.UNKNOWN  # type: ignore[operator]


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        (say.rate(2_210_000), "$2.21/h"),
        (say.money(4_200), "$0.0042"),
        (say.size(0), "0 B"),
        (say.size(999), "999 B"),
        (say.size(1_000_000), "1.00 MB"),
        (say.size(1_830_000_000), "1.83 GB"),
        (say.size(999_999), "1.00 MB"),
        (say.size(12_810_000_000), "12.8 GB"),
        (say.duration(4), "4s"),
        (say.duration(252), "4m12s"),
        (say.duration(11_220), "3h07m"),
        (say.duration(187_200), "2d04h"),
        (say.duration(-5), "0s"),
        (say.ago(0.4), "now"),
        (say.percent(0.98), "98%"),
        (say.percent(0.9871), "98.7%"),
        (say.gpus("H100 SXM", 8), "8× H100 SXM"),
        (say.gpus("H100 SXM", 1), "H100 SXM"),
        (say.steps(7, None), "7"),
        (say.exposure(0, 0.0), "safe"),
        (say.exposure(None, None), "–"),
        (say.exposure(1_200_000_000, 250), "1.20 GB · 4m10s"),
        (say.count(184_200), "184.2k"),
        (say.plural(1, "file"), "1 file"),
    ],
)
def test_how_it_reads(shown: str, said: str) -> None:
    assert shown == said


def test_a_state_of_a_newer_daemon_still_has_a_mark() -> None:
    assert say.state_mark("levitating") == ("?", "warn")


@given(st.lists(NUMBERS, max_size=60), st.integers(0, 30), st.integers(0, 6))
def test_charts_are_always_as_big_as_asked(values: list[float | None], width: int, height: int) -> None:
    lines = spark.chart(values, width, height)
    assert len(lines) == height
    assert all(len(line) == width for line in lines)
    assert len(spark.sparkline(values, width)) == width


def test_numbers_at_the_end_of_the_range_are_drawn() -> None:
    assert spark.sparkline([1.7e308, -1.7e308, 0], 3) == "█▁▅"
    assert spark.chart([1.7e308, -1.7e308], 2, 1) != [" "]
    assert spark.bar(1e308, 40) == ("━" * 40, "")


@given(NUMBERS, st.integers(0, 40))
def test_bars_are_always_as_wide_as_asked(share: float | None, width: int) -> None:
    assert len("".join(spark.bar(share, width))) == width


def test_a_falling_curve_falls() -> None:
    assert spark.chart([3, 2, 1, 0], 2, 1) == ["⠑⢄"] or spark.chart([3, 2, 1, 0], 2, 1)[0] != "⠀⠀"
    assert spark.sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
