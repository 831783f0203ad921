"""What needs a person, and what it costs."""

import msgspec
from ui.conftest import Clock, running, screen_text, toasts, until
from ui.fake_daemon import FakeDaemon
from ui.scenario import NOW, USD, World, run_row

from gputui.alarms import alarms_of
from gputui.screens.alarms import AlarmsScreen
from gputui.screens.money import MoneyScreen
from gputui.screens.run import RunScreen
from gpuwatch.client import wire


async def test_alarms_gather_runs_boxes_and_accounts_and_open_their_run(
    daemon: FakeDaemon, clock: Clock
) -> None:
    world = daemon.world
    hot = wire.AlarmRow(name="hot", subject="gpu 0", severity="warn", text="91°C, it slows down")
    world.runs[0] = msgspec.structs.replace(world.runs[0], alarms=[hot])
    world.accounts[1] = msgspec.structs.replace(world.accounts[1], problem="the API key was refused")
    async with running(daemon, clock, (140, 40)) as (app, pilot):
        await pilot.press("3")
        await until(pilot, lambda: isinstance(app.screen, AlarmsScreen))
        text = screen_text(app)
        for part in (
            "CUDA out of memory",
            "gpu 0: 91°C, it slows down",
            "the API key was refused",
            "▪ note",
            "did not rent",
        ):
            assert part in text
        rows = [alarm.severity for alarm in app.screen.table.model.rows.values()]
        assert rows == sorted(rows, key=["alarm", "warn", "note"].index)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, RunScreen))
        assert app.screen.ident == "t5v0c4hn"


async def test_an_alarm_about_no_run_says_so(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock, (140, 40)) as (app, pilot):
        await pilot.press("3", "G", "d")
        await until(pilot, lambda: "This alarm is not about a run." in toasts(app))


async def test_no_alarm_is_said_kindly(daemon: FakeDaemon, clock: Clock) -> None:
    daemon.world.runs = []
    daemon.world.accounts = []
    async with running(daemon, clock, (80, 24)) as (app, pilot):
        await pilot.press("3")
        await until(pilot, lambda: "✓ Nothing needs you." in screen_text(app))


async def test_money_by_account_by_day_and_by_run(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock, (120, 40)) as (app, pilot):
        await pilot.press("4")
        await until(pilot, lambda: isinstance(app.screen, MoneyScreen))
        text = screen_text(app)
        for part in (
            "burn  $8.94/h   $214.56 a day",
            "$38.12 credit  $3.50/h  lasts 10h53m",
            "last 14 days  $31.65",
            "$21.07",
        ):
            assert part in text
        daemon.world.runs = [
            run_row(
                "n",
                "new",
                "running",
                provider="vast",
                instance_id="1",
                price=40 * USD,
                cost=USD,
                created_at=NOW - 9,
            )
        ]
        daemon.push_runs()
        await until(pilot, lambda: "lasts 57m10s △" in screen_text(app))


async def test_metrics_zoom_and_read_under_a_crosshair(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock, (120, 50)) as (app, pilot):
        app.open_run("r7k2m9qa")
        await until(pilot, lambda: isinstance(app.screen, RunScreen) and app.screen.detail is not None)
        await pilot.press("m")
        await until(pilot, lambda: "gpu0 power" in screen_text(app))
        assert "the last 1h00m" in screen_text(app)
        await pilot.press("plus")
        asked = await daemon.called("telemetry.history", 2)
        assert asked.seconds == 900
        await until(pilot, lambda: "the last 15m00s" in screen_text(app))
        await pilot.press("left", "left")
        await until(pilot, lambda: "ago    + - zoom" in screen_text(app))
        await pilot.press("G")
        await until(pilot, lambda: "the last 15m00s" in screen_text(app))


def test_what_the_daemon_says_itself_is_there_once(world: World) -> None:
    orphan = "a machine with our label that no run drives: gputui-x1"
    said = ["t5v0c4hn: onyx-1b-grow failed and waits for you", orphan]
    found = alarms_of(msgspec.structs.replace(world.fleet(), alarms=said))
    assert [alarm.text for alarm in found if alarm.where == "gpuwatch"] == [orphan]
    assert sum(alarm.where == "onyx-1b-grow" for alarm in found) == 1
