"""A search through a log: newest lines first, with progress, cancelled by ending its task."""

from __future__ import annotations

import asyncio
import bisect
import json
import os
import struct
import sys
from array import array
from collections.abc import Callable

from gputui.logs.pattern import Finder
from gputui.logs.store import FileLog, LogStore, line_at, next_line

PIECE = 16 << 20
"""Bytes that one process searches at a time."""
AT_ONCE = 4 << 20
"""Bytes that are searched in this process, without starting others."""
_SLICE = 1 << 18
"""Bytes searched between two looks at the keyboard: a few milliseconds."""
KEPT = 1_000_000
"""Matches after which a search has found enough: they are the newest, and nobody walks through more."""


class Search:
    """Lines of `store` that match. `run` looks through it once, `more` at what came since."""

    def __init__(self, store: LogStore, finder: Finder, on_news: Callable[[], None]) -> None:
        self.finder = finder
        self.count = 0
        """Lines that match so far."""
        self.scanned = 0
        """Bytes looked at."""
        self.total = store.end - store.start
        self.done = False
        self._store = store
        self._on_news = on_news
        self._found: dict[int, array[int]] = {}
        self._kept = 0
        self._merged: array[int] | None = array("Q")
        self._to = store.start

    @property
    def full(self) -> bool:
        """Whether it stopped looking because so many lines match."""
        return self._kept >= KEPT

    @property
    def matches(self) -> array[int]:
        """Where the matching lines begin, in order."""
        if self._merged is None:
            merged: array[int] = array("Q")
            for start in sorted(self._found):
                merged += self._found[start]
            self._merged = merged
            if self.done:
                self._found = {0: merged}
        return self._merged

    async def run(self) -> None:
        """Look through everything that is there now."""
        start, stop = self._store.start, self._store.end
        self._to = stop
        if isinstance(self._store, FileLog) and stop - start > AT_ONCE:
            await self._by_processes(self._store, start, stop)
        else:
            await self._here(start, stop)
        self.done = True
        self._on_news()
        await self.more()

    async def more(self) -> None:
        """Look at what came since; the last line again, it may have been unfinished."""
        store = self._store
        if not self.done or store.end <= self._to:
            return
        begin = line_at(store, self._to - 1) if self._to > store.start else store.start
        begin = max(begin, store.start)
        matches = self.matches
        while matches and matches[-1] >= begin:
            matches.pop()
            self.count -= 1
        self._found = {0: matches}
        self._to = store.end
        await self._here(begin, self._to)
        self._on_news()

    def drop_before(self, start: int) -> None:
        """The store has forgotten what was before `start`."""
        matches = self.matches
        if matches and matches[0] < start:
            cut = bisect.bisect_left(matches, start)
            self.count -= cut
            self._merged = matches[cut:]
            self._found = {0: self._merged}

    def _keep(self, start: int, found: array[int]) -> None:
        if found:
            self.count += len(found)
            self._found[start] = self._found.get(start, array("Q")) + found
            self._kept += len(found)
            self._merged = None

    async def _here(self, start: int, stop: int) -> None:
        at = start
        while at < stop and not self.full:
            end = min(stop, at + _SLICE)
            if end < stop:
                end = max(next_line(self._store, at), line_at(self._store, end))
            self._keep(at, self.finder.lines(self._store.read(at, end), at))
            self.scanned += end - at
            at = end
            await asyncio.sleep(0)

    async def _by_processes(self, store: FileLog, start: int, stop: int) -> None:
        pieces = [(at, min(stop, at + PIECE)) for at in range(start, stop, PIECE)]  # taken from the end
        workers = min(len(pieces), os.cpu_count() or 1, 4)
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._worker(store, pieces), name="log-search")

    async def _worker(self, store: FileLog, pieces: list[tuple[int, int]]) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gputui.logs.scan", str(store.path), stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdin is not None  # noqa: S101 - it was asked for
        assert process.stdout is not None  # noqa: S101
        try:
            process.stdin.write(json.dumps(self.finder.text).encode() + b"\n")
            while pieces and not self.full:
                at, end = pieces.pop()
                process.stdin.write(f"{at} {end}\n".encode())
                await process.stdin.drain()
                (number,) = struct.unpack("<Q", await process.stdout.readexactly(8))
                found: array[int] = array("Q")
                found.frombytes(await process.stdout.readexactly(8 * number))
                if sys.byteorder == "big":
                    found.byteswap()
                self._keep(at, found)
                self.scanned += end - at
                self._on_news()
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
