"""The simulated way into a box: the daemon's Boxes port over `cloud.Box`, with faults at every call."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path

from simulation.cloud import Box, Cloud, Machine

from gpuproviders.model import Endpoint
from gpuwatch.box.errors import BoxAuth, BoxFault, BoxUnreachable
from gpuwatch.box.fetch import Fetched, NotFetched, Progress, Wanted
from gpuwatch.box.sentinel import Facts, Report, StageState, inventory_order
from gpuwatch.custody.facts import BoxFile, Inventory
from gpuwatch.vault.layout import VaultUnusable

BANDWIDTH = 50e6


class SimulatedConnection:
    """One connection; it breaks when the machine goes, the network is down, or a fault says so."""

    def __init__(self, cloud: Cloud, machine: Machine, endpoint: Endpoint) -> None:
        self.cloud = cloud
        self.machine = machine
        self.endpoint = endpoint
        self.fingerprint = "SHA256:sim"
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed or not self.machine.alive

    async def close(self) -> None:
        self._closed = True

    async def call(self, name: str, seconds: float = 0.1) -> Box:
        """One exchange with the box. Raises BoxUnreachable or BoxFault."""
        self.cloud.calls[name] = self.cloud.calls.get(name, 0) + 1
        self.cloud.hook(name)
        await asyncio.sleep(seconds * self.cloud.draw.uniform(0.5, 2.0))
        if self.cloud.offline or self.closed:
            self._closed = True
            await asyncio.sleep(5)
            raise BoxUnreachable("the connection broke")
        if self.cloud.strikes():
            kind = self.cloud.draw.choice(["drop", "fault", "hang"])
            if kind == "hang":
                await asyncio.sleep(60)
            if kind == "fault":
                raise BoxFault("nonsense")
            self._closed = True
            raise BoxUnreachable("the connection broke")
        return self.machine.box


class SimulatedAgent:
    """The sentinel of one run on a simulated box."""

    def __init__(
        self, connection: SimulatedConnection, workspace: str, run_id: str, vault_full: list[bool]
    ) -> None:
        self._connection = connection
        self.folder = f"{workspace}/.gpuwatch/{run_id}"
        self.work = f"{workspace}/{run_id}"
        self._vault_full = vault_full

    @property
    def _now(self) -> float:
        return self._connection.cloud.time.now

    def _boot(self) -> str:
        return f"boot{self._connection.machine.instance_id}x{self._connection.machine.box.boot}"

    def _state(self, box: Box) -> StageState:
        job = box.job
        if job.started is None:
            return StageState("none", None, None)
        if job.ended is None:
            return StageState("running", 7, None)
        return StageState("ended", 7, job.exit_code)

    async def stage(
        self, stage: str, *, command: str, env: dict[str, str], again: bool = False
    ) -> StageState:
        box = await self._connection.call("stage")
        if stage != "job":
            return StageState("ended", 6, 0)
        if box.job.started is None:
            box.job.started = self._now
            box.log += b"hello\n"
        self._connection.cloud.hook("stage:after")
        return self._state(box)

    async def state(self, stage: str) -> StageState:
        return self._state(await self._connection.call("state"))

    async def stop(self, stage: str, *, grace: float = 30) -> StageState:
        box = await self._connection.call("stop", 1.0)
        box.run_to(self._now)
        if box.job.started is not None and box.job.ended is None:
            box.job.ended = self._now
            box.job.exit_code = -15
        return self._state(box)

    async def inventory(
        self, globs: Sequence[str], instance_id: str, *, root: str | None = None
    ) -> Inventory:
        box = await self._connection.call("inventory")
        box.run_to(self._now)
        if root is not None:
            log = BoxFile("log", len(box.log), 1, 1, len(box.log))
            return Inventory(instance_id, self._boot(), self._now, (log,) if box.log else ())
        patterns = [re.compile(p, re.DOTALL) for p in inventory_order("", globs)["patterns"]]
        files = tuple(f for p, f in box.listing(self._now).items() if any(x.fullmatch(p) for x in patterns))
        return Inventory(instance_id, self._boot(), self._now, files)

    async def put(self, name: str, data: bytes) -> None:
        await self._connection.call("put")

    async def upload(self, files: Sequence[tuple[str, Path]], *, root: str | None = None) -> int:
        await self._connection.call("upload", 1.0)
        return len(files)

    async def fetch(
        self,
        wanted: Sequence[Wanted],
        *,
        partial: Path,
        boot_id: str,
        progress: Progress,
        root: str | None = None,
    ) -> AsyncGenerator[Fetched | NotFetched, None]:
        for want in wanted:
            box = await self._connection.call("fetch", 0.05)
            box.run_to(self._now)
            if root is not None:
                content, identity = bytes(box.log), (len(box.log), 1, 1, len(box.log))
            else:
                file = box.files.get(want.path)
                if file is None:
                    yield NotFetched(want, "no such file", gone=True)
                    continue
                identity = (file.size, file.mtime_ns, file.mtime_ns, file.inode)
                await asyncio.sleep(file.size / BANDWIDTH)
                box.run_to(self._now)
                after = box.files.get(want.path)
                if after is None or after.inode != file.inode or file.writer_until > self._now:
                    yield NotFetched(want, "the file changed while it was sent")
                    continue
                content = file.content
            if self._connection.closed:
                raise BoxUnreachable("the connection broke")
            if self._vault_full[0]:
                raise VaultUnusable(28, "cannot write to the vault: no space left on device")
            if self._connection.cloud.strikes():
                yield NotFetched(want, "the copy differs from what the box hashed")
                continue
            want.target.parent.mkdir(parents=True, exist_ok=True)
            temporary = want.target.with_name(want.target.name + ".sim")
            temporary.write_bytes(content)
            os.truncate(temporary, identity[0])
            temporary.replace(want.target)
            self._connection.cloud.hook("fetch:published")
            progress.moved += identity[0]
            yield Fetched(want, identity, hashlib.sha256(content).hexdigest())

    async def watch(
        self, *, globs: Sequence[str], interval: float, metrics: str | None, status: str | None
    ) -> AsyncIterator[Report]:
        while True:
            box = await self._connection.call("report", 0.02)
            box.run_to(self._now)
            patterns = [re.compile(p, re.DOTALL) for p in inventory_order("", globs)["patterns"]]
            files = tuple(
                f for p, f in box.listing(self._now).items() if any(x.fullmatch(p) for x in patterns)
            )
            yield Report(
                at=self._now, boot_id=self._boot(), job=self._state(box), log_size=len(box.log), gpus=None, cpu=None,
                memory_used=None, memory_total=None, disk_free=None, disk_total=None, step=None, steps=None, loss=None,
                tokens_per_second=None, files=files,
            )  # fmt: skip
            await asyncio.sleep(interval)

    async def tail(self, offset: int) -> AsyncIterator[bytes]:
        while True:
            box = await self._connection.call("tail", 0.02)
            box.run_to(self._now)
            if len(box.log) > offset:
                yield bytes(box.log[offset:])
                offset = len(box.log)
            if box.job.ended is not None:
                return
            await asyncio.sleep(5)


class SimulatedBoxes:
    """The Boxes port over a Cloud. `vault_full` is a switch: while true, no byte can be written at home."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self.vault_full = [False]

    async def connect(self, endpoint: Endpoint, *, alias: str) -> SimulatedConnection:
        self._cloud.hook("connect")
        machine = self._cloud.machines.get(alias.removeprefix("vast-"))
        await asyncio.sleep(self._cloud.draw.uniform(0.1, 1.0))
        if machine is None or not machine.alive or self._cloud.offline:
            await asyncio.sleep(10)
            raise BoxUnreachable("no route to host")
        if self._cloud.strikes():
            raise self._cloud.draw.choice([BoxAuth("not yet"), BoxUnreachable("refused")])
        return SimulatedConnection(self._cloud, machine, endpoint)

    async def install(self, connection: SimulatedConnection) -> Facts:
        await connection.call("install", 0.5)
        machine = connection.machine
        return Facts(
            python="3.11.0", workspace="/workspace", boot_id=f"boot{machine.instance_id}x{machine.box.boot}",
            gpus=("RTX 4090",), driver="1", disk_free=10**12,
        )  # fmt: skip

    def agent(self, connection: SimulatedConnection, workspace: str, run_id: str) -> SimulatedAgent:
        return SimulatedAgent(connection, workspace, run_id, self.vault_full)
