"""When a machine counts as gone. Pure (I3: an empty or failed answer is no evidence).

Only complete, well-formed listings of a healthy account count, and a look-up by id has
to agree. After a destroy that the vendor accepted, two listings some seconds apart are
enough; out of the blue it takes three over five minutes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """How many consecutive complete listings without the machine, over how many seconds."""

    listings: int
    seconds: float


AFTER_DESTROY = Policy(listings=2, seconds=4.0)
OUT_OF_THE_BLUE = Policy(listings=3, seconds=300.0)


@dataclass(slots=True)
class Absence:
    """The unbroken row of complete listings that lack a machine. Times are monotonic seconds."""

    first: float | None = None
    last: float | None = None
    count: int = 0

    def observe(self, at: float, *, listed: bool) -> None:
        """One complete listing taken at `at`; the same listing counts once."""
        if listed:
            self.first = self.last = None
            self.count = 0
        elif self.last is None or at > self.last:
            self.first = at if self.first is None else self.first
            self.last = at
            self.count += 1

    def enough(self, policy: Policy) -> bool:
        """Whether the listings alone satisfy `policy`; the look-up by id has still to agree."""
        if self.first is None or self.last is None:
            return False
        return self.count >= policy.listings and self.last - self.first >= policy.seconds
