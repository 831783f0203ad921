"""The app's line to the daemon: connects, starts it when none is there, reconnects, resumes streams."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from gputui.clean import RunsCleaner, cleaned
from gputui.fleet import LinkStatus
from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed, DaemonUnreachable
from gpuwatch.client.stream import AsyncClient

R = TypeVar("R", bound=wire.Struct)

HEARTBEAT = 4.0
"""Seconds between two questions whether the daemon is still there."""
FIRST_RETRY, LAST_RETRY = 0.25, 5.0
"""Back-off between two attempts to connect, seconds."""

OnState = Callable[[LinkStatus, str, float | None], None]
"""Status, reason (or the daemon's version when up), seconds until the next attempt."""


class DaemonLink:
    """Owns the one connection. `serve` runs as long as the app does; calls and streams use what is up.

    With `read_only` nothing that changes anything is ever sent.
    `on_state` hears of changes, `on_runs` gets every fleet snapshot, `on_heard` each sign of
    life. `spawn` starts a daemon; it is tried once, when the first connection is refused.
    """

    def __init__(
        self,
        socket: Path,
        *,
        on_state: OnState,
        on_runs: Callable[[wire.Runs], None],
        on_heard: Callable[[], None],
        spawn: Callable[[], Awaitable[None]] | None = None,
        heartbeat: float = HEARTBEAT,
        read_only: bool = False,
    ) -> None:
        self._read_only = read_only
        self._socket = socket
        self._on_state = on_state
        self._on_runs = on_runs
        self._on_heard = on_heard
        self._spawn = spawn
        self._heartbeat = heartbeat
        self._client: AsyncClient | None = None
        self._changed = asyncio.Condition()
        self._nudge = asyncio.Event()
        self._was_up = False
        self._cleaner = RunsCleaner()

    async def serve(self) -> None:
        """Connect, and connect again, until cancelled."""
        delay = FIRST_RETRY
        while True:
            self._was_up = False
            status, reason = await self._attempt()
            if self._was_up:
                delay = FIRST_RETRY
            if status is LinkStatus.DOWN and self._spawn is not None:
                spawn, self._spawn = self._spawn, None
                self._on_state(LinkStatus.STARTING, "", None)
                try:
                    await spawn()
                    continue
                except (DaemonUnreachable, OSError) as error:
                    reason = str(error)
            self._on_state(status, reason, delay)
            await self._pause(delay)
            delay = min(LAST_RETRY, delay * 2)

    async def _attempt(self) -> tuple[LinkStatus, str]:
        """One connection from hello to its end; how it ended, and why."""
        try:
            await self._session()
        except _OtherVersion as error:
            return LinkStatus.OTHER_VERSION, str(error)
        except CallFailed as error:
            return LinkStatus.DOWN, str(error)
        except ExceptionGroup as group:
            if not isinstance(cause := _first(group), CallFailed):
                raise
            return LinkStatus.DOWN, str(cause)
        return LinkStatus.DOWN, "the connection was closed"

    def retry_now(self) -> None:
        """Do not wait for the next attempt."""
        self._nudge.set()

    async def _pause(self, seconds: float) -> None:
        self._nudge.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._nudge.wait(), seconds)

    async def _session(self) -> None:
        client = AsyncClient(self._socket, read_only=self._read_only)
        try:
            welcome = cleaned(await client.connect())
            if welcome.protocol != wire.PROTOCOL:
                raise _OtherVersion(
                    f"gpuwatch {welcome.version} speaks protocol {welcome.protocol}, this gputui {wire.PROTOCOL}: "
                    "restart the daemon with the same version (`gpuwatch stop`, then open gputui again)"
                )
            self._spawn = None
            self._was_up = True
            self._on_state(LinkStatus.UP, welcome.version, None)
            await self._set(client)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch(client), name="watch-runs")
                group.create_task(self._listen(client), name="heartbeat")
        finally:
            await self._set(None)
            await client.close()

    async def _watch(self, client: AsyncClient) -> None:
        while True:
            async for notice in client.notices(wire.Subscribe(topic="runs")):
                if notice.runs is not None:
                    self._on_heard()
                    self._on_runs(self._cleaner.cleaned(notice.runs))
            await asyncio.sleep(FIRST_RETRY)  # the daemon ended the stream but lives

    async def _listen(self, client: AsyncClient) -> None:
        while True:
            await asyncio.sleep(self._heartbeat)
            await client.call("status", wire.Empty(), wire.DaemonStatus, timeout=self._heartbeat * 2)
            self._on_heard()

    async def _set(self, client: AsyncClient | None) -> None:
        async with self._changed:
            self._client = client
            self._changed.notify_all()

    async def _gone(self, client: AsyncClient) -> None:
        """Wait until `client` is no longer the one in use."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._client is not client)

    # --- for everybody else ----------------------------------------------------------------------

    async def call(self, method: str, params: wire.Struct, result: type[R], *, timeout: float = 30.0) -> R:
        """One call; the answer has been cleaned. Raises CallFailed, DaemonUnreachable at once when down."""
        client = self._client
        if client is None:
            raise DaemonUnreachable("gpuwatch is out of reach; nothing was done. It is being called again")
        return cleaned(await client.call(method, params, result, timeout=timeout))

    async def notices(self, topic: str, run: str | None = None, since: int = 0) -> AsyncIterator[wire.Notice]:
        """A stream that outlives connections: events go on by number, logs by byte, no gap, no repeat.

        Waits while the daemon is away. Raises CallFailed when the daemon refuses the stream.
        """
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._client is not None)
                client = self._client
            assert client is not None  # noqa: S101 - just waited for
            stream = client.notices(wire.Subscribe(topic=topic, run=run, since=since))
            try:
                async for notice in stream:
                    if notice.event is not None:
                        since = notice.event.seq
                    elif notice.log is not None:
                        since = notice.log.offset + len(notice.log.data)
                    yield cleaned(notice)
                await asyncio.sleep(FIRST_RETRY)
            except DaemonUnreachable:
                await self._gone(client)
            finally:
                await stream.aclose()  # type: ignore[attr-defined]


class _OtherVersion(Exception):
    """The daemon speaks another protocol."""


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
