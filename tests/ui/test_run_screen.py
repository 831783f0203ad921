"""One run: its log without gap or repeat, its curves, its timeline, its custody."""

import msgspec
import pytest
from ui.conftest import App, Clock, running, screen_text, type_text, until
from ui.fake_daemon import FakeDaemon
from ui.scenario import NOW, artifact, gpu_row, sample, training_log

from gputui.logs.store import next_line, raw_line
from gputui.screens.run import RunScreen
from gputui.widgets.logview import LogView
from gputui.widgets.vtable import VTable

MIRAS = "r7k2m9qa"


async def opened(app_pilot: App, run: str = MIRAS) -> LogView:
    """Open a run and wait for its log."""
    app, pilot = app_pilot
    app.open_run(run)
    await until(pilot, lambda: isinstance(app.screen, RunScreen) and app.screen.detail is not None)
    view = app.screen.query_one(LogView)
    await until(pilot, lambda: view.store.end > 0)
    await pilot.pause()
    return view


def lines(view: LogView) -> list[str]:
    store, at, found = view.store, view.store.start, []
    while at < store.end:
        found.append(raw_line(store, at))
        at = next_line(store, at)
    return found


async def test_the_overview_says_state_next_safety_gpus_and_curves(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock, (160, 50)) as (app, pilot):
        await opened((app, pilot))
        text = screen_text(app)
        for part in (
            "● running  miras-s",
            "next  checkpoint expected in 2m",
            "△ 1.83 GB · 4m12s only on the box",
            "61/80 GiB",
            "loss  2.491   step 1840/5000",
            "tokens/s  184.2k",
            "gpu use",
            "● following",
        ):
            assert part in text


