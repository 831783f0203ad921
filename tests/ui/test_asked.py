"""What is asked for when its tab or dialog opens: files on the box, costs, receipts, holds, an answer to an alarm."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import msgspec
import pytest
from textual.widgets import Button, Input
from ui.conftest import App, Clock, running, screen_text, toasts, until
from ui.fake_daemon import FakeDaemon, Fault
from ui.scenario import NOW

from gputui.screens.ask import Prompt, Reading
from gputui.screens.holds import HoldsDialog
from gputui.screens.money import MoneyScreen
from gputui.screens.run import RunScreen
from gputui.widgets.choice import Choice
from gpuwatch.client import wire

MIRAS = "r7k2m9qa"


async def run_opened(app_pilot: App) -> RunScreen:
    app, pilot = app_pilot
    app.open_run(MIRAS)
    await until(pilot, lambda: isinstance(app.screen, RunScreen) and app.screen.detail is not None)
    assert isinstance(app.screen, RunScreen)
    return app.screen


@pytest.fixture
def box(tmp_path: Path, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for ssh that runs the command here, in a folder that is the box's workspace."""
    ssh, workspace = tmp_path / "ssh", tmp_path / "workspace"
    ssh.write_text(f"#!{sys.executable}\nimport os, sys\nos.execvp('sh', ['sh', '-c', sys.argv[-1]])\n")
    ssh.chmod(ssh.stat().st_mode | stat.S_IXUSR)
    (workspace / MIRAS / "models").mkdir(parents=True)
    whole = daemon.world.detail

    def detail(run: wire.RunRow) -> wire.RunDetail:
        found = whole(run)
        seen = msgspec.structs.replace(found.events[0], seq=900, time=NOW, data={"workspace": str(workspace)})
        return msgspec.structs.replace(found, ssh=[str(ssh), "root@box"], events=[*found.events, seen])

    monkeypatch.setattr(daemon.world, "detail", detail)
    return workspace / MIRAS


async def test_files_on_the_box_are_told_apart_from_what_is_promised(
    daemon: FakeDaemon, clock: Clock, box: Path
) -> None:
    kept = daemon.world.custody[MIRAS].verified[0].path
    (box / kept).parent.mkdir(parents=True)
    (box / kept).write_bytes(b"x" * 2000)
    (box / "notes-[red]\x1b[2J.txt").write_bytes(b"x" * 3000)
    async with running(daemon, clock, (120, 40)) as (app, pilot):
        await run_opened((app, pilot))
        await pilot.press("b")
        await until(pilot, lambda: "2 files, 5.00 kB" in screen_text(app))
        text = screen_text(app)
        assert "1 file, 3.00 kB, are not promised by the spec" in text
        assert text.index("△ unpromised") < text.index("✓ verified")
        (box / "late.bin").write_bytes(b"x")
        await pilot.press("r")
        await until(pilot, lambda: "3 files" in screen_text(app))
        await pilot.press("slash")
        await until(pilot, lambda: isinstance(app.focused, Input))


async def test_a_box_that_lists_nothing_says_why(daemon: FakeDaemon, clock: Clock, box: Path) -> None:
    (box / "models").rmdir()
    box.rmdir()
    async with running(daemon, clock, (120, 40)) as (app, pilot):
        await run_opened((app, pilot))
        await pilot.press("b")
        await until(pilot, lambda: "the box did not list its files" in screen_text(app))


async def test_without_a_machine_the_files_tab_names_where_they_are(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock, (120, 40)) as (app, pilot):
        app.open_run("q8f4j2ls")
        await until(pilot, lambda: isinstance(app.screen, RunScreen) and app.screen.detail is not None)
        await pilot.press("b")
        await until(pilot, lambda: "What was brought home is under custody (c)." in screen_text(app))


async def test_cost_by_part_with_the_end_and_the_budget(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock, (120, 40)) as (app, pilot):
        await run_opened((app, pilot))
        await pilot.press("dollar_sign")
        await until(pilot, lambda: "so far" in screen_text(app))
        text = screen_text(app)
        for part in (
            "$3.48   on 1 machine",
            "GPU      $3.13",
            "now        $2.21/h",
            "$4.12 more in 1h52m, $7.60 in all",
            "17.4% of $20.00",
        ):
            assert part in text
        daemon.hooks["cost"] = lambda _: (_ for _ in ()).throw(Fault(wire.Code.NOT_FOUND, "no such run"))
        await pilot.press("r")
        await until(pilot, lambda: "✗ no such run (r asks again)" in screen_text(app))


async def test_money_shows_the_daemons_figures_the_day_and_budgets(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock, (140, 40)) as (app, pilot):
        await pilot.press("4")
        await until(pilot, lambda: isinstance(app.screen, MoneyScreen) and app.screen.costs is not None)
        text = screen_text(app)
        for part in ("$18.20 of $50.00 (UTC day)", "TO END", "+$4.12", "105%", " 17%"):
            assert part in text


