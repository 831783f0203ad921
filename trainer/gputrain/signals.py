"""Signals become a flag that the training loop reads; a second one ends the process at once."""

from __future__ import annotations

import os
import signal
from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


class StopSignal:
    """Remembers the first stopping signal."""

    def __init__(self) -> None:
        self.name = ""
        self._before = {number: signal.signal(number, self._receive) for number in STOPPING}

    def restore(self) -> None:
        """Give the signals back to whoever handled them before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        return bool(self.name)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.name and number != signal.SIGUSR1:
            os._exit(128 + number)
        self.name = signal.Signals(number).name
