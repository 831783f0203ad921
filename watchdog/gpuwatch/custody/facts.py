"""What custody judges: files as listed on the box, copies proved at home."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BoxFile:
    """One file as one listing on the box described it. `path` is relative to the work folder.

    size, mtime, ctime and inode together are its identity: a write changes at least one.
    """

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    writer: bool = False
    """Some process has it open for writing."""

    @property
    def identity(self) -> tuple[int, int, int, int]:
        """What must be equal for the content to count as unchanged."""
        return (self.size, self.mtime_ns, self.ctime_ns, self.inode)


@dataclass(frozen=True, slots=True)
class Copy:
    """A file that is home: hashed on the box while it was sent, and again from the local disk."""

    path: str
    size: int
    sha256: str
    identity: tuple[int, int, int, int]
    """The box file's identity that the hash belongs to."""
    boot_id: str
    verified_at: float
    step: int | None = None
    home: tuple[int, int] | None = None
    """(mtime_ns, inode) of the file in the vault when it was read back; None for copies of older ledgers."""


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link as listed: its path, and what it leads to, relative to the work folder where it is in it."""

    path: str
    target: str
    stray: bool
    """Whether it leads to something that is not promised, so that its content does not come home."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """One complete listing of everything the run promised, on one boot of one machine."""

    instance_id: str
    boot_id: str
    taken_at: float
    files: tuple[BoxFile, ...]
    problems: tuple[str, ...] = ()
    """What the box could not list (unreadable folder, name outside the tree, limits)."""
    sessions: int | None = None
    """Interactive logins on the box at that moment, None when it cannot tell."""
    links: tuple[Link, ...] = ()
    """Symbolic links among the promised names. They are recorded, never followed."""
