"""An asyncio client for the app: concurrent calls and subscriptions over one connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeVar

import msgspec

from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed, DaemonUnreachable, read_result

R = TypeVar("R", bound=wire.Struct)
_REPLY = msgspec.json.Decoder(wire.Reply)
_BACKLOG = 1000


class AsyncClient:
    """One connection to the daemon; `connect` first, then any number of calls at once.

    Raises DaemonUnreachable when the connection is gone; the owner reconnects by
    making a new client and resuming its subscriptions (events by seq, logs by byte).
    With `read_only` only calls that change nothing are sent; any other raises CallFailed(refused) here.
    """

    def __init__(self, path: Path, *, name: str = "gputui", read_only: bool = False) -> None:
        self._path = path
        self._read_only = read_only
        self._name = name
        self._next = 0
        self._waiting: dict[int, asyncio.Future[wire.Reply]] = {}
        self._streams: dict[int, asyncio.Queue[wire.Notice | None]] = {}
        self._early: dict[int, list[wire.Notice]] = {}
        self._ended: set[int] = set()
        self._reader_task: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._broken: str | None = "not connected"

    async def connect(self, *, timeout: float = 5.0) -> wire.Welcome:
        """Open the connection and say hello."""
        try:
            async with asyncio.timeout(timeout):
                reader, self._writer = await asyncio.open_unix_connection(
                    str(self._path), limit=wire.MAX_LINE
                )
        except (OSError, TimeoutError) as error:
            raise DaemonUnreachable(f"no gpuwatch answers at {self._path} ({error})") from error
        self._broken = None
        self._reader_task = asyncio.create_task(self._read(reader), name="daemon-reader")
        return await self.call("hello", wire.Hello(client=self._name), wire.Welcome, timeout=timeout)

    async def close(self) -> None:
        """Close; every waiting call and stream ends with DaemonUnreachable."""
        if self._reader_task is not None:
            self._reader_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader_task
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()
        self._fail("closed")

    async def call(self, method: str, params: wire.Struct, result: type[R], *, timeout: float = 60.0) -> R:
        """One call; raises CallFailed for the daemon's errors."""
        if self._read_only and method not in wire.READS:
            raise CallFailed(wire.Code.REFUSED, f"this app only looks (--read-only): {method} was not sent")
        if self._broken is not None or self._writer is None:
            raise DaemonUnreachable(f"not connected to gpuwatch: {self._broken}")
        self._next += 1
        ident = self._next
        future: asyncio.Future[wire.Reply] = asyncio.get_running_loop().create_future()
        self._waiting[ident] = future
        request = wire.Request(id=ident, method=method, params=msgspec.Raw(msgspec.json.encode(params)))
        try:
            async with asyncio.timeout(timeout):
                self._writer.write(msgspec.json.encode(request) + b"\n")
                await self._writer.drain()
                reply = await future
        except TimeoutError as error:
            raise DaemonUnreachable(f"gpuwatch did not answer {method} in {timeout:.0f} s") from error
        except OSError as error:
            raise DaemonUnreachable(f"the connection to gpuwatch broke: {error}") from error
        finally:
            self._waiting.pop(ident, None)
        if reply.error is not None:
            raise CallFailed(reply.error.code, reply.error.message, reply.error.data)
        return read_result(reply, method, result)

    async def notices(self, params: wire.Subscribe) -> AsyncIterator[wire.Notice]:
        """Subscribe and yield notifications; raises DaemonUnreachable when the connection breaks."""
        subscription = (await self.call("subscribe", params, wire.Subscribed)).subscription
        queue: asyncio.Queue[wire.Notice | None] = asyncio.Queue(_BACKLOG)
        for notice in self._early.pop(subscription, ()):
            queue.put_nowait(notice)
        self._streams[subscription] = queue
        try:
            while True:
                notice_or_end = await queue.get()
                if notice_or_end is None:
                    raise DaemonUnreachable(f"the connection to gpuwatch broke: {self._broken}")
                yield notice_or_end
                if notice_or_end.lost is not None:
                    return
        finally:
            self._streams.pop(subscription, None)
            self._ended.add(subscription)
            if self._broken is None:
                with contextlib.suppress(CallFailed, asyncio.CancelledError):
                    await self.call("unsubscribe", wire.Unsubscribe(subscription=subscription), wire.Empty)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        reason = "closed by the daemon"
        try:
            while line := await reader.readline():
                reply = _REPLY.decode(line)
                if reply.method == "notice":
                    self._deliver(msgspec.json.decode(reply.params, type=wire.Notice))
                elif reply.id is not None and (future := self._waiting.get(reply.id)) and not future.done():
                    future.set_result(reply)
        except (OSError, ValueError, *wire.UNREADABLE) as error:
            reason = str(error) or type(error).__name__
        finally:
            self._fail(reason)

    def _deliver(self, notice: wire.Notice) -> None:
        if notice.subscription in self._ended:
            return
        queue = self._streams.get(notice.subscription)
        if queue is None:
            # its subscriber has the number but not run yet
            self._early.setdefault(notice.subscription, [])[_BACKLOG:] = [notice]
        elif queue.full():
            # a reader that does not read must not hold up the others: it starts over from what it has
            self._ended.add(notice.subscription)
            queue.get_nowait()
            queue.put_nowait(
                wire.Notice(subscription=notice.subscription, lost="too slow; subscribe again to go on")
            )
        else:
            queue.put_nowait(notice)

    def _fail(self, reason: str) -> None:
        self._broken = self._broken or reason
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(DaemonUnreachable(f"the connection to gpuwatch broke: {reason}"))
        for queue in self._streams.values():
            while queue.full():
                queue.get_nowait()
            queue.put_nowait(None)
