"""SFTP of a box, with the paths of its shell.

Relative paths start at the box's HOME. Anything may be read (the processes of the box can, too), but
written only inside the box's directory: on a real machine `/workspace` exists or does not, and it is
never the customer's own disk.

A full disk is simulated twice: SFTP writes that would bring the box over its quota fail as sshd's
sftp-server does (SSH_FX_FAILURE), and the processes run under RLIMIT_FSIZE with SIGXFSZ ignored, so
their writes end short or with EFBIG where a really full disk says ENOSPC.
"""

# SFTP paths are bytes, which pathlib does not take.
# ruff: noqa: PTH118

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncssh

_WRITING = asyncssh.FXF_WRITE | asyncssh.FXF_CREAT | asyncssh.FXF_TRUNC | asyncssh.FXF_APPEND


def used_bytes(directory: Path) -> int:
    """Bytes of all files below a directory."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


class BoxFiles(asyncssh.SFTPServer):
    """The SFTP server of one box."""

    def __init__(
        self,
        chan: asyncssh.SSHServerChannel[bytes],
        root: Path,
        home: Path,
        quota: int | None,
        count: Callable[[int, int], None],
    ) -> None:
        super().__init__(chan)
        self._root = os.fsencode(root)
        self._home = os.fsencode(home)
        self._quota = quota
        self._count = count
        self._used = used_bytes(root) if quota is not None else 0

    def map_path(self, path: bytes) -> bytes:
        """Relative paths are relative to HOME."""
        return os.path.join(self._home, path)

    def _inside(self, path: bytes) -> None:
        parent, name = os.path.split(self.map_path(path))
        real = os.path.join(os.path.realpath(parent), name)
        if real != self._root and not real.startswith(self._root + b"/"):
            raise asyncssh.SFTPPermissionDenied(f"{os.fsdecode(path)}: outside the box")

    def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> Any:
        """Open a file; for writing only inside the box."""
        if pflags & _WRITING:
            self._inside(path)
            if self._quota is not None and self._used >= self._quota:
                raise asyncssh.SFTPFailure("No space left on device")
        return super().open(path, pflags, attrs)

    def read(self, file_obj: Any, offset: int, size: int) -> Any:
        """Read at an offset."""
        data = super().read(file_obj, offset, size)
        self._count(len(data), 0)  # type: ignore[arg-type]
        return data

    def write(self, file_obj: Any, offset: int, data: bytes) -> Any:
        """Write at an offset, within the quota."""
        if self._quota is not None:
            self._used += len(data)
            if self._used > self._quota:
                raise asyncssh.SFTPFailure("No space left on device")
        self._count(0, len(data))
        return super().write(file_obj, offset, data)

    def remove(self, path: bytes) -> Any:
        """Remove a file of the box."""
        self._inside(path)
        return super().remove(path)

    def rename(self, oldpath: bytes, newpath: bytes) -> Any:
        """Rename within the box."""
        self._inside(oldpath)
        self._inside(newpath)
        return super().rename(oldpath, newpath)

    def posix_rename(self, oldpath: bytes, newpath: bytes) -> Any:
        """Rename within the box, replacing the target."""
        self._inside(oldpath)
        self._inside(newpath)
        return super().posix_rename(oldpath, newpath)

    def mkdir(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> Any:
        """Make a directory inside the box."""
        self._inside(path)
        return super().mkdir(path, attrs)

    def rmdir(self, path: bytes) -> Any:
        """Remove a directory of the box."""
        self._inside(path)
        return super().rmdir(path)

    def setstat(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> Any:
        """Change attributes of something inside the box."""
        self._inside(path)
        return super().setstat(path, attrs)

    def lsetstat(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> Any:
        """Change attributes of a link inside the box."""
        self._inside(path)
        return super().lsetstat(path, attrs)

    def symlink(self, oldpath: bytes, newpath: bytes) -> Any:
        """Make a symbolic link inside the box."""
        self._inside(newpath)
        return super().symlink(oldpath, newpath)

    def link(self, oldpath: bytes, newpath: bytes) -> Any:
        """Make a hard link inside the box."""
        self._inside(newpath)
        return super().link(oldpath, newpath)

    def exit(self) -> Any:
        """End as sftp-server does: with exit status 0 (scp asks for it)."""
        if not self.channel.is_closing():
            self.channel.exit(0)
        return super().exit()
