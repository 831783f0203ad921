"""JSON-RPC over the Unix socket: framing, peer check, one task per call, bounded output per client."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog

from gpuwatch.clean import clean
from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed
from gpuwatch.daemon.service import Service

log = structlog.get_logger()
P = TypeVar("P", bound=wire.Struct)

BACKLOG_BYTES = 32 << 20
"""Bytes waiting for a client that does not read; beyond, it is cut off and may come back."""
MAX_CALLS = 64
"""Calls of one client that are worked on at once; further lines wait in the socket."""
MAX_STREAMS = 32
"""Streams of one client; the app needs four."""
_REQUEST = msgspec.json.Decoder(wire.Request)
_ENCODER = msgspec.json.Encoder()


@asynccontextmanager
async def serve(service: Service, path: Path) -> AsyncIterator[None]:
    """Answer on `path` (mode 0600, only our own user) until the context ends. Caller holds the daemon's lock."""
    await asyncio.to_thread(_clear, path)
    clients: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            clients.add(task)
        try:
            await _Client(service, reader, writer).talk()
        except asyncio.CancelledError:
            pass  # the daemon ends; asyncio would print a traceback
        finally:
            if task is not None:
                clients.discard(task)

    old = os.umask(0o177)
    try:
        server = await asyncio.start_unix_server(accept, path, limit=wire.MAX_LINE)
    finally:
        os.umask(old)
    try:
        yield
    finally:
        server.close()
        for task in list(clients):
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        await asyncio.to_thread(path.unlink, missing_ok=True)


def _clear(path: Path) -> None:
    """Make the socket's folder ours alone and remove a dead daemon's socket (the lock is ours)."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.parent.stat().st_uid != os.getuid():
        raise PermissionError(f"{path.parent} belongs to another user")
    path.unlink(missing_ok=True)


def _peer_uid(writer: asyncio.StreamWriter) -> int | None:
    peer: socket.socket | None = writer.get_extra_info("socket")
    if peer is None:
        return None
    if hasattr(socket, "SO_PEERCRED"):
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[1])
    return os.getuid()  # elsewhere the socket's mode and its folder's are the check


class _Client:
    def __init__(self, service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._service = service
        self._reader = reader
        self._writer = writer
        self._streams: dict[int, asyncio.Task[None]] = {}
        self._next = 0
        self._turns = asyncio.Semaphore(MAX_CALLS)

    async def talk(self) -> None:
        if _peer_uid(self._writer) != os.getuid():
            self._writer.close()
            return
        try:
            async with asyncio.TaskGroup() as tasks:
                try:
                    await self._listen(tasks)
                finally:
                    for stream in self._streams.values():
                        stream.cancel()
        except* (ConnectionError, ValueError, BrokenPipeError) as group:
            log.info("client gone", reason=str(group.exceptions[0]))
        finally:
            self._writer.close()

    async def _listen(self, tasks: asyncio.TaskGroup) -> None:
        while line := await self._reader.readline():
            try:
                request = _REQUEST.decode(line)
            except wire.UNREADABLE as error:
                self._send(
                    wire.Reply(
                        error=wire.Failure(code=wire.Code.USAGE, message=f"no JSON-RPC request: {error}")
                    )
                )
                continue
            if request.method == "subscribe":
                await self._subscribe(request, tasks)
            elif request.method == "unsubscribe":
                self._unsubscribe(request)
            else:
                await self._turns.acquire()
                tasks.create_task(self._answer(request)).add_done_callback(lambda _: self._turns.release())

    async def _answer(self, request: wire.Request) -> None:
        try:
            params_type, _ = wire.METHODS.get(request.method, (None, None))
            if params_type is None:
                raise CallFailed(wire.Code.USAGE, f"no method {request.method[:60]!r}")
            result = await self._service.call(request.method, _params(request, params_type))
            reply = wire.Reply(id=request.id, result=msgspec.Raw(_ENCODER.encode(result)))
        except CallFailed as error:
            reply = _failure(request.id, error.code, str(error), error.data)
        except Exception as error:
            log.exception("call failed", method=request.method)
            reply = _failure(
                request.id,
                wire.Code.INTERNAL,
                f"gpuwatch failed at this call ({type(error).__name__}); see its log",
            )
        self._send(reply)

    async def _subscribe(self, request: wire.Request, tasks: asyncio.TaskGroup) -> None:
        try:
            order = _params(request, wire.Subscribe)
            if len(self._streams) >= MAX_STREAMS:
                raise CallFailed(
                    wire.Code.USAGE, f"{MAX_STREAMS} streams a connection are the most; end one first"
                )
            if order.run is not None:
                await self._service.find(order.run)
        except CallFailed as error:
            self._send(_failure(request.id, error.code, str(error)))
            return
        self._next += 1
        number = self._next
        answer = wire.Subscribed(subscription=number)
        self._send(wire.Reply(id=request.id, result=msgspec.Raw(_ENCODER.encode(answer))))
        stream = tasks.create_task(self._push(order, number))
        self._streams[number] = stream
        stream.add_done_callback(lambda _: self._streams.pop(number, None))

    def _unsubscribe(self, request: wire.Request) -> None:
        try:
            number = _params(request, wire.Unsubscribe).subscription
        except CallFailed as error:
            self._send(_failure(request.id, error.code, str(error)))
            return
        if stream := self._streams.pop(number, None):
            stream.cancel()
        self._send(wire.Reply(id=request.id, result=msgspec.Raw(b"{}")))

    async def _push(self, order: wire.Subscribe, number: int) -> None:
        reason = "the stream is complete"
        try:
            async for notice in self._service.stream(order, number):
                self._notify(notice)
                await self._writer.drain()
        except CallFailed as error:
            reason = str(error)
        except ConnectionError:
            return
        self._notify(wire.Notice(subscription=number, lost=reason))

    def _notify(self, notice: wire.Notice) -> None:
        self._send(wire.Reply(method="notice", params=msgspec.Raw(_ENCODER.encode(notice))))

    def _send(self, reply: wire.Reply) -> None:
        transport = self._writer.transport
        if transport.get_write_buffer_size() > BACKLOG_BYTES:
            log.warning("client too slow", backlog=transport.get_write_buffer_size())
            transport.abort()
            return
        if not transport.is_closing():
            self._writer.write(_ENCODER.encode(reply) + b"\n")


def _params(request: wire.Request, kind: type[P]) -> P:
    """What was asked for. Raises CallFailed."""
    try:
        return msgspec.json.decode(request.params, type=kind)
    except wire.UNREADABLE as error:
        raise CallFailed(wire.Code.USAGE, f"{clean(request.method, 60)}: {error}") from error


def _failure(ident: int, code: str, message: str, data: dict[str, object] | None = None) -> wire.Reply:
    return wire.Reply(id=ident, error=wire.Failure(code=code, message=message, data=data or None))
