"""Keeps the boxes as the engine says they should be: up, down, unreachable or deleted.

It compares wish and fact each time instead of following events, so it comes to the same end after the
simulator was killed at any point.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from gpucloudsim.boxes import gpu
from gpucloudsim.boxes.box import Box, BoxSpec, wipe
from gpucloudsim.boxes.files import used_bytes
from gpucloudsim.boxes.processes import Scanner
from gpucloudsim.engine.catalog import GpuModel

DISK_EVERY_S = 10.0
"""How often the disk use of a box is measured."""


@dataclass(frozen=True)
class Wish:
    """How one box should be."""

    spec: BoxSpec
    gpu: GpuModel
    driver: str
    cuda: float
    boot: int
    """Number of the start that should be up; 0 for down."""
    reachable: bool
    ssh_from: float
    """Wall time (seconds) from which SSH answers."""
    keys: dict[int, str]


class Fleet:
    """All boxes of a simulated cloud."""

    def __init__(self, directory: Path, transferred: Callable[[int, int, int], None]) -> None:
        self.directory = directory
        self.boxes: dict[int, Box] = {}
        self.gpus: dict[int, list[dict[str, Any]]] = {}
        """Latest GPU rows by instance."""
        self.disk_used: dict[int, int] = {}
        self._scanner = Scanner()
        self._load: dict[int, gpu.Load] = {}
        self._disk_at: dict[int, float] = {}
        self._wishes: dict[int, Wish] = {}
        self._settled: dict[int, Wish] = {}
        self._transferred = transferred
        self._lock = asyncio.Lock()
        directory.mkdir(parents=True, exist_ok=True)

    def _box(self, wish: Wish) -> Box:
        number = wish.spec.instance_id
        if number not in self.boxes:

            def count(from_box: int, to_box: int) -> None:
                self._transferred(number, from_box, to_box)

            self.boxes[number] = Box(self.directory / str(number), wish.spec, count)
        return self.boxes[number]

    async def reconcile(self, wishes: Iterable[Wish]) -> None:
        """Make the boxes so. Boxes that nobody wishes for are deleted."""
        async with self._lock:
            self._wishes = {wish.spec.instance_id: wish for wish in wishes}
            for number in [n for n in self.boxes if n not in self._wishes]:
                await self._forget(number)
            for number, wish in self._wishes.items():
                if self._settled.get(number) != wish:
                    await self._fit(wish)
                if await self.boxes[number].tend():
                    self._settled.pop(number, None)

    def follows(self, number: int, boots: int) -> bool:
        """Whether the box has done what its last wish asks (up with this start, down, or deleted)."""
        wish, box = self._wishes.get(number), self.boxes.get(number)
        if wish is None or box is None:
            return wish is None and box is None
        return box.boot == wish.boot and wish.boot in (0, boots)

    async def sweep(self) -> None:
        """Delete directories that no instance owns (the simulator was killed while deleting)."""
        async with self._lock:
            for path in list(self.directory.iterdir()):
                if path.name.startswith(".deleted-"):
                    await asyncio.to_thread(shutil.rmtree, path, True)
                elif path.name.isdigit() and int(path.name) not in self._wishes:
                    await asyncio.to_thread(wipe, path)

    async def _forget(self, number: int) -> None:
        await self.boxes.pop(number).delete()
        for table in (self.gpus, self.disk_used, self._load, self._disk_at, self._settled):
            table.pop(number, None)

    async def _fit(self, wish: Wish) -> None:
        number = wish.spec.instance_id
        self._settled.pop(number, None)
        box = self._box(wish)
        if box.boot not in (0, wish.boot):
            await box.down()
        if wish.boot == 0:
            self._settled[number] = wish
            return
        if box.boot != wish.boot:
            box.up(wish.boot, wish.keys)
            self._sample_one(wish, [])
        box.sync_keys(wish.keys)
        if not wish.reachable:
            await box.hang_up()
        elif time.time() >= wish.ssh_from and (box.serves_ssh or not wish.spec.ssh):
            await box.listen()
        else:
            return  # not settled: it will listen later
        self._settled[number] = wish

    async def blank(self, number: int) -> None:
        """Give an instance an empty disk (its container was recreated)."""
        async with self._lock:
            if number in self.boxes:
                await self._forget(number)

    async def sample(self) -> None:
        """Bring the GPU state of all running boxes up to date (call about once a second)."""
        if any(box.boot for box in self.boxes.values()):
            await asyncio.to_thread(lambda: self._sample(self._scanner.scan()))

    def _sample(self, processes: dict[str, list[psutil.Process]]) -> None:
        for wish in list(self._wishes.values()):
            box = self.boxes.get(wish.spec.instance_id)
            if box is not None and box.boot:
                self._sample_one(wish, processes.get(str(box.path), []))

    def _sample_one(self, wish: Wish, processes: list[psutil.Process]) -> None:
        number = wish.spec.instance_id
        path = self.directory / str(number)
        now = time.monotonic()
        first = number not in self._load
        load = self._load.setdefault(number, gpu.Load(at=now))
        rows, apps = gpu.measure(path, processes, load, now, wish.gpu, wish.spec.gpu_count)
        if first and (path / "var" / "gpu.json").exists():
            return  # after a restart: what was written last is truer than a load without a beginning
        self.gpus[number] = rows
        if now - self._disk_at.get(number, 0.0) > DISK_EVERY_S:
            self._disk_at[number] = now
            self.disk_used[number] = used_bytes(path)
        # The box may have been deleted meanwhile.
        with contextlib.suppress(FileNotFoundError):
            gpu.write(path, rows, apps, wish.driver, wish.cuda, wish.spec.quirks.smi, time.time())

    async def close(self, kill: bool) -> None:
        """Let go of all boxes; with `kill` their processes end and their directories are deleted."""
        async with self._lock:
            for box in self.boxes.values():
                if kill:
                    await box.delete()
                else:
                    await box.hang_up()
                    box.release()
            self.boxes.clear()
