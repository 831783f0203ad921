"""The sentinel's `send` stream, parsed as the hostile input it is.

    a part of a file   {"i", "id": [size, mtime, ctime, inode], "from", "to"}
                       frames: 4 bytes big-endian and that many bytes; top bit set: a hole; 0 ends
                       {"i", "id"[, "error"]}
    small files        {"pack": [[i, size, mtime, ctime, inode, sha256] | [i, "error", gone], …]}
                       their contents one after the other
    what is not there  {"i", "error", "gone"}

A pure push parser: questions in, bytes in, items out. Only what was asked is taken, in the
order of asking; memory is bounded; FrameError ends the transfer.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from gpuwatch.clean import clean

MAX_LINE = 128 * 1024
MAX_FRAME = 4 << 20
SMALL = 1 << 20
"""Bytes of the largest file that comes in a pack."""
MAX_PACK = 2 * SMALL
_HOLE = 0x80000000
_SHA256 = re.compile(r"[0-9a-f]{64}")
Identity: TypeAlias = tuple[int, int, int, int]


class FrameError(Exception):
    """The stream is not what the sentinel sends."""


@dataclass(frozen=True, slots=True)
class AskedPart:
    """File `index` was asked for from byte `start` to `end`."""

    index: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class AskedPack:
    """These small files were asked for."""

    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """Bytes `start` to `end` of file `index` follow; `identity` is what it was when it was opened."""

    index: int
    identity: Identity
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Content:
    """A piece of the part announced last."""

    data: memoryview


@dataclass(frozen=True, slots=True)
class Hole:
    """So many zero bytes, which the box's disk does not hold either."""

    size: int


@dataclass(frozen=True, slots=True)
class Trailer:
    """The part is all sent; `identity` is what the file is now."""

    index: int
    identity: Identity
    error: str | None


@dataclass(frozen=True, slots=True)
class Missing:
    """File `index` could not be sent."""

    index: int
    error: str
    gone: bool


@dataclass(frozen=True, slots=True)
class Small:
    """A small file whole; `sha256` is what the box hashed. `data` is valid as long as it is kept."""

    index: int
    identity: Identity
    sha256: str
    data: memoryview


Item: TypeAlias = Header | Content | Hole | Trailer | Missing | Small


def parse_identity(value: object) -> Identity:
    """(size, mtime, ctime, inode) from JSON, or FrameError."""
    if not isinstance(value, list) or len(value) != 4 or not all(_is_int(v) for v in value):
        raise FrameError("no file identity")
    size, mtime, ctime, inode = value
    if not 0 <= size < 1 << 62 or not 0 <= inode < 1 << 64 or abs(mtime) >= 1 << 63 or abs(ctime) >= 1 << 63:
        raise FrameError("a file identity out of range")
    # SQLite integers are signed 64-bit; an inode above that is folded, equality is all that counts
    return size, mtime, ctime, inode & ((1 << 63) - 1)


