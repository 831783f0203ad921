"""Where things lie in the vault, and that nothing from a box gets out of it (I6).

<vault>/.gputui-vault                   the marker: without it nothing is verified or pruned
<vault>/<run>/<relative path>           files, under their names on the box
<vault>/<run>/job.log                   the job's output
<vault>/<run>/.receipts/<digest>.json   proofs
<vault>/<run>/.mirrors/<digest>.json    what stands verified on a remote
<vault>/<run>/.let-go/<digest>.json     what retention let go, and where it still stands
<vault>/<run>/.resume/                  a checkpoint on its way from a remote to a box
<vault>/<run>/.logs/N.log               what jobs on earlier machines printed
<vault>/<run>/.partial/                 downloads under way, same file system
<vault>/<run>/.replaced/N/              proved files that had to make way for others of their name
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

MARKER = ".gputui-vault"
RECEIPTS = ".receipts"
PARTIAL = ".partial"
REPLACED = ".replaced"
LOG = "job.log"
LOG_CLOCK = "job.log.times"
MIRRORS = ".mirrors"
LET_GO = ".let-go"
RESUME = ".resume"
LOGS = ".logs"
_RESERVED = frozenset({RECEIPTS, PARTIAL, REPLACED, LOG, LOG_CLOCK, MARKER, MIRRORS, LET_GO, RESUME, LOGS})
_MAX_PATH = 3000


class HostilePath(ValueError):
    """A name from a box that may not become a file of the vault."""


class VaultUnusable(OSError):
    """The vault is not there (unmounted disk?), not writable, or full. Nothing counts as verified."""


def relative_parts(path: str) -> tuple[str, ...]:
    """The parts of a box's relative path. Raises HostilePath for anything that could leave or confuse the vault."""
    try:
        raw = os.fsencode(path)
    except UnicodeEncodeError as error:  # surrogates that stand for no byte
        raise HostilePath(f"no name that a file can have: {path[:80]!r}") from error
    if not raw or len(raw) > _MAX_PATH or b"\0" in raw or raw.startswith(b"/"):
        raise HostilePath(f"no relative path: {path[:80]!r}")
    parts = tuple(path.split("/"))
    for part in parts:
        if part in ("", ".", "..") or len(os.fsencode(part)) > 255:
            raise HostilePath(f"no plain relative path: {path[:80]!r}")
    # some disks do not tell `JOB.LOG` from `job.log`
    if parts[0].casefold() in _RESERVED:
        raise HostilePath(f"{parts[0]!r} is a name that the vault keeps for itself")
    return parts


