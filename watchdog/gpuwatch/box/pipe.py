"""Bytes from an SSH channel to a worker thread. The event loop only hands pieces over.

The channel is paused while the thread is behind, so memory is bounded by the marks below
and the channel's window.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from dataclasses import dataclass, field

import asyncssh

_HIGH = 16 << 20
_LOW = 4 << 20
_BATCH = 512 << 10


@dataclass(slots=True)
class Pipe:
    """The pieces of one channel, in order; a `None` in the queue is the end."""

    loop: asyncio.AbstractEventLoop
    queue: queue.SimpleQueue[list[bytes] | None] = field(default_factory=queue.SimpleQueue)
    size: int = 0
    paused: bool = False
    channel: asyncssh.SSHClientChannel[bytes] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, parts: list[bytes], size: int) -> None:
        """From the loop: more bytes; stops the channel when the thread is far behind."""
        with self.lock:
            self.size += size
            full = self.size > _HIGH and not self.paused
            self.paused = self.paused or full
        self.queue.put(parts)
        if full and self.channel is not None:
            self.channel.pause_reading()

    def taken(self, size: int) -> None:
        """From the thread: so many bytes are dealt with."""
        with self.lock:
            self.size -= size
            resume = self.paused and self.size < _LOW
            if resume:
                self.paused = False
        if resume and self.channel is not None:
            self.loop.call_soon_threadsafe(self.channel.resume_reading)

    def end(self) -> None:
        """From the loop: nothing more comes."""
        self.queue.put(None)


class Stream(asyncssh.SSHClientSession[bytes]):
    """Collects the channel's bytes into pieces worth a thread switch."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._parts: list[bytes] = []
        self._size = 0
        self._scheduled = False
        self.errors = bytearray()
        self.lost: Exception | None = None

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        """What the command printed; of its errors the first few kilobytes are kept."""
        if datatype is not None:
            self.errors += data[: 4096 - len(self.errors)]
            return
        self._parts.append(data)
        self._size += len(data)
        if self._size >= _BATCH:
            self._flush()
        elif not self._scheduled:
            self._scheduled = True
            self._pipe.loop.call_soon(self._later)

    def _later(self) -> None:
        self._scheduled = False
        self._flush()

    def _flush(self) -> None:
        if self._parts:
            self._pipe.put(self._parts, self._size)
            self._parts, self._size = [], 0

    def connection_lost(self, exc: Exception | None) -> None:
        """The command has ended, or the connection."""
        self._flush()
        self.lost = exc
        self._pipe.end()
