"""What machines cost over time, as far as we looked: kept on this machine, one line per look.

Each time offers are listed for the usual disk, the cheapest verified price of every kind (vendor, GPU, count,
spot or not) is written down, at most once in ten minutes. What is older than 60 days is dropped.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from gpuproviders.model import GB, Offer

EVERY_SECONDS = 600.0
KEEP_SECONDS = 60 * 86_400.0
USUAL_DISK = 20 * GB
"""Prices hold the disk; only looks with this size are comparable."""
_LARGEST = 32 << 20
log = logging.getLogger(__name__)


class Kind(NamedTuple):
    """What has a price."""

    provider: str
    gpu: str
    gpus: int
    spot: bool


class Point(NamedTuple):
    """The cheapest at one time: epoch seconds, micro-dollars per hour, how many offers there were."""

    at: float
    price: int
    offers: int


def cheapest(offers: Iterable[Offer], at: float) -> dict[Kind, Point]:
    """The point of every kind among offers of one look; unverified machines do not count. Pure."""
    found: dict[Kind, Point] = {}
    for offer in offers:
        if not offer.verified:
            continue
        kind = Kind(offer.provider, offer.gpu_name, offer.gpu_count, offer.spot)
        known = found.get(kind)
        price = offer.price if known is None else min(known.price, offer.price)
        found[kind] = Point(at, price, 1 if known is None else known.offers + 1)
    return found


def parse(line: str) -> tuple[Kind, Point] | None:
    """One line of the file; None for what does not fit. Pure."""
    try:
        at, provider, gpu, count, spot, price, offers = json.loads(line)
    except (ValueError, TypeError, RecursionError):
        return None
    whole = all(type(n) is int and n >= 0 for n in (count, price, offers))
    if type(at) not in (int, float) or not whole or not isinstance(provider, str) or not isinstance(gpu, str):
        return None
    return Kind(provider, gpu, count, spot is True), Point(float(at), price, offers)


def format_line(kind: Kind, point: Point) -> str:
    """The line of a point."""
    return (
        json.dumps(
            [round(point.at), kind.provider, kind.gpu, kind.gpus, kind.spot, point.price, point.offers]
        )
        + "\n"
    )


@dataclass(slots=True)
class PriceBook:
    """The prices in one file. Reading and writing block for milliseconds; call from a thread."""

    path: Path
    _newest: dict[Kind, float] = field(default_factory=dict)
    _loaded: bool = False

    def record(self, offers: Iterable[Offer], now: float) -> int:
        """Write down what is due; returns how many lines. A file that cannot be written is only logged."""
        self._load(now)
        due = {
            kind: point
            for kind, point in cheapest(offers, now).items()
            # a clock that was set back must not stop the book
            if not 0 <= now - self._newest.get(kind, -EVERY_SECONDS) < EVERY_SECONDS
        }
        if not due:
            return 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self.path.open("a", encoding="utf-8") as file:
                file.write("".join(format_line(*item) for item in due.items()))
        except OSError as error:
            log.warning("prices are not kept: %s", error.strerror)
            return 0
        self._newest |= dict.fromkeys(due, now)
        return len(due)

    def series(self, now: float, since: float) -> Mapping[Kind, list[Point]]:
        """Every kind's points after `since`, oldest first."""
        found: dict[Kind, list[Point]] = {}
        for kind, point in self._read():
            if since <= point.at <= now + 86_400:
                found.setdefault(kind, []).append(point)
        for points in found.values():
            points.sort()
        return found

    def _load(self, now: float) -> None:
        """Once: the newest time of each kind; old lines are dropped if there are many."""
        if self._loaded:
            return
        self._loaded = True
        rows = self._read()
        for kind, point in rows:
            self._newest[kind] = max(point.at, self._newest.get(kind, 0.0))
        fresh = [row for row in rows if row[1].at >= now - KEEP_SECONDS]
        if len(fresh) < len(rows):
            part = self.path.with_suffix(".new")
            try:
                part.write_text("".join(format_line(*row) for row in fresh), encoding="utf-8")
                part.replace(self.path)
            except OSError as error:
                log.warning("old prices are not dropped: %s", error.strerror)

    def _read(self) -> list[tuple[Kind, Point]]:
        try:
            with self.path.open(encoding="utf-8", errors="replace") as file:
                text = file.read(_LARGEST)
        except OSError:
            return []
        return [row for row in map(parse, text.splitlines()) if row is not None]
