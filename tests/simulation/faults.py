"""What can go wrong, when, and how often: every call out of the daemon asks here first.

A schedule draws faults at a rate until a quiet time begins; a sweep strikes exactly the
k-th call. Every strike is counted with the life-cycle state of the runs it hit.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum

from simulation.clock import Crash, Time


class Kind(Enum):
    """Kinds of faults. The first nine strike a call, the others the world."""

    HANG = "hang"
    ERROR_BEFORE = "error before"
    ERROR_AFTER = "error after"
    WRONG = "wrong answer"
    PARTIAL = "partial answer"
    DUPLICATE = "duplicate"
    DELAY = "delay"
    CRASH_BEFORE = "crash before"
    CRASH_AFTER = "crash after"

    KILL = "kill -9"
    POWER_CUT = "power cut"
    OFFLINE = "no network"
    BOX_OFFLINE = "box cut off"
    STRANGER = "other account"
    CLOCK_STEP = "clock step"
    SLEEP = "laptop sleep"
    DISK_FULL = "vault full"
    DISK_BROKEN = "disk error"
    LEDGER_FULL = "ledger full"
    VAULT_GONE = "vault gone"
    BIT_ROT = "bit rot"
    REBOOT = "box reboots"
    DUD = "dud"
    TAKEN = "machine taken"
    BACK = "machine back"
    STRANDED = "machine stopped"
    PERSON = "person"


ANY_READ = (Kind.HANG, Kind.ERROR_BEFORE, Kind.WRONG, Kind.PARTIAL, Kind.DUPLICATE, Kind.DELAY)
ANY_WRITE = (Kind.HANG, Kind.ERROR_BEFORE, Kind.ERROR_AFTER, Kind.WRONG, Kind.DELAY)
CRASHES = (Kind.CRASH_BEFORE, Kind.CRASH_AFTER)


@dataclass(slots=True)
class Sweep:
    """Strike the `number`-th call, once."""

    number: int
    kind: Kind
    struck: bool = False
    """Whether the call could fail in this way, and did."""


@dataclass(slots=True)
class Faults:
    """The weather of one world."""

    time: Time
    draw: random.Random
    rate: float = 0.0
    """Probability that a call to the provider or a box goes wrong."""
    disk_rate: float = 0.0
    ledger_rate: float = 0.0
    quiet_from: float = 0.0
    windows: dict[Kind, list[tuple[float, float]]] = field(default_factory=dict)
    """From when to when (world time) a lasting fault lasts."""
    sweep: Sweep | None = None
    calls: Counter[str] = field(default_factory=Counter)
    struck: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(kind, state of a run) → strikes."""
    states: Callable[[str | None], Iterable[str]] = lambda _: ()
    """The states of the runs that a fault of this run (None: of everything) hits."""
    hook: Callable[[str], None] = lambda _: None
    """Told the name of each call before it is made."""
    total: int = 0
    _trace: hashlib._Hash = field(default_factory=lambda: hashlib.blake2b(digest_size=12))
    _never: list[asyncio.Future[None]] = field(default_factory=list)

    @property
    def quiet(self) -> bool:
        """Whether the bad time is over."""
        return self.time.now >= self.quiet_from

    @property
    def trace(self) -> str:
        """A digest of every call and its time: two plays of one seed have the same."""
        return self._trace.hexdigest()

    def lasts(self, kind: Kind) -> bool:
        """Whether a lasting fault lasts now."""
        return any(start <= self.time.now < end for start, end in self.windows.get(kind, ()))

    def note(self, kind: Kind, run: str | None = None) -> None:
        """Count one strike."""
        for state in self.states(run) or ("none",):
            self.struck[kind.value, state] += 1

    def choose(
        self, name: str, allowed: tuple[Kind, ...], rate: float, run: str | None = None
    ) -> Kind | None:
        """How this call goes wrong, None when it does not."""
        self.calls[name] += 1
        self.total += 1
        self._trace.update(f"{name} {self.time.now:.6f}\n".encode())
        self.hook(name)
        kind = None
        if self.sweep is not None:
            if self.total == self.sweep.number and self.sweep.kind in (*allowed, *CRASHES):
                kind, self.sweep.struck = self.sweep.kind, True
        elif rate and not self.quiet and self.draw.random() < rate:
            kind = self.draw.choice(allowed)
        if kind is not None:
            self.note(kind, run)
        return kind

    async def call(self, name: str, allowed: tuple[Kind, ...], run: str | None = None) -> Kind | None:
        """A call that waits: to the provider or a box. Returns how it goes wrong; does not return from a crash."""
        kind = self.choose(name, allowed, self.rate, run)
        if kind is Kind.CRASH_BEFORE:
            await self.die()
        return kind

    async def done(self, kind: Kind | None) -> None:
        """The call has had its effect and nobody knows of it yet."""
        if kind is Kind.CRASH_AFTER:
            await self.die()

    async def die(self) -> None:
        """The process ends here; whoever waits for this waits for ever."""
        self.time.die()
        never = asyncio.get_running_loop().create_future()
        self._never.append(never)
        await never

    def die_now(self) -> None:
        """The process ends here, in the middle of work that does not wait."""
        self.time.die()
        raise Crash
