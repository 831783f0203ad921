"""A window on a log that may be endless: whole lines, bounded memory, byte offsets that never lie.

The ring knows which bytes of the captured log it holds (`start`…`end`), so a stream that
broke goes on at `end`: what arrives twice is dropped, what is missing is noticed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gputui import ansi

MAX_BYTES = 16 << 20
MAX_LINES = 200_000
MAX_LINE = 8_192
"""Bytes of one line that are kept; a longer line is cut into several."""


class Gap(Exception):
    """Bytes between `end` and the offered data are missing; read again from `LogRing.end`."""


class LogRing:
    """Lines of a log, oldest first. Line numbers are stable: number `first` is the oldest that is held."""

    def __init__(self, *, max_bytes: int = MAX_BYTES, max_lines: int = MAX_LINES) -> None:
        self.max_bytes = max_bytes
        self.max_lines = max_lines
        self.reset(0)

    def reset(self, offset: int) -> None:
        """Forget everything; the next byte expected is `offset`."""
        self.start = self.end = offset
        """Bytes held: `start` ≤ offset < `end`."""
        self.first = 0
        """Number of the oldest line held."""
        self._lines: list[bytes] = []
        self._open = b""

    def __len__(self) -> int:
        """Lines held; an unfinished last line counts."""
        return len(self._lines) + bool(self._open)

    @property
    def last(self) -> int:
        """Number after the newest line."""
        return self.first + len(self)

    @property
    def whole(self) -> int:
        """Number after the newest line that has its end."""
        return self.first + len(self._lines)

    def append(self, offset: int, data: bytes) -> int:
        """Add bytes that begin at `offset`; returns how many lines are new. Raises Gap."""
        if offset > self.end:
            raise Gap(f"bytes {self.end}…{offset} are missing")
        data = data[self.end - offset :]
        if not data:
            return 0
        before = self.last
        self.end += len(data)
        *lines, self._open = (self._open + data).split(b"\n")
        for line in lines:
            self._lines.extend(_cut(line))
        while len(self._open) > MAX_LINE:
            self._lines.append(self._open[:MAX_LINE])
            self._open = self._open[MAX_LINE:]
        self._forget()
        return max(0, self.last - before)

    def prepend(self, offset: int, data: bytes) -> int | None:
        """Add older bytes that end at `start`; returns how many lines came before the oldest, None if none could.

        A first line that is not whole is left out, unless the log begins there.
        Nothing is added when there is no room: newer lines are never given up for older ones.
        """
        if offset + len(data) != self.start or not data:
            return None
        if offset > 0:
            cut = data.find(b"\n") + 1
            if cut == 0:
                return None
            offset, data = offset + cut, data[cut:]
        if self.end - offset > self.max_bytes or data.count(b"\n") + len(self._lines) > self.max_lines:
            return None
        *lines, rest = data.split(b"\n")
        if rest:
            # the oldest line held began here
            if self._lines:
                self._lines[0] = rest + self._lines[0]
            else:
                self._open = rest + self._open
        older = [piece for line in lines for piece in _cut(line)]
        self._lines[:0] = older
        self.first -= len(older)
        self.start = offset
        return len(older)

    def _forget(self) -> None:
        """Drop the oldest lines once a quarter more than allowed is held, so that it is rarely done."""
        if self.end - self.start <= self.max_bytes * 5 // 4 and len(self._lines) <= self.max_lines * 5 // 4:
            return
        held, count = self.end - self.start, 0
        while count < len(self._lines) and (
            held > self.max_bytes or len(self._lines) - count > self.max_lines
        ):
            held -= len(self._lines[count]) + 1
            count += 1
        del self._lines[:count]
        self.first += count
        self.start = max(self.start, self.end - held)

    def raw(self, number: int) -> str:
        """Line `number` as the terminal would end up showing it, escapes included: decoded, after its last `\\r`."""
        index = number - self.first
        line = self._lines[index] if index < len(self._lines) else self._open
        text = line.decode("utf-8", "replace").rstrip("\r")
        return text.rpartition("\r")[2]

    def search(
        self, pattern: re.Pattern[str], first: int | None = None, last: int | None = None
    ) -> Iterator[int]:
        """Numbers of the lines that match, of those numbered `first`…`last` (all by default), oldest first."""
        for number in range(max(self.first, first or self.first), self.last if last is None else last):
            if pattern.search(ansi.strip(self.raw(number))):
                yield number


def _cut(line: bytes) -> list[bytes]:
    if len(line) <= MAX_LINE:
        return [line]
    return [line[i : i + MAX_LINE] for i in range(0, len(line), MAX_LINE)]
