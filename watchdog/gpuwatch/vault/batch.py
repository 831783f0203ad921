"""Small files on their way into the vault, hundreds at a time.

An fsync per file would wait for the disk twenty thousand times. So a batch is written
first, made durable as a whole, read back from the disk and hashed, named, and the names
made durable: the same proof as for a large file, paid once per batch. While one batch is
proved the next is written. Blocking: `add` and `flush` are called in worker threads.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import queue
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from gpuwatch.vault.disk import SmallReader, sync_all
from gpuwatch.vault.layout import fsync_folder, home_of, make_folder
from gpuwatch.vault.room import is_in_the_way, is_unkeepable, make_way

MANY = 1024
MUCH = 32 << 20
"""Files and bytes that make a batch."""
_FOLDERS = 4
"""Folders up to which each is synced alone; beyond, all at once."""
_PREFIX = "batch-"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Landed:
    """A small file that is home and proved, and how it stands there."""

    sha256: str
    home: tuple[int, int]
    """See `vault.layout.home_of`."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A small file that is not home. `final`: this disk cannot keep it, another try is no use."""

    reason: str
    final: bool


Outcome: TypeAlias = Landed | Refused


@dataclass(frozen=True, slots=True)
class _Entry:
    key: int
    name: str
    target: str
    sha256: str


class _Tray:
    """A folder of files that are proved together."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.entries: list[_Entry] = []
        self.bytes = 0

    def write(self, name: str, data: memoryview, mtime_ns: int) -> None:
        """One new file."""
        descriptor = os.open(name, _NEW, 0o644, dir_fd=self.descriptor)
        try:
            rest = data
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.utime(descriptor, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Remove the folder with what was not named."""
        os.close(self.descriptor)
        shutil.rmtree(self.folder, ignore_errors=True)


class Batch:
    """Takes small files below one run's folder; `done` is told of each batch's outcomes by key, in another thread.

    None is larger than `most` bytes. A systemic OSError (disk full) comes out of the next
    `add` or `flush`.
    """

    def __init__(self, partial: Path, done: Callable[[Mapping[int, Outcome]], None], *, most: int) -> None:
        make_folder(partial)
        _sweep(partial)
        self._run = partial.parent
        self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=partial))
        self._descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._done = done
        self._lock = threading.Lock()
        self._tray: _Tray | None = None
        self._number = 0
        self._queue: queue.Queue[_Tray | None] = queue.Queue(1)
        self._failed: Exception | None = None
        self._reader = SmallReader(most)
        self._thread = threading.Thread(target=self._prove, name="batch", daemon=True)
        self._start_proving()

    def add(self, key: int, target: Path, data: memoryview, sha256: str, mtime_ns: int) -> None:
        """One more file. Raises OSError when the disk does not take it (or has not taken one before)."""
        with self._lock:
            self._check()
            if self._tray is None:
                # a folder of its own, so that naming one batch does not wait for writing the next
                self._tray = _Tray(self._folder / f"tray-{self._number}")
            self._number += 1
            tray, name = self._tray, str(self._number)
            tray.write(name, data, mtime_ns)
            tray.entries.append(_Entry(key, name, os.fspath(target), sha256))
            tray.bytes += len(data)
            if len(tray.entries) >= MANY or tray.bytes >= MUCH:
                self._hand_over()

    def flush(self) -> None:
        """Prove and name what is here; every outcome has been told on return. Raises OSError."""
        with self._lock:
            self._hand_over()
            self._queue.join()
            self._check()

    def close(self) -> None:
        """Release everything; what was not proved is dropped. A `flush` under way ends first."""
        with self._lock:
            # the sentinel counts as work in the queue: put in while a flush waits for the queue's end, the flush
            # would wait for ever, and its thread would keep the daemon from ending
            self._stop_proving()
            self._failed = self._failed or OSError(errno.EBADF, "the batch is closed")
        if self._tray is not None:
            self._tray.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._descriptor)

    def _start_proving(self) -> None:
        self._thread.start()

    def _stop_proving(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _hand_over(self) -> None:
        if self._tray is not None:
            self._queue.put(self._tray)
            self._tray = None

    def _check(self) -> None:
        if self._failed is not None:
            raise self._failed

    def _prove(self) -> None:
        while True:
            tray = self._queue.get()
            if tray is None:
                self._queue.task_done()
                return
            try:
                if self._failed is None:
                    self._seal(tray)
            except Exception as error:  # noqa: BLE001 - raised to whoever adds the next file
                self._failed = error
            finally:
                tray.close()
                self._queue.task_done()

    def _seal(self, tray: _Tray) -> None:
        """Durable, read back, named, durably named: in this order."""
        entries, names = tray.entries, [e.name for e in tray.entries]
        sync_all(tray.descriptor, names)
        read_back = self._reader.hashes(names, tray.descriptor)
        outcomes: dict[int, Outcome] = {}
        for entry, (status, sha256) in zip(entries, read_back, strict=True):
            outcomes[entry.key] = (
                Landed(sha256, home_of(status))
                if sha256 == entry.sha256
                else Refused("the copy differs from what the box hashed", final=False)
            )
        folders: set[str] = set()
        for entry in entries:
            if isinstance(outcomes[entry.key], Landed):
                try:
                    self._name(entry, tray, folders)
                except OSError as error:
                    if not is_unkeepable(error):
                        raise
                    outcomes[entry.key] = Refused(f"this disk cannot keep it: {error.strerror}", final=True)
        if len(folders) > _FOLDERS:
            sync_all(self._descriptor, [], folders)
        else:
            for folder in folders:
                fsync_folder(Path(folder))
        self._done(outcomes)

    def _name(self, entry: _Entry, tray: _Tray, folders: set[str]) -> None:
        folder = os.path.dirname(entry.target)  # noqa: PTH120 - twenty thousand Path objects are slow
        for attempt in range(2):
            try:
                if folder not in folders:
                    make_folder(Path(folder))
                os.rename(entry.name, entry.target, src_dir_fd=tray.descriptor)
            except OSError as error:
                if attempt or not is_in_the_way(error):
                    raise
                make_way(self._run, Path(entry.target))
            else:
                folders.add(folder)
                return


def _sweep(partial: Path) -> None:
    """Remove what batches that were cut off left; one that is in use is locked."""
    for folder in partial.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)
