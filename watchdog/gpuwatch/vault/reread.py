"""Read a vault's file again from its disk and hash it, without ever leaving the folder that it belongs to.

Paths come from receipts that anybody may have edited, so each part is opened below the
one before, never through a symbolic link. What the page cache holds is dropped first
where the system can do that: the disk is what is to be proved. Blocking: lives in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Self

CHUNK = 1 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Kind(Enum):
    """What can be wrong with a file of the vault. The values are part of `gpuwatch verify --json`."""

    DAMAGED = "damaged"
    """Other bytes than were proved."""
    TRUNCATED = "truncated"
    """Shorter than what was proved."""
    MISSING = "missing"
    UNREADABLE = "unreadable"
    """It could not be read this time: nothing is known of its content."""
    EXTRA = "extra"
    """In the folder of a run that has a receipt, and in no receipt of it."""
    UNPROVED = "unproved"
    """In the folder of a run that has no receipt."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the disk holds under a name: size in bytes, modification time, and the SHA-256 of what was read."""

    size: int
    mtime_ns: int
    sha256: str | None
    """None when the size alone told that it is not the file that was proved."""


class NotThere(Exception):
    """No such file, or a link or a special file in its place."""


@contextlib.contextmanager
def opened(folder: Path, parts: Sequence[str]) -> Iterator[int]:
    """A descriptor of the regular file at `parts` below `folder`. Raises NotThere, OSError."""
    try:
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotThere("the run's folder is gone") from error
    try:
        try:
            for part in parts[:-1]:
                inner = os.open(part, _FOLDER, dir_fd=held)
                os.close(held)
                held = inner
            descriptor = os.open(parts[-1], _FILE, dir_fd=held)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise NotThere("a symbolic link or another file stands where it belongs") from error
            if error.errno in (errno.ENOENT, errno.ENAMETOOLONG):
                raise NotThere("no such file") from error
            if error.errno in (errno.ENXIO, errno.EISDIR):
                raise NotThere("no regular file stands where it belongs") from error
            raise
    finally:
        os.close(held)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotThere("no regular file stands where it belongs")
        yield descriptor
    finally:
        os.close(descriptor)


def chunks(descriptor: int, buffer: bytearray) -> Iterator[memoryview]:
    """The file's bytes from its start, each view valid until the next; past the page cache where possible."""
    forget(descriptor)
    view = memoryview(buffer)
    while size := os.readv(descriptor, [buffer]):
        yield view[:size]
    forget(descriptor)


def forget(descriptor: int) -> None:
    """Drop the file from the page cache; dirty pages stay, which is right."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):  # pipes and odd file systems; the bytes are read all the same
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


class Reread:
    """One file being read again: `read` takes the next chunk, `seen` says what was found.

    The file stays open from the first to the last chunk, so it is one version of it that
    is hashed, also when a newer one takes its name meanwhile. Raises NotThere, OSError.
    """

    def __init__(
        self, folder: Path, parts: Sequence[str], *, size: int, buffer: bytearray | None = None
    ) -> None:
        self._stack = contextlib.ExitStack()
        descriptor = self._stack.enter_context(opened(folder, parts))
        status = os.fstat(descriptor)
        self._size, self._mtime_ns = status.st_size, status.st_mtime_ns
        self._digest = hashlib.sha256()
        self._chunks: Iterator[memoryview] | None = None
        if status.st_size == size:
            self._chunks = chunks(descriptor, buffer if buffer is not None else bytearray(CHUNK))

    def read(self) -> int:
        """Hash the next chunk; the bytes in it, 0 at the end."""
        chunk = next(self._chunks, None) if self._chunks is not None else None
        if chunk is None:
            return 0
        self._digest.update(chunk)
        return len(chunk)

    def seen(self) -> Seen:
        """What the disk holds, once `read` has returned 0."""
        hashed = None if self._chunks is None else self._digest.hexdigest()
        return Seen(self._size, self._mtime_ns, hashed)

    def close(self) -> None:
        """Release the file."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def judge(seen: Seen, *, size: int, sha256: str) -> Kind | None:
    """What is wrong with a file that was proved with this size and hash; None when nothing is. Pure."""
    if seen.size < size:
        return Kind.TRUNCATED
    if seen.size > size or seen.sha256 != sha256:
        return Kind.DAMAGED
    return None
