"""Holds and alarms on the command line and in the app: what is shown, what is sent, what status it returns."""

from __future__ import annotations

import json

import msgspec
import pytest
from ui.conftest import Clock, ThreadedDaemon, running, screen_text, toasts, until
from ui.fake_daemon import FakeDaemon, Fault

from gputui.cli import main
from gputui.widgets.vtable import VTable
from gpuwatch.client import wire

ALARM = "vast instance 77 of run old counted as gone and is listed again: it bills"


def last(served: ThreadedDaemon, method: str) -> object:
    return [params for name, params in served.fake.calls if name == method][-1]


def test_holds_lists_each_with_who_why_and_its_way_out(
    served: ThreadedDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    run = served.fake.world.runs[0]
    pin = wire.HoldRow(name="pin", reason="look first", by="ann", at=1_790_000_000.0, removal="release")
    lost = wire.HoldRow(name="artifacts", reason="2 files", removal="waive")
    served.fake.world.runs = [msgspec.structs.replace(run, holds=[pin, lost])]
    assert main(["holds"]) == 4
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["RUN", "HOLD", "BY", "SINCE", "GOES", "BY", "WHY"]
    assert "ann" in lines[1]
    assert f"gputui release {run.id} pin" in lines[1]
    assert f"gputui destroy {run.id} --waive" in lines[2]
    assert main(["holds", run.id, "--json"]) == 4
    answer = msgspec.json.decode(capsys.readouterr().out, type=wire.Holds)
    assert [h.hold for h in answer.holds] == [pin, lost]


def test_nothing_held_is_said_so(served: ThreadedDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    served.fake.world.runs = []
    assert main(["holds"]) == 0
    assert "Nothing is held." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "method", "fields"),
    [
        (["pin", "miras-s", "--reason", "demo"], "hold", {"hold": "pin", "reason": "demo"}),
        (["hold", "miras-s", "--name", "demo-day"], "hold", {"hold": "demo-day"}),
        (["unpin", "miras-s"], "hold.release", {"hold": "pin"}),
        (["release", "miras-s", "ssh-session", "--reason", "mine"], "hold.release", {"hold": "ssh-session"}),
        (["release", "miras-s", "artifacts", "--confirm", "miras-s", "--reason", "old"], "hold.release", {"confirm": "miras-s"}),
        (["resolve", "gputui-x-1-ab", "--reason", "not in the console"], "alarm.resolve", {"label": "gputui-x-1-ab"}),
    ],
)  # fmt: skip
def test_each_verb_sends_one_call_with_who_typed_it(
    served: ThreadedDaemon, words: list[str], method: str, fields: dict[str, str]
) -> None:
    assert main(words) == 0
    sent = msgspec.structs.asdict(last(served, method))  # type: ignore[arg-type]
    assert sent.items() >= fields.items()
    assert sent["by"].endswith("(command line)")


def test_what_custody_refuses_is_status_4(served: ThreadedDaemon) -> None:
    def refuse(_: object) -> None:
        raise Fault(wire.Code.REFUSED, "giving up files needs a reason")

    served.fake.hooks["hold.release"] = refuse
    assert main(["release", "miras-s", "artifacts"]) == 4


def test_ls_shows_alarms_before_the_runs_and_all_pages(
    served: ThreadedDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    served.fake.world.fleet_alarms = [ALARM]
    served.fake.world.older = True
    assert main(["ls"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"▲ {ALARM}")
    assert "gputui ls --all" in shown
    assert main(["ls", "--all", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["older"] is False
    assert any(name == "runs.ended" for name, _ in served.fake.calls)


def test_waiving_all_names_every_file_with_its_size_and_a_box_that_is_not_heard_gives_up_everything(
    served: ThreadedDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    world = served.fake.world
    run = world.runs[0]
    report = world.report(run)
    words = ["destroy", run.id, "--waive-all", "--confirm", run.name, "--reason", "old"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert all(f"given up: {row.path}" in out for row in report.unsafe)
    unheard = wire.Exposure(bytes=None, seconds=None, files=None)
    world.custody[run.id] = msgspec.structs.replace(report, unsafe=[], exposure=unheard)
    assert main(words) == 0
    sent = last(served, "destroy")
    assert isinstance(sent, wire.Destroy)
    assert sent.waive == ["*"]
    assert "nobody can name it" in capsys.readouterr().out


async def test_the_app_shows_alarms_above_the_runs(daemon: FakeDaemon, clock: Clock) -> None:
    daemon.world.fleet_alarms = [ALARM, "b", "c", "d", "e"]
    async with running(daemon, clock, (160, 50)) as (app, pilot):
        await until(pilot, lambda: "instance 77 of run old" in screen_text(app))
        assert "and 2 more: gputui status" in screen_text(app)
        assert "▲ 5 alarms" in screen_text(app)


async def test_shift_p_pins_the_run_under_the_cursor_and_again_lets_it_go(
    daemon: FakeDaemon, clock: Clock
) -> None:
    async with running(daemon, clock) as (app, pilot):
        app.screen.query_one(VTable).move_to("r7k2m9qa")
        await pilot.press("P")
        order = await daemon.called("hold")
        assert (order.run, order.hold, order.by) == ("r7k2m9qa", "pin", "a person (app)")
        await until(pilot, lambda: "Pinned" in toasts(app) or "until P is pressed" in toasts(app))
        row = daemon.world.runs[0]
        pin = wire.HoldRow(name="pin", reason="x", by="me", at=1.0, removal="release")
        daemon.world.runs[0] = msgspec.structs.replace(row, holds=[pin])
        daemon.push_runs()
        await until(pilot, lambda: any(h.name == "pin" for h in app.screen.current_run().holds))
        await pilot.press("P")
        released = await daemon.called("hold.release")
        assert (released.run, released.hold) == ("r7k2m9qa", "pin")
