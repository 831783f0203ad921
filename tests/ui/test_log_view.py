"""The log of a captured file: any size, in place, with everything a person does to a log."""

import struct
from pathlib import Path

import pytest
from ui.conftest import App, Clock, running, screen_text, toasts, type_text, until
from ui.fake_daemon import FakeDaemon
from ui.scenario import NOW, training_log

from gputui.logs.store import FileLog, raw_line
from gputui.screens.run import RunScreen
from gputui.widgets.logview import LogView

MIRAS = "r7k2m9qa"


@pytest.fixture
def captured(daemon: FakeDaemon, tmp_path: Path) -> Path:
    """The log of the first run as a file of its own."""
    path = tmp_path / "job.log"
    data = (
        training_log(400)
        + b"\x1b[31mtorch.OutOfMemoryError\x1b[0m: CUDA out of memory.\n"
        + training_log(400)
    )
    path.write_bytes(data)
    daemon.world.logs[MIRAS] = bytearray(data)
    daemon.world.log_paths[MIRAS] = str(path)
    return path


async def opened(app_pilot: App) -> LogView:
    app, pilot = app_pilot
    app.open_run(MIRAS)
    await until(pilot, lambda: isinstance(app.screen, RunScreen) and app.screen.detail is not None)
    assert isinstance(app.screen, RunScreen)
    view = app.screen.log_view
    await until(pilot, lambda: view.store.end > 0)
    return view


async def test_it_is_read_in_place_and_followed(daemon: FakeDaemon, clock: Clock, captured: Path) -> None:
    async with running(daemon, clock) as (app, pilot):
        view = await opened((app, pilot))
        assert isinstance(view.store, FileLog)
        with captured.open("ab") as file:
            file.write(b"and now th")
        await until(pilot, lambda: "and now th" in screen_text(app))
        with captured.open("ab") as file:
            file.write(b"is\n")
        await until(pilot, lambda: "and now this" in screen_text(app))
        assert "● following" in screen_text(app)
        daemon.world.log_complete.add(MIRAS)
        daemon.world.logs[MIRAS] = bytearray(captured.read_bytes())
        clock.now += 5
        await until(pilot, lambda: "end of the log" in screen_text(app))
        assert daemon.counts["log.read"] < 20, "nothing of the log came over the socket"


async def test_top_and_bottom_are_one_key_away(daemon: FakeDaemon, clock: Clock, captured: Path) -> None:
    async with running(daemon, clock) as (app, pilot):
        view = await opened((app, pilot))
        await pilot.press("g")
        assert "loading tokenizer" in screen_text(app)
        assert view.top == 0
        await pilot.press("j", "j", "k", "pagedown", "pageup", "pageup")
        assert view.top == 0
        await pilot.press("G", "k")
        assert not view.follow
        await until(pilot, lambda: "standing still at" in screen_text(app))
        await pilot.press("j")
        assert view.follow


async def test_one_key_finds_what_went_wrong(daemon: FakeDaemon, clock: Clock, captured: Path) -> None:
    async with running(daemon, clock) as (app, pilot):
        view = await opened((app, pilot))
        await pilot.press("e")
        await until(pilot, lambda: "errors: match 1 of 1" in screen_text(app))
        assert "✗ torch.OutOfMemoryError: CUDA out of memory." in screen_text(app)
        assert view.current is not None
        assert "OutOfMemory" in raw_line(view.store, view.current)
        await pilot.press("escape")
        await pilot.pause()
        assert view.search is None