def parse_hash(line: bytes, expect: int) -> tuple[int, Identity, str] | Missing | int:
    """A line of the sentinel's `hash`: (index, identity, SHA-256), a file that is none, or how far one is.

    Raises FrameError. `expect` is how many files were asked for.
    """
    value = _object(line)
    index = value.get("i")
    if not isinstance(index, int) or not _is_int(index) or not 0 <= index < expect:
        raise FrameError("an answer to a question that was not asked")
    if "error" in value:
        return Missing(index, _message(value["error"]), value.get("gone") is True)
    if "at" in value:
        return index
    return index, parse_identity(value.get("id")), _sha256(value.get("sha256"))


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class FrameParser:
    """Tell it what was asked, feed it bytes in any split; it yields items in order.

    `ask` may be called by one thread while another feeds.
    """

    def __init__(self) -> None:
        self._asked: deque[AskedPart | AskedPack] = deque()
        self._buffer = b""
        self._open: Header | None = None
        self._left = 0
        self._in_content = False
        self._sent = 0
        self._answered = 0
        """How many files of the pack asked for have been answered."""
        self._rows: list[Small | Missing] | None = None
        self._pack = bytearray()
        self._filled = 0

    def ask(self, question: AskedPart | AskedPack) -> None:
        """One more question that the box will answer, after those before it."""
        self._asked.append(question)

    @property
    def complete(self) -> bool:
        """Whether everything that was asked has been answered and nothing is half read."""
        return not self._asked and self._open is None and not self._buffer and self._rows is None

    def feed(self, data: bytes) -> Iterator[Item]:
        """Items that these bytes complete. Content is a view of `data`, not a copy; only half lines are kept."""
        if self._buffer:
            data = self._buffer + data
        position, size = 0, len(data)
        view = memoryview(data)
        try:
            while True:
                if self._rows is not None:
                    take = min(len(self._pack) - self._filled, size - position)
                    self._pack[self._filled : self._filled + take] = view[position : position + take]
                    self._filled += take
                    position += take
                    if self._filled < len(self._pack):
                        break
                    rows, self._rows = self._rows, None
                    yield from rows
                elif self._left:
                    take = min(self._left, size - position)
                    if not take:
                        break
                    self._left -= take
                    position += take
                    yield Content(view[position - take : position])
                elif self._in_content:
                    if size - position < 4:
                        break
                    length = int.from_bytes(view[position : position + 4], "big")
                    position += 4
                    hole = self._frame(length)
                    if hole:
                        yield Hole(hole)
                else:
                    end = data.find(b"\n", position)
                    if (end if end >= 0 else size) - position > MAX_LINE:
                        raise FrameError("a line without end")
                    if end < 0:
                        break
                    line = data[position:end]
                    position = end + 1
                    item = self._line(line)
                    if item is not None:
                        yield item
        finally:
            self._buffer = data[position:]

    def _frame(self, word: int) -> int:
        """Take the length of a frame; the size of the hole when it is one."""
        opened = self._open
        hole, length = bool(word & _HOLE), word & ~_HOLE
        if opened is None or (length > MAX_FRAME and not hole) or (hole and not length):
            raise FrameError("a frame that is too long")
        if length == 0:
            self._in_content = False
            return 0
        self._sent += length
        if opened.start + self._sent > opened.end:
            raise FrameError("more content than the file has")
        if hole:
            return length
        self._left = length
        return 0

    def _line(self, line: bytes) -> Item | None:
        value = _object(line)
        question = self._asked[0] if self._asked else None
        if isinstance(question, AskedPack):
            self._take_pack(value, question)
            return None
        index = value.get("i")
        if question is None or not _is_int(index) or index != question.index:
            raise FrameError("an answer to a question that was not asked")
        if self._open is None:
            if "error" in value:
                self._asked.popleft()
                return Missing(question.index, _message(value["error"]), value.get("gone") is True)
            return self._head(value, question)
        error = _message(value["error"]) if "error" in value else None
        if error is None and self._open.start + self._sent != self._open.end:
            error = "the box sent less than the file has"
        self._open = None
        self._asked.popleft()
        return Trailer(question.index, parse_identity(value.get("id")), error)

    def _head(self, value: dict[str, Any], question: AskedPart) -> Header:
        identity = parse_identity(value.get("id"))
        # a file that shrank ends before what was asked
        start, end = min(question.start, identity[0]), min(question.end, identity[0])
        if (value.get("from"), value.get("to")) != (start, end) or not _is_int(value["from"]):
            raise FrameError("another part of the file than was asked for")
        self._open = Header(question.index, identity, start, end)
        self._in_content, self._sent = True, 0
        return self._open

    def _take_pack(self, value: dict[str, Any], question: AskedPack) -> None:
        rows = value.get("pack")
        expected = question.indices[self._answered :]
        if not isinstance(rows, list) or not 0 < len(rows) <= len(expected):
            raise FrameError("an answer to a question that was not asked")
        parsed = [_pack_row(row, index) for row, index in zip(rows, expected, strict=False)]
        total = sum(row[1][0] for row in parsed if not isinstance(row, Missing))
        if total > MAX_PACK:
            raise FrameError("a pack that is too long")
        self._pack, self._filled = bytearray(total), 0
        view, start, items = memoryview(self._pack), 0, list[Small | Missing]()
        for row in parsed:
            if isinstance(row, Missing):
                items.append(row)
                continue
            index, identity, sha256 = row
            items.append(Small(index, identity, sha256, view[start : start + identity[0]]))
            start += identity[0]
        self._rows = items
        self._answered += len(rows)
        if self._answered == len(question.indices):
            self._asked.popleft()
            self._answered = 0


def _pack_row(row: object, expected: int) -> tuple[int, Identity, str] | Missing:
    if not isinstance(row, list) or not row or not _is_int(row[0]) or row[0] != expected:
        raise FrameError("an answer to a question that was not asked")
    if len(row) == 3 and isinstance(row[1], str):
        return Missing(expected, _message(row[1]), row[2] is True)
    if len(row) != 6:
        raise FrameError("a row that is none")
    return expected, parse_identity(row[1:5]), _sha256(row[5])


def _sha256(value: object) -> str:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise FrameError("no SHA-256")
    return value


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise FrameError("a line that is no JSON") from error
    if not isinstance(value, dict):
        raise FrameError("a line that is no JSON object")
    return value


def _message(value: object) -> str:
    return clean(value, 200) if isinstance(value, str) else "failed"
