"""Again, elsewhere, another host key: asked before anything is rented, from the app and from the command line."""

import json

import msgspec
import pytest
from textual.widgets import Button
from ui.conftest import Clock, ThreadedDaemon, running, toasts, type_text, until
from ui.fake_daemon import FakeDaemon, Fault

from gputui.app import GpuTui
from gputui.cli import main
from gputui.possible import why_no_key, why_no_recover, why_no_retry
from gputui.screens.confirm import Confirm
from gputui.screens.run import RunScreen
from gputui.widgets.lines import Paragraphs
from gpuwatch.client import wire


def said(app: GpuTui) -> str:
    """What the dialog says."""
    lines = [line for part in app.screen.query(Paragraphs) for line in part.make(70)]
    return " ".join(" ".join(text for line in lines for text, _ in line).split())


async def test_a_failed_run_is_collected_again_and_nothing_is_rented(
    daemon: FakeDaemon, clock: Clock
) -> None:
    async with running(daemon, clock) as (app, pilot):
        await pilot.press("A")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await until(pilot, lambda: "Nothing is rented by it" in said(app))
        assert isinstance(app.focused, Button)
        assert app.focused.id == "cancel"
        await pilot.press("enter")
        assert daemon.counts["run.retry"] == 0, "enter on a question that was just opened does nothing"
        await pilot.press("A")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("right", "enter")
        assert (await daemon.called("run.retry")).run == "t5v0c4hn"
        await until(pilot, lambda: "its files are collected again." in toasts(app))


async def test_a_run_without_a_machine_says_that_it_rents_and_opens_the_new_one(
    daemon: FakeDaemon, clock: Clock
) -> None:
    runs = daemon.world.runs
    runs[2] = msgspec.structs.replace(runs[2], instance_id=None)
    async with running(daemon, clock) as (app, pilot):
        await pilot.press("A")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await until(pilot, lambda: "another run, from its newest checkpoint at home" in said(app))

        def refuse(_: wire.Retry) -> wire.Retried:
            raise Fault(wire.Code.REFUSED, "nothing is rented today: the day's ceiling is reached")

        daemon.hooks["run.retry"] = refuse
        await pilot.press("right", "enter")
        await until(pilot, lambda: "the day's ceiling is reached" in said(app))
        first = (await daemon.called("run.retry")).key
        del daemon.hooks["run.retry"]
        app.screen.query_one("#go", Button).press()
        assert (await daemon.called("run.retry", 2)).key == first, "one dialog begins one run"
        await until(pilot, lambda: isinstance(app.screen, RunScreen) and app.screen.ident == "n0w1aunc")


async def test_a_run_is_moved_with_what_that_costs_said_before(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        app.person = "ada (app)"
        app.open_run("r7k2m9qa")
        await until(pilot, lambda: isinstance(app.screen, RunScreen))
        await pilot.press("C")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await until(pilot, lambda: "Until then both cost" in said(app))
        assert "1.83 GB" in said(app)
        type_text(app, "slow disk")
        await pilot.press("enter", "enter")
        asked = await daemon.called("run.recover")
        assert asked == wire.Recover(run="r7k2m9qa", reason="slow disk", by="ada (app)")
        await until(pilot, lambda: "Another machine is rented" in toasts(app))


async def test_a_machine_is_stopped_and_started_with_the_same_key(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        app.person = "ada (app)"
        await pilot.press("Z")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await until(pilot, lambda: "brought home and proved, and then the machine is stopped" in said(app))
        type_text(app, "overnight")
        await pilot.press("enter", "enter")
        asked = await daemon.called("run.stop")
        assert asked == wire.Stop(run="t5v0c4hn", reason="overnight", by="ada (app)")
        runs = daemon.world.runs
        runs[2] = msgspec.structs.replace(runs[2], state="paused", attention="alarm")
        daemon.push_runs()
        await until(pilot, lambda: (run := app.fleet.find("t5v0c4hn")) is not None and run.state == "paused")
        await until(pilot, lambda: not isinstance(app.screen, Confirm))
        await pilot.press("Z")
        await until(pilot, lambda: "costs $1.29/h again" in said(app))
        await pilot.press("enter", "enter")
        assert (await daemon.called("run.start")).run == "t5v0c4hn"
        await until(pilot, lambda: "its job is not" in toasts(app))
        await pilot.press("G", "Z")
        await until(pilot, lambda: "Miras-xs has no machine." in toasts(app))


async def test_another_host_key_is_accepted_only_with_what_explains_it(
    daemon: FakeDaemon, clock: Clock
) -> None:
    hold = wire.HoldRow(
        name="host-key", reason="the box shows another host key (SHA256:abc)", removal="release"
    )
    runs = daemon.world.runs
    runs[2] = msgspec.structs.replace(runs[2], holds=[hold])
    async with running(daemon, clock) as (app, pilot):
        await pilot.press("j", "K")
        await until(pilot, lambda: "shows the host key that is known." in toasts(app))
        await pilot.press("k", "K")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await until(pilot, lambda: "SHA256:abc" in said(app))
        assert app.screen.query_one("#go", Button).disabled
        type_text(app, "the vendor restarted it")
        await pilot.pause()
        await pilot.press("enter", "enter")
        asked = await daemon.called("hold.release")
        assert (asked.hold, asked.reason) == ("host-key", "the vendor restarted it")


async def test_what_is_not_possible_says_why(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        await pilot.press("C")
        await until(pilot, lambda: "Onyx-1b-grow waits for you; A tries it again." in toasts(app))
        await pilot.press("G", "A")
        await until(pilot, lambda: "The job of miras-xs ended well; l launches another." in toasts(app))
        assert daemon.counts["run.retry"] == daemon.counts["run.recover"] == 0
        assert why_no_retry(None) == why_no_recover(None) == why_no_key(None)


@pytest.mark.parametrize(
    ("words", "order"),
    [
        (["retry", "onyx-1b-grow", "--fresh"], ("run.retry", {"fresh": True, "run": "onyx-1b-grow"})),
        (["recover", "miras-s", "--reason", "slow"], ("run.recover", {"reason": "slow", "run": "miras-s"})),
    ],
)  # fmt: skip
def test_the_commands_ask_before_they_rent(
    served: ThreadedDaemon,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    order: tuple[str, dict[str, object]],
) -> None:
    assert main(words) == 2
    assert "add --yes" in capsys.readouterr().err
    assert main([*words, "--yes", "--json"]) == 0
    assert msgspec.convert(json.loads(capsys.readouterr().out), wire.Retried).name
    method, fields = order
    (asked,) = [params for name, params in served.fake.calls if name == method]
    assert {name: getattr(asked, name) for name in fields} == fields
