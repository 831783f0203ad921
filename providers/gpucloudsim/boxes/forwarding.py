"""TCP forwarding (`ssh -L`, `-W`) out of a box: one connection per channel, half-closes passed on."""

from __future__ import annotations

import asyncio
import contextlib

import asyncssh
from asyncssh.stream import SSHTCPStreamSession

CHUNK = 256 * 1024


async def _pump(
    source: asyncio.StreamReader | asyncssh.SSHReader[bytes],
    target: asyncio.StreamWriter | asyncssh.SSHWriter[bytes],
) -> None:
    with contextlib.suppress(OSError, asyncssh.Error):
        while data := await source.read(CHUNK):
            target.write(data)
            await target.drain()
    with contextlib.suppress(OSError, asyncssh.Error):
        target.write_eof()


async def forward(host: str, port: int) -> SSHTCPStreamSession[bytes]:
    """A channel's session that is joined to host:port. Raises asyncssh.ChannelOpenError when that refuses."""
    try:
        near_reader, near_writer = await asyncio.open_connection(host, port)
    except OSError as problem:
        raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "Connection refused") from problem

    async def relay(reader: asyncssh.SSHReader[bytes], writer: asyncssh.SSHWriter[bytes]) -> None:
        try:
            await asyncio.gather(_pump(reader, near_writer), _pump(near_reader, writer))
        finally:
            near_writer.close()
            writer.close()

    return SSHTCPStreamSession(relay)
