"""Launch from the keyboard: validated while typed, and no money without a second, deliberate key."""

from pathlib import Path

from textual.widgets import Button, Input, TextArea
from ui.conftest import App, Clock, running, screen_text, toasts, type_text, until
from ui.fake_daemon import FakeDaemon, Fault
from ui.scenario import SPEC, run_row

from gputui.screens.launch import LaunchDialog
from gputui.screens.offers import OffersScreen
from gputui.screens.run import RunScreen
from gpuwatch.client import wire


async def opened(app_pilot: App, key: str = "l") -> LaunchDialog:
    app, pilot = app_pilot
    await pilot.press(key)
    await until(pilot, lambda: isinstance(app.screen, LaunchDialog))
    assert isinstance(app.screen, LaunchDialog)
    return app.screen


async def test_the_only_spec_here_is_offered_checked_and_launched(
    daemon: FakeDaemon, clock: Clock, spec: Path
) -> None:
    daemon.world.runs.append(run_row("n0w1aunc", "miras-s", "requested"))
    async with running(daemon, clock) as (app, pilot):
        dialog = await opened((app, pilot))
        await until(pilot, lambda: not dialog.query_one("#go", Button).disabled)
        assert "rent 1× H100 SXM or H100 PCIe" in screen_text(app)
        await pilot.press("enter")
        assert app.focused is dialog.query_one("#go")
        assert daemon.counts["launch"] == 0
        await pilot.press("enter")
        order = await daemon.called("launch")
        await until(pilot, lambda: isinstance(app.screen, RunScreen))
        assert app.screen.ident == "n0w1aunc"
        assert "miras-s was launched." in toasts(app)
    assert order.spec == wire.SpecText(text=SPEC, file="run.toml", base=str(spec.parent))
    assert order.provider is None
    assert len(order.key) == 32


async def test_a_spec_with_mistakes_is_explained_and_cannot_be_launched(
    daemon: FakeDaemon, clock: Clock, spec: Path
) -> None:
    spec.write_text(SPEC.replace("max_price", "max_prize"))
    async with running(daemon, clock) as (app, pilot):
        dialog = await opened((app, pilot))
        await until(pilot, lambda: "did you mean max_price?" in screen_text(app))
        assert "found an unknown key, expected max_price" in screen_text(app)
        assert dialog.query_one("#go", Button).disabled
        await pilot.press("enter")
        await pilot.pause()
    assert daemon.counts["launch"] == 0


async def test_a_file_that_is_not_there_is_said_calmly(daemon: FakeDaemon, clock: Clock, spec: Path) -> None:
    spec.unlink()
    async with running(daemon, clock) as (app, pilot):
        await opened((app, pilot))
        type_text(app, "nope.toml")
        await until(pilot, lambda: "there is no such file (yet)" in screen_text(app))


async def test_a_checkpoint_named_by_mistake_is_no_spec(daemon: FakeDaemon, clock: Clock, spec: Path) -> None:
    spec.write_bytes(b"\x80\x02weights" * 1000)
    async with running(daemon, clock) as (app, pilot):
        await opened((app, pilot))
        await until(pilot, lambda: "can't decode" in screen_text(app))


async def test_launching_from_an_offer_rents_exactly_that_one(
    daemon: FakeDaemon, clock: Clock, spec: Path
) -> None:
    async with running(daemon, clock) as (app, pilot):
        await pilot.press("2")
        await until(pilot, lambda: isinstance(app.screen, OffersScreen) and app.screen.answer is not None)
        dialog = await opened((app, pilot), "enter")
        assert "on RTX 4090 at $0.34/h  (vast 9120400)" in screen_text(app)
        await until(pilot, lambda: not dialog.query_one("#go", Button).disabled)
        await pilot.press("enter", "enter")
        order = await daemon.called("launch")
    assert (order.provider, order.offer_id) == ("vast", "9120400")


async def test_a_failed_launch_stays_open_and_asks_again_with_the_same_key(
    daemon: FakeDaemon, clock: Clock, spec: Path
) -> None:
    def fail(params: wire.Launch) -> wire.Launched:
        raise Fault(wire.Code.PROVIDER, "vast: the key was refused; set VAST_API_KEY")

    daemon.hooks["launch"] = fail
    async with running(daemon, clock) as (app, pilot):
        dialog = await opened((app, pilot))
        await until(pilot, lambda: not dialog.query_one("#go", Button).disabled)
        await pilot.press("enter", "enter")
        await until(pilot, lambda: "the key was refused" in screen_text(app))
        del daemon.hooks["launch"]
        go = dialog.query_one("#go", Button)
        await until(pilot, lambda: not go.has_class("-active"))
        await pilot.press("enter")
        await daemon.called("launch", 2)
    keys = [params.key for method, params in daemon.calls if method == "launch"]
    assert keys[0] == keys[1]


