"""What the main screens look like, pixel for pixel. After a change on purpose: pytest --snapshot-update."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from unittest import mock

import pytest
from textual.pilot import Pilot
from textual.widgets import Button, Input
from ui.conftest import Clock, ThreadedDaemon, screen_text, until
from ui.scenario import NOW, small_fleet

from gputui import boxes
from gputui.app import GpuTui
from gputui.screens.alarms import AlarmsScreen
from gputui.screens.bulk import BulkDialog
from gputui.screens.destroy import DestroyDialog
from gputui.screens.help import HelpDialog
from gputui.screens.holds import HoldsDialog
from gputui.screens.money import MoneyScreen
from gputui.screens.offers import OffersScreen
from gputui.screens.run import RunScreen
from gputui.screens.tour import TourDialog
from gputui.widgets.chart import Charts
from gputui.widgets.choice import Choice
from gputui.widgets.logview import LogView

SIZES = ((80, 24), (120, 40), (250, 70))


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
    await until(pilot, lambda: isinstance(pilot.app.screen, OffersScreen) and pilot.app.screen.beside.prices)


async def metrics(pilot: Pilot[None]) -> None:
    await run(pilot)
    await pilot.press("m")
    await until(pilot, lambda: bool(pilot.app.screen.query_one(Charts).curves))


async def timeline(pilot: Pilot[None]) -> None:
    await run(pilot)
    await pilot.press("t")


async def spec(pilot: Pilot[None]) -> None:
    await run(pilot)
    await pilot.press("p")


async def files(pilot: Pilot[None]) -> None:
    """The box answers with a list of its own."""
    report = small_fleet().custody["r7k2m9qa"]
    entries = [f"{row.size} {NOW - 400} {row.path}" for row in (*report.unsafe, *report.verified)]
    entries += [f"2400000000 {NOW - 90} runs/miras-s/cache/tokens.bin", f"18200 {NOW - 5000} nohup.out"]
    said = boxes.Said(b"\0gputui files\0" + b"".join(entry.encode() + b"\0" for entry in entries), 0)
    await run(pilot)
    with mock.patch.object(boxes, "execute", mock.AsyncMock(return_value=said)):
        await pilot.press("b")
        await until(pilot, lambda: "not promised" in screen_text(app_of(pilot)))


async def cost(pilot: Pilot[None]) -> None:
    await run(pilot)
    await pilot.press("dollar_sign")
    await until(pilot, lambda: "so far" in screen_text(app_of(pilot)))


async def holds(pilot: Pilot[None]) -> None:
    await runs(pilot)
    await pilot.press("H")
    await until(
        pilot, lambda: isinstance(pilot.app.screen, HoldsDialog) and isinstance(pilot.app.focused, Choice)
    )


async def log(pilot: Pilot[None]) -> None:
    """Searched, the whole width."""
    await run(pilot)
    await pilot.press("z", "slash", "w")
    assert isinstance(pilot.app.focused, Input)
    pilot.app.focused.insert_text_at_cursor("orker 3")
    view = pilot.app.screen.query_one(LogView)
    await until(pilot, lambda: view.search is not None and view.search.done and view.search.count == 46)
    await pilot.press("enter")


async def alarms(pilot: Pilot[None]) -> None:
    await runs(pilot)
    await pilot.press("3")
    await until(pilot, lambda: isinstance(pilot.app.screen, AlarmsScreen))


async def money(pilot: Pilot[None]) -> None:
    await runs(pilot)
    await pilot.press("4")
    await until(
        pilot, lambda: isinstance(pilot.app.screen, MoneyScreen) and pilot.app.screen.costs is not None
    )


async def tour(pilot: Pilot[None]) -> None:
    await runs(pilot)
    app_of(pilot).action_tour()
    await until(pilot, lambda: isinstance(pilot.app.screen, TourDialog))
    await pilot.press("enter", "enter")


async def launch(pilot: Pilot[None]) -> None:
    await runs(pilot)
    await pilot.press("l")
    await until(
        pilot, lambda: "the cheapest that fits" in app_of(pilot).screen.query_one("#candidates", Choice).said
    )
    await pilot.press("enter")
    await until(pilot, lambda: isinstance(pilot.app.focused, Button))


async def why(pilot: Pilot[None]) -> None:
    await runs(pilot)
    await pilot.press("w")
    await until(pilot, lambda: "has a machine because" in screen_text(app_of(pilot)))


async def keys(pilot: Pilot[None]) -> None:
    await runs(pilot)
    await pilot.press("question_mark")
    await until(pilot, lambda: isinstance(pilot.app.screen, HelpDialog))


async def bulk(pilot: Pilot[None]) -> None:
    await runs(pilot)
    await pilot.press("space", "space", "d")
    await until(
        pilot, lambda: isinstance(pilot.app.screen, BulkDialog) and isinstance(pilot.app.focused, Button)
    )


SCENES = (
    runs,
    run,
    metrics,
    timeline,
    custody,
    files,
    spec,
    cost,
    holds,
    log,
    destroy,
    bulk,
    offers,
    alarms,
    money,
    tour,
    launch,
    why,
    keys,
)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
@pytest.mark.usefixtures("spec")
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
