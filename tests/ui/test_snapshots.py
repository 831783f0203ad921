"""What the main screens look like, pixel for pixel. After a change on purpose: pytest --snapshot-update."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from textual.pilot import Pilot
from textual.widgets import Button
from ui.conftest import Clock, ThreadedDaemon, until

from gputui.app import GpuTui
from gputui.screens.destroy import DestroyDialog
from gputui.screens.offers import OffersScreen
from gputui.screens.run import RunScreen

SIZES = ((80, 24), (160, 50))


def app_of(pilot: Pilot[None]) -> GpuTui:
    assert isinstance(pilot.app, GpuTui)
    return pilot.app


async def runs(pilot: Pilot[None]) -> None:
    await until(pilot, lambda: app_of(pilot).fleet.runs is not None)


async def run(pilot: Pilot[None]) -> None:
    await runs(pilot)
    app = app_of(pilot)
    app.open_run("r7k2m9qa")
    await until(pilot, lambda: isinstance(app.screen, RunScreen) and app.screen.detail is not None)
    screen = app.screen
    assert isinstance(screen, RunScreen)
    await until(pilot, lambda: screen.samples and screen.log_view.store.end > 1)


async def custody(pilot: Pilot[None]) -> None:
    await run(pilot)
    await pilot.press("c")


async def destroy(pilot: Pilot[None]) -> None:
    await runs(pilot)
    await pilot.press("j", "j", "j", "d")
    await until(
        pilot, lambda: isinstance(pilot.app.screen, DestroyDialog) and isinstance(pilot.app.focused, Button)
    )


async def offers(pilot: Pilot[None]) -> None:
    await runs(pilot)
    await pilot.press("2")
    await until(
        pilot, lambda: isinstance(pilot.app.screen, OffersScreen) and pilot.app.screen.answer is not None
    )


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("scene", [runs, run, custody, destroy, offers], ids=lambda scene: scene.__name__)
def test_screen(
    served: ThreadedDaemon,
    clock: Clock,
    snap_compare: Callable[..., bool],
    scene: Callable[[Pilot[None]], Awaitable[None]],
    size: tuple[int, int],
) -> None:
    async def go(pilot: Pilot[None]) -> None:
        await scene(pilot)
        await pilot.pause()

    app = GpuTui(served.fake.path, clock=clock, heartbeat=3600)
    assert snap_compare(app, terminal_size=size, run_before=go)


def test_without_colour_glyphs_and_words_still_say_it(
    served: ThreadedDaemon, clock: Clock, snap_compare: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = GpuTui(served.fake.path, clock=clock, heartbeat=3600)
    assert snap_compare(app, terminal_size=(80, 24), run_before=runs)
