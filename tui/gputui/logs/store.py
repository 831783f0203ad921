"""The bytes of a log and its lines, found by looking near by: gigabytes cost nothing until they are shown.

A line is known by the byte where it begins. Nothing is indexed: the next line and the
one before are found by looking for a newline, so that a log of two gigabytes opens as
fast as an empty one. A line that never ends is cut: a break is after each newline, and at
a multiple of MAX_LINE that follows MAX_LINE bytes without one. That rule looks only at
what is near, so both directions agree on it.
"""

from __future__ import annotations

import os
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Protocol

MAX_LINE = 8_192
"""Bytes without a newline after which a line is cut."""
WINDOW = 64 << 20
"""Bytes of a log held in memory when it comes over the socket."""
_BLOCK = 1 << 16
_BLOCKS = 64
_TIME = struct.Struct("<QQ")
"""A line of the capture's clock: byte offset, Unix milliseconds when the bytes from there on arrived."""


class Gap(Exception):
    """Bytes between `end` and the offered data are missing; read again from `end`."""


class LogStore(Protocol):
    """Bytes `start`…`end` of a captured log. Offsets are those of the whole log and never change."""

    start: int
    end: int

    def read(self, start: int, stop: int) -> bytes:
        """Bytes `start`…`stop`, as many of them as are held."""

    def arrived(self, offset: int) -> float | None:
        """Unix seconds when the byte at `offset` reached this machine, None when nobody noted it."""


def next_line(store: LogStore, at: int) -> int:
    """Where the line after the one that begins at `at` begins; `store.end` after the last."""
    limit = min(store.end, -(-at // MAX_LINE) * MAX_LINE + MAX_LINE)
    here = at
    while here < limit:
        stop = min(limit, here + 1024)
        cut = store.read(here, stop).find(b"\n")
        if cut >= 0:
            return here + cut + 1
        here = stop
    return limit


def line_before(store: LogStore, at: int) -> int:
    """Where the line before `at` (a line's beginning, or the end) begins; `store.start` at the top."""
    if at <= store.start:
        return store.start
    floor = max(store.start, at - 1 - 2 * MAX_LINE)
    stop, begin = at - 1, None
    while stop > floor:
        low = max(floor, stop - 1024)
        cut = store.read(low, stop).rfind(b"\n")
        if cut >= 0:
            begin = low + cut + 1
            break
        stop = low
    if begin is None and floor == store.start:
        begin = store.start
    aligned = (at - 1) // MAX_LINE * MAX_LINE
    if begin is None or aligned - MAX_LINE >= begin:
        return max(store.start, aligned)
    return begin


def line_at(store: LogStore, offset: int) -> int:
    """Where the line that has the byte `offset` begins."""
    return line_before(store, min(store.end, max(store.start, offset) + 1))


def raw_line(store: LogStore, at: int) -> str:
    """The line that begins at `at` as a terminal would end up showing it: decoded, after its last `\\r`."""
    data = store.read(at, next_line(store, at))
    return data.decode("utf-8", "replace").rstrip("\r\n").rpartition("\r")[2]


class WindowLog:
    """A part of a log in memory, as it comes over the socket: what arrives twice is dropped, a hole is noticed."""

    def __init__(self, *, max_bytes: int = WINDOW) -> None:
        self.max_bytes = max_bytes
        self.reset(0)

    def reset(self, offset: int) -> None:
        """Forget everything; the next byte expected is `offset`."""
        self.start = self.end = offset
        self._data = bytearray()

    def append(self, offset: int, data: bytes) -> int:
        """Add bytes that begin at `offset`; returns how many were new. Raises Gap."""
        if offset > self.end:
            raise Gap(f"bytes {self.end}…{offset} are missing")
        data = data[self.end - offset :]
        self._data += data
        self.end += len(data)
        if len(self._data) > self.max_bytes * 5 // 4:  # a quarter more, so that it is rarely done
            cut = self._data.find(b"\n", len(self._data) - self.max_bytes) + 1
            cut = cut or len(self._data) - self.max_bytes
            del self._data[:cut]
            self.start += cut
        return len(data)

    def prepend(self, offset: int, data: bytes) -> int:
        """Add older bytes that end at `start`, from their first whole line on; returns how many were added.

        Nothing is added when there is no room: newer lines are never given up for older ones.
        """
        if offset + len(data) != self.start:
            return 0
        cut = data.find(b"\n") + 1 if offset > 0 else 0
        if (offset > 0 and cut == 0) or self.end - offset - cut > self.max_bytes:
            return 0
        self._data[:0] = data[cut:]
        self.start = offset + cut
        return len(data) - cut

    def read(self, start: int, stop: int) -> bytes:
        """Bytes held between the two offsets."""
        return bytes(self._data[max(0, start - self.start) : max(0, stop - self.start)])

    def arrived(self, offset: int) -> float | None:
        """Unknown: the socket does not say."""
        return None


class FileLog:
    """A log that the daemon captures into a file on this machine; read in place, never copied.

    Blocks are read with pread rather than mapped: a file that shrinks (another program, a
    disk that is pulled) must be an empty answer, not a bus error. Beside it may lie its
    clock, `PATH.times`, which tells when the bytes arrived.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.start = self.end = 0
        self._file: int | None = None
        self._times: int | None = None
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def refresh(self) -> bool:
        """Look how long it is now; True when that changed. A file that is not there (yet) is empty."""
        try:
            if self._file is None:
                self._file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            size = os.fstat(self._file).st_size
        except FileNotFoundError:
            size = 0
        grown = size != self.end
        if size < self.end:
            self._blocks.clear()
        elif grown:
            self._blocks.pop(self.end // _BLOCK, None)  # the last block was not full
        self.end = size
        return grown

    def close(self) -> None:
        """Give the files back."""
        for handle in (self._file, self._times):
            if handle is not None:
                os.close(handle)
        self._file = self._times = None

    def read(self, start: int, stop: int) -> bytes:
        """Bytes between the two offsets, by blocks that are kept for a while."""
        start, stop = max(0, start), min(stop, self.end)
        if self._file is None or start >= stop:
            return b""
        first, last = start // _BLOCK, (stop - 1) // _BLOCK
        if last - first > 4:
            return os.pread(self._file, stop - start, start)
        data = b"".join(self._block(number) for number in range(first, last + 1))
        return data[start - first * _BLOCK : stop - first * _BLOCK]

    def _block(self, number: int) -> bytes:
        block = self._blocks.get(number)
        if block is None:
            assert self._file is not None  # noqa: S101 - `read` has looked
            block = os.pread(self._file, min(_BLOCK, self.end - number * _BLOCK), number * _BLOCK)
            self._blocks[number] = block
            if len(self._blocks) > _BLOCKS:
                self._blocks.popitem(last=False)
        else:
            self._blocks.move_to_end(number)
        return block

    def arrived(self, offset: int) -> float | None:
        """From the clock beside the log, by bisection."""
        try:
            if self._times is None:
                name = self.path.with_name(self.path.name + ".times")
                self._times = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
            low, high = 0, os.fstat(self._times).st_size // _TIME.size
        except OSError:
            return None
        when: float | None = None
        while low < high:
            middle = (low + high) // 2
            entry = os.pread(self._times, _TIME.size, middle * _TIME.size)
            if len(entry) < _TIME.size:
                return None
            at, milliseconds = _TIME.unpack(entry)
            if at <= offset:
                when, low = milliseconds / 1000, middle + 1
            else:
                high = middle
        return when