async def test_receipts_of_the_vault_are_a_key_away(
    daemon: FakeDaemon, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = daemon.world.detail
    log = str(tmp_path / "job.log")
    monkeypatch.setattr(daemon.world, "detail", lambda run: msgspec.structs.replace(whole(run), log_path=log))
    (tmp_path / ".receipts").mkdir()
    (tmp_path / ".receipts" / f"{'0' * 64}.json").write_text("{}")
    async with running(daemon, clock, (120, 40)) as (app, pilot):
        await run_opened((app, pilot))
        await pilot.press("V")
        await until(
            pilot,
            lambda: (
                isinstance(app.screen, Reading) and "its content is not what its name" in screen_text(app)
            ),
        )


async def holds_opened(app_pilot: App) -> HoldsDialog:
    app, pilot = app_pilot
    await pilot.press("H")
    await until(pilot, lambda: isinstance(app.screen, HoldsDialog) and isinstance(app.focused, Choice))
    assert isinstance(app.screen, HoldsDialog)
    return app.screen


def held(daemon: FakeDaemon, *holds: wire.HoldRow) -> None:
    daemon.world.runs[2] = msgspec.structs.replace(daemon.world.runs[2], holds=list(holds))


PIN = wire.HoldRow(name="demo", reason="look first", by="ann", at=NOW, removal="release")
FILES = wire.HoldRow(name="artifacts", reason="2 files are not home", removal="waive")
COPY = wire.HoldRow(name="transfer", reason="a copy is under way", removal="itself")


async def test_each_hold_goes_alone_and_only_as_it_may(daemon: FakeDaemon, clock: Clock) -> None:
    held(daemon, PIN, COPY, FILES)
    async with running(daemon, clock, (120, 40)) as (app, pilot):
        app.person = "ada (app)"
        dialog = await holds_opened((app, pilot))
        go = dialog.query_one("#go", Button)
        assert "ann, 2026-09-21" in screen_text(app)
        assert (str(go.label), go.disabled) == ("Release", False)
        await pilot.press("j")
        assert go.disabled, "a copy's hold goes by itself"
        await pilot.press("k")
        go.press()
        order = await daemon.called("hold.release")
        assert (order.hold, order.by, order.confirm) == ("demo", "ada (app)", "")
        await until(pilot, lambda: "demo does not hold onyx-1b-grow any more" in toasts(app))
        await daemon.called("holds", 2)


async def test_a_hold_that_protects_files_needs_name_and_reason(daemon: FakeDaemon, clock: Clock) -> None:
    held(daemon, FILES)
    async with running(daemon, clock, (120, 40)) as (app, pilot):
        dialog = await holds_opened((app, pilot))
        go = dialog.query_one("#go", Button)
        assert (str(go.label), go.disabled) == ("Give up and release", True)
        dialog.query_one("#confirm", Input).value = "onyx"
        dialog.query_one("#reason", Input).value = "a test"
        await pilot.pause()
        assert go.disabled, "not the run's name"
        dialog.query_one("#confirm", Input).value = "onyx-1b-grow"
        await until(pilot, lambda: not go.disabled)
        go.press()
        order = await daemon.called("hold.release")
        assert (order.hold, order.confirm, order.reason) == ("artifacts", "onyx-1b-grow", "a test")


async def test_a_hold_of_ones_own_is_placed_and_a_refusal_stays_to_be_read(
    daemon: FakeDaemon, clock: Clock
) -> None:
    held(daemon)
    async with running(daemon, clock, (120, 40)) as (app, pilot):
        dialog = await holds_opened((app, pilot))
        assert "Nothing holds this machine." in screen_text(app)
        daemon.hooks["hold"] = lambda _: (_ for _ in ()).throw(Fault(wire.Code.USAGE, "no name of a hold"))
        dialog.query_one("#name", Input).value = "demo day"
        await pilot.pause()
        dialog.query_one("#go", Button).press()
        await until(pilot, lambda: "✗ no name of a hold" in screen_text(app))
        del daemon.hooks["hold"]
        dialog.query_one("#name", Input).value = "demo-day"
        dialog.query_one("#go", Button).press()
        await daemon.called("hold", 2)
        await until(pilot, lambda: "demo-day holds onyx-1b-grow." in toasts(app))
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is not dialog)


async def test_an_alarm_about_a_machine_is_answered_for_and_others_say_why_not(
    daemon: FakeDaemon, clock: Clock
) -> None:
    text = (
        'vast 77 (label gputui-old-1-ab12): look there, then `gputui resolve gputui-old-1-ab12 --reason "…"`'
    )
    daemon.world.fleet_alarms = [text]
    async with running(daemon, clock, (120, 40)) as (app, pilot):
        await pilot.press("3")
        await until(pilot, lambda: "gputui-old-1-ab12" in screen_text(app))
        app.screen.table.move_to(f"daemon {text}")  # type: ignore[attr-defined]
        await pilot.press("a")
        await until(pilot, lambda: isinstance(app.screen, Prompt) and isinstance(app.focused, Input))
        await pilot.press("enter")
        await until(pilot, lambda: "✗ say what you found" in screen_text(app))
        app.focused.value = "gone from the console"  # type: ignore[union-attr]
        await pilot.press("enter")
        order = await daemon.called("alarm.resolve")
        assert (order.label, order.reason) == ("gputui-old-1-ab12", "gone from the console")
        app.screen.table.action_end(-1)  # type: ignore[attr-defined]
        await pilot.pause()
        app.screen.table.move_to("run t5v0c4hn")  # type: ignore[attr-defined]
        await pilot.press("a")
        await until(pilot, lambda: "This alarm goes by itself" in toasts(app))
