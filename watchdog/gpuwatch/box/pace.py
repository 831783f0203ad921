"""The bandwidth cap: one for the whole daemon, shared by every transfer in both directions."""

from __future__ import annotations

import asyncio

BURST = 0.5
"""Seconds of the rate that an idle line may have saved up."""


class Pace:
    """`take(size)` returns when so many bytes may be asked for or sent; first come, first served.

    `rate` is in bytes per second; None means no limit.
    """

    def __init__(self, rate: int | None = None) -> None:
        self.rate = rate
        self._free = float("-inf")
        """Event-loop time from which on the line is free."""

    def share(self, most: int, least: int = 64 << 10) -> int:
        """How many bytes to ask for at once: at most a quarter of a second's worth, so that a cap is kept evenly."""
        return most if self.rate is None else max(least, min(most, self.rate // 4))

    async def take(self, size: int) -> None:
        """Wait for one's turn. A size beyond a second's worth is paid for by whoever comes next."""
        if self.rate is None or size <= 0:
            return
        now = asyncio.get_running_loop().time()
        start = max(self._free, now - BURST)
        self._free = start + size / self.rate
        if start > now:
            await asyncio.sleep(start - now)
