"""The home screen: everything at a glance, every key does what the footer says."""

import msgspec
from ui.conftest import Clock, running, screen_text, toasts, type_text, until
from ui.fake_daemon import FakeDaemon
from ui.scenario import World, run_row

from gputui.screens.destroy import DestroyDialog
from gputui.screens.help import HelpDialog
from gputui.screens.launch import LaunchDialog
from gputui.screens.offers import OffersScreen
from gputui.screens.run import RunScreen
from gputui.screens.runs import RunsScreen
from gputui.screens.why import WhyDialog
from gputui.widgets.vtable import VTable
from gpuwatch.client import wire


async def test_the_fleet_is_there_at_once_with_what_needs_a_person_first(
    daemon: FakeDaemon, clock: Clock
) -> None:
    async with running(daemon, clock, (80, 24)) as (app, _):
        text = screen_text(app)
        names = [line.split()[1] for line in text.splitlines()[3:5]]
        assert "onyx-1b-grow" in text.splitlines()[3]
        assert names == ["▲", "nanogpt-owt"] or "nanogpt-owt" in text.splitlines()[4]
        assert "burn $8.94/h" in text
        assert "▲ 1 alarm" in text
        assert "at risk 6.98 GB" in text
        assert "● live" in text
        assert "waits for you: destroy it, or start it again" in text


