"""Samples at falling resolution in bounded space: seconds, minutes, quarters of an hour. Pure but for its own memory.

A series is a name ("gpu0.utilisation", "disk.free"); a value that is unknown leaves a hole. Each coarser
level keeps the lowest, mean and highest value of its span, so that a short spike is not averaged away.
Space: 4 bytes a value and three values a span; a box with one GPU needs about 200 kB in a week, one with
eight about 800 kB, and never more.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

NAN = math.nan


@dataclass(frozen=True, slots=True)
class Point:
    """What a series did from `at` (seconds) for `span` seconds."""

    at: float
    span: float
    low: float
    mean: float
    high: float


class _Column:
    __slots__ = ("count", "high", "highs", "low", "lows", "means", "total")

    def __init__(self, before: int) -> None:
        hole = array("f", [NAN]) * before
        self.lows, self.means, self.highs = array("f", hole), array("f", hole), array("f", hole)
        self.reset()

    def reset(self) -> None:
        self.low, self.high, self.total, self.count = math.inf, -math.inf, 0.0, 0

    def add(self, value: float) -> None:
        self.low, self.high = min(self.low, value), max(self.high, value)
        self.total += value
        self.count += 1

    def flush(self) -> None:
        if self.count:
            self.lows.append(self.low)
            self.means.append(self.total / self.count)
            self.highs.append(self.high)
        else:
            for values in (self.lows, self.means, self.highs):
                values.append(NAN)
        self.reset()

    def drop(self, count: int) -> None:
        del self.lows[:count], self.means[:count], self.highs[:count]


class Level:
    """One resolution: buckets of `span` seconds, the newest `capacity` of them."""

    def __init__(self, span: float, capacity: int) -> None:
        self.span = span
        self.capacity = capacity
        self._times = array("d")
        self._columns: dict[str, _Column] = {}
        self._bucket: int | None = None

    def record(self, at: float, values: Mapping[str, float | None]) -> None:
        """Take in one sample. Time that runs backwards (a clock step) counts into the open bucket."""
        bucket = int(at // self.span)
        if self._bucket is None:
            self._bucket = bucket
        elif bucket > self._bucket:
            self._flush()
            self._bucket = bucket
        for name, value in values.items():
            if value is None or not math.isfinite(value):
                continue
            column = self._columns.get(name)
            if column is None:
                if len(self._columns) >= MAX_SERIES:
                    continue
                column = self._columns[name] = _Column(len(self._times))
            column.add(value)

    def _flush(self) -> None:
        self._times.append((self._bucket or 0) * self.span)
        for column in self._columns.values():
            column.flush()
        if len(self._times) > self.capacity + self.capacity // 8 + 1:
            extra = len(self._times) - self.capacity
            del self._times[:extra]
            for column in self._columns.values():
                column.drop(extra)

    def points(self, name: str, since: float = -math.inf) -> list[Point]:
        """The series from `since` on, oldest first, the open bucket last; holes are left out."""
        column = self._columns.get(name)
        if column is None:
            return []
        first = bisect_right(self._times, since - self.span)
        found = [
            Point(at, self.span, low, mean, high)
            for at, low, mean, high in zip(
                self._times[first:],
                column.lows[first:],
                column.means[first:],
                column.highs[first:],
                strict=True,
            )
            if not math.isnan(mean)
        ]
        if column.count and self._bucket is not None:
            mean = column.total / column.count
            found.append(Point(self._bucket * self.span, self.span, column.low, mean, column.high))
        return found[-self.capacity :]

    def names(self) -> tuple[str, ...]:
        """The series that have ever had a value."""
        return tuple(self._columns)

    def __len__(self) -> int:
        return len(self._times)


MAX_SERIES = 512
"""A box that invents names cannot grow us."""
SECONDS, MINUTES, QUARTERS = (1.0, 600), (60.0, 360), (900.0, 672)
"""Ten minutes by the second, six hours by the minute, a week by the quarter of an hour."""


class History:
    """All levels of one box."""

    def __init__(self) -> None:
        self.seconds = Level(*SECONDS)
        self.minutes = Level(*MINUTES)
        self.quarters = Level(*QUARTERS)

    def record(self, at: float, values: Mapping[str, float | None]) -> None:
        """Take in one sample taken at `at` seconds."""
        for level in (self.seconds, self.minutes, self.quarters):
            level.record(at, values)

    def points(self, name: str, seconds: float, now: float) -> list[Point]:
        """The last `seconds` of a series, at the finest resolution that reaches back so far."""
        for level in (self.seconds, self.minutes):
            if seconds <= level.span * level.capacity:
                return level.points(name, now - seconds)
        return self.quarters.points(name, now - seconds)
