"""Remotes behind a simulated rclone: copies that break off, answers that lie, a remote that is full or away.

It stands in for `gpuwatch.mirror.rclone.Rclone` below the daemon's own planning, proofs and retries: what
the daemon calls verified must really be there, byte for byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from simulation.faults import Faults, Kind

from gpuwatch.mirror.rclone import MirrorFault, Progress, Trouble

_KINDS = (Kind.HANG, Kind.ERROR_BEFORE, Kind.ERROR_AFTER, Kind.WRONG, Kind.PARTIAL, Kind.DELAY)


class Remotes:
    """What really lies on all remotes: path (with the remote's name) → content."""

    def __init__(self, faults: Faults) -> None:
        self.files: dict[str, bytes] = {}
        self.torn: set[str] = set()
        """What rclone itself knows to be broken on the way: it writes over that."""
        self.judge: Callable[[str], None] = lambda _target: None
        """Asked before a file is removed."""
        self._faults = faults

    async def make(self, _private: Path) -> SimulatedRclone:
        """In the place of `make_rclone`."""
        return SimulatedRclone(self, self._faults)


class SimulatedRclone:
    """The four things that the daemon asks of rclone."""

    def __init__(self, remotes: Remotes, faults: Faults) -> None:
        self._files = remotes.files
        self._torn = remotes.torn
        self._judge = remotes.judge
        self._faults = faults

    async def _begin(self, name: str) -> Kind | None:
        kind = await self._faults.call(f"rclone {name}", _KINDS)
        await asyncio.sleep(30 if kind is Kind.DELAY else 2)
        if self._faults.lasts(Kind.OFFLINE):
            await asyncio.sleep(60)
            raise MirrorFault(Trouble.UNREACHABLE, "dial tcp: no route to host")
        if kind is Kind.HANG:
            await asyncio.sleep(600)
            raise MirrorFault(Trouble.UNREACHABLE, "rclone has said nothing for 10 minutes")
        if kind is Kind.ERROR_BEFORE:
            trouble = self._faults.draw.choice([Trouble.AUTH, Trouble.FULL, Trouble.UNREACHABLE])
            raise MirrorFault(trouble, "simulated")
        return kind

    async def copy(
        self,
        source: Path,
        destination: str,
        names: Sequence[str],
        *,
        replace: bool,
        limit: int | None,
        progress: Callable[[Progress], None],
    ) -> None:
        """Copy files there; one that breaks off leaves some of them, one that lies leaves other bytes."""
        kind = await self._begin("copy")
        for number, name in enumerate(names):
            if kind is Kind.PARTIAL and number >= len(names) // 2:
                raise MirrorFault(Trouble.UNREACHABLE, "connection reset by peer")
            content = (source / name).read_bytes()
            if kind is Kind.WRONG and content:
                content = bytes([content[0] ^ 1]) + content[1:]
            target = f"{destination.rstrip('/')}/{name}"
            if not replace and target not in self._torn and self._files.get(target, content) != content:
                raise MirrorFault(Trouble.CHANGED, f"immutable file modified: {name}")
            (self._torn.add if kind is Kind.WRONG else self._torn.discard)(target)
            self._files[target] = content
        await self._faults.done(kind)
        if kind is Kind.ERROR_AFTER:
            raise MirrorFault(Trouble.UNREACHABLE, "the answer was lost")

    async def verify(self, source: Path, destination: str, names: Sequence[str], *, read_back: bool) -> str:
        """Compare both sides."""
        kind = await self._begin("check")
        for name in names:
            if self._files.get(f"{destination.rstrip('/')}/{name}") != (source / name).read_bytes():
                raise MirrorFault(Trouble.UNPROVED, f"{name} is not equal there")
        await self._faults.done(kind)
        if kind in (Kind.ERROR_AFTER, Kind.PARTIAL, Kind.WRONG):
            raise MirrorFault(Trouble.UNREACHABLE, "rclone did not say what it compared")
        return "hash"

    async def fetch(
        self,
        remote: str,
        target: Path,
        names: Sequence[str],
        *,
        limit: int | None,
        progress: Callable[[Progress], None],
    ) -> None:
        """Copy files from there."""
        kind = await self._begin("fetch")
        base = remote.rstrip("/") + "/"
        wanted = [base + n for n in names] or [p for p in self._files if p.startswith(base)]
        for path in wanted:
            if path not in self._files:
                continue
            file = target / path.removeprefix(base)
            file.parent.mkdir(parents=True, exist_ok=True)
            content = self._files[path]
            file.write_bytes(content[: len(content) // 2] if kind is Kind.PARTIAL else content)
        await self._faults.done(kind)

    async def remove(self, _source: Path, destination: str, names: Sequence[str]) -> None:
        """Delete these files, where they are there; one that breaks off has deleted some of them."""
        kind = await self._begin("delete")
        for number, name in enumerate(names):
            if kind is Kind.PARTIAL and number >= len(names) // 2:
                raise MirrorFault(Trouble.UNREACHABLE, "connection reset by peer")
            target = f"{destination.rstrip('/')}/{name}"
            if target in self._files:
                self._judge(target)
                del self._files[target]
        await self._faults.done(kind)
        if kind in (Kind.ERROR_AFTER, Kind.WRONG):
            raise MirrorFault(Trouble.UNREACHABLE, "the answer was lost")