async def test_escape_launches_nothing(daemon: FakeDaemon, clock: Clock, spec: Path) -> None:
    async with running(daemon, clock) as (app, pilot):
        await opened((app, pilot))
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, LaunchDialog))
    assert daemon.counts["launch"] == 0


async def test_what_is_typed_into_the_text_is_checked_told_by_line_and_launched_as_typed(
    daemon: FakeDaemon, clock: Clock, spec: Path
) -> None:
    async with running(daemon, clock) as (app, pilot):
        dialog = await opened((app, pilot))
        go, area = dialog.query_one("#go", Button), dialog.query_one("#text", TextArea)
        await until(pilot, lambda: not go.disabled)
        area.text = SPEC.replace("max_price", "max_prize")
        await until(pilot, lambda: "✗ line 8, gpu.max_prize" in screen_text(app))
        assert go.disabled
        area.text = SPEC.replace("2.50", "1.75")
        await until(pilot, lambda: not go.disabled)
        assert "△ edited" in screen_text(app)
        await pilot.press("enter", "enter")
        order = await daemon.called("launch")
    assert "max_price = 1.75" in order.spec.text
    assert spec.read_text() == SPEC, "the file is as it was"


async def test_the_market_is_ranked_and_one_of_it_can_be_picked(
    daemon: FakeDaemon, clock: Clock, spec: Path
) -> None:
    async with running(daemon, clock) as (app, pilot):
        dialog = await opened((app, pilot))
        await until(pilot, lambda: "the cheapest that fits, now $2.35/h" in screen_text(app))
        dialog.query_one("#candidates").focus()
        await pilot.press("j", "j")
        dialog.query_one("#go").focus()
        await pilot.press("enter")
        order = await daemon.called("launch")
    asked = [params.market for method, params in daemon.calls if method == "spec.check"]
    assert (asked[0], asked[-1]) == (False, True), "vendors are asked only about a good spec"
    fits = [o for o in daemon.world.offers if "H100" in o.gpu and o.verified and not o.spot]
    assert (order.provider, order.offer_id) == (fits[1].provider, fits[1].offer_id)


async def test_a_new_spec_begins_with_a_template_and_is_saved(
    daemon: FakeDaemon, clock: Clock, spec: Path
) -> None:
    spec.unlink()
    async with running(daemon, clock) as (app, pilot):
        dialog = await opened((app, pilot))
        await until(pilot, lambda: "No spec lies here." in screen_text(app))
        await pilot.press("ctrl+n")
        area = dialog.query_one("#text", TextArea)
        await until(pilot, lambda: "△ edited" in screen_text(app))
        assert app.focused is area
        await pilot.press("ctrl+s")
        await until(pilot, lambda: "Saved" in toasts(app))
        assert spec.read_text() == area.text
        assert 'name = "RTX 4090"' in area.text


async def test_a_file_that_changed_meanwhile_is_not_overwritten(
    daemon: FakeDaemon, clock: Clock, spec: Path
) -> None:
    async with running(daemon, clock) as (app, pilot):
        dialog = await opened((app, pilot))
        await until(pilot, lambda: not dialog.query_one("#go", Button).disabled)
        dialog.query_one("#text", TextArea).text = "mine"
        spec.write_text("theirs")
        await pilot.press("ctrl+s")
        await until(pilot, lambda: "nothing was written" in toasts(app))
    assert spec.read_text() == "theirs"


async def test_an_edited_text_is_not_dropped_by_one_escape(
    daemon: FakeDaemon, clock: Clock, spec: Path
) -> None:
    async with running(daemon, clock) as (app, pilot):
        dialog = await opened((app, pilot))
        await until(pilot, lambda: not dialog.query_one("#go", Button).disabled)
        dialog.query_one("#text", TextArea).text = "mine"
        await pilot.press("escape")
        assert app.screen is dialog
        assert "ctrl+s saves, esc again leaves" in toasts(app)
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is not dialog)


async def test_a_run_begins_from_the_checkpoint_that_is_named(
    daemon: FakeDaemon, clock: Clock, spec: Path
) -> None:
    def refuse(_: wire.Launch) -> wire.Launched:
        raise Fault(wire.Code.USAGE, "no earlier run called miras-s has a checkpoint at home")

    daemon.hooks["launch"] = refuse
    async with running(daemon, clock) as (app, pilot):
        dialog = await opened((app, pilot))
        await until(pilot, lambda: not dialog.query_one("#go", Button).disabled)
        await pilot.press("tab")
        assert app.focused is dialog.query_one("#whence")
        type_text(app, "latest")
        await pilot.press("enter")
        assert app.focused is dialog.query_one("#go")
        await pilot.press("enter")
        assert (await daemon.called("launch")).resume_from == "latest"
        await until(pilot, lambda: "no earlier run" in screen_text(app))
        dialog.query_one("#whence", Input).value = ""
        dialog.query_one("#go", Button).press()
        assert (await daemon.called("launch", 2)).resume_from is None
