"""A large file on its way into the vault: written in any order, made durable, read back from the disk, hashed, named.

Three things overlap: whoever writes, a thread that makes what has arrived without a gap
durable, and a thread that reads the durable part back past the page cache and hashes it.
So the hash is of what the disk holds, and costs hardly any time of its own. Blocking:
lives in worker threads.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from gpuwatch.vault.disk import PAGE, Disk
from gpuwatch.vault.layout import fsync_folder, make_folder

WINDOW = 32 << 20
"""Bytes after which what has arrived is made durable and read back."""
_IOV = 512


Spans: TypeAlias = tuple[tuple[int, int], ...]
"""(start, end) of bytes that are here: in order, none empty, no two touching."""
Identity: TypeAlias = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class PartName:
    """Where a download under way lies: content and, beside it, which box file it is of and how far it came."""

    content: Path
    note: Path

    @classmethod
    def of(cls, folder: Path, path: str) -> PartName:
        """The names for a box path, independent of how hostile that path is."""
        key = hashlib.sha256(os.fsencode(path)).hexdigest()[:40]
        return cls(folder / f"{key}.part", folder / f"{key}.json")

    def resumable(self, identity: Identity, boot_id: str) -> Spans:
        """What is already here of exactly this version; nothing when it must start again."""
        try:
            note = json.loads(self.note.read_text())
            size = self.content.stat().st_size
        except (OSError, ValueError):
            return ()
        if (
            not isinstance(note, dict)
            or note.get("identity") != list(identity)
            or note.get("boot_id") != boot_id
        ):
            return ()
        spans = _spans(note.get("have"))
        return spans if spans and spans[-1][1] <= min(size, identity[0]) else ()

    def remember(self, identity: Identity, boot_id: str, have: Spans = ()) -> None:
        """Note which version the content is of, and what of it is here."""
        self.note.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.note.with_suffix(".tmp")
        temporary.write_text(
            json.dumps({"identity": list(identity), "boot_id": boot_id, "have": [list(s) for s in have]})
        )
        temporary.replace(self.note)

    def discard(self) -> None:
        """Forget what is here."""
        for path in (self.content, self.note):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()


def _spans(value: object) -> Spans:
    """Spans from a note; none when they are not what a note holds."""
    spans: list[tuple[int, int]] = []
    for item in value if isinstance(value, list) else ():
        if not isinstance(item, list) or len(item) != 2 or not all(type(n) is int for n in item):
            return ()
        start, end = item
        if not (spans[-1][1] if spans else -1) < start < end:
            return ()
        spans.append((start, end))
    return tuple(spans)


class Sink:
    """Takes a file's bytes, in any order, each once; `finish` returns the SHA-256 of what the disk holds.

    The file has `size` bytes, of which `have` are there already. OSError (disk full among them) comes out of `write` or
    `finish`; the partial file stays for a later resume, and nothing ever appears under a
    final name that is not proved. `durable` is told what is here, again and again. Several
    threads may write.
    """

    def __init__(
        self, part: Path, size: int, have: Spans = (), durable: Callable[[Spans], None] = lambda _: None
    ) -> None:
        part.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            # two writers of one part would publish what neither of them has proved
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not have:
                os.ftruncate(self._descriptor, 0)
            os.ftruncate(self._descriptor, size)  # what is never written reads as zeros and needs no room
        except OSError:
            os.close(self._descriptor)
            raise
        self._part = part
        self._size = size
        self._told = durable
        self._digest = hashlib.sha256()
        self._disk = Disk(part, self._descriptor)
        self._state = threading.Condition()
        self._islands = dict(have)
        """start → end of what is written beyond `_arrived`."""
        self._arrived = self._islands.pop(0, 0)
        """Every byte before this one is written."""
        self._synced = 0
        self._read = 0
        self._ending = False
        self._failed: OSError | None = None
        self._proved = False
        self._published = False
        self._threads: list[threading.Thread] = []

    def write(self, at: int, pieces: list[memoryview]) -> int:
        """Write pieces one after the other from byte `at` on, in few system calls; returns where they end.

        Bytes that are there already are refused: what has been read back must not change.
        """
        start, waiting = at, [piece for piece in pieces if piece]
        if not waiting:
            return at
        self._proved = False
        self._claim(at, at + sum(map(len, pieces)))
        while waiting:
            written = os.pwritev(self._descriptor, waiting[:_IOV], at)
            at += written
            while waiting and written >= len(waiting[0]):
                written -= len(waiting.pop(0))
            if waiting and written:
                waiting[0] = waiting[0][written:]
        self._landed(start, at)
        return at

    def skip(self, at: int, size: int) -> int:
        """Zero bytes that need no room on the disk; returns where they end."""
        if not size:
            return at
        self._proved = False
        self._claim(at, at + size)
        self._landed(at, at + size)
        return at + size

    def finish(self) -> str:
        """Everything durable and read back; the hash. The file keeps its partial name."""
        with self._state:
            if self._arrived != self._size:
                raise RuntimeError(f"{self._part} is not complete and cannot be proved")
            self._ending = True
            self._state.notify_all()
        if self._threads:
            for thread in self._threads:
                thread.join()
            self._threads = []
        elif self._failed is None:
            self._sync()
            self._read_back()
        with self._state:
            self._ending = False
            if self._failed is not None:
                raise self._failed
            if self._read != self._size or os.fstat(self._descriptor).st_size != self._size:
                raise OSError(errno.EIO, "the file has another length on disk", str(self._part))
            self._proved = True
        return self._digest.hexdigest()

    def publish(self, target: Path, mtime_ns: int) -> os.stat_result:
        """Give the proved file its final name, durably, the new folders above it included; how it stands there.

        Raises RuntimeError when `finish` has not proved what was written.
        """
        if not self._proved:
            raise RuntimeError(f"{target} is not proved and gets no final name")
        os.utime(self._descriptor, ns=(mtime_ns, mtime_ns))
        make_folder(target.parent)
        os.replace(self._part, target)  # noqa: PTH105 - the descriptor's own name
        self._published = True
        fsync_folder(target.parent)
        return os.fstat(self._descriptor)

    def close(self) -> None:
        """Release the file; what is here is told, so that it can be resumed."""
        with self._state:
            if self._failed is None:
                self._failed = OSError(errno.ECANCELED, "closed")
            self._state.notify_all()
        for thread in self._threads:
            thread.join()
        self._threads = []
        self._disk.close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            if not self._published:
                with contextlib.suppress(OSError):
                    self._told(self._here())

    def _here(self) -> Spans:
        with self._state:
            spans = sorted(self._islands.items())
            if self._arrived:
                spans.insert(0, (0, self._arrived))
        joined: list[tuple[int, int]] = []
        for start, end in spans:
            if joined and joined[-1][1] == start:
                start = joined.pop()[0]
            joined.append((start, end))
        return tuple(joined)

    # --- what has arrived --------------------------------------------------------------------------

    def _claim(self, start: int, end: int) -> None:
        with self._state:
            if self._failed is not None:
                raise self._failed
            if (
                start < self._arrived
                or end > self._size
                or any(s < end and start < e for s, e in self._islands.items())
            ):
                raise RuntimeError(
                    f"bytes {start} to {end} of {self._part} are there already or beyond its end"
                )

    def _landed(self, start: int, end: int) -> None:
        with self._state:
            for known, until in self._islands.items():
                if until == start:  # the usual case: a part that grows
                    self._islands[known] = end
                    break
            else:
                self._islands[start] = end
            while self._arrived in self._islands:
                self._arrived = self._islands.pop(self._arrived)
            if self._arrived - self._synced >= WINDOW:
                self._work()
                self._state.notify_all()

    # --- behind the writes ---------------------------------------------------------------------------

    def _work(self) -> None:
        if not self._threads:
            self._threads = [
                threading.Thread(target=self._run, args=(step,), name=name, daemon=True)
                for name, step in (("sync", self._sync_more), ("read-back", self._read_more))
            ]
            for thread in self._threads:
                thread.start()

    def _run(self, step: Callable[[], bool]) -> None:
        while step():
            pass

    def _sync_more(self) -> bool:
        with self._state:
            self._state.wait_for(
                lambda: self._failed or self._ending or self._arrived - self._synced >= WINDOW
            )
            if self._failed is not None:
                return False
            last = self._ending
        self._sync()
        return not last

    def _read_more(self) -> bool:
        with self._state:
            self._state.wait_for(
                lambda: (
                    self._failed
                    or (self._synced & -PAGE) - self._read >= WINDOW
                    or (self._ending and self._synced == self._arrived)
                )
            )
            if self._failed is not None:
                return False
            last = self._ending and self._synced == self._arrived
        self._read_back()
        return not last

    def _sync(self) -> None:
        """Make all that is here without a gap durable."""
        end = self._arrived
        try:
            os.fdatasync(self._descriptor)
            self._told(self._here())
        except OSError as error:
            self._fail(error)
            return
        with self._state:
            self._synced = end
            self._state.notify_all()

    def _read_back(self) -> None:
        """Hash what the disk holds of the durable part: whole pages, at the end everything."""
        with self._state:
            end = self._synced if self._ending and self._synced == self._arrived else self._synced & -PAGE
        try:
            self._disk.hash(self._digest, self._read, end)
        except OSError as error:
            self._fail(error)
            return
        with self._state:
            self._read = max(self._read, end)
            self._state.notify_all()

    def _fail(self, error: OSError) -> None:
        with self._state:
            self._failed = self._failed or error
            self._state.notify_all()