async def test_only_the_lines_that_match(daemon: FakeDaemon, clock: Clock, captured: Path) -> None:
    async with running(daemon, clock) as (app, pilot):
        view = await opened((app, pilot))
        await pilot.press("slash", "w")
        type_text(app, "orker 3")
        await until(pilot, lambda: "of 20" in screen_text(app))
        await pilot.press("enter", "ampersand")
        await pilot.pause()
        shown = [raw_line(view.store, line) for line, _ in view.shown_lines()]
        assert len(shown) > 3
        assert all("worker 3" in line for line in shown)
        await pilot.press("k", "G", "g")
        with captured.open("ab") as file:
            file.write(b"worker 3 again\nnot this\n")
        await until(pilot, lambda: "of 21" in screen_text(app))
        await pilot.press("ampersand")
        await pilot.pause()
        assert any("INFO" in raw_line(view.store, line) for line, _ in view.shown_lines())


async def test_a_pattern_matches_through_colours(daemon: FakeDaemon, clock: Clock, captured: Path) -> None:
    async with running(daemon, clock) as (app, pilot):
        await opened((app, pilot))
        await pilot.press("slash", "^")
        type_text(app, r"14:\d+:07 INFO  step +8 ")
        await until(pilot, lambda: "match 2 of 2" in screen_text(app))


async def test_long_lines_wrap(daemon: FakeDaemon, clock: Clock, captured: Path) -> None:
    async with running(daemon, clock, (80, 40)) as (app, pilot):
        view = await opened((app, pilot))
        with captured.open("ab") as file:
            file.write(b"begin " + b"0123456789" * 20 + b" end\n")
        await until(pilot, lambda: "begin" in screen_text(app))
        assert " end" not in screen_text(app)
        await pilot.press("W")
        await pilot.pause()
        assert " end" in screen_text(app)
        rows = [row for _, row in view.shown_lines()]
        assert rows[-3:] == [0, 1, 2]
        await pilot.press("k")
        assert [row for _, row in view.shown_lines()][-2:] == [0, 1]
        await pilot.press("W")
        await pilot.press("right")
        await pilot.pause()
        assert "begin" not in screen_text(app).splitlines()[-4]


async def test_the_gutter_says_when_lines_arrived(daemon: FakeDaemon, clock: Clock, captured: Path) -> None:
    captured.with_name("job.log.times").write_bytes(struct.pack("<QQ", 0, int(NOW * 1000)))
    async with running(daemon, clock) as (app, pilot):
        await opened((app, pilot))
        await pilot.press("T")
        await pilot.pause()
        assert screen_text(app).count("14:13:20 ") > 10


async def test_a_click_on_the_bar_goes_there(daemon: FakeDaemon, clock: Clock, captured: Path) -> None:
    async with running(daemon, clock) as (app, pilot):
        view = await opened((app, pilot))
        await pilot.click(LogView, offset=(view.size.width - 1, 0))
        assert view.top == 0
        await pilot.click(LogView, offset=(view.size.width - 1, view.size.height // 2))
        share = view.top / view.store.end
        assert 0.3 < share < 0.7


async def test_saving_what_is_shown(daemon: FakeDaemon, clock: Clock, captured: Path, tmp_path: Path) -> None:
    async with running(daemon, clock) as (app, pilot):
        await opened((app, pilot))
        for name, said in (("out.txt", "lines in"), ("out.txt", "nothing was written")):
            await pilot.press("ctrl+s")
            await pilot.pause()
            app.focused.value = str(tmp_path / name)  # type: ignore[union-attr]
            await pilot.press("enter")
            await until(pilot, lambda: said in toasts(app))  # noqa: B023
        text = (tmp_path / "out.txt").read_text()
        assert "\x1b" not in text
        assert "torch.OutOfMemoryError: CUDA out of memory." in text


async def test_a_log_that_is_not_there_yet_appears(daemon: FakeDaemon, clock: Clock, tmp_path: Path) -> None:
    path = tmp_path / "later.log"
    daemon.world.logs["b1n6w8ey"] = bytearray()
    daemon.world.log_paths["b1n6w8ey"] = str(path)
    async with running(daemon, clock) as (app, pilot):
        app.open_run("b1n6w8ey")
        await until(pilot, lambda: "● following" in screen_text(app))
        path.write_bytes(b"first words\n")
        await until(pilot, lambda: "first words" in screen_text(app))
