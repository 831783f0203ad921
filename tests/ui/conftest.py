"""The app and the CLI against a scripted daemon on a real socket."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import pytest
from blockbuster import blockbuster_ctx
from textual.pilot import Pilot
from textual.widgets import Input
from ui.fake_daemon import FakeDaemon
from ui.scenario import SPEC, World, small_fleet

from gputui.app import GpuTui

TICK = 100.0
"""What the app's clock says in tests, unless a test moves it."""


@pytest.fixture(autouse=True)
def quiet_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same time zone, no animations, colours whatever the caller's terminal is."""
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setenv("TEXTUAL_ANIMATIONS", "none")
    monkeypatch.delenv("NO_COLOR", raising=False)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop() -> Iterator[None]:
    """A blocking call of ours inside the event loop is an error: a frozen screen in the making."""
    with blockbuster_ctx("gputui") as guard:
        for name, function in guard.functions.items():
            if name.startswith("os."):
                function.deactivate()  # Textual resolves and stats the paths of its style sheets
            else:
                function.can_block_in("textual/css/stylesheet.py", {"read", "read_all"})
        yield


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for everything, with a path short enough for a socket."""
    path = Path(tempfile.mkdtemp(prefix="gputui-"))
    monkeypatch.setenv("GPUTUI_HOME", str(path))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def spec(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one good spec in it, current."""
    folder = home / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    path = folder / "run.toml"
    path.write_text(SPEC)
    return path


@pytest.fixture
def world() -> World:
    """The small fleet."""
    return small_fleet()


@pytest.fixture
async def daemon(home: Path, world: World) -> AsyncIterator[FakeDaemon]:
    """A daemon in the test's own loop."""
    fake = FakeDaemon(home / "run" / "gpuwatch.sock", world)
    await fake.start()
    yield fake
    await fake.stop()


class ThreadedDaemon:
    """A daemon in a loop of its own, for tests that block."""

    def __init__(self, fake: FakeDaemon) -> None:
        self.fake = fake
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="fake-daemon")

    def __enter__(self) -> Self:
        self._thread.start()
        self.run(self.fake.start())
        return self

    def begin(self, work: Coroutine[Any, Any, object]) -> Future[object]:
        """Start something in the daemon's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def run(self, work: Coroutine[Any, Any, object]) -> object:
        """Do something in the daemon's loop and wait for it."""
        return self.begin(work).result(20)

    def __exit__(self, *_: object) -> None:
        self.run(self.fake.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(20)
        self.loop.close()


@pytest.fixture
def served(home: Path, world: World) -> Iterator[ThreadedDaemon]:
    """A daemon that answers while the test blocks in the CLI."""
    with ThreadedDaemon(FakeDaemon(home / "run" / "gpuwatch.sock", world)) as threaded:
        yield threaded


class Clock:
    """The app's monotonic clock, moved by hand."""

    def __init__(self) -> None:
        self.now = TICK

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


App = tuple[GpuTui, Pilot[None]]


def type_text(app: GpuTui, text: str) -> None:
    """Type into the focused input at once (a key at a time costs a tenth of a second each)."""
    assert isinstance(app.focused, Input)
    app.focused.insert_text_at_cursor(text)


async def until(pilot: Pilot[None], what: Callable[[], object]) -> None:
    """Let the app work until `what` is true, then until that is drawn; fails after 20 s."""
    async with asyncio.timeout(20):
        while not what():
            await pilot._wait_for_screen()
            await asyncio.sleep(0)
        await pilot.pause()


@asynccontextmanager
async def running(
    daemon: FakeDaemon, clock: Clock, size: tuple[int, int] = (120, 40), *, wait: bool = True
) -> AsyncIterator[App]:
    """The app on this daemon, with the fleet on screen."""
    app = GpuTui(daemon.path, clock=clock, heartbeat=3600)
    async with app.run_test(size=size, notifications=True) as pilot:
        if wait:
            await until(pilot, lambda: app.fleet.runs is not None)
            await pilot.pause()
        yield app, pilot


def screen_text(app: GpuTui) -> str:
    """What is on screen, as text."""
    strips = app.screen._compositor.render_strips()
    return "\n".join(strip.text.rstrip() for strip in strips)


def toasts(app: GpuTui) -> str:
    """What the toasts say."""
    return "\n".join(f"{note.title}: {note.message}" for note in app._notifications)
