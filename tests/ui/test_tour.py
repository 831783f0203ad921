"""The first minutes: the tour for who has nothing yet, and lists that teach instead of being empty."""

from __future__ import annotations

from pathlib import Path

from ui.conftest import Clock, running, screen_text, type_text, until
from ui.fake_daemon import FakeDaemon
from ui.scenario import World, small_fleet

from gputui.app import GpuTui
from gputui.screens.tour import PAGES, TourDialog


async def test_who_has_nothing_yet_gets_the_tour_once(daemon: FakeDaemon, clock: Clock, home: Path) -> None:
    daemon.world = World()
    mark = home / "state" / "toured"
    await first_look(daemon, clock, mark, shown=True)
    assert mark.exists()
    await first_look(daemon, clock, mark, shown=False)


async def first_look(daemon: FakeDaemon, clock: Clock, mark: Path, *, shown: bool) -> None:
    app = GpuTui(daemon.path, clock=clock, heartbeat=3600, toured=mark)
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: app.fleet.runs is not None)
        if shown:
            await until(pilot, lambda: isinstance(app.screen, TourDialog))
            await pilot.press("escape")
            await until(pilot, lambda: not isinstance(app.screen, TourDialog))
        await until(pilot, lambda: not [w for w in app.workers if w.group == "tour" and not w.is_finished])
        assert not isinstance(app.screen, TourDialog)
        assert "No runs yet, and no account to rent from." in screen_text(app)
        assert "gputui login vast" in screen_text(app)
    assert not app.wants_demo


async def test_who_has_an_account_or_a_run_is_left_alone(
    daemon: FakeDaemon, clock: Clock, home: Path
) -> None:
    daemon.world = World(accounts=small_fleet().accounts)
    mark = home / "state" / "toured"
    app = GpuTui(daemon.path, clock=clock, heartbeat=3600, toured=mark)
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: "l   launch a run from a spec" in screen_text(app))
        assert not isinstance(app.screen, TourDialog)
    assert not mark.exists()


async def test_the_tour_goes_both_ways_and_ends_in_the_demo(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock, (100, 30)) as (app, pilot):
        app.action_tour()
        await until(pilot, lambda: isinstance(app.screen, TourDialog))
        tour = app.screen
        assert isinstance(tour, TourDialog)
        await pilot.press("left", "enter", "right", "left")
        assert tour.page == 1
        for title, _ in PAGES[1:]:
            assert title in screen_text(app)
            if title != PAGES[-1][0]:
                await pilot.press("enter")
        assert "plays the demo now" in screen_text(app)
        await pilot.press("enter")
        await until(pilot, lambda: app.wants_demo)


async def test_a_filter_that_hides_everything_says_so(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock, (100, 30)) as (app, pilot):
        await pilot.press("slash")
        await pilot.pause()
        type_text(app, "zzz")
        await until(pilot, lambda: "The filter hides all 5 rows." in screen_text(app))
        await pilot.press("escape")
        await until(pilot, lambda: "miras-s" in screen_text(app))
