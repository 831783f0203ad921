"""The daemon's log as a file of bounded size: it rotates itself, so nobody has to signal it.

Whatever the process and its libraries print goes the same way: the file stands behind standard output and
standard error too. A file that somebody else moved or removed is noticed and begun anew. A disk that takes
nothing more costs lines, never the daemon: how many were lost is said in the first line that gets through.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

LIMIT = 10_000_000
KEEP = 5


class LogFile:
    """A text stream over `path`: at most `limit` bytes and one line there, and `keep` older ones as `path.1` … `path.N`.

    `behind`: descriptors that shall lead to the file as well. Raises OSError when it cannot be opened at first.
    """

    def __init__(
        self, path: Path, *, limit: int = LIMIT, keep: int = KEEP, behind: tuple[int, ...] = ()
    ) -> None:
        self._path = path
        self._limit = limit
        self._keep = keep
        self._behind = behind
        self._lock = threading.Lock()
        self._lost = 0
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._descriptor = self._open()

    def write(self, text: str) -> int:
        """Append; a line is written whole into one file."""
        with self._lock:
            try:
                self._ready()
                if self._lost:
                    self._put(f"{self._lost} lines of this log were lost: it could not be written\n")
                    self._lost = 0
                self._put(text)
            except OSError:
                self._lost += max(1, text.count("\n"))
        return len(text)

    def flush(self) -> None:
        """Nothing waits: every line is handed over at once."""

    def isatty(self) -> bool:
        """A file is no terminal."""
        return False

    def close(self) -> None:
        """Let the file go; what is behind the other descriptors stays."""
        with self._lock:
            os.close(self._descriptor)

    def _put(self, text: str) -> None:
        data = text.encode("utf-8", "backslashreplace")
        while data:
            data = data[os.write(self._descriptor, data) :]

    def _ready(self) -> None:
        """Be at the file of that name, and below its limit."""
        here = os.fstat(self._descriptor)
        try:
            there = self._path.stat()
            moved = (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino)
        except FileNotFoundError:
            moved = True
        if not moved:
            if here.st_size < self._limit:
                return
            self._shift()
        self._reopen()

    def _shift(self) -> None:
        """`path.1` becomes `path.2` and so on; the oldest goes."""
        aged = [
            self._path,
            *(self._path.with_name(f"{self._path.name}.{n}") for n in range(1, self._keep + 1)),
        ]
        if self._keep == 0:
            self._path.unlink()
            return
        for younger, older in zip(reversed(aged[:-1]), reversed(aged[1:]), strict=True):
            with contextlib.suppress(FileNotFoundError):
                younger.replace(older)

    def _reopen(self) -> None:
        before, self._descriptor = self._descriptor, self._open()
        os.close(before)

    def _open(self) -> int:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for number in self._behind:
            os.dup2(descriptor, number)
        return descriptor
