"""Read old files of the vault again in the background, so that bit rot is found while there is another copy.

One file at a time, in chunks with pauses that leave the disk to others, never while files
come home. What is bad is read twice and is no copy from then on, so that custody holds its
box; it is fetched again if the box still has that very version, else it stays an alarm
until it is whole again. A vault that is not mounted says nothing about its files.
"""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Iterator, Mapping
from itertools import groupby

import structlog

from gpuwatch.box.errors import BoxError
from gpuwatch.clean import clean, show_path
from gpuwatch.custody.facts import Copy
from gpuwatch.custody.rules import is_safe, spoken
from gpuwatch.custody.scrub import DAY, Budget, Due, Policy, Scrubbed, due
from gpuwatch.daemon.actor import Actor
from gpuwatch.daemon.collecting import bring
from gpuwatch.daemon.context import Context
from gpuwatch.daemon.live import Live
from gpuwatch.ledger import Ledger
from gpuwatch.lifecycle.run import State
from gpuwatch.vault.layout import LOG, HostilePath, VaultUnusable, relative_parts
from gpuwatch.vault.reread import Kind, NotThere, Reread, judge

log = structlog.get_logger()

CHUNK = 4 << 20
"""Bytes read in one go, off the event loop."""
DUTY = 5
"""At most one part in this many of the disk's time is ours."""
_LOOK = 3600.0
_QUIET = 5.0
_GROUP = 64
_BATCH = 256
_MEMORY = 60 * DAY
"""Seconds for which bytes that were read count against the budget: a file of 60 days' budget is long read."""
_REPAIR_SECONDS = 6 * 3600.0
_REPAIRED_HERE = frozenset({State.FINISHED, State.VERIFIED, State.FAILED})
_OUR_OWN_TROUBLE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class Scrubber:
    """The background re-reading of one daemon. Run `run` as a task; it ends only by cancellation.

    `lives` and `actors` are the daemon's own, by run id: they tell when files come home,
    and lead to the boxes that may still have a file that has gone bad here.
    """

    def __init__(self, ctx: Context, lives: Mapping[str, Live], actors: Mapping[str, Actor]) -> None:
        self._ctx = ctx
        self._lives = lives
        self._actors = actors
        self._policy = Policy(ctx.config.scrub_age, ctx.config.scrub_bytes)
        self._budget: Budget | None = None

    async def run(self) -> None:
        """For ever. A fault of ours is logged and does not end the daemon: the files are no worse for it."""
        while True:
            try:
                pause = await self.round()
            except VaultUnusable as error:
                log.warning("scrub waits for the vault", problem=str(error))
                pause = 60.0
            except Exception:
                log.exception("scrub failed")
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    raise asyncio.CancelledError from None  # the fault came while we were being ended
                pause = 60.0
            await asyncio.sleep(pause)

    async def round(self) -> float:
        """Read what is due and allowed now; returns the seconds until the next look. Raises VaultUnusable."""
        ctx, policy, loop = self._ctx, self._policy, asyncio.get_running_loop()
        await asyncio.to_thread(ctx.vault.check)
        if self._budget is None:
            # records are in wall time, the bucket in the loop's: as long ago as they say, and never ahead
            read = await ctx.ledger.scrubs(since=ctx.now() - _MEMORY)
            history = [(loop.time() - max(0.0, ctx.now() - s.at), s.copy.size) for s in read.values()]
            self._budget = await asyncio.to_thread(Budget.of, history, policy)
        copies: dict[str, dict[str, Copy]] = {}
        scrubs: dict[tuple[str, str], Scrubbed] = {}
        for run, copy, scrub in await ctx.ledger.unproved_longest(ctx.now(), _BATCH):
            copies.setdefault(run, {})[copy.path] = copy
            if scrub is not None:
                scrubs[run, copy.path] = scrub
        batch = due(copies, scrubs, policy, now=ctx.now())
        found: list[Scrubbed] = []
        try:
            for item in batch:
                wait = self._budget.wait(item.copy.size, loop.time(), policy)
                if wait:
                    return min(_LOOK, wait)
                result = await self._examine(item)
                self._budget = self._budget.spent(item.copy.size, loop.time(), policy)
                found.append(result)
                if len(found) >= _GROUP or result.problem is not None or item.problem is not None:
                    found, record = [], found
                    await ctx.ledger.record_scrubs(record)  # before any repair: custody must know at once
                if result.problem is not None:
                    await self._repair(item)
        finally:
            await ctx.ledger.record_scrubs(found)
        return 1.0 if batch else min(_LOOK, policy.every / 10)

    async def _examine(self, item: Due) -> Scrubbed:
        """Read one file again. Raises VaultUnusable, which says nothing of the file."""
        path = show_path(item.copy.path)
        problem = await self._read(item.run, item.copy)
        if problem is not None:
            # once more before anybody is alarmed: it may have been replaced while it was read
            problem = await self._read(item.run, item.copy)
            await asyncio.to_thread(self._ctx.vault.check)
        if problem is not None and await self._current(item):
            log.error("vault file is bad", run=item.run, path=path, problem=problem)
        elif problem is None and item.problem is not None:
            log.info("vault file is whole again", run=item.run, path=path)
        return Scrubbed(item.run, item.copy, self._ctx.now(), problem)

    async def _current(self, item: Due) -> bool:
        """Whether the ledger still holds this copy: a newer version may have come home meanwhile."""
        return await self._ctx.ledger.held(item.run, item.copy.path) == item.copy

    async def _read(self, run: str, copy: Copy) -> str | None:
        """What is wrong with a file, None when it is as proved."""
        reading = _Reading(self._ctx, run, copy)
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._quiet()
                began = loop.time()
                more = await asyncio.to_thread(reading.some)
                await asyncio.sleep(min(2.0, max(0.005, (loop.time() - began) * (DUTY - 1))))
                if not more:
                    return reading.verdict()
        except (NotThere, HostilePath):
            return Kind.MISSING.value
        except OSError as error:
            if error.errno in _OUR_OWN_TROUBLE:
                raise
            return f"{Kind.UNREADABLE.value}: {error.strerror}"
        finally:
            await asyncio.to_thread(reading.close)

    async def _quiet(self) -> None:
        """Return when no run is transferring files."""
        while self._transferring():  # noqa: ASYNC110 - seconds late is early enough, and no transfer need tell us
            await asyncio.sleep(_QUIET)

    def _transferring(self) -> bool:
        return any(live.transfer is not None for live in self._lives.values())

    async def _repair(self, item: Due) -> None:
        """Fetch the file again, when its box still has this very version and nobody else will.

        While a run trains or collects, its own mirror fetches whatever is no copy any more:
        two downloads of one file would write into the same partial file.
        """
        ctx, run, path = self._ctx, self._ctx.ledger.runs.get(item.run), show_path(item.copy.path)
        live, actor = self._lives.get(item.run), self._actors.get(item.run)
        if (
            run is None
            or run.state not in _REPAIRED_HERE
            or live is None
            or live.boot_id is None
            or actor is None
        ):
            return
        file = next((f for f in live.files if f.path == item.copy.path and is_safe(f, item.copy)), None)
        if file is None or live.transfer is not None or not await self._current(item):
            return
        try:
            async with asyncio.timeout(_REPAIR_SECONDS):
                sentinel = await actor.link.sentinel()
                brought = await bring(
                    ctx, item.run, sentinel, [file], live.boot_id, live, step=item.copy.step
                )
        except (BoxError, TimeoutError) as error:
            log.warning("vault file not repaired", run=item.run, path=path, problem=clean(str(error)))
            return
        if not brought.copies:
            log.warning("vault file not repaired", run=item.run, path=path, reasons=brought.reasons[:1])
        elif brought.copies[0].sha256 != item.copy.sha256:
            # the copy is what the box has now, but not what was proved before: receipts speak of the old one
            log.error("vault file fetched again, with other content", run=item.run, path=path)
        else:
            log.warning("vault file repaired from its box", run=item.run, path=path)