async def test_moving(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        table = app.screen.query_one(VTable)
        for keys, name in (
            (["j"], "nanogpt-owt"),
            (["down", "down"], "miras-s"),
            (["G"], "miras-xs"),
            (["up", "k"], "runpod-2b"),
            (["g"], "onyx-1b-grow"),
            (["pagedown"], "miras-xs"),
            (["pageup"], "onyx-1b-grow"),
        ):
            await pilot.press(*keys)
            assert table.current is not None
            assert table.current.name == name


async def test_the_cursor_stays_with_its_run_when_the_fleet_changes(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        await pilot.press("j")
        table = app.screen.query_one(VTable)
        before = table.cursor_key
        world = daemon.world
        world.runs = [run_row("new", "newest", "renting", attention="alarm"), *world.runs]
        daemon.push_runs()
        await until(pilot, lambda: "newest" in screen_text(app))
        assert table.cursor_key == before == "p3d8x1zz"
        world.runs = [run for run in world.runs if run.id != before]
        daemon.push_runs()
        await until(pilot, lambda: "nanogpt-owt" not in screen_text(app))
        assert table.cursor_key in {run.id for run in world.runs}


async def test_sorting_by_key_and_turning_it(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        table = app.screen.query_one(VTable)
        await pilot.press("s")
        assert table.model.sorted_by == "name"
        assert table.model.rows[table.model.order[0]].name == "miras-s"
        assert "NAME ↑" in screen_text(app)
        await pilot.press("S")
        assert table.model.rows[table.model.order[0]].name == "runpod-2b"


async def test_a_click_on_a_title_sorts_and_on_a_row_moves(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        table = app.screen.query_one(VTable)
        await pilot.click(VTable, offset=(8, 0))
        assert table.model.sorted_by == "name"
        await pilot.click(VTable, offset=(8, 3))
        assert table.current is not None
        assert table.current.name == "nanogpt-owt"
        await pilot.click(VTable, offset=(8, 3), times=2)
        await until(pilot, lambda: isinstance(app.screen, RunScreen))


async def test_filtering_keeps_on_enter_and_ends_on_escape(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        table = app.screen.query_one(VTable)
        await pilot.press("slash", "m", "i")
        type_text(app, "ras")
        await pilot.pause()
        assert len(table.model.order) == 2
        await pilot.press("enter")
        assert app.focused is table
        assert len(table.model.order) == 2
        await pilot.press("escape")
        await pilot.pause()
        assert len(table.model.order) == 5
        assert not app.screen.query("#filter")


async def test_each_key_opens_its_screen_and_escape_comes_back(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        for key, screen in (
            ("enter", RunScreen),
            ("l", LaunchDialog),
            ("d", DestroyDialog),
            ("w", WhyDialog),
            ("question_mark", HelpDialog),
            ("2", OffersScreen),
        ):
            await pilot.press(key)
            await until(pilot, lambda: isinstance(app.screen, screen))  # noqa: B023
            await pilot.press("1" if key == "2" else "escape")
            await until(pilot, lambda: isinstance(app.screen, RunsScreen))


async def test_the_palette_finds_runs_and_actions(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        await pilot.press("colon")
        await until(pilot, lambda: len(app.screen_stack) == 2)
        type_text(app, "open miras-xs")
        await until(pilot, lambda: "gone · q8f4j2ls" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, RunScreen))
        assert app.screen.ident == "q8f4j2ls"


async def test_a_key_that_cannot_do_it_now_says_why(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        await pilot.press("G", "d")
        assert isinstance(app.screen, RunsScreen)
        await until(pilot, lambda: "Miras-xs has no machine any more." in toasts(app))


async def test_undo_takes_a_destroy_back(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        await pilot.press("j", "u")
        asked = await daemon.called("destroy.cancel")
        assert asked == wire.Cancel(run="p3d8x1zz")
        await until(pilot, lambda: "The machine of nanogpt-owt stays." in toasts(app))


async def test_a_click_on_the_key_bar_is_the_key(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        bar = screen_text(app).splitlines()[-1]
        await pilot.click(offset=(bar.index("w Why"), 39))
        await until(pilot, lambda: isinstance(app.screen, WhyDialog))


async def test_an_empty_fleet_teaches(daemon: FakeDaemon, clock: Clock, world: World) -> None:
    world.runs = []
    world.burn = 0
    async with running(daemon, clock, (80, 24)) as (app, pilot):
        assert "No runs yet." in screen_text(app)
        assert "gputui demo" in screen_text(app)
        await pilot.press("d")
        await until(pilot, lambda: "There is no run here." in toasts(app))


async def test_an_account_that_cannot_be_reached_is_explained(daemon: FakeDaemon, clock: Clock) -> None:
    problem = "no Vast API key: set VAST_API_KEY"
    async with running(daemon, clock) as (app, pilot):
        accounts = daemon.world.accounts
        accounts[0] = msgspec.structs.replace(accounts[0], problem=problem)
        daemon.push_runs()
        await until(pilot, lambda: f"▲ vast: {problem}" in screen_text(app))
        assert "▲ 2 alarms" in screen_text(app)
        accounts[0] = msgspec.structs.replace(accounts[0], problem=None)
        daemon.push_runs()
        await until(pilot, lambda: problem not in screen_text(app))


async def test_why_is_told_in_plain_words(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        await pilot.press("w")
        await until(
            pilot, lambda: "onyx-1b-grow has a machine because its job is failed." in screen_text(app)
        )
        assert "job-failed: a person should look before the box goes" in screen_text(app)


async def test_help_lists_the_keys_of_what_is_focused(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock, (120, 50)) as (app, pilot):
        await pilot.press("question_mark")
        await pilot.pause()
        text = screen_text(app)
        for part in (
            "On this screen",
            "In the table",
            "Everywhere",
            "Destroy: collect, verify, then destroy",
        ):
            assert part in text


async def test_quitting_leaves_the_daemon_alone(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        await pilot.press("q")
        await pilot.pause()
        assert app._exit
    assert daemon.counts["shutdown"] == 0


async def test_any_size_of_terminal_works(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock, (100, 30)) as (app, pilot):
        for place in ("runs", "run"):
            for size in ((20, 5), (40, 10), (80, 24), (250, 70), (100, 30)):
                await pilot.resize_terminal(*size)
                await pilot.pause()
            assert "onyx-1b-grow" in screen_text(app)
            if place == "runs":
                await pilot.press("enter")
                await until(
                    pilot, lambda: isinstance(app.screen, RunScreen) and app.screen.detail is not None
                )


async def test_a_snapshot_that_changes_a_run_changes_its_row(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        runs = daemon.world.runs
        runs[0] = msgspec.structs.replace(runs[0], step=1841, state="collecting")
        daemon.push_runs()
        await until(pilot, lambda: "1841/5000" in screen_text(app))
        assert screen_text(app).count("⇣ collecting") == 2
