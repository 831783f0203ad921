"""A remote that misbehaves: a proxy on loopback before a real `rclone serve webdav`, with faults that a test switches."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator

from integration.rclone_servers import Server

CHUNK = 16_384


class Proxy:
    """Passes connections on to `server`. `fault`: "", "full", "vanish", "corrupt" or "slow"; `after`: bytes of an upload."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.fault = ""
        self.after = 100_000
        self.gone = False
        self.met = asyncio.Event()
        self.port = 0
        self.passed = 0
        """Bytes of large uploads that have reached the server."""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.gone:
            writer.close()
            return
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._up(reader, up_writer, writer))
                both.create_task(self._down(up_reader, writer))
        except* (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            for each in (writer, up_writer):
                each.close()
                with contextlib.suppress(ConnectionError):
                    await each.wait_closed()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError("the server's side is closed")

    async def _up(
        self, reader: asyncio.StreamReader, up: asyncio.StreamWriter, back: asyncio.StreamWriter
    ) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            put = head.startswith(b"PUT ")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            left = int(length[1]) if length else 0
            fault = self.fault if put and left > self.after else ""
            if fault == "full":
                self.met.set()
                while left:
                    left -= len(await reader.read(min(CHUNK, left)) or b"x" * left)
                back.write(b"HTTP/1.1 507 Insufficient Storage\r\nContent-Length: 0\r\n\r\n")
                await back.drain()
                continue
            up.write(head)
            sent = 0
            while left:
                data = await reader.read(min(CHUNK, left))
                if not data:
                    raise ConnectionResetError("the client is gone")
                left -= len(data)
                sent += len(data)
                if fault and sent > self.after:
                    self.met.set()
                    if fault == "vanish":
                        self.gone = True
                        raise ConnectionResetError("the remote has vanished")
                    if fault == "corrupt":
                        data, fault = bytes([data[0] ^ 1]) + data[1:], ""
                    if fault == "slow":
                        await asyncio.sleep(0.2)
                up.write(data)
                await up.drain()
                self.passed += len(data) if put and left + sent > self.after else 0


@contextlib.asynccontextmanager
async def faulty(server: Server) -> AsyncIterator[Proxy]:
    """The proxy, to which the server's configuration leads from here on."""
    proxy = Proxy(server)
    listener = await asyncio.start_server(proxy.handle, "127.0.0.1", 0)
    proxy.port = listener.sockets[0].getsockname()[1]
    server.configure(url=f"http://127.0.0.1:{proxy.port}")
    try:
        yield proxy
    finally:
        listener.close()
