"""A file on its way into the vault: written, made durable, read back from the disk, hashed, named.

The re-read runs a window behind the writes: each window is fsynced, dropped from the page
cache where the system can do that, read again and hashed, while the next one arrives.
So the hash is of what the disk holds, and costs no time of its own. Blocking: lives in a
worker thread.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import mmap
import os
import threading
from dataclasses import dataclass
from pathlib import Path

from gpuwatch.vault.layout import fsync_folder, make_folder

WINDOW = 64 << 20
_READ = 1 << 20
_IOV = 512
_PAGE = 4096
_DIRECT = 4 << 20


@dataclass(frozen=True, slots=True)
class PartName:
    """Where a download under way lies: content and, beside it, the identity of the box file it is of."""

    content: Path
    note: Path

    @classmethod
    def of(cls, folder: Path, path: str) -> PartName:
        """The names for a box path, independent of how hostile that path is."""
        key = hashlib.sha256(os.fsencode(path)).hexdigest()[:40]
        return cls(folder / f"{key}.part", folder / f"{key}.json")

    def resumable(self, identity: tuple[int, int, int, int], boot_id: str) -> int:
        """Bytes already here of exactly this version of the file, 0 when it must start again."""
        try:
            note = json.loads(self.note.read_text())
            size = self.content.stat().st_size
        except (OSError, ValueError):
            return 0
        return size if note == {"identity": list(identity), "boot_id": boot_id} and size <= identity[0] else 0

    def remember(self, identity: tuple[int, int, int, int], boot_id: str) -> None:
        """Note which version the content will be of; before the first byte."""
        self.note.parent.mkdir(parents=True, exist_ok=True)
        self.note.write_text(json.dumps({"identity": list(identity), "boot_id": boot_id}))

    def discard(self) -> None:
        """Forget what is here."""
        for path in (self.content, self.note):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()


class Sink:
    """Takes a file's bytes from `offset` on; `finish` returns the SHA-256 of what the disk holds.

    OSError (disk full among them) comes out of `write` or `finish`; the partial file stays
    for a later resume and nothing ever appears under a final name that is not proved.
    """

    def __init__(self, part: Path, offset: int) -> None:
        part.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            # two writers of one part would publish what neither of them has proved
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._descriptor, offset)
        except OSError:
            os.close(self._descriptor)
            raise
        self._part = part
        self.size = offset
        self._digest = hashlib.sha256()
        self._read = 0
        self._disk = _Disk(part, self._descriptor)
        self._checker: threading.Thread | None = None
        self._failed: OSError | None = None
        self._proved = False

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        self.write_all([memoryview(data)])

    def write_all(self, pieces: list[memoryview]) -> None:
        """Append pieces, in as few system calls as there may be."""
        self._proved = False
        waiting = list(pieces)
        while waiting:
            written = os.pwritev(self._descriptor, waiting[:_IOV], self.size)
            self.size += written
            while waiting and written >= len(waiting[0]):
                written -= len(waiting.pop(0))
            if waiting and written:
                waiting[0] = waiting[0][written:]
        if self.size - self._read >= WINDOW and (self._checker is None or not self._checker.is_alive()):
            self._join()
            self._checker = threading.Thread(target=self._check_to, args=(self.size & -_PAGE,), daemon=True)
            self._checker.start()

    def finish(self) -> str:
        """Everything durable and read back; the hash. The file keeps its partial name."""
        self._join()
        self._check_to(self.size)
        if self._failed is not None:
            raise self._failed
        self._proved = True
        return self._digest.hexdigest()

    def publish(self, target: Path, mtime_ns: int) -> None:
        """Give the proved file its final name, durably, the new folders above it included.

        Raises RuntimeError when `finish` has not proved what was written.
        """
        if not self._proved:
            raise RuntimeError(f"{target} is not proved and gets no final name")
        os.utime(self._descriptor, ns=(mtime_ns, mtime_ns))
        make_folder(target.parent)
        os.replace(self._part, target)  # noqa: PTH105 - the descriptor's own name
        fsync_folder(target.parent)

    def close(self) -> None:
        """Release the file."""
        self._join(quiet=True)
        self._disk.close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _join(self, *, quiet: bool = False) -> None:
        if self._checker is not None:
            self._checker.join()
            self._checker = None
        if self._failed is not None and not quiet:
            raise self._failed

    def _check_to(self, end: int) -> None:
        """Sync, then hash what the disk holds up to `end`."""
        try:
            os.fdatasync(self._descriptor)
            self._disk.hash(self._digest, self._read, end)
            self._read = max(self._read, end)
        except OSError as error:
            self._failed = error


class _Disk:
    """What the disk holds, and not what the page cache remembers: read past it where the file system can do that.

    Else (tmpfs, other systems) the cache is told to forget first, where it listens.
    """

    def __init__(self, part: Path, descriptor: int) -> None:
        self._part = part
        self._descriptor = descriptor
        self._direct: int | None = None
        self._may_direct = hasattr(os, "O_DIRECT")

    def hash(self, digest: hashlib._Hash, start: int, end: int) -> None:
        """Update `digest` with the bytes from `start` to `end`, which are synced. Raises OSError."""
        if self._may_direct and end - start >= _READ and start % _PAGE == 0:
            start = self._past_the_cache(digest, start, end & -_PAGE)
        if hasattr(os, "posix_fadvise") and start < end:
            os.posix_fadvise(self._descriptor, start, end - start, os.POSIX_FADV_DONTNEED)
        with memoryview(bytearray(min(_READ, max(1, end - start)))) as buffer:
            self._hash(self._descriptor, digest, start, end, buffer)

    def _past_the_cache(self, digest: hashlib._Hash, start: int, end: int) -> int:
        """As far as it goes with O_DIRECT (whole pages, an aligned buffer); returns where the rest begins."""
        with mmap.mmap(-1, _DIRECT) as aligned, memoryview(aligned) as buffer:
            try:
                if self._direct is None:
                    self._direct = os.open(
                        self._part, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECT
                    )
                    os.preadv(self._direct, [buffer[:_PAGE]], start)  # some file systems refuse only now
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._may_direct = False
                return start
            self._hash(self._direct, digest, start, end, buffer)
        return end

    def _hash(self, descriptor: int, digest: hashlib._Hash, start: int, end: int, buffer: memoryview) -> None:
        while start < end:
            here = os.preadv(descriptor, [buffer[: min(len(buffer), end - start)]], start)
            if not here:
                raise OSError(errno.EIO, "the file is shorter on disk than what was written", str(self._part))
            digest.update(buffer[:here])
            start += here

    def close(self) -> None:
        """Release the second descriptor."""
        if self._direct is not None:
            os.close(self._direct)
            self._direct = None
