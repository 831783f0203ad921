"""The judge can fail: each guard of the daemon, broken by a line or two, is found within a few hundred days.

A simulation that never finds anything proves nothing. Each entry names the promise that its
guard keeps; the day that finds it need not name the same one.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from simulation import world
from simulation.cloud import Violation
from simulation.schedule import play

from gpuproviders.errors import ProviderError
from gpuwatch.box import fetch
from gpuwatch.custody import permit, rules
from gpuwatch.daemon import collecting, companion, destroying, renting
from gpuwatch.daemon.fleet import Fleet
from gpuwatch.daemon.main import Children
from gpuwatch.ledger.writer import Writer
from gpuwatch.lifecycle import decide, evolve
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.run import State
from gpuwatch.vault import batch, layout, receipt, sink

LIMIT = 1500
"""Days within which a broken guard must be found."""
FIRST = 3_000_000

Patch = Callable[[pytest.MonkeyPatch], None]


def always_granted(patch: pytest.MonkeyPatch) -> None:
    """I1: whoever asks for a permit gets one; and it is asked for as soon as the job is over."""
    patch.setattr(destroying, "_permit", _granted)
    honest = decide.decide
    hasty = lambda run, spec: decide.Destroy() if run.state is State.FINISHED else honest(run, spec)  # noqa: E731
    patch.setattr(decide, "decide", hasty)
    patch.setattr(destroying, "decide", hasty)


async def _granted(_ctx: Any, run: Any, *_: Any) -> permit.DestroyPermit:
    return permit.DestroyPermit(permit._SEAL, instance_id=run.machine.instance_id, ground="always")


def holds_ignored(patch: pytest.MonkeyPatch) -> None:
    """I1: custody looks, and whatever it sees holds nothing."""
    honest = rules.assess
    patch.setattr(collecting, "assess", lambda *args, **kw: replace(honest(*args, **kw), holds=(), unsafe=()))


def collected_without_proof(patch: pytest.MonkeyPatch) -> None:
    """I1: every copy counts as safe, whatever version it is of, and also when there is none."""
    for module in (rules, collecting):
        patch.setattr(module, "is_safe", lambda file, copy: copy is not None)


def hash_not_compared(patch: pytest.MonkeyPatch) -> None:
    """I1: what arrived is taken for what was sent."""
    honest = fetch.prove_large

    def believing(file: Any, run: Any) -> Any:
        if file.sink is not None and file.hashed is not None:
            file.hashed = (file.hashed[0], file.sink.finish())
        return honest(file, run)

    patch.setattr(fetch, "prove_large", believing)


def content_not_synced(patch: pytest.MonkeyPatch) -> None:
    """I1: the file has its name before its bytes are on the disk."""

    def only_told(self: Any) -> None:
        self._told(self._here())
        with self._state:
            self._synced = self._arrived
            self._state.notify_all()

    patch.setattr(sink.Sink, "_sync", only_told)


def packs_not_synced(patch: pytest.MonkeyPatch) -> None:
    """I1: a batch of small files is named before its bytes are on the disk."""
    patch.setattr(batch, "sync_all", lambda *_: None)


def packs_not_compared(patch: pytest.MonkeyPatch) -> None:
    """I1: small files that arrived are taken for what was sent."""
    honest = batch.Batch.add

    def believing(self: Any, key: int, target: Any, data: Any, _told: str, mtime_ns: int) -> None:
        honest(self, key, target, data, hashlib.sha256(data).hexdigest(), mtime_ns)

    patch.setattr(batch.Batch, "add", believing)


def names_not_synced(patch: pytest.MonkeyPatch) -> None:
    """I1: the folder that holds the name is not synced."""
    for module in (sink, layout, receipt, batch):
        patch.setattr(module, "fsync_folder", lambda _: None)


def start_not_written_first(patch: pytest.MonkeyPatch) -> None:
    """I1, I4: the order to start the job leaves no trace before it goes out."""
    patch.setitem(evolve._CHANGE, e.StartSent, lambda _run, _event, _at: {})


def any_error_is_a_no(patch: pytest.MonkeyPatch) -> None:
    """I2: a create without an answer counts as refused, and the next one is sent."""
    patch.setattr(renting, "Refused", ProviderError)


def answered_before_durable(patch: pytest.MonkeyPatch) -> None:
    """I2, I4: the ledger says "written" before it is."""
    honest = Writer.submit

    def submit(self: Any, *args: Any, **kwargs: Any) -> Any:
        honest(self, *args, **kwargs)
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    patch.setattr(Writer, "submit", submit)


def ledger_not_synced(patch: pytest.MonkeyPatch) -> None:
    """I2, I4: commits are in the page cache only."""
    weak = tuple(p.replace("synchronous=FULL", "synchronous=NORMAL") for p in world.PRAGMAS)
    assert weak != world.PRAGMAS
    patch.setattr(world, "PRAGMAS", weak)


def absent_is_gone(patch: pytest.MonkeyPatch) -> None:
    """I3: the first listing without a machine is proof enough."""

    async def hasty(self: Any, instance_id: str, _policy: Any) -> str | None:
        while True:
            listing = await self.next_listing()
            if listing is not None:
                return None if listing.by_id(instance_id) is not None else "one listing"
            await asyncio.sleep(5)

    patch.setattr(Fleet, "await_absence", hasty)


def collecting_not_resumed(patch: pytest.MonkeyPatch) -> None:
    """I4: a restart forgets the runs that were being collected."""
    honest = Children.start

    def start(self: Any, run_id: str) -> None:
        if self._ctx.ledger.runs[run_id].state is not State.COLLECTING:
            honest(self, run_id)

    patch.setattr(Children, "start", start)


def budget_ignored(patch: pytest.MonkeyPatch) -> None:
    """I5: no ceiling is ever reached."""
    patch.setattr(companion, "over_budget", lambda *_: None)


def budget_by_the_wall_clock(patch: pytest.MonkeyPatch) -> None:
    """I5: durations are differences of a clock that people set."""
    patch.setattr(world, "SteadyClock", _WallClock)


class _WallClock:
    offset = 0.0

    def __init__(self, wall: Callable[[], float], elapsed: Callable[[], float], boot: str) -> None:
        self._wall = wall
        self.boot = boot

    def __call__(self) -> float:
        return self._wall()

    def not_before(self, at: float) -> None:
        """It does not care."""


def names_shown_as_they_are(patch: pytest.MonkeyPatch) -> None:
    """I6: what a box calls its files goes to the terminal unchanged."""
    for module in [
        m for name, m in sys.modules.items() if name.startswith("gpuwatch.") and hasattr(m, "clean")
    ]:
        patch.setattr(module, "clean", lambda text, *_: str(text))


GUARDS: tuple[Patch, ...] = (
    always_granted, holds_ignored, collected_without_proof, hash_not_compared, content_not_synced, packs_not_synced, packs_not_compared, names_not_synced,
    start_not_written_first, any_error_is_a_no, answered_before_durable, ledger_not_synced, absent_is_gone,
    collecting_not_resumed, budget_ignored, budget_by_the_wall_clock,
    names_shown_as_they_are,
)  # fmt: skip


@pytest.mark.timeout(600)
@pytest.mark.parametrize("broken", GUARDS, ids=[g.__name__ for g in GUARDS])
def test_a_broken_guard_is_found(broken: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    for seed in range(FIRST, FIRST + LIMIT):
        try:
            play(seed)
        except (Violation, BaseExceptionGroup) as found:
            assert "stumbled" not in str(found)
            print(f"{broken.__name__}: found on day {seed - FIRST + 1}: {str(found)[:200]}")
            return
    pytest.fail(f"{LIMIT} days with a broken guard and nothing was found: {broken.__doc__}")


def test_the_guards_as_they_are_pass() -> None:
    for seed in range(FIRST, FIRST + 20):
        play(seed)