class _Reading:
    """One file, read in threads; closing waits for a read that a cancelled task left behind."""

    def __init__(self, ctx: Context, run: str, copy: Copy) -> None:
        self._folder = ctx.vault.run(run)
        self._copy = copy
        self._file: Reread | None = None
        self._closed = False
        self._lock = threading.Lock()

    def some(self) -> bool:
        """Hash the next CHUNK; whether there may be more. Raises NotThere, OSError."""
        with self._lock:
            if self._closed:
                return False
            if self._file is None:
                path = self._copy.path
                parts = (LOG,) if path == LOG else relative_parts(path)
                self._file = Reread(self._folder, parts, size=self._copy.size)
            read = 0
            while read < CHUNK and (size := self._file.read()):
                read += size
            return read >= CHUNK

    def verdict(self) -> str | None:
        """What is wrong, once `some` said that there is no more."""
        if self._file is None:
            raise RuntimeError("nothing was read")
        kind = judge(self._file.seen(), size=self._copy.size, sha256=self._copy.sha256)
        return None if kind is None else kind.value

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._closed = True
            if self._file is not None:
                self._file.close()


def alarms(ledger: Ledger) -> Iterator[str]:
    """What is bad in the vault now, for people: at most three lines a run."""
    for run, found in groupby(ledger.bad(), key=lambda s: s.run):
        bad = list(found)
        for scrub in bad[:3]:
            yield f"{run}: {show_path(spoken(scrub.copy.path))} in the vault is {scrub.problem}; {_todo(run)}"
        if len(bad) > 3:
            yield f"{run}: {len(bad) - 3} more files of the vault are bad; {_todo(run)}"


def _todo(run: str) -> str:
    return f"restore it from another copy, see `gpuwatch verify --run {run}`"
