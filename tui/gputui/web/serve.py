"""`gputui serve`: the same app in a browser of this machine.

textual-serve starts one app per page over a websocket, and asks nobody who they are. What is added here is
the door: the loopback address only, a token in the address that becomes a cookie, and for every request the
name under which this server was called (a page elsewhere may resolve its own name to 127.0.0.1) and, for the
websocket, the page that opened it (cookies are sent to every port of a host).
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import shlex
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from aiohttp import web
from textual_serve.server import Server

from gputui.console import Console
from gputui.exits import OK, USAGE

_LOOPBACK = "127.0.0.1"
SESSIONS = 4
"""Pages that are open at once; each is a process of its own."""
_PATIENCE = 5.0
"""Seconds that open pages have to end."""

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; font-src 'self' data:; "
        "img-src 'self' data:; connect-src 'self' ws://{host}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_CLOSED = "This page needs the whole address that `gputui serve` has printed, with its token.\n"


class Door(Server):
    """textual-serve behind a token. `port` is where it listens on the loopback address."""

    def __init__(self, command: str, port: int, token: str) -> None:
        super().__init__(
            command,
            host=_LOOPBACK,
            port=port,
            title="gputui",
            public_url=f"http://{_LOOPBACK}:{port}",
            templates_path=Path(__file__).parent,
        )
        self._token = token
        self._cookie = f"gputui-{port}"
        self._open = 0

    @property
    def address(self) -> str:
        """What to open."""
        return f"{self.public_url}/?token={self._token}"

    async def _make_app(self) -> web.Application:
        app = await super()._make_app()
        app.middlewares.append(self._guard)
        app.router.add_static("/style", Path(__file__).parent / "style")
        return app

    async def on_startup(self, app: web.Application) -> None:
        """Say nothing: `serve` prints the address."""

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Who knows the token comes in, and only under our own name."""
        host = f"{_LOOPBACK}:{self.port}"
        if request.headers.get("Host") != host:
            return web.Response(status=421, text=f"This is http://{host} and nothing else.\n")
        given = request.query.get("token")
        if request.path == "/" and given is not None and self._known(given):
            answer: web.StreamResponse = web.Response(status=303, headers={"Location": "/"})
            answer.set_cookie(self._cookie, self._token, httponly=True, samesite="Strict", path="/")
        elif not self._known(request.cookies.get(self._cookie, "")):
            answer = web.Response(status=403, text=_CLOSED)
        elif request.path == "/ws" and request.headers.get("Origin") != f"http://{host}":
            answer = web.Response(status=403, text="Another page may not open this app.\n")
        elif request.path == "/ws":
            return await self._session(request, handler)
        else:
            answer = await handler(request)
        for name, value in _HEADERS.items():
            answer.headers[name] = value.format(host=host)
        return answer

    async def _session(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if self._open >= SESSIONS:
            return web.Response(status=503, text=f"{SESSIONS} pages are open already; close one.\n")
        self._open += 1
        try:
            return await handler(request)
        finally:
            self._open -= 1

    def _known(self, given: str) -> bool:
        return secrets.compare_digest(given.encode("utf-8", "surrogateescape"), self._token.encode())

    async def listen(self, sock: socket.socket, end: asyncio.Event, ready: Callable[[], None]) -> None:
        """Answer on `sock` until `end`; open pages are closed, and their apps ended."""
        runner = web.AppRunner(await self._make_app(), access_log=None, shutdown_timeout=_PATIENCE)
        await runner.setup()
        try:
            await web.SockSite(runner, sock).start()
            ready()
            await end.wait()
        finally:
            await runner.cleanup()


def serve(args: argparse.Namespace, console: Console) -> int:
    """Serve until ctrl+c."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((_LOOPBACK, args.port))
    except OSError as error:
        sock.close()
        console.error(f"cannot listen on port {args.port}: {error.strerror}; --port 0 takes a free one")
        return USAGE
    looks = args.looks or args.read_only
    command = shlex.join([sys.executable, "-m", "gputui", *(["--read-only"] if looks else [])])
    door = Door(command, sock.getsockname()[1], secrets.token_urlsafe(32))

    def ready() -> None:
        console.line(door.address, "bold")
        can = "look, and change nothing" if looks else "rent and destroy"
        console.note(f"Open this address in a browser here. Whoever knows it can {can}; ctrl+c ends it.")
        console.flush()

    async def go() -> None:
        end = asyncio.Event()
        for one in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(one, end.set)
        await door.listen(sock, end, ready)

    with suppress(KeyboardInterrupt):
        asyncio.run(go())
    return OK
