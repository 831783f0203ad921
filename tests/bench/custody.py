"""Custody's rows: proof against plain copying, near and far, large and small, and a receipt of what is unchanged.

A real OpenSSH server on loopback; `far` puts 80 ms of round trip between with a TCP proxy
that delays bytes and loses none.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Self

from bench.rows import Row

from gpuproviders.model import Endpoint
from gpuwatch.box.fetch import Fetched, Progress, Wanted
from gpuwatch.box.hostkeys import HostKeys, own_key
from gpuwatch.box.sentinel import Sentinel, install
from gpuwatch.box.ssh import Box
from gpuwatch.custody.facts import Copy, Inventory
from gpuwatch.vault import receipt
from gpuwatch.vault.layout import MARKER, Vault, home_of
from integration.test_openssh import Sshd

ROUND_TRIP = 0.080
RCLONE = Path(sys.executable).with_name("rclone")


class Delay:
    """A TCP proxy that hands each byte on `seconds` after it came, in both directions."""

    def __init__(self, port: int, seconds: float) -> None:
        self._target = port
        self._seconds = seconds
        self.port = 0

    async def start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target, limit=1 << 20)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pass(reader, back))
            group.create_task(self._pass(there, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        line: deque[tuple[float, bytes]] = deque()
        came = asyncio.Event()

        async def take() -> None:
            while data := await reader.read(1 << 18):
                line.append((loop.time() + self._seconds, data))
                came.set()
            line.append((loop.time() + self._seconds, b""))
            came.set()

        async def give() -> None:
            while True:
                while not line:
                    came.clear()
                    await came.wait()
                at, data = line.popleft()
                if at > loop.time():
                    await asyncio.sleep(at - loop.time())
                if not data:
                    break
                writer.write(data)
                await writer.drain()
            writer.close()

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(take())
                group.create_task(give())
        except* (ConnectionError, OSError):
            writer.close()


def far(port: int) -> None:
    """The proxy as a process of its own: `custody.py PORT` prints the port that it listens on."""

    async def run() -> None:
        delay = Delay(port, ROUND_TRIP / 2)
        server = await delay.start()
        print(delay.port, flush=True)
        await server.serve_forever()

    asyncio.run(run())


class Site:
    """A box on loopback with something in its work folder, and a vault."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.key = own_key(home / "ssh")
        self.server = Sshd(home, self.key)
        self.work = home / "workspace" / "bench"
        self.work.mkdir(parents=True)
        (home / "vault").mkdir()
        (home / "vault" / MARKER).touch()
        self.port = self.server.port
        self._proxy: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._proxy is not None:
            self._proxy.kill()
            self._proxy.communicate()
        self.server.stop()

    def move_far(self) -> None:
        argv = [sys.executable, str(Path(__file__)), str(self.server.port)]
        path = os.pathsep.join(sys.path)
        self._proxy = subprocess.Popen(
            argv, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path}
        )
        assert self._proxy.stdout is not None
        self.port = int(self._proxy.stdout.readline())

    def fill(self, name: str, size: int) -> None:
        with (self.work / name).open("wb") as file:
            for _ in range(size >> 20):
                file.write(os.urandom(1 << 20))

    def fill_small(self, count: int) -> None:
        for number in range(count):
            folder = self.work / "small" / f"{number // 1000:03d}"
            if number % 1000 == 0:
                folder.mkdir(parents=True)
            (folder / f"{number:06d}.bin").write_bytes(os.urandom(4096))

    def ssh(self, *argv: str) -> list[str]:
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
        return [*argv, "-P", str(self.port), "-i", str(self.key), *(w for o in options for w in ("-o", o))]

    def scp(self, source: str, target: Path, *, recursive: bool = False) -> float:
        started = time.perf_counter()
        far_end = f"{self.server.endpoint.user}@127.0.0.1:{self.work}/{source}"
        subprocess.run(
            [*self.ssh("scp", "-q", *(["-r"] if recursive else [])), far_end, str(target)], check=True
        )
        return time.perf_counter() - started

    def rclone(self, source: str, target: Path) -> float:
        remote = (
            f":sftp,host=127.0.0.1,port={self.port},user={self.server.endpoint.user},key_file={self.key}:"
        )
        started = time.perf_counter()
        subprocess.run(
            [str(RCLONE), "copyto", "--config", "/dev/null", f"{remote}{self.work}/{source}", str(target)], check=True, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        return time.perf_counter() - started

    async def push(self, source: Path) -> float:
        endpoint = Endpoint("127.0.0.1", self.port, user=self.server.endpoint.user)
        box = await Box.connect(endpoint, alias="vast-1", key=self.key, hostkeys=HostKeys(self.home / "ssh"))
        sentinel = Sentinel(box, (await install(box)).workspace, "bench")
        started = time.perf_counter()
        await sentinel.upload([("big.bin", source)])
        took = time.perf_counter() - started
        await box.close()
        return took

    def prove(self, glob: str) -> float:
        """List, fetch, prove, list again; seconds, after the connection stands."""
        return asyncio.run(self._prove(glob))

    async def _prove(self, glob: str) -> float:
        endpoint = Endpoint("127.0.0.1", self.port, user=self.server.endpoint.user)
        box = await Box.connect(endpoint, alias="vast-1", key=self.key, hostkeys=HostKeys(self.home / "ssh"))
        facts = await install(box)
        sentinel = Sentinel(box, facts.workspace, "bench")
        run = self.home / "vault" / "run"
        started = time.perf_counter()
        before = await sentinel.inventory([glob], "1")
        wanted = [Wanted(f.path, f.identity, run / f.path) for f in before.files]
        stream = sentinel.fetch(wanted, partial=run / ".partial", boot_id=before.boot_id, progress=Progress())
        async for outcome in stream:
            assert isinstance(outcome, Fetched), outcome
        after = await sentinel.inventory([glob], "1")
        assert after.files == before.files
        took = time.perf_counter() - started
        await box.close()
        await asyncio.to_thread(shutil.rmtree, run)
        return took


def _ratio(name: str, theirs: list[float], ours: list[float], target: float, size: int) -> Row:
    ratios = [t / o for t, o in zip(theirs, ours, strict=True)]
    speed = size / statistics.median(ours) / 1e6
    spread = " ".join(f"{r:.2f}" for r in ratios)
    detail = f"{statistics.median(ours):.2f} s vs {statistics.median(theirs):.2f} s, {speed:.0f} MB/s proved; runs {spread}"
    return Row(name, statistics.median(ratios), target, "x", detail, at_least=True)


def large(home: Path, size: int, runs: int) -> Row:
    """Download, re-read from disk, hash and fsync of one file, against scp then sha256sum of the same file."""
    ours, theirs = [], []
    with Site(home) as site:
        site.fill("big.bin", size)
        copy = home / "scp.bin"
        for _ in range(runs):
            took = site.scp("big.bin", copy)
            started = time.perf_counter()
            subprocess.run(["sha256sum", str(copy)], check=True, stdout=subprocess.DEVNULL)
            theirs.append(took + time.perf_counter() - started)
            copy.unlink()
            ours.append(site.prove("big.bin"))
    return _ratio(f"custody of {size >> 20} MiB / (scp + sha256sum)", theirs, ours, 1.0, size)


def down(home: Path, size: int = 256 << 20) -> list[Row]:
    """One file from a box that is 80 ms away, proved, against scp and rclone without proof."""
    ours, scp, rclone = [], [], []
    with Site(home) as site:
        site.fill("big.bin", size)
        site.move_far()
        copy = home / "copy.bin"
        for _ in range(3):
            scp.append(site.scp("big.bin", copy))
            copy.unlink()
            rclone.append(site.rclone("big.bin", copy))
            copy.unlink()
            ours.append(site.prove("big.bin"))
    return [
        _ratio("256 MiB down at 80 ms / scp", scp, ours, 3.5, size),
        _ratio("256 MiB down at 80 ms / rclone", rclone, ours, 3.5, size),
    ]


def up(home: Path, size: int = 256 << 20) -> Row:
    """One file to a box that is 80 ms away, hashed and fsynced there, against scp."""
    ours, theirs = [], []
    with Site(home) as site:
        source = home / "big.bin"
        site.fill("../../big.bin", size)
        site.move_far()
        for _ in range(3):
            started = time.perf_counter()
            there = f"{site.server.endpoint.user}@127.0.0.1:{site.work}/scp.bin"
            subprocess.run([*site.ssh("scp", "-q"), str(source), there], check=True)
            theirs.append(time.perf_counter() - started)
            ours.append(asyncio.run(site.push(source)))
            (site.work / "big.bin").unlink()
    return _ratio("256 MiB up at 80 ms / scp", theirs, ours, 2.5, size)


def small(home: Path, count: int = 20_000) -> Row:
    """Many small files, each proved, against scp -r."""
    ours, theirs = [], []
    with Site(home) as site:
        site.fill_small(count)
        for _ in range(3):
            theirs.append(site.scp("small", home / "copy", recursive=True))
            shutil.rmtree(home / "copy")
            ours.append(site.prove("small"))
    return _ratio(f"{count} files of 4 KiB / scp -r", theirs, ours, 5.0, count * 4096)


def unchanged(home: Path, files: int = 10_240, size: int = 1 << 20) -> Row:
    """A receipt of 10 GiB that stand as they were proved. The files are sparse: nothing of them is read."""
    vault = Vault(home / "vault")
    vault.create()
    copies = []
    for number in range(files):
        path = f"out/{number // 1000:03d}/{number:06d}.bin"
        target = vault.destination("run", path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            file.truncate(size)
        copies.append(
            Copy(path, size, "0" * 64, (size, 1, 1, number), "b", 1.0, None, home_of(target.stat()))
        )
    started = time.perf_counter()
    same = all(vault.standing("run", c.path) == c.home for c in copies)
    head = receipt.heading(
        run="run", name="n", label="l", inventory=Inventory("1", "b", 2.0, ()), waived=(), reason="", at=2.0
    )
    written = receipt.write(vault, "run", head, copies, receipt.Reads(since=2.0))
    took = time.perf_counter() - started
    assert same
    assert b'"source":"record"' in written.path.read_bytes()
    detail = f"{files} files of 1 MiB (sparse): size, mtime and inode looked at, none read, receipt fsynced"
    return Row("receipt of an unchanged 10 GiB tree", took, 2.0, "s", detail)


ROWS: dict[str, Callable[[Path], Row | list[Row]]] = {
    "custody-1g": lambda home: large(home, 1 << 30, 5),
    "custody-4g": lambda home: large(home, 4 << 30, 2),
    "custody-far": down,
    "custody-far-up": up,
    "custody-small": small,
    "receipt-unchanged": unchanged,
}

if __name__ == "__main__":
    far(int(sys.argv[1]))
