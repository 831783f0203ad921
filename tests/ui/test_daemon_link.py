"""The daemon goes away, comes back, is another one, or was never there: the app says so and carries on."""

import asyncio
from pathlib import Path

import pytest
from ui.conftest import Clock, running, screen_text, toasts, until
from ui.fake_daemon import FakeDaemon
from ui.scenario import World

from gputui.app import GpuTui
from gputui.fleet import LinkStatus
from gputui.guard import run_guarded
from gpuwatch.client.errors import DaemonUnreachable


async def test_a_daemon_that_dies_leaves_the_last_data_marked_stale(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        await daemon.stop()
        await until(pilot, lambda: app.fleet.link.status is LinkStatus.DOWN)
        clock.now += 34
        app._tick()
        await pilot.pause()
        text = screen_text(app)
        assert "onyx-1b-grow" in text
        assert "✗ no gpuwatch answers" in text or "the connection to gpuwatch broke" in text
        assert "below is what was true 34s ago" in text
        assert "✗ 34s old" in text
        assert app.screen.has_class("-stale")


async def test_it_comes_back_by_itself_and_shows_what_is_new(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        await daemon.stop()
        await until(pilot, lambda: app.fleet.link.status is LinkStatus.DOWN)
        daemon.world.runs = daemon.world.runs[:1]
        await daemon.start()
        await pilot.press("R")
        await until(pilot, lambda: "onyx-1b-grow" not in screen_text(app))
        assert app.fleet.link.status is LinkStatus.UP
        assert not app.screen.has_class("-stale")
        assert "R: now" not in screen_text(app)


async def test_a_daemon_that_is_silent_makes_the_data_look_stale(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        clock.now += 45
        app._tick()
        await pilot.pause()
        assert "△ 45s old" in screen_text(app)
        assert app.screen.has_class("-stale")


async def test_an_action_while_it_is_away_says_that_nothing_was_done(
    daemon: FakeDaemon, clock: Clock
) -> None:
    async with running(daemon, clock) as (app, pilot):
        await daemon.stop()
        await until(pilot, lambda: app.fleet.link.status is LinkStatus.DOWN)
        await pilot.press("d")
        await until(pilot, lambda: "nothing was done" in toasts(app))


async def test_another_version_is_named_with_what_to_do(daemon: FakeDaemon, clock: Clock) -> None:
    daemon.protocol = 99
    async with running(daemon, clock, wait=False) as (app, pilot):
        await until(pilot, lambda: app.fleet.link.status is LinkStatus.OTHER_VERSION)
        await pilot.pause()
        assert "speaks protocol 99, this gputui 1" in screen_text(app)


async def test_when_none_answers_one_is_started_once(home: Path, clock: Clock, world: World) -> None:
    fake = FakeDaemon(home / "run" / "gpuwatch.sock", world)
    started = []

    async def spawn() -> None:
        started.append(1)
        await fake.start()

    app = GpuTui(fake.path, spawn=spawn, clock=clock, heartbeat=3600)
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: app.fleet.runs is not None)
        await fake.stop()
        await until(pilot, lambda: app.fleet.link.status is LinkStatus.DOWN)
        assert started == [1], "a daemon that was stopped on purpose is not started again"
    await fake.stop()


async def test_a_daemon_that_will_not_start_shows_its_last_words(home: Path, clock: Clock) -> None:
    async def spawn() -> None:
        raise DaemonUnreachable(
            "gpuwatch exited with status 1; its last words in /x:\n  ledger is from a newer version"
        )

    app = GpuTui(home / "nobody.sock", spawn=spawn, clock=clock, heartbeat=3600)
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: "ledger is from a newer version" in screen_text(app))


async def test_a_worker_that_raises_is_a_toast_and_a_log_entry(
    daemon: FakeDaemon, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async def bug() -> None:
        raise ZeroDivisionError("[bold]x[/nope]")

    async with running(daemon, clock) as (app, pilot):
        run_guarded(app.screen, bug(), what="Counting", group="bug")
        await until(pilot, lambda: "ZeroDivisionError: [bold]x[/nope]" in toasts(app))
        await pilot.pause()
        assert app.is_running
    assert "Counting" in caplog.text


async def test_a_thousand_snapshots_do_not_pile_up(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        for n in range(1000):
            daemon.world.burn = n * 10_000
            daemon.push_runs()
            if n % 50 == 0:
                await asyncio.sleep(0)
        await until(pilot, lambda: "burn $9.99/h" in screen_text(app))
