"""An event loop without waiting: when nothing is ready, time jumps to the next timer.

Everything runs in one thread; work handed to threads is done on the spot. A crash is an
exception out of the loop itself, so that no `finally` of the program runs, as with kill -9.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Mapping
from typing import Any


class Crash(BaseException):
    """kill -9: the process is gone between two turns of its event loop."""


class Deadlock(BaseException):
    """Nothing is ready and no timer is set: the program would wait for ever."""


class Time:
    """The one clock of a simulated world, in seconds; it outlives the processes."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.turns = 0
        self.crash_at: int | None = None
        self.watchers: list[Callable[[float], None]] = []

    def advance(self, seconds: float) -> None:
        """Let time pass; the world moves with it."""
        self.now += seconds
        for watcher in self.watchers:
            watcher(self.now)

    def die(self) -> None:
        """The process is dead: nothing more happens in it after the current stretch without an await."""
        self.crash_at = 0

    @property
    def dying(self) -> bool:
        """Whether the process ends at the next turn."""
        return self.crash_at is not None and self.crash_at <= self.turns

    def turn(self) -> None:
        """One turn of the event loop; crashes when it is the chosen one."""
        self.turns += 1
        if self.crash_at is not None and self.turns >= self.crash_at:
            self.crash_at = None
            raise Crash


class _Selector(selectors.BaseSelector):
    """Reports no file descriptor ever; waiting means that time passes."""

    def __init__(self, time: Time) -> None:
        self._time = time
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = selectors.SelectorKey(fileobj, 0, events, data)
        self._keys[fileobj] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._time.turn()
        if timeout is None:
            raise Deadlock
        if timeout > 0:
            self._time.advance(timeout)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys

    def close(self) -> None:
        self._keys.clear()


class SimulatedLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop over a simulated clock."""

    def __init__(self, time: Time) -> None:
        self._sim_time = time
        super().__init__(_Selector(time))

    def time(self) -> float:
        return self._sim_time.now

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Threads are a matter of speed, not of outcome: done on the spot, told one turn later."""
        future: asyncio.Future[Any] = self.create_future()
        try:
            result = func(*args)
        except Exception as error:  # noqa: BLE001 - told to whoever awaits it
            self.call_soon(_tell, future, None, error)
        else:
            self.call_soon(_tell, future, result, None)
        return future

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)


def _tell(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.cancelled():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
