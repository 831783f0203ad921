"""An app that looks and does not act: no key of it, and nothing it could send, changes anything."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest
from textual.binding import Binding
from ui.conftest import Clock, ThreadedDaemon, screen_text, toasts, until
from ui.fake_daemon import FakeDaemon
from ui.test_serve import come_in, jar, until_said
from ui.web import serving

from gputui.app import GpuTui
from gputui.cli import main
from gputui.keys import PLACES
from gputui.screens.alarms import AlarmsScreen
from gputui.screens.launch import LaunchDialog
from gputui.screens.machines import MachinesScreen
from gputui.screens.offers import OffersScreen
from gputui.screens.place import ACTS
from gputui.screens.run import RunScreen
from gputui.widgets.bars import KeyBar
from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed
from gpuwatch.client.stream import AsyncClient

LEAVES = {"quit", "back", "command_palette", "help", "jump", "filter", "reconnect"}
"""What a key may do besides; none of it acts."""


def keys_of(*places: str) -> list[str]:
    return [
        binding.key.split(",")[0]
        for name, bindings in PLACES
        if name in places
        for binding in bindings
        if isinstance(binding, Binding) and binding.action.partition("(")[0] not in LEAVES
    ]


async def test_no_key_of_any_place_changes_anything(daemon: FakeDaemon, clock: Clock) -> None:
    app = GpuTui(daemon.path, clock=clock, heartbeat=3600, read_only=True)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await until(pilot, lambda: app.fleet.runs is not None)
        assert "read-only" in screen_text(app)
        await pilot.press("space", *(key for key in keys_of("Runs") if key not in {"enter", "w"}), "escape")
        await pilot.pause()
        assert len(app.screen_stack) == 1, "a key opened something"
        app.open_run("t5v0c4hn")
        await until(pilot, lambda: isinstance(app.screen, RunScreen) and app.screen.detail is not None)
        await pilot.press("d", "Z", "A", "C", "x", "f", "exclamation_mark", "ctrl+s")
        await until(pilot, lambda: "This app only looks (--read-only)." in toasts(app))
        await pilot.press("escape", "2")
        await until(pilot, lambda: isinstance(app.screen, OffersScreen) and app.screen.answer is not None)
        await pilot.press("l", "enter", "X", "U")
        assert not isinstance(app.screen, LaunchDialog)
        await pilot.press("O")
        await until(pilot, lambda: isinstance(app.screen, MachinesScreen))
        await pilot.press("X", "U", "escape", "3")
        await until(pilot, lambda: isinstance(app.screen, AlarmsScreen))
        await pilot.press("a", "d")
        await pilot.pause()
        off = {text.strip() for text, tone in app.screen.query_one(KeyBar).make(120)[0] if tone == "dim"}
        assert {"Launch", "Destroy"} <= off
        assert {app.screen.reason(action) for action in ACTS} == {"this app only looks (--read-only)"}
    assert {method for method, _ in daemon.calls} <= wire.READS


async def test_the_line_itself_sends_nothing_that_acts(daemon: FakeDaemon) -> None:
    client = AsyncClient(daemon.path, read_only=True)
    await client.connect()
    try:
        for method, (params, result) in wire.METHODS.items():
            if method in wire.READS:
                continue
            values = {
                "run": "x",
                "machine": "x",
                "key": "k",
                "label": "x",
                "reason": "r",
                "by": "b",
                "seconds": 1.0,
            }
            named = {f: values[f] for f in params.__struct_fields__ if f in values}
            order = wire.Empty() if method in {"shutdown", "launch"} else params(**named)
            with pytest.raises(CallFailed, match="only looks"):
                await client.call(method, order, result)
    finally:
        await client.close()
    assert [method for method, _ in daemon.calls] == ["hello"]


@pytest.mark.slow
async def test_a_page_may_be_served_to_look_only(home: Path, served: ThreadedDaemon) -> None:
    async with (
        serving(home, "--read-only") as door,
        aiohttp.ClientSession(cookie_jar=jar()) as client,
    ):
        await come_in(client, door)
        async with client.ws_connect(f"{door.base}/ws?width=120&height=40", origin=door.base) as page:
            await until_said(page, b"miras-s", b"read-only")
            await page.send_json(["stdin", "d"])
            await until_said(page, b"This app only looks")
            await page.send_json(["stdin", "E"])
            await asyncio.sleep(0)
    assert {method for method, _ in served.fake.calls} <= wire.READS


def test_a_command_is_not_called_to_look_only(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--read-only", "stop", "miras-s"])
    assert ended.value.code == 2
    assert "a command does what it is called" in capsys.readouterr().err
