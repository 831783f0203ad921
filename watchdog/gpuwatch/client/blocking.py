"""A blocking client for scripts and the CLI: sockets and msgspec, no event loop."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed, DaemonUnreachable, read_result

R = TypeVar("R", bound=wire.Struct)
_REPLY = msgspec.json.Decoder(wire.Reply)


class Client:
    """One connection to the daemon. Use as a context manager; not thread-safe.

    Raises DaemonUnreachable when nobody answers at `path` and CallFailed for errors.
    """

    def __init__(self, path: Path, *, timeout: float = 60.0, name: str = "gputui") -> None:
        self._path = path
        self._timeout = timeout
        self._name = name
        self._next = 0
        self._buffer = b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def __enter__(self) -> Self:
        self._socket.settimeout(self._timeout)
        try:
            self._socket.connect(str(self._path))
            self.welcome = self.call("hello", wire.Hello(client=self._name), wire.Welcome)
        except OSError as error:
            self._socket.close()
            raise DaemonUnreachable(
                f"no gpuwatch answers at {self._path} ({error.strerror or error}); start it with `gpuwatch run`"
            ) from error
        except BaseException:
            self._socket.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def call(self, method: str, params: wire.Struct, result: type[R]) -> R:
        """Send one call and wait for its answer, at most the client's timeout."""
        self._next += 1
        request = wire.Request(id=self._next, method=method, params=msgspec.Raw(msgspec.json.encode(params)))
        try:
            self._socket.sendall(msgspec.json.encode(request) + b"\n")
            while True:
                reply = _REPLY.decode(self._line())
                if reply.id == self._next:
                    break
        except TimeoutError as error:
            raise DaemonUnreachable(f"gpuwatch did not answer {method} in {self._timeout:.0f} s") from error
        except (OSError, *wire.UNREADABLE) as error:
            raise DaemonUnreachable(f"the connection to gpuwatch broke during {method}: {error}") from error
        if reply.error is not None:
            raise CallFailed(reply.error.code, reply.error.message, reply.error.data)
        return read_result(reply, method, result)

    def notices(self, params: wire.Subscribe) -> Iterator[wire.Notice]:
        """Subscribe and yield notifications until the daemon ends the stream or goes away."""
        subscription = self.call("subscribe", params, wire.Subscribed).subscription
        self._socket.settimeout(None)
        while True:
            try:
                reply = _REPLY.decode(self._line())
                notice = (
                    msgspec.json.decode(reply.params, type=wire.Notice) if reply.method == "notice" else None
                )
            except (OSError, *wire.UNREADABLE) as error:
                raise DaemonUnreachable(f"the connection to gpuwatch broke: {error}") from error
            if notice is not None and notice.subscription == subscription:
                yield notice

    def _line(self) -> bytes:
        while b"\n" not in self._buffer:
            chunk = self._socket.recv(1 << 16)
            if not chunk:
                raise ConnectionResetError("closed by the daemon")
            if len(self._buffer) > wire.MAX_LINE:
                raise ConnectionResetError("a line longer than the protocol allows")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line
