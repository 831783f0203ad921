"""Walking through a log: all its lines, or only those that match."""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Callable
from typing import Protocol

from gputui.logs.store import LogStore, line_at, line_before, next_line


class Lens(Protocol):
    """Lines by the byte where they begin."""

    def after(self, line: int) -> int | None:
        """The next line, None behind the last."""

    def before(self, line: int) -> int | None:
        """The line before, None before the first."""

    def near(self, offset: int) -> int | None:
        """The line that has this byte, or the last one before it, or the first; None when there is none."""


class Every:
    """All lines of a store."""

    def __init__(self, store: LogStore) -> None:
        self._store = store

    def after(self, line: int) -> int | None:
        """Behind the newline."""
        found = next_line(self._store, line)
        return found if found < self._store.end else None

    def before(self, line: int) -> int | None:
        """Back to the newline before the last."""
        return line_before(self._store, line) if line > self._store.start else None

    def near(self, offset: int) -> int | None:
        """The line around it."""
        store = self._store
        return line_at(store, min(offset, store.end - 1)) if store.end > store.start else None


class Matching:
    """Lines that a search has found so far."""

    def __init__(self, matches: Callable[[], array[int]]) -> None:
        self._matches = matches

    def after(self, line: int) -> int | None:
        """The next match."""
        found = self._matches()
        at = bisect.bisect_right(found, line)
        return found[at] if at < len(found) else None

    def before(self, line: int) -> int | None:
        """The match before."""
        found = self._matches()
        at = bisect.bisect_left(found, line)
        return found[at - 1] if at > 0 else None

    def near(self, offset: int) -> int | None:
        """The last match up to there, or the first."""
        found = self._matches()
        if not found:
            return None
        return found[max(0, bisect.bisect_right(found, offset) - 1)]
