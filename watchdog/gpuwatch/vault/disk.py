"""What the disk holds, and not what the page cache remembers.

Read past the cache (O_DIRECT) where the file system can do that; else (other systems, old
tmpfs) the cache is told to forget first, where it listens. Blocking.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import mmap
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from gpuwatch.vault.layout import fsync_folder

PAGE = 4096
_BLOCK = 4 << 20


class Disk:
    """One file that is being written through `descriptor`, read back from its disk."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._direct: int | None = None
        self._may_direct = hasattr(os, "O_DIRECT")
        self._buffer: memoryview | None = None
        """Aligned as O_DIRECT wants it."""

    def hash(self, digest: hashlib._Hash, start: int, end: int) -> None:
        """Update `digest` with the bytes from `start` (a whole page) to `end`, which are synced. Raises OSError."""
        if start >= end:
            return
        if self._buffer is None:
            self._buffer = memoryview(mmap.mmap(-1, min(_BLOCK, -(-(end - start) // PAGE) * PAGE)))
        if self._may_direct:
            start = self._past_the_cache(digest, start, end, self._buffer)
        if start < end:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(self._descriptor, start, end - start, os.POSIX_FADV_DONTNEED)
            self._read(self._descriptor, digest, start, end, self._buffer)

    def _past_the_cache(self, digest: hashlib._Hash, start: int, end: int, buffer: memoryview) -> int:
        """All of it with O_DIRECT, or nothing where that is not possible; returns where the rest begins."""
        try:
            if self._direct is None:
                self._direct = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECT)
                os.preadv(self._direct, [buffer[:PAGE]], start)  # some file systems refuse only now
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._may_direct = False
            return start
        self._read(self._direct, digest, start, end, buffer)
        return end

    def _read(self, descriptor: int, digest: hashlib._Hash, start: int, end: int, buffer: memoryview) -> None:
        while start < end:
            # whole pages are asked for, also where the file ends within one
            wanted = min(len(buffer), -(-(end - start) // PAGE) * PAGE)
            here = min(os.preadv(descriptor, [buffer[:wanted]], start), end - start)
            if not here:
                raise OSError(errno.EIO, "the file is shorter on disk than what was written", str(self._path))
            digest.update(buffer[:here])
            start += here

    def close(self) -> None:
        """Release the second descriptor."""
        if self._direct is not None:
            os.close(self._direct)
            self._direct = None


class SmallReader:
    """Reads small synced files whole from their disk, many at a time. One thread's own.

    The cache is told to forget each file and asked whether it has; then all are fetched from
    the disk at once, ahead of being read. One that the cache would not let go of is read past it.
    """

    def __init__(self, size: int) -> None:
        self._buffer = memoryview(mmap.mmap(-1, -(-(size + 1) // PAGE) * PAGE))

    def hashes(self, names: Sequence[str], folder: int) -> list[tuple[os.stat_result, str]]:
        """How each of these files below the folder descriptor stands there, and its SHA-256. Raises OSError."""
        found: list[tuple[os.stat_result, str]] = []
        for at in range(0, len(names), _AHEAD):
            with contextlib.ExitStack() as opened:
                ahead = [self._open(name, folder, opened) for name in names[at : at + _AHEAD]]
                found += [self._hash(descriptor) for descriptor in ahead]
        return found

    def _hash(self, descriptor: int) -> tuple[os.stat_result, str]:
        size = os.preadv(descriptor, [self._buffer], 0)
        return os.fstat(descriptor), hashlib.sha256(self._buffer[:size]).hexdigest()

    def _open(self, name: str, folder: int, opened: contextlib.ExitStack) -> int:
        descriptor = os.open(name, _READ, dir_fd=folder)
        opened.callback(os.close, descriptor)
        if not hasattr(os, "posix_fadvise"):
            return descriptor
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        if _is_cached(descriptor, self._buffer):
            with contextlib.suppress(OSError):  # tmpfs: there is no disk behind the cache
                direct = os.open(name, _READ | os.O_DIRECT, dir_fd=folder)
                opened.callback(os.close, direct)
                return direct
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
        return descriptor


_AHEAD = 128
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW


def _is_cached(descriptor: int, buffer: memoryview) -> bool:
    """Whether the page cache holds the file's first bytes; False where nobody can tell."""
    try:
        return os.preadv(descriptor, [buffer[:1]], 0, _NOWAIT) > 0 if _NOWAIT else False
    except OSError:  # EAGAIN: it would have to be read from the disk
        return False


_NOWAIT = getattr(os, "RWF_NOWAIT", 0)


def _find_syncfs() -> Callable[[int], int] | None:
    with contextlib.suppress(OSError, AttributeError):
        found: Callable[[int], int] = ctypes.CDLL(None, use_errno=True).syncfs
        return found
    return None


_SYNCFS = _find_syncfs()


def sync_all(folder: int, names: Sequence[str], folders: Iterable[str] = ()) -> None:
    """Make many new files below the folder descriptor durable, and what was named in `folders`. Raises OSError.

    One `syncfs` where there is one: a thousand fsyncs wait a thousand times for the disk.
    """
    if _SYNCFS is not None and len(names) != 1:
        if _SYNCFS(folder) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return
    for name in names:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    for path in folders:
        fsync_folder(Path(path))
