"""The disk of the daemon's machine: real files, and a record of what would survive a power cut.

The daemon's own code runs unchanged over a folder in memory. While a world is played, the
calls of `os` that change or sync something pass through here first, so that each can fail,
hang, or be the last one. What POSIX does not promise, this disk does not keep:

- bytes that were written and not fsynced may be lost or torn,
- names (created, renamed, unlinked) whose folder was not fsynced may be as before; within one
  folder they come in order, and a rename never loses the file,
- `kill -9` loses none of that, a power cut loses a random part of it.

`surely(path)` is the content that every power cut would leave: what the judge believes.
"""

# ruff: noqa: PTH116 - os.stat takes the strings and descriptors that come through here
from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import random
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulation.clock import Crash

from gpuwatch.vault import disk as vault_disk

Gate = Callable[[str, bool], None]
"""Called with (operation, already done); may raise OSError or Crash."""

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(slots=True, eq=False)
class _Change:
    """One change of a name that is not durable yet: `inode` None is its removal."""

    folder: int
    name: str
    inode: int | None
    partner: _Change | None = None
    """For the removal that a rename makes: the name it made elsewhere; one does not go without the other."""


class Disk:
    """All files of one simulated machine, below `root`. Install it while a world is played."""

    def __init__(self, root: Path, draw: random.Random) -> None:
        self.root = root
        self._draw = draw
        self._prefix = f"{root}{os.sep}"
        self.gate: Gate = lambda _operation, _done: None
        self.dead = False
        """Whether the process that writes is dead already: nothing it still tries has an effect."""
        self._ourselves = False
        self._synced: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        self._changes: list[_Change] = []
        self._folders: set[int] = set()
        self._open: dict[int, str] = {}
        self._real: dict[str, Any] = {}
        root.mkdir(parents=True, exist_ok=True)
        self.sync()

    # --- what survives ---------------------------------------------------------------------------

    def sync(self) -> None:
        """Everything as it is now is durable."""
        self._synced.clear()
        self._names.clear()
        self._changes.clear()
        self._folders.clear()
        for folder, _, files in os.walk(self.root):
            here = os.stat(folder).st_ino
            self._folders.add(here)
            with os.scandir(folder) as entries:
                self._names[here] = {entry.name: entry.inode() for entry in entries}
            for name in files:
                path = Path(folder, name)
                self._synced[path.stat().st_ino] = path.read_bytes()

    def _after_a_cut(self, choose: Callable[[int], int]) -> dict[int, dict[str, int]]:
        """Folder → names, when of each folder's n pending changes the first `choose(n)` reached the disk."""
        pending: dict[int, list[_Change]] = {}
        for change in self._changes:
            pending.setdefault(change.folder, []).append(change)
        kept = {id(c) for changes in pending.values() for c in changes[: choose(len(changes))]}
        names = {folder: dict(entries) for folder, entries in self._names.items()}
        for change in self._changes:
            if id(change) not in kept:
                continue
            if change.inode is not None:
                names.setdefault(change.folder, {})[change.name] = change.inode
            elif change.partner is None or id(change.partner) in kept or change.partner not in self._changes:
                names.setdefault(change.folder, {}).pop(change.name, None)
        return names

    def surely(self, path: Path) -> bytes | None:
        """The content that is there after any power cut, None when there may be none."""
        first, last = self._after_a_cut(lambda _: 0), self._after_a_cut(lambda n: n)
        inode = self._find(path, first)
        if inode is None or inode != self._find(path, last):
            return None
        synced = self._synced.get(inode)
        try:
            return synced if path.read_bytes() == synced else None
        except OSError:
            return None

    def _find(self, path: Path, names: dict[int, dict[str, int]]) -> int | None:
        inode: int | None = os.stat(self.root).st_ino
        for part in path.relative_to(self.root).parts:
            if inode is None:
                return None
            inode = names.get(inode, {}).get(part)
        return inode

    def power_cut(self) -> None:
        """Leave of the files what a power cut would leave, by chance."""
        names = self._after_a_cut(lambda n: self._draw.randint(0, n))
        now: dict[int, bytes] = {}
        for folder, _, files in os.walk(self.root):
            for name in files:
                path = Path(folder, name)
                with contextlib.suppress(OSError):
                    now[path.stat().st_ino] = path.read_bytes()
        files_left: list[tuple[Path, bytes]] = []
        folders_left: list[Path] = []
        waiting = [(self.root, os.stat(self.root).st_ino)]
        while waiting:
            folder, inode = waiting.pop()
            for name, child in sorted(names.get(inode, {}).items()):
                path = folder / name
                if child in self._folders:
                    folders_left.append(path)
                    waiting.append((path, child))
                else:
                    files_left.append((path, self._torn(self._synced.get(child), now.get(child))))
        with self._unseen():
            for entry in list(self.root.iterdir()):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            for path in folders_left:
                path.mkdir()
            for path, content in files_left:
                path.write_bytes(content)
        self.sync()

    def _torn(self, synced: bytes | None, now: bytes | None) -> bytes:
        """What is left of a file's content: all that was synced, and of the rest what chance allows."""
        if now is None or now == synced:
            return synced or b""
        before = synced or b""
        match self._draw.randrange(4):
            case 0:
                return before
            case 1:
                return now
            case 2:  # the size reached the disk, the bytes did not
                same = _common(before, now)
                return now[:same] + bytes(len(now) - same)
            case _:
                same = _common(before, now)
                return now[: self._draw.randint(same, len(now))]

    # --- what goes wrong -------------------------------------------------------------------------

    def flip(self, path: Path) -> None:
        """Bit rot: one byte of the file is another one from now on, on the disk itself."""
        content = bytearray(path.read_bytes())
        content[self._draw.randrange(len(content))] ^= 0xFF
        with self._unseen(), path.open("r+b") as file:
            file.write(content)
        self._synced[path.stat().st_ino] = bytes(content)

    def hide(self, folder: Path) -> None:
        """The disk of `folder` is unmounted: an empty mount point stands there."""
        with self._unseen():
            folder.replace(folder.with_name(folder.name + ".away"))
            folder.mkdir()
        self.sync()

    def show(self, folder: Path) -> None:
        """It is mounted again; what was written to the mount point lies hidden below."""
        with self._unseen():
            shutil.rmtree(folder)
            folder.with_name(folder.name + ".away").replace(folder)
        self.sync()

    def release(self) -> None:
        """A process is gone: the kernel gives its locks back."""
        for descriptor in self._open:
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        self._open.clear()

    # --- the calls that pass through here --------------------------------------------------------

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """While inside, every change below `root` by anybody in this process is seen."""
        calls = {
            "open": self._os_open, "pwritev": self._pwritev, "write": self._write, "fsync": self._fsync, "fdatasync": self._fsync,
            "replace": self._rename, "rename": self._rename, "link": self._link, "unlink": self._unlink,
            "remove": self._unlink, "mkdir": self._mkdir, "ftruncate": self._ftruncate, "rmdir": self._rmdir,
        }  # fmt: skip
        self._real = {f"os.{name}": getattr(os, name) for name in calls} | {"io.open": io.open}
        syncfs, vault_disk._SYNCFS = vault_disk._SYNCFS, self._syncfs
        for name, call in calls.items():
            setattr(os, name, call)
        io.open = self._io_open  # type: ignore[assignment]
        try:
            yield
        finally:
            for name in calls:
                setattr(os, name, self._real[f"os.{name}"])
            io.open = self._real["io.open"]
            vault_disk._SYNCFS = syncfs

    def _ours(self, path: Any) -> bool:
        return not self._ourselves and not isinstance(path, int) and os.fspath(path).startswith(self._prefix)

    @contextlib.contextmanager
    def _unseen(self) -> Iterator[None]:
        """What happens inside is not the daemon's doing."""
        self._ourselves = True
        try:
            yield
        finally:
            self._ourselves = False

    def _through(self, operation: str, act: Callable[[], Any]) -> Any:
        if self.dead:
            raise Crash
        self.gate(operation, False)
        result = act()
        try:
            self.gate(operation, True)
        except BaseException:
            if operation == "open":
                result.close() if hasattr(result, "close") else os.close(result)
            raise
        return result

    def _changed(self, path: Any, inode: int | None, partner: _Change | None = None) -> _Change:
        folder, name = os.path.split(os.fspath(path))
        change = _Change(os.stat(folder).st_ino, name, inode, partner)
        self._changes.append(change)
        return change

    def _os_open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        real = self._real["os.open"]
        path = _whole(path, dir_fd)
        if not self._ours(path) or not flags & _WRITES:
            return int(real(path, flags, mode))

        def act() -> int:
            fresh = not os.path.lexists(path)
            descriptor = int(real(path, flags, mode))
            self._open[descriptor] = os.fspath(path)
            if fresh:
                self._changed(path, os.fstat(descriptor).st_ino)
            return descriptor

        return int(self._through("open", act))

    def _io_open(self, file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        real = self._real["io.open"]
        if not self._ours(file) or not set(mode) & set("wax+"):
            return real(file, mode, *args, **kwargs)

        def act() -> Any:
            fresh = not os.path.lexists(file)
            handle = real(file, mode, *args, **kwargs)
            self._open[handle.fileno()] = os.fspath(file)
            if fresh:
                self._changed(file, os.fstat(handle.fileno()).st_ino)
            return handle

        return self._through("open", act)

    def _pwritev(self, descriptor: int, buffers: Any, offset: int, flags: int = 0) -> int:
        return int(
            self._through("write", lambda: self._real["os.pwritev"](descriptor, buffers, offset, flags))
        )

    def _write(self, descriptor: int, data: Any) -> int:
        real = self._real["os.write"]
        return int(
            self._through("write", lambda: real(descriptor, data))
            if descriptor in self._open
            else real(descriptor, data)
        )

    def _syncfs(self, _folder: int) -> int:
        """Everything that anybody wrote to this file system."""
        self._through("fsync", self.sync)
        return 0

    def _ftruncate(self, descriptor: int, length: int) -> None:
        self._through("truncate", lambda: self._real["os.ftruncate"](descriptor, length))

    def _fsync(self, descriptor: int) -> None:
        def act() -> None:
            status = os.fstat(descriptor)
            if stat.S_ISDIR(status.st_mode):
                self._sync_folder(status.st_ino)
            else:
                self._synced[status.st_ino] = self._content(descriptor, status.st_size)

        self._through("fsync", act)

    def _content(self, descriptor: int, size: int) -> bytes:
        try:
            return os.pread(descriptor, size, 0)
        except OSError:  # opened for writing only
            return Path(self._open[descriptor]).read_bytes()

    def _sync_folder(self, folder: int) -> None:
        names = self._names.setdefault(folder, {})
        left = []
        for change in self._changes:
            if change.folder != folder:
                left.append(change)
            elif change.inode is not None:
                names[change.name] = change.inode
            elif (
                change.partner is None
                or change.partner not in self._changes
                or change.partner.folder == folder
            ):
                names.pop(change.name, None)
            else:
                left.append(change)
        self._changes = left

    def _rename(
        self, src: Any, dst: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
    ) -> None:
        src, dst = _whole(src, src_dir_fd), _whole(dst, dst_dir_fd)
        if not self._ours(src):
            self._real["os.replace"](src, dst)
            return

        def act() -> None:
            inode = os.stat(src).st_ino
            self._real["os.replace"](src, dst)
            self._changed(src, None, self._changed(dst, inode))

        self._through("rename", act)

    def _link(self, src: Any, dst: Any, **kwargs: Any) -> None:
        def act() -> None:
            self._real["os.link"](src, dst, **kwargs)
            self._changed(dst, os.stat(dst).st_ino)

        self._through("link", act)

    def _unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._removal(self._real["os.unlink"], path, dir_fd)

    def _rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._removal(self._real["os.rmdir"], path, dir_fd)

    def _removal(self, real: Any, path: Any, dir_fd: int | None) -> None:
        path = _whole(path, dir_fd)
        if not self._ours(path):
            real(path)
            return

        def act() -> None:
            real(path)
            self._changed(path, None)

        self._through("unlink", act)

    def _mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        if dir_fd is not None or not self._ours(path):
            self._real["os.mkdir"](path, mode, dir_fd=dir_fd)
            return

        def act() -> None:
            self._real["os.mkdir"](path, mode)
            inode = os.stat(path).st_ino
            self._folders.add(inode)
            self._changed(path, inode)

        self._through("mkdir", act)


def _whole(path: Any, folder: int | None) -> Any:
    """The path as a string of its own, when it is one below an open folder."""
    return path if folder is None else os.fspath(Path(f"/proc/self/fd/{folder}").readlink() / path)


def _common(one: bytes, other: bytes) -> int:
    """How many bytes both begin with."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def no_space(operation: str) -> OSError:
    """What a full disk answers."""
    return OSError(errno.ENOSPC, "No space left on device", operation)


def broken(operation: str) -> OSError:
    """What a failing disk answers."""
    return OSError(errno.EIO, "Input/output error", operation)
