"""The sentinel's `send` stream, parsed as the hostile input it is.

    header   {"i", "id": [size, mtime, ctime, inode], "offset"}  or  {"i", "error", "gone"}
    content  frames of a 4-byte big-endian length and that many bytes; length 0 ends
    trailer  {"i", "id", "sha256"[, "error"]}

A pure push parser: bytes in, items out; bounded memory; FrameError ends the transfer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from gpuwatch.clean import clean

MAX_LINE = 64 * 1024
MAX_FRAME = 4 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
Identity: TypeAlias = tuple[int, int, int, int]


class FrameError(Exception):
    """The stream is not what the sentinel sends."""


@dataclass(frozen=True, slots=True)
class Header:
    """File `index` follows from `offset`; `identity` is (size, mtime, ctime, inode) when it was opened."""

    index: int
    identity: Identity
    offset: int


@dataclass(frozen=True, slots=True)
class Content:
    """A piece of the file announced last."""

    data: memoryview


@dataclass(frozen=True, slots=True)
class Trailer:
    """The file is all sent; `sha256` is of the whole file as read on the box."""

    index: int
    identity: Identity
    sha256: str
    error: str | None


@dataclass(frozen=True, slots=True)
class Missing:
    """File `index` could not be sent."""

    index: int
    error: str
    gone: bool


Item: TypeAlias = Header | Content | Trailer | Missing


def parse_identity(value: object) -> Identity:
    """(size, mtime, ctime, inode) from JSON, or FrameError."""
    if not isinstance(value, list) or len(value) != 4 or not all(_is_int(v) for v in value):
        raise FrameError("no file identity")
    size, mtime, ctime, inode = value
    if not 0 <= size < 1 << 62 or not 0 <= inode < 1 << 64 or abs(mtime) >= 1 << 63 or abs(ctime) >= 1 << 63:
        raise FrameError("a file identity out of range")
    # SQLite integers are signed 64-bit; an inode above that is folded, equality is all that counts
    return size, mtime, ctime, inode & ((1 << 63) - 1)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class FrameParser:
    """Feed it bytes in any split; it yields items in order. `expect` is how many files were asked for."""

    def __init__(self, expect: int) -> None:
        self._expect = expect
        self._buffer = b""
        self._open: Header | None = None
        self._left = 0
        self._in_content = False
        self._sent = 0
        self._next = 0

    @property
    def complete(self) -> bool:
        """Whether every file asked for has been answered and nothing is half read."""
        return self._next == self._expect and self._open is None and not self._buffer

    def feed(self, data: bytes) -> Iterator[Item]:
        """Items that these bytes complete. Content is a view of `data`, not a copy; only half lines are kept."""
        if self._buffer:
            data = self._buffer + data
        position, size = 0, len(data)
        view = memoryview(data)
        try:
            while True:
                if self._left:
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
                    self._frame(length)
                else:
                    end = data.find(b"\n", position)
                    if (end if end >= 0 else size) - position > MAX_LINE:
                        raise FrameError("a line without end")
                    if end < 0:
                        break
                    line = data[position:end]
                    position = end + 1
                    yield self._line(line)
        finally:
            self._buffer = data[position:]

    def _frame(self, length: int) -> None:
        opened = self._open
        if opened is None or length > MAX_FRAME:
            raise FrameError("a frame that is too long")
        if length == 0:
            self._in_content = False
            return
        self._sent += length
        if opened.offset + self._sent > opened.identity[0]:
            raise FrameError("more content than the file has")
        self._left = length

    def _line(self, line: bytes) -> Item:
        value = _object(line)
        index = value.get("i")
        if not _is_int(index) or index != self._next or index >= self._expect:
            raise FrameError("an answer to a question that was not asked")
        if self._open is None:
            if "error" in value:
                self._next += 1
                return Missing(index, _message(value["error"]), value.get("gone") is True)
            identity = parse_identity(value.get("id"))
            offset = value.get("offset")
            if not isinstance(offset, int) or not _is_int(offset) or not 0 <= offset <= identity[0]:
                raise FrameError("an offset outside the file")
            self._open = Header(index, identity, offset)
            self._in_content, self._sent = True, 0
            return self._open
        sha256 = value.get("sha256")
        if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
            raise FrameError("no SHA-256")
        error = _message(value["error"]) if "error" in value else None
        if error is None and self._open.offset + self._sent != self._open.identity[0]:
            error = "the box sent less than the file has"
        self._open = None
        self._next += 1
        return Trailer(index, parse_identity(value.get("id")), sha256, error)


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
