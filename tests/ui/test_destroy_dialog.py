"""The custody dialog: nothing can be lost by a slip, and what can be lost is named."""

import asyncio

import pytest
from textual.widgets import Button, Input
from ui.conftest import App, Clock, running, screen_text, toasts, type_text, until
from ui.fake_daemon import FakeDaemon, Fault

from gputui.screens.destroy import Choice, DestroyDialog
from gputui.screens.runs import RunsScreen
from gputui.widgets.vtable import VTable
from gpuwatch.client import wire


async def open_for(app_pilot: App, run: str) -> None:
    """Open the dialog for a run and wait for custody's answer."""
    app, pilot = app_pilot
    app.screen.query_one(VTable).move_to(run)
    await pilot.press("d")
    await until(pilot, lambda: isinstance(app.screen, DestroyDialog) and app.screen._report is not None)
    await until(pilot, lambda: isinstance(app.focused, Button))


def sent(daemon: FakeDaemon) -> list[wire.Destroy]:
    """The destroys that were really asked."""
    return [params for method, params in daemon.calls if method == "destroy" and not params.preview]


@pytest.mark.parametrize("size", [(80, 24), (160, 50)])
async def test_what_would_be_lost_is_named_and_cancel_has_the_focus(
    daemon: FakeDaemon, clock: Clock, size: tuple[int, int]
) -> None:
    async with running(daemon, clock, size) as (app, pilot):
        await open_for((app, pilot), "r7k2m9qa")
        text = screen_text(app)
        for part in (
            "7 files verified here",
            "step-1840/optim.pt  589 MB  on-box",
            "hold job-running",
            "gpuwatch ends the job",
        ):
            assert part in text
        assert app.focused is app.screen.query_one("#cancel")
        assert "Cancel" in text
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, RunsScreen))
    assert sent(daemon) == []


async def test_the_default_collects_first_and_loses_nothing(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        await open_for((app, pilot), "r7k2m9qa")
        await pilot.press("right", "enter")
        await until(pilot, lambda: isinstance(app.screen, RunsScreen))
        await until(pilot, lambda: "First everything is brought home." in toasts(app))
    assert sent(daemon) == [wire.Destroy(run="r7k2m9qa")]


async def test_when_all_is_verified_the_button_has_the_focus(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        await open_for((app, pilot), "b1n6w8ey")
        assert app.focused is app.screen.query_one("#go")
        assert not app.screen.query(Choice)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, RunsScreen))
    assert sent(daemon) == [wire.Destroy(run="b1n6w8ey")]


async def test_losing_files_needs_the_name_and_a_reason(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        await open_for((app, pilot), "t5v0c4hn")
        dialog = app.screen
        go = dialog.query_one("#go", Button)
        dialog.query_one(Choice).focus()
        await pilot.press("down")
        assert go.disabled
        dialog.query_one("#name", Input).focus()
        await pilot.pause()
        type_text(app, "onyx-1b-gro")
        dialog.query_one("#reason", Input).focus()
        await pilot.pause()
        type_text(app, "old")
        await pilot.pause()
        assert go.disabled, "the name is not whole"
        dialog.query_one("#name", Input).focus()
        await pilot.press("end", "w", "enter")
        assert app.focused is dialog.query_one("#reason")
        assert not go.disabled
        await pilot.press("enter", "enter")
        await until(pilot, lambda: isinstance(app.screen, RunsScreen))
    assert sent(daemon) == [
        wire.Destroy(
            by="a person (app)",
            run="t5v0c4hn",
            waive=["logs/train.log", "checkpoints/onyx_1b/step-412.pt"],
            confirm="onyx-1b-grow",
            reason="old",
        )
    ]


async def test_going_back_to_the_safe_choice_forgets_the_waiver(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        await open_for((app, pilot), "t5v0c4hn")
        dialog = app.screen
        dialog.query_one(Choice).focus()
        await pilot.press("down", "up")
        assert not dialog.query_one("#name").display
        dialog.query_one("#go").focus()
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, RunsScreen))
    assert sent(daemon) == [wire.Destroy(run="t5v0c4hn")]


async def test_a_refusal_is_shown_and_the_dialog_stays(daemon: FakeDaemon, clock: Clock) -> None:
    def refuse(params: wire.Destroy) -> wire.CustodyReport:
        if params.preview:
            return daemon.world.custody["r7k2m9qa"]
        raise Fault(wire.Code.REFUSED, "the vault disk is not mounted; mount it and try again")

    daemon.hooks["destroy"] = refuse
    async with running(daemon, clock) as (app, pilot):
        await open_for((app, pilot), "r7k2m9qa")
        await pilot.press("right", "enter")
        await until(pilot, lambda: "the vault disk is not mounted" in screen_text(app))
        assert isinstance(app.screen, DestroyDialog)


async def test_pressing_twice_asks_once(daemon: FakeDaemon, clock: Clock) -> None:
    answered = asyncio.Event()

    async def slow(params: wire.Destroy) -> wire.CustodyReport:
        if not params.preview:
            await answered.wait()
        return daemon.world.custody["r7k2m9qa"]

    daemon.hooks["destroy"] = slow
    async with running(daemon, clock) as (app, pilot):
        await open_for((app, pilot), "r7k2m9qa")
        dialog = app.screen
        await pilot.press("right")
        for _ in range(2):
            dialog.query_one("#go", Button).post_message(Button.Pressed(dialog.query_one("#go", Button)))
        await pilot.pause()
        answered.set()
        await until(pilot, lambda: isinstance(app.screen, RunsScreen))
    assert len(sent(daemon)) == 1