class Vault:
    """One vault. `check` before trusting it: the marker says that this is the right disk."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def create(self, register: Path | None = None) -> None:
        """Make the vault and its marker, durably, when there is neither. Raises VaultUnusable.

        `register` lists the vaults that were made before. One of those that is not there is on a
        disk that is not mounted: no new one is made in the mount point, and `check` says so until
        it is back. A folder without marker but with files is refused.
        """
        try:
            self._create(register)
        except VaultUnusable:
            raise
        except OSError as error:
            raise VaultUnusable(
                error.errno, f"the vault {self.root} cannot be used: {error.strerror}"
            ) from error

    def _create(self, register: Path | None) -> None:
        marker = self.root / MARKER
        known = (
            register.read_text("utf-8", "surrogateescape").split("\n")
            if register and register.exists()
            else []
        )
        if not marker.exists():
            if str(self.root) in known:
                return
            if self.root.exists() and any(self.root.iterdir()):
                raise VaultUnusable(
                    f"{self.root} is not empty and has no {MARKER}: if it is the right disk, `touch {marker}` and start again"
                )
            self.root.mkdir(parents=True, exist_ok=True)
            marker.write_text(
                "gputui vault, format 1. Without this file nothing here is verified or pruned.\n"
            )
        # a vault whose own name or marker a power cut could take is none
        with marker.open("rb") as file:
            os.fsync(file.fileno())
        fsync_folder(self.root)
        with contextlib.suppress(PermissionError):  # a mount point below a folder that is not ours
            fsync_folder(self.root.parent)
        if register is not None and str(self.root) not in known:
            _replace(register, "\n".join([*known, str(self.root)]))

    def check(self) -> None:
        """Raises VaultUnusable when the marker is gone (unmounted disk)."""
        if not (self.root / MARKER).is_file():
            raise VaultUnusable(f"the vault {self.root} has lost its marker {MARKER} (is the disk mounted?)")

    def folds_case(self) -> bool:
        """Whether this disk takes names that differ only in case for one file."""
        return (self.root / MARKER.upper()).exists()

    def holds(self, run_id: str, path: str, size: int) -> bool:
        """Whether a file of this size stands under its final name."""
        try:
            target = self._target(run_id, path)
            return not target.is_symlink() and target.is_file() and target.stat().st_size == size
        except (OSError, HostilePath):
            return False

    def standing(self, run_id: str, path: str) -> tuple[int, int] | None:
        """(mtime_ns, inode) of what stands under a final name, None when that is no file of its own."""
        try:
            status = self._target(run_id, path).lstat()
        except (OSError, HostilePath):
            return None
        return home_of(status) if stat.S_ISREG(status.st_mode) else None

    def _target(self, run_id: str, path: str) -> Path:
        return self.log(run_id) if path == LOG else self.destination(run_id, path)

    def run(self, run_id: str) -> Path:
        """The folder of a run."""
        return self.root / run_id

    def destination(self, run_id: str, path: str) -> Path:
        """Where a box's file belongs. Raises HostilePath."""
        return self.run(run_id).joinpath(*relative_parts(path))

    def partial(self, run_id: str) -> Path:
        """Where downloads under way lie."""
        return self.run(run_id) / PARTIAL

    def receipts(self, run_id: str) -> Path:
        """Where proofs lie."""
        return self.run(run_id) / RECEIPTS

    def resume(self, run_id: str) -> Path:
        """Where a checkpoint lies that comes from a remote and goes to a box."""
        return self.run(run_id) / RESUME

    def set_log_aside(self, run_id: str, number: int) -> None:
        """Keep what machine `number` printed, so that the next one's output begins a log of its own. Once."""
        kept = self.run(run_id) / LOGS / f"{number}.log"
        for now, then in ((self.log_clock(run_id), kept.with_suffix(".log.times")), (self.log(run_id), kept)):
            if now.exists() and not then.exists():
                make_folder(kept.parent)
                now.replace(then)
                fsync_folder(kept.parent)

    def log(self, run_id: str) -> Path:
        """The job's captured output."""
        return self.run(run_id) / LOG

    def log_clock(self, run_id: str) -> Path:
        """When the log's bytes arrived: entries of 16 bytes (offset, Unix ms; little endian), at most one a second."""
        return self.run(run_id) / LOG_CLOCK


def home_of(status: os.stat_result) -> tuple[int, int]:
    """What tells whether a file of the vault was touched since: (mtime_ns, inode), the inode in 63 bits."""
    return status.st_mtime_ns, status.st_ino & ((1 << 63) - 1)


def _replace(path: Path, text: str) -> None:
    """Write a small file whole and durably."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    fsync_folder(path.parent)


_DURABLE: dict[Path, int] = {}
"""Folder → inode, of those whose names this process has made durable."""
_MOST = 50_000


def make_folder(path: Path) -> None:
    """Make a folder of the vault and what is missing above it, durably: each name below the root is synced.

    A folder that exists already proves nothing: whoever made it may have died before its name
    was synced. Raises VaultUnusable when no marker stands above: it is the mount point of a
    vault that is not mounted.
    """
    chain: list[Path] = []
    start = path
    while not _known(path) and not (path / MARKER).is_file():
        chain.append(path)
        if path == path.parent:
            raise VaultUnusable(f"no vault at {start}: no {MARKER} above it (is the disk mounted?)")
        path = path.parent
    if len(_DURABLE) > _MOST:
        _DURABLE.clear()
    for folder in reversed(chain):
        folder.mkdir(exist_ok=True)
        fsync_folder(folder.parent)
        _DURABLE[folder] = folder.stat().st_ino


def _known(path: Path) -> bool:
    """Whether the name of this very folder is durable."""
    try:
        return path in _DURABLE and path.stat().st_ino == _DURABLE[path]
    except FileNotFoundError:
        return False


def forget_folders() -> None:
    """As after a restart: nothing is known to be durable."""
    _DURABLE.clear()


def fsync_folder(path: Path) -> None:
    """Make names in this folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
