"""One SSH connection to a box, shared by everything that talks to it.

Measured choices: AES-GCM first (asyncssh alone would take chacha20, 30 % slower), small
windows and several channels where it is far (one channel moves a window per round trip;
with one of 64 MiB OpenSSH's server spends more time growing its buffer than sending), bytes
everywhere (one invalid UTF-8 byte on a text channel closes the whole connection), keepalives
(a dead peer is noticed in a minute), no compression, no agent, no user config.
"""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import asyncssh

from gpuproviders.model import Endpoint
from gpuwatch.box.errors import BoxAuth, BoxFault, BoxUnreachable, HostKeyChanged
from gpuwatch.box.hostkeys import HostKeys, fingerprint, words
from gpuwatch.box.pace import Pace
from gpuwatch.clean import clean, clean_bytes

WINDOW = 2 << 20
BULK_WINDOW = 8 << 20
"""Bytes that a bulk channel may have under way."""
FAR = 0.015
"""Seconds of round trip from which on one channel's window limits a transfer."""
CHANNELS = 8
"""OpenSSH allows 10 sessions on a connection; two stay free for a person's own use."""
_CIPHERS = ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes128-ctr"]


class _Pinning(asyncssh.SSHClient):
    """Takes an unknown host key on first use; a key that differs from the pin is refused."""

    def __init__(self, hostkeys: HostKeys, alias: str) -> None:
        self._hostkeys = hostkeys
        self._alias = alias
        self._first: asyncssh.SSHKey | None = None
        self.other: str | None = None
        """The key that was refused."""

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Asked only for keys that are not pinned: fine the first time, an impostor afterwards."""
        if self._hostkeys.pinned(self._alias):
            self.other = words(key)
            return False
        self._first = key
        return True

    def auth_completed(self) -> None:
        """The handshake proved that the peer holds the key: now it is pinned."""
        if self._first is not None:
            self._hostkeys.pin(self._alias, self._first)


@dataclass(frozen=True, slots=True)
class Output:
    """What a command left: exit status (None when killed by a signal), stdout, stderr, both bounded."""

    status: int | None
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True, slots=True)
class _Login:
    alias: str
    key: Path
    hostkeys: HostKeys


class Box:
    """An open connection. Every method raises BoxUnreachable when the connection is or gets lost."""

    def __init__(
        self, connection: asyncssh.SSHClientConnection, endpoint: Endpoint, login: _Login, pace: Pace
    ) -> None:
        self._connection = connection
        self._login = login
        self._channels = asyncio.Semaphore(CHANNELS)
        self.endpoint = endpoint
        self.pace = pace
        """The bandwidth cap that transfers keep."""
        self.round_trip = float("inf")
        """Seconds to the box and back, at most: the quickest opening of a channel, which is two and a fork."""
        key = connection.get_server_host_key()
        self.fingerprint = key.get_fingerprint() if key is not None else ""

    @classmethod
    async def connect(
        cls, endpoint: Endpoint, *, alias: str, key: Path, hostkeys: HostKeys, pace: Pace | None = None
    ) -> Box:
        """Connect and log in. Raises BoxUnreachable, BoxAuth or HostKeyChanged.

        An own machine is reached as the user's SSH configuration says, with the user's known_hosts.
        """
        manner: dict[str, Any] = {
            "encryption_algs": _CIPHERS, "compression_algs": ["none"], "connect_timeout": 10, "login_timeout": 25,
            "keepalive_interval": 15, "keepalive_count_max": 3, "window": WINDOW, "utf8_decode_errors": "replace",
            "preferred_auth": ["publickey"], "gss_host": None, "x509_trusted_certs": None,
        }  # fmt: skip
        pinning = _Pinning(hostkeys, alias)
        if endpoint.kind == "own":
            manner |= {"config": [endpoint.config] if endpoint.config is not None else ()}
        else:
            manner |= {
                "port": endpoint.port, "username": endpoint.user, "config": None, "agent_path": None,
                "client_keys": [str(key)], "known_hosts": hostkeys.pinned(alias), "host_key_alias": alias,
                "client_factory": lambda: pinning,
            }  # fmt: skip
        try:
            async with asyncio.timeout(45):
                connection = await asyncssh.connect(endpoint.host, **manner)
        except asyncssh.HostKeyNotVerifiable as error:
            shown = f" ({fingerprint(pinning.other)})" if pinning.other is not None else ""
            raise HostKeyChanged(
                f"{alias} shows another host key{shown} than the one pinned at first contact; nothing was sent to it",
                pinning.other,
            ) from error
        except asyncssh.PermissionDenied as error:
            raise BoxAuth(f"{endpoint.host}:{endpoint.port} does not take our SSH key (yet)") from error
        except (OSError, asyncssh.Error, TimeoutError) as error:
            reason = clean(str(error), 200) or type(error).__name__
            raise BoxUnreachable(
                f"SSH at {endpoint.host}:{endpoint.port} does not answer: {reason}"
            ) from error
        return cls(connection, endpoint, _Login(alias, key, hostkeys), pace or Pace())

    async def sibling(self) -> Box:
        """One more connection to the same machine, for bulk. Raises like `connect`."""
        login = self._login
        return await Box.connect(
            self.endpoint, alias=login.alias, key=login.key, hostkeys=login.hostkeys, pace=self.pace
        )

    @property
    def far(self) -> bool:
        """Whether several channels are needed to fill the line."""
        return FAR < self.round_trip < float("inf")

    async def close(self) -> None:
        """Hang up."""
        self._connection.close()
        try:
            async with asyncio.timeout(2):
                await self._connection.wait_closed()
        except TimeoutError:
            self._connection.abort()

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""
        return self._connection.is_closed()

    async def wait_closed(self) -> None:
        """Return when the connection is gone."""
        await self._connection.wait_closed()

    async def run(
        self, argv: list[str], *, stdin: bytes = b"", seconds: float = 60, limit: int = 1 << 20
    ) -> Output:
        """Run a command to its end. Raises BoxFault when it prints more than `limit` bytes or takes too long."""
        try:
            async with asyncio.timeout(seconds), self.process(argv) as process:
                process.stdin.write(stdin)
                process.stdin.write_eof()
                stdout, stderr = await asyncio.gather(
                    _bounded(process.stdout, limit), _bounded(process.stderr, 1 << 16)
                )
                await process.wait()
                return Output(process.exit_status, stdout, stderr)
        except TimeoutError as error:
            raise BoxFault(f"{argv[0]} took longer than {seconds:.0f} s on the box") from error

    @asynccontextmanager
    async def process(self, argv: list[str]) -> AsyncIterator[asyncssh.SSHClientProcess[bytes]]:
        """A running command with byte streams; its channel is closed on leaving."""
        async with self._channels:
            asked = time.monotonic()
            try:
                process = await self._connection.create_process(
                    shlex.join(argv), encoding=None, term_type=None
                )
            except (OSError, asyncssh.Error) as error:
                raise _lost(error) from error
            self._took(asked)
            try:
                yield cast("asyncssh.SSHClientProcess[bytes]", process)
            except (asyncssh.Error, ConnectionError, BrokenPipeError) as error:
                raise _lost(error) from error
            finally:
                process.close()

    @asynccontextmanager
    async def session(
        self,
        factory: type[asyncssh.SSHClientSession[bytes]] | Any,
        argv: list[str],
        *,
        window: int = BULK_WINDOW,
    ) -> AsyncIterator[tuple[asyncssh.SSHClientChannel[bytes], Any]]:
        """A command whose bytes go straight to `factory()`'s callbacks (bulk transfer)."""
        async with self._channels:
            try:
                channel, session = await self._connection.create_session(
                    factory, shlex.join(argv), encoding=None, term_type=None, window=window
                )
            except (OSError, asyncssh.Error) as error:
                raise _lost(error) from error
            try:
                yield channel, session
            finally:
                channel.close()

    def _took(self, asked: float) -> None:
        self.round_trip = min(self.round_trip, (time.monotonic() - asked) / 2)


def _lost(error: Exception) -> BoxUnreachable:
    return BoxUnreachable(f"the SSH connection broke: {clean(str(error), 200) or type(error).__name__}")


async def _bounded(reader: asyncssh.SSHReader[bytes], limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while chunk := await reader.read(1 << 16):
        size += len(chunk)
        if size > limit:
            raise BoxFault(
                f"the box answered with more than {limit} bytes: {clean_bytes(parts[0][:80] if parts else chunk[:80])}"
            )
        parts.append(chunk)
    return b"".join(parts)
