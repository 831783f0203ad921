"""The SSH server of a box: OpenSSH's manners on asyncssh.

Two ports, as on Vast: the direct one and the one of the proxy. Ports are bound at once and listen only
while the box is up, so that before that a connection is refused and nobody else takes the port.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import asyncssh
from asyncssh.channel import SSHChannel

from gpucloudsim.boxes.files import BoxFiles
from gpucloudsim.boxes.forwarding import forward
from gpucloudsim.boxes.sessions import Count, Shell, run

VERSION = "OpenSSH_8.9p1 Ubuntu-3ubuntu0.13"
MAX_SESSIONS = 10
"""sshd's default: more channels on one connection are refused."""
PORT_RANGE = (20_000, 30_000)
"""Below the kernel's ephemeral ports, so that a port is still free after a restart."""


@dataclass
class Access:
    """Who may come in, as the box knows it at this moment."""

    authorized_keys: Path
    denials_left: int
    """Authentications still to fail before the keys have reached the box."""
    banner: str = ""


def _bound(port: int, reuse: bool) -> socket.socket | None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuse))
    try:
        sock.bind(("127.0.0.1", port))
    except OSError:
        sock.close()
        return None
    # Two sockets that both allow reuse may share a port until one listens. Ours is reserved, so not this one.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    return sock


def reusable(sock: socket.socket) -> socket.socket:
    """To be called just before listening: connections made from now on will not block the port later."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return sock


def bind(port: int | None) -> socket.socket:
    """A bound socket that does not listen yet: connections to it are refused, nobody else can take the port.

    A port held before is taken again even while old connections to it linger; when somebody else has it,
    another one is taken. Raises OSError when none is free.
    """
    if port and (sock := _bound(port, False) or _bound(port, True)):
        return sock
    for _ in range(1000):
        if sock := _bound(random.randrange(*PORT_RANGE), False):
            return sock
    raise OSError("no free port for an SSH server")


class _Server(asyncssh.SSHServer):
    _conn: asyncssh.SSHServerConnection

    def __init__(self, host: SshHost) -> None:
        self._host = host
        self._sessions: list[asyncssh.SSHServerChannel[bytes]] = []
        self._denied = False

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._conn = conn
        self._host.connections.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        self._host.connections.discard(self._conn)

    def begin_auth(self, username: str) -> bool:
        access = self._host.access
        if access.banner:
            self._conn.send_auth_banner(access.banner)
        if access.denials_left > 0:
            access.denials_left -= 1
            self._denied = True
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        if self._denied or username != "root":
            return False
        try:
            text = self._host.access.authorized_keys.read_text()
        except OSError:
            return False
        return any(_same_key(line, key) for line in text.splitlines())

    def session_requested(self) -> tuple[asyncssh.SSHServerChannel[bytes], asyncssh.SSHServerProcess[bytes]]:
        self._sessions = [channel for channel in self._sessions if not channel.is_closing()]
        if len(self._sessions) >= MAX_SESSIONS:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "open failed")
        channel: asyncssh.SSHServerChannel[bytes] = self._conn.create_server_channel(
            encoding=None, window=4 << 20
        )
        self._sessions.append(channel)
        unwanted = _on_end_of_write(channel)

        async def serve(process: asyncssh.SSHServerProcess[bytes]) -> None:
            await self._host.serve(process, unwanted)

        process: asyncssh.SSHServerProcess[bytes] = asyncssh.SSHServerProcess(
            serve, self._host.files, 3, True
        )
        return channel, process

    def connection_requested(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> Coroutine[None, None, asyncssh.SSHTCPSession[bytes]]:
        return forward(dest_host, dest_port)

    def server_requested(self, listen_host: str, listen_port: int) -> bool:
        return True


def _on_end_of_write(channel: asyncssh.SSHServerChannel[bytes]) -> asyncio.Event:
    """An event that OpenSSH's `eow@openssh.com` sets: the client's stdout is closed, it wants no more output.

    asyncssh does not know that request and has no public way to drop what is queued, hence the private names.
    """
    unwanted = asyncio.Event()

    def received(packet: object) -> bool:
        channel._send_buf = []  # noqa: SLF001
        channel._send_buf_len = 0  # noqa: SLF001
        channel._pause_resume_writing()  # noqa: SLF001
        unwanted.set()
        return True

    setattr(channel, "_process_eow_at_openssh_dot_com_request", received)  # noqa: B010 - read by name
    return unwanted


def _same_key(line: str, key: asyncssh.SSHKey) -> bool:
    line = line.strip()
    if not line or line.startswith("#"):
        return False
    try:
        return asyncssh.import_public_key(line).public_data == key.public_data
    except (asyncssh.KeyImportError, ValueError):
        return False


class SshHost:
    """The SSH service of one box, from `open` to `close`."""

    def __init__(
        self,
        root: Path,
        home: Path,
        access: Access,
        shell: Callable[[], Shell],
        quota: int | None,
        count: Count,
    ) -> None:
        self.access = access
        self.connections: set[asyncssh.SSHServerConnection] = set()
        self._root, self._home, self._shell, self._quota, self._count = root, home, shell, quota, count
        self._acceptors: list[asyncssh.SSHAcceptor] = []
        self._silent: list[asyncio.Server] = []

    async def serve(self, process: asyncssh.SSHServerProcess[bytes], unwanted: asyncio.Event) -> None:
        """One session."""
        await run(process, self._shell(), self._count, unwanted)

    def files(self, channel: SSHChannel[bytes]) -> BoxFiles:
        """One SFTP subsystem (asyncssh calls this)."""
        return BoxFiles(
            cast("asyncssh.SSHServerChannel[bytes]", channel),
            self._root,
            self._home,
            self._quota,
            self._count,
        )

    async def open(self, sockets: list[socket.socket], host_key: Path) -> None:
        """Listen on these bound sockets."""
        for sock in sockets:
            self._acceptors.append(
                await asyncssh.listen(
                    sock=reusable(sock),
                    server_factory=lambda: _Server(self),
                    server_host_keys=[str(host_key)],
                    server_version=VERSION,
                    encoding=None,
                    line_editor=False,
                    compression_algs=None,
                    allow_scp=True,
                    gss_host=None,
                    x11_forwarding=False,
                    agent_forwarding=False,
                    login_timeout=120,
                )
            )

    async def open_silent(self, sockets: list[socket.socket]) -> None:
        """Accept connections and never say a word."""

        async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while await reader.read(4096):
                    pass
            writer.close()

        for sock in sockets:
            self._silent.append(await asyncio.start_server(hold, sock=reusable(sock)))

    async def close(self) -> None:
        """Cut all connections and stop listening."""
        for acceptor in self._acceptors:
            acceptor.close()
        for server in self._silent:
            server.close()
        for conn in list(self.connections):
            conn.abort()
        for acceptor in self._acceptors:
            await acceptor.wait_closed()
        self._acceptors.clear()
        self._silent.clear()


def new_host_key(path: Path) -> None:
    """Write a fresh ed25519 host key."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    path.write_bytes(key.export_private_key())
    path.chmod(0o600)