async def test_the_log_follows_and_stands_still_when_scrolled_up(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        view = await opened((app, pilot))
        await daemon.subscribed("log", MIRAS)
        daemon.append_log(MIRAS, b"the newest line\n")
        await until(pilot, lambda: "the newest line" in screen_text(app))
        await pilot.press("k", "k")
        assert not view.follow
        before = screen_text(app).splitlines()[12:20]
        daemon.append_log(MIRAS, b"unseen 1\nunseen 2\n")
        await until(pilot, lambda: "↓ 2 new lines" in screen_text(app))
        assert screen_text(app).splitlines()[12:20] == before
        await pilot.press("G")
        await until(pilot, lambda: "unseen 2" in screen_text(app))
        assert view.follow
        assert view.unseen == 0


async def test_the_log_goes_on_by_byte_after_a_lost_connection(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        view = await opened((app, pilot), MIRAS)
        await daemon.subscribed("log", MIRAS)
        daemon.append_log(MIRAS, b"half a li")
        await until(pilot, lambda: "half a li" in screen_text(app))
        await daemon.stop()
        daemon.world.logs[MIRAS] += b"ne, finished while away\nand another\n"
        await daemon.start()
        app.link.retry_now()
        await until(pilot, lambda: lines(view)[-1:] == ["and another"])
        assert lines(view)[-2] == "half a line, finished while away"
        start = view.store.start
        assert "\n".join(lines(view)).encode() + b"\n" == bytes(daemon.world.logs[MIRAS][start:])


async def test_bytes_that_never_came_are_fetched_again(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        view = await opened((app, pilot))
        stream = await daemon.subscribed("log", MIRAS)
        daemon.streams.remove(stream)
        daemon.append_log(MIRAS, b"lost on the way\n")
        daemon.streams.append(stream)
        daemon.append_log(MIRAS, b"after the hole\n")
        await until(pilot, lambda: lines(view)[-2:] == ["lost on the way", "after the hole"])


async def test_older_pages_come_when_scrolled_to(daemon: FakeDaemon, clock: Clock) -> None:
    daemon.world.logs[MIRAS] = bytearray(training_log(6000))
    async with running(daemon, clock) as (app, pilot):
        view = await opened((app, pilot))
        assert view.store.start > 0
        while (before := view.store.start) > 0:
            await pilot.press("g")
            await until(pilot, lambda: view.store.start < before)
        assert lines(view)[0] == "loading tokenizer … done"
        assert "\n".join(lines(view)).encode() + b"\n" == bytes(daemon.world.logs[MIRAS])


async def test_search_counts_marks_and_walks_the_matches(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        view = await opened((app, pilot))
        await pilot.press("slash", "w")
        type_text(app, "orker 3")
        await until(pilot, lambda: "match 46 of 46" in screen_text(app))
        await pilot.press("enter", "N")
        await until(pilot, lambda: "match 45 of 46" in screen_text(app))
        assert view.search is not None
        assert view.current == view.search.matches[44]
        assert view.current in [line for line, _ in view.shown_lines()]
        await pilot.press("n", "n")
        await until(pilot, lambda: "match 1 of 46" in screen_text(app))
        daemon.append_log(MIRAS, b"worker 3 again\n")
        await until(pilot, lambda: "of 47" in screen_text(app))
        await pilot.press("escape")
        await pilot.pause()
        assert view.search is None
        assert isinstance(app.screen, RunScreen)


@pytest.mark.parametrize(("typed", "said"), [("[", "not a regular expression"), ("no such line", "no match")])
async def test_a_search_that_finds_nothing_says_so(
    daemon: FakeDaemon, clock: Clock, typed: str, said: str
) -> None:
    async with running(daemon, clock) as (app, pilot):
        await opened((app, pilot))
        await pilot.press("slash")
        await pilot.pause()
        app.focused.value = typed  # type: ignore[union-attr]
        await until(pilot, lambda: said in screen_text(app))


async def test_telemetry_moves_the_meters(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock, (160, 50)) as (app, pilot):
        await opened((app, pilot))
        await daemon.subscribed("telemetry", MIRAS)
        hot = [gpu_row(0, "H100 SXM", 0.42, 70, 80, 300, 91)]
        daemon.push_sample(MIRAS, sample(1850, at=NOW + 10, gpus=hot))
        await until(pilot, lambda: "42%" in screen_text(app))
        assert "▲ 91°C" in screen_text(app)


async def test_the_timeline_grows_newest_first(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        await opened((app, pilot))
        await pilot.press("t")
        await daemon.subscribed("events", MIRAS)
        daemon.push_event(MIRAS, "checkpoint", "step 2000 verified")
        await until(pilot, lambda: "step 2000 verified" in screen_text(app))
        table = app.screen.query_one("#timeline", VTable)
        assert table.model.at(0).text == "step 2000 verified"  # type: ignore[union-attr]
        assert len(table.model.order) == 13


async def test_custody_lists_what_is_not_safe_first_and_is_read_again_when_it_changes(
    daemon: FakeDaemon, clock: Clock
) -> None:
    async with running(daemon, clock) as (app, pilot):
        await opened((app, pilot))
        await pilot.press("c")
        await pilot.pause()
        text = screen_text(app)
        assert "Destroying now would lose 3 files" in text
        assert text.index("⇣ downloading") < text.index("✓ verified")
        world = daemon.world
        world.custody[MIRAS] = msgspec.structs.replace(
            world.custody[MIRAS],
            allowed=True,
            summary="Nothing would be lost.",
            unsafe=[],
            verified=[artifact("a.gguf", 5, "verified")],
        )
        world.runs[0] = msgspec.structs.replace(world.runs[0], checkpoints=8)
        daemon.push_runs()
        await until(pilot, lambda: "Nothing would be lost." in screen_text(app))


async def test_tabs_by_letter_and_by_tab(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        await opened((app, pilot))
        screen = app.screen
        assert isinstance(screen, RunScreen)
        seen = []
        for key in ("t", "c", "b", "dollar_sign", "o", "tab", "shift+tab", "left_square_bracket", "p"):
            await pilot.press(key)
            seen.append(screen.tab)
        assert seen == [
            "timeline",
            "custody",
            "files",
            "cost",
            "overview",
            "metrics",
            "overview",
            "cost",
            "spec",
        ]
        assert 'image = "pytorch/pytorch' in screen_text(app)


async def test_zoom_gives_the_log_the_whole_width(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock, (160, 50)) as (app, pilot):
        view = await opened((app, pilot))
        narrow = view.size.width
        await pilot.press("z")
        await pilot.pause()
        assert view.size.width > narrow


async def test_the_log_is_there_after_the_machine_is_gone(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        view = await opened((app, pilot), "q8f4j2ls")
        assert "end of the log" in screen_text(app)
        assert len(lines(view)) == 202
        assert not [s for s in daemon.streams if s.what.topic == "log"]


async def test_leaving_ends_the_streams(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        await opened((app, pilot))
        for topic in ("log", "telemetry", "events"):
            await daemon.subscribed(topic, MIRAS)
        await pilot.press("escape")
        await daemon.called("unsubscribe", 3)
        assert {s.what.topic for s in daemon.streams} == {"runs"}
