"""Time that nobody waits for: when nothing is ready, the clock jumps to the next timer.

Three clocks, as on a real machine: the world's own (`Time.now`), the monotonic one that
the daemon's event loop reads (it stands still while the laptop sleeps), and the wall clock
(it also counts sleep, and somebody may set it). Everything runs in one thread; work handed
to threads is done on the spot. A crash is an exception out of the loop itself, so that no
`finally` of the program runs, as with kill -9.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import sys
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Any

EPOCH = 1_800_000_000.0
"""Wall time at the world's time 0."""


class Crash(BaseException):
    """kill -9 or a power cut: the process is gone between two instructions."""


class Deadlock(BaseException):
    """Nothing is ready and no timer is set: the program would wait for ever."""


class Time:
    """The clocks of one simulated world, in seconds; they outlive the processes."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.turns = 0
        self.crash_at: int | None = None
        self.slept = 0.0
        self.wrong = 0.0
        """How far the wall clock is off."""

    @property
    def monotonic(self) -> float:
        """What `time.monotonic` says."""
        return self.now - self.slept

    @property
    def wall(self) -> float:
        """What `time.time` says."""
        return EPOCH + self.now + self.wrong

    def true_wall(self, at: float) -> float:
        """What a right clock would have said at the world's time `at`."""
        return EPOCH + at

    def nap(self, seconds: float) -> None:
        """The lid is closed: the world goes on, this machine does not."""
        self.now += seconds
        self.slept += seconds

    def die(self) -> None:
        """The process is dead: nothing more of it happens after the current instruction."""
        self.crash_at = 0

    @property
    def dying(self) -> bool:
        """Whether the process is dead already and only the loop does not know yet."""
        return self.crash_at is not None and self.crash_at <= self.turns

    def turn(self) -> None:
        """One turn of the event loop; crashes when it is the chosen one."""
        self.turns += 1
        if self.crash_at is not None and self.turns >= self.crash_at:
            self.crash_at = None
            raise Crash


class _Task(asyncio.Task[Any]):
    """A task whose place in a set does not depend on its address: the same seed cancels in the same order."""

    _numbers = itertools.count()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._number = next(_Task._numbers)
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._number


class _Future(asyncio.Future[Any]):
    """Likewise."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._number = next(_Task._numbers)
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._number


class _Handle:
    """A callback that will run."""

    __slots__ = ("_args", "_callback", "_cancelled", "_context", "_when")

    def __init__(self, callback: Any, args: Any, context: contextvars.Context | None, when: float) -> None:
        self._callback = callback
        self._args = args
        self._context = context if context is not None else contextvars.copy_context()
        self._cancelled = False
        self._when = when

    def cancel(self) -> None:
        self._cancelled = True
        self._callback = self._args = None

    def cancelled(self) -> bool:
        return self._cancelled

    def when(self) -> float:
        return self._when


class SimulatedLoop(asyncio.AbstractEventLoop):
    """What asyncio needs of a loop, over a simulated clock. `crashed` loops stay frozen for ever."""

    def __init__(self, time: Time) -> None:
        self._time = time
        self._ready: deque[_Handle] = deque()
        self._timers: list[tuple[float, int, _Handle]] = []
        self._count = itertools.count()
        self._generators: list[weakref.ref[AsyncGenerator[Any, Any]]] = []
        self._running = False
        self._late = 0.0
        _Task._numbers = itertools.count()

    # --- what runs -------------------------------------------------------------------------------

    def run_until_complete(self, future: Any) -> Any:
        main = self.create_task(future) if not isinstance(future, asyncio.Future) else future
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=self._begun, finalizer=self._forgotten)
        asyncio._set_running_loop(self)
        self._running = True
        try:
            while not main.done():
                self._turn()
        finally:
            self._running = False
            asyncio._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)
        return main.result()

    def _turn(self) -> None:
        time, ready, timers = self._time, self._ready, self._timers
        time.turn()
        if not ready:
            while timers and timers[0][2]._cancelled:
                heapq.heappop(timers)
            if not timers:
                raise Deadlock
            wait = timers[0][0] - time.monotonic
            if wait > 0:
                time.now += wait
        due = time.monotonic + 1e-9
        while timers and timers[0][0] <= due:
            handle = heapq.heappop(timers)[2]
            if not handle._cancelled:
                ready.append(handle)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._context.run(handle._callback, *handle._args)

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
        handle = _Handle(callback, args, context, 0.0)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
        handle = _Handle(callback, args, context, when)
        heapq.heappush(self._timers, (when, next(self._count), handle))
        return handle

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:
        return self.call_at(self._time.monotonic + delay, callback, *args, context=context)

    def time(self) -> float:
        return self._time.monotonic

    def create_future(self) -> Any:
        return _Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None, **_: Any) -> Any:
        return _Task(coro, loop=self, name=name, context=context)

    # --- threads ---------------------------------------------------------------------------------

    def delay_thread(self, seconds: float) -> None:
        """What the current thread does (a disk that hangs) takes so much longer."""
        self._late += seconds

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """Threads are a matter of speed, not of outcome: done on the spot, told one turn later.

        When the machine dies in the middle, nobody is told.
        """
        future = self.create_future()
        self._late = 0.0
        try:
            outcome: tuple[Any, BaseException | None] = (func(*args), None)
        except Crash:
            self._time.die()
            return future
        except Exception as error:  # noqa: BLE001 - told to whoever awaits it
            outcome = (None, error)
        late, self._late = self._late, 0.0
        if late:
            self.call_later(late, _tell, future, *outcome)
        else:
            self.call_soon(_tell, future, *outcome)
        return future

    # --- the rest of the contract ----------------------------------------------------------------

    def _begun(self, generator: AsyncGenerator[Any, Any]) -> None:
        self._generators.append(weakref.ref(generator))

    def _forgotten(self, generator: AsyncGenerator[Any, Any]) -> None:
        """A generator that nobody finished is closed in a task of its own, as asyncio does it."""
        if self._running:
            self.call_soon(self.create_task, generator.aclose())

    async def shutdown_asyncgens(self) -> None:
        for reference in self._generators:
            if (generator := reference()) is not None:
                await generator.aclose()

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Nobody listens: what matters is judged from outside."""

    def freeze(self) -> None:
        """The process is dead: nothing that was planned happens."""
        self._ready.clear()
        self._timers.clear()


def _tell(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
