"""Reaching into a box from the app: a shell, a forwarded port, a command. The daemon says how; `ssh` does it.

The argument list comes from the daemon with the pinned host key and its own key file, so a changed host is
refused by `ssh` itself. Nothing is put together as a command string on this side.
"""

from __future__ import annotations

import asyncio
import subprocess
from contextlib import suppress
from dataclasses import dataclass

OUTPUT = 64 << 10
"""Bytes of a command's output that are kept: the newest."""
PATIENCE = 60.0
"""Seconds for a command on the box."""
TENSORBOARD = 6006


class NoBox(Exception):
    """There is no machine to reach; the message says why."""


def interactive(argv: list[str]) -> int:
    """A shell on the box in this terminal; returns the exit status. For a suspended app."""
    return subprocess.run([*argv], check=False).returncode


@dataclass(frozen=True, slots=True)
class Said:
    """What a command on the box printed, and its exit status (None: it was ended)."""

    output: bytes
    status: int | None


async def execute(argv: list[str], command: str, *, patience: float = PATIENCE, keep: int = OUTPUT) -> Said:
    """Run `command` with the box's own shell; the newest `keep` bytes of what it prints are kept."""
    process = await asyncio.create_subprocess_exec(
        *argv[:1], "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", *argv[1:], "--", command,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None  # noqa: S101 - it was asked for
    kept = bytearray()
    try:
        async with asyncio.timeout(patience):
            while data := await process.stdout.read(1 << 16):
                kept += data
                del kept[:-keep]
            return Said(bytes(kept), await process.wait())
    except TimeoutError:
        return Said(bytes(kept), None)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


class Forwards:
    """Ports of boxes on this machine's loopback, one `ssh -N` each, ended with the app."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[int, asyncio.subprocess.Process]] = {}

    def port_of(self, run: str) -> int | None:
        """The local port of a run's forward, None when it has none (any more)."""
        port, process = self._open.get(run, (0, None))
        return port if process is not None and process.returncode is None else None

    async def start(self, run: str, argv: list[str], remote: int, local: int) -> None:
        """Forward `127.0.0.1:local` to the box's `localhost:remote`."""
        await self.stop(run)
        process = await asyncio.create_subprocess_exec(
            *argv[:1], "-N", "-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes", "-o", "ServerAliveInterval=15",
            "-L", f"127.0.0.1:{local}:localhost:{remote}", *argv[1:],
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        self._open[run] = (local, process)

    async def why_ended(self, run: str) -> str:
        """Wait until the forward ends; what `ssh` said."""
        _, process = self._open[run]
        assert process.stderr is not None  # noqa: S101 - it was asked for
        said = await process.stderr.read()
        await process.wait()
        return said.decode("utf-8", "replace").strip()

    async def stop(self, run: str) -> bool:
        """End it; False when there was none."""
        _, process = self._open.pop(run, (0, None))
        if process is None or process.returncode is not None:
            return False
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        return True

    async def close(self) -> None:
        """End all."""
        for run in list(self._open):
            await self.stop(run)
