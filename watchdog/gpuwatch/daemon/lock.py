"""One daemon per state folder: a kernel lock on a file, and beside it a record of who holds it.

The kernel frees the lock on any death, so on one machine a lock that can be taken is free,
whatever process id the record names: that number may be somebody else's by now. On a network
disk another host's lock may be invisible. So the record carries host and boot, its time is
renewed while the daemon lives, and a record of another host that was renewed lately counts.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from gpuwatch.clean import clean
from gpuwatch.spec.units import format_duration

RENEW: Final = 15.0
"""Seconds between two renewals of the record."""
STALE: Final = 90.0
"""Seconds without a renewal after which another host's record says nothing any more."""


class AlreadyRunning(Exception):
    """Another daemon holds the lock of this state folder, or nobody can tell; the message says what to do."""


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds the lock. `began` is the process's start by the kernel's count, to tell a reused id."""

    pid: int
    host: str
    boot: str = ""
    began: str = ""
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class Lock:
    """A held lock. `renew` must be called every RENEW seconds."""

    descriptor: int

    def renew(self) -> None:
        """A sign of life, for other hosts."""
        os.utime(self.descriptor)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[Lock]:
    """Hold the lock at `path` until the context or the process ends. Raises AlreadyRunning."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        before = read_holder(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise AlreadyRunning(_taken(path, before, error)) from error
        other = foreign(before, age=time.time() - os.fstat(descriptor).st_mtime)
        if other is not None:
            raise AlreadyRunning(f"{other}: {path.parent} lies on a disk that both hosts share")
        _write(descriptor, myself())
        yield Lock(descriptor)
        os.ftruncate(descriptor, 0)  # ended in good order: nobody has to wait for the record to become stale
    finally:
        os.close(descriptor)


def foreign(holder: Holder | None, *, age: float) -> str | None:
    """Why a record of another host still counts although its lock is not seen from here; None when it does not. Pure.

    `age` is the time since its last renewal in seconds; one in the future counts as now.
    """
    if holder is None or holder.host == socket.gethostname() or age > STALE:
        return None
    return (
        f"a gpuwatch on host {clean(holder.host, 60)} (pid {holder.pid}) renewed the lock {max(0.0, age):.0f} s ago; "
        f"stop it there (`gpuwatch stop`), or, if that host is dead, wait until {STALE:.0f} s have passed"
    )


def _taken(path: Path, holder: Holder | None, error: OSError) -> str:
    if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
        return (
            f"the disk of {path.parent} cannot lock files ({error.strerror}); the ledger would not be safe there: "
            "set XDG_STATE_HOME (or GPUTUI_HOME) to a folder on a local disk"
        )
    return f"another gpuwatch ({describe(holder)}) owns {path.parent}; `gpuwatch status` shows it, `gpuwatch stop` ends it"


def describe(holder: Holder | None) -> str:
    """The holder in words, as far as the record can be believed."""
    if holder is None:
        return "pid unknown"
    if holder.host != socket.gethostname():
        return f"pid {holder.pid} on host {clean(holder.host, 60)}"
    if holder.began and _began(holder.pid) != holder.began:
        return f"pid unknown; {holder.pid} in its record is another process by now"
    age = f", for {format_duration(time.time() - holder.since)}" if 0 < holder.since <= time.time() else ""
    return f"pid {holder.pid}{age}"


def read_holder(path: Path) -> Holder | None:
    """What the record says, None when there is none or it cannot be read."""
    try:
        with path.open("rb") as file:
            text = file.read(4096)
        if text.strip().isdigit():  # as older versions wrote it
            return Holder(pid=int(text), host=socket.gethostname())
        return msgspec.json.decode(text, type=Holder)
    except (OSError, ValueError, msgspec.DecodeError):
        return None


def myself() -> Holder:
    """This process as a holder."""
    return Holder(
        pid=os.getpid(), host=socket.gethostname(), boot=_boot(), began=_began(os.getpid()), since=time.time()
    )


def _write(descriptor: int, holder: Holder) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, msgspec.json.encode(holder) + b"\n", 0)
    os.fsync(descriptor)


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _began(pid: int) -> str:
    """When the process began, in the kernel's ticks since boot; empty where nothing tells."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return stat.rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
