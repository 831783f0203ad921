"""`gputui record` and `gputui replay`."""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from functools import partial
from pathlib import Path

from gputui.console import Console
from gputui.exits import OK, USAGE
from gputui.replay import records
from gputui.replay.recorder import Recorder
from gpuwatch.client.stream import AsyncClient
from gpuwatch.paths import discover


def record(args: argparse.Namespace, console: Console) -> int:
    """Write a recording until ctrl+c or for some seconds."""
    path = Path(args.file).expanduser()
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        console.error(f"cannot write {path}: {error.strerror}")
        return USAGE

    async def go() -> Recorder:
        client = AsyncClient(discover().socket, name="gputui record")
        recorder = Recorder(client, partial(os.write, handle), clock=time.monotonic, logs=not args.no_logs)
        try:
            welcome = await client.connect()
            if not args.seconds:
                console.note(f"recording into {path}; ctrl+c ends it")
            async with asyncio.timeout(args.seconds or None):
                await recorder.run(welcome)
        except (TimeoutError, asyncio.CancelledError):
            pass  # the end that was asked for
        finally:
            await client.close()
            os.close(handle)
        return recorder

    try:
        recorder = asyncio.run(go())
    except BaseException:
        if path.stat().st_size == 0:
            path.unlink()  # nothing was recorded: leave nothing behind
        raise
    size = path.stat().st_size
    console.line(
        f"{recorder.lines} records, {size / 1e6:.1f} MB in {path}; look into it before you share it", "good"
    )
    return OK


def replay(args: argparse.Namespace, console: Console) -> int:
    """Play a recording in the app, or its fleet as text without a terminal."""
    try:
        header, found = records.read(Path(args.file).expanduser())
    except (OSError, records.BadRecording) as error:
        console.error(f"cannot play {args.file}: {error}")
        return USAGE
    from gputui.app import GpuTui
    from gputui.replay.server import ReplayServer

    async def go() -> int:
        with tempfile.TemporaryDirectory(prefix="gputui-") as folder:
            socket = Path(folder) / "replay.sock"
            server = ReplayServer(socket, header, found, speed=args.speed)
            playing = asyncio.create_task(server.serve(), name="replay")
            app = GpuTui(socket)
            await app.run_async()
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)
            return app.return_code or 0

    return asyncio.run(go())
