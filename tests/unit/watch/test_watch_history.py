"""History at falling resolution: bounded, holes stay holes, spikes stay visible."""

from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st

from gpuwatch.telemetry.history import MAX_SERIES, MINUTES, QUARTERS, SECONDS, History, Level


def test_a_minute_keeps_its_lowest_mean_and_highest() -> None:
    history = History()
    for second in range(0, 120, 2):
        history.record(600.0 + second, {"x": 100.0 if second == 30 else 10.0})
    (first, second) = history.minutes.points("x")
    assert (first.at, first.span, first.low, first.high) == (600.0, 60.0, 10.0, 100.0)
    assert first.mean == 13.0
    assert (second.low, second.high) == (10.0, 10.0)


def test_an_unknown_value_leaves_a_hole_and_no_zero() -> None:
    level = Level(1.0, 100)
    for at, value in ((1.0, 5.0), (2.0, None), (3.0, float("nan")), (4.0, 7.0)):
        level.record(at, {"x": value, "other": 1.0})
    assert [(p.at, p.mean) for p in level.points("x")] == [(1.0, 5.0), (4.0, 7.0)]


def test_a_series_that_appears_late_starts_late() -> None:
    level = Level(1.0, 100)
    level.record(1.0, {"a": 1.0})
    level.record(2.0, {"a": 1.0, "gpu1": 9.0})
    level.record(3.0, {"a": 1.0})
    assert [p.at for p in level.points("gpu1")] == [2.0]
    assert [p.at for p in level.points("a")] == [1.0, 2.0, 3.0]


def test_the_finest_resolution_that_reaches_back_answers() -> None:
    history = History()
    for minute in range(12 * 60):
        history.record(minute * 60.0, {"x": float(minute)})
    now = 12 * 3600.0
    assert {p.span for p in history.points("x", 300, now)} == {1.0}
    assert {p.span for p in history.points("x", 3600, now)} == {60.0}
    assert {p.span for p in history.points("x", 86_400, now)} == {900.0}


def test_space_is_bounded_over_a_month() -> None:
    history = History()
    names = [f"s{n}" for n in range(12)]
    for sample in range(30 * 24 * 60):
        history.record(sample * 60.0, dict.fromkeys(names, 1.0))
    for level, (_, capacity) in (
        (history.seconds, SECONDS),
        (history.minutes, MINUTES),
        (history.quarters, QUARTERS),
    ):
        assert len(level) <= capacity * 1.2
        assert len(level.points("s0")) <= capacity
    size = sum(sys.getsizeof(a) for level in (history.seconds, history.minutes, history.quarters)
               for c in level._columns.values() for a in (c.lows, c.means, c.highs))  # fmt: skip
    assert size < 400_000


def test_a_box_that_invents_series_cannot_grow_us() -> None:
    level = Level(1.0, 10)
    for n in range(5000):
        level.record(float(n), {f"name{n}": 1.0})
    assert len(level.names()) == MAX_SERIES


@given(st.lists(st.tuples(st.floats(0, 1e6), st.one_of(st.none(), st.floats(-1e6, 1e6))), max_size=200))
def test_time_in_any_order_never_breaks_it(samples: list[tuple[float, float | None]]) -> None:
    level = Level(60.0, 20)
    for at, value in samples:
        level.record(at, {"x": value})
    points = level.points("x")
    assert [p.at for p in points] == sorted(p.at for p in points)
    assert len(points) <= 20
    known = [v for _, v in samples if v is not None]
    for point in points:
        assert point.low <= point.high
        assert min(known) - 1 <= point.low
        assert point.high <= max(known) + 1
