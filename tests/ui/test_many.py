"""Several runs at once, everything at once, and reaching into a box."""

import stat
import sys
from pathlib import Path

import pytest
from textual.widgets import Button, Input
from ui.conftest import Clock, running, screen_text, toasts, type_text, until
from ui.fake_daemon import FakeDaemon, Fault

from gputui.screens.ask import Prompt, Reading
from gputui.screens.bulk import BulkDialog
from gputui.screens.destroy import DestroyDialog
from gputui.widgets.lines import Lines
from gpuwatch.client import wire


async def test_space_selects_and_the_action_is_about_all_that_are(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock, (120, 40)) as (app, pilot):
        await pilot.press("space", "space", "d")
        await until(pilot, lambda: isinstance(app.screen, BulkDialog))
        text = screen_text(app)
        assert "Destroy 2 machines?" in text
        assert "△ 740 MB · 1h10m to bring home" in text
        assert isinstance(app.focused, Button)
        assert app.focused.id == "cancel"
        await pilot.press("enter")
        assert daemon.counts["destroy"] == 0
        await pilot.press("d")
        await until(pilot, lambda: isinstance(app.screen, BulkDialog))
        app.screen.query_one("#go", Button).press()
        await daemon.called("destroy", 2)
        await until(pilot, lambda: "Asked for 2" in toasts(app))
        asked = [params for name, params in daemon.calls if name == "destroy"]
        assert asked == [wire.Destroy(run="t5v0c4hn"), wire.Destroy(run="p3d8x1zz")], (
            "nothing is ever waived by this"
        )
        await pilot.press("d")
        await until(pilot, lambda: isinstance(app.screen, DestroyDialog))  # the selection is over


async def test_escape_ends_the_selection(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock, (120, 40)) as (app, pilot):
        await pilot.press("asterisk")
        assert screen_text(app).count("✓ ") >= 5
        await pilot.press("escape", "d")
        await until(pilot, lambda: isinstance(app.screen, DestroyDialog))


async def test_one_that_is_refused_is_named_and_the_others_go_on(daemon: FakeDaemon, clock: Clock) -> None:
    def answer(order: wire.Destroy) -> wire.CustodyReport:
        if order.run == "t5v0c4hn":
            raise Fault(wire.Code.CONFLICT, "a pin stands")
        return daemon.world.report(daemon.world.runs[1])

    daemon.hooks["destroy"] = answer
    async with running(daemon, clock, (120, 40)) as (app, pilot):
        await pilot.press("space", "space", "d")
        await until(pilot, lambda: isinstance(app.screen, BulkDialog))
        app.screen.query_one("#go", Button).press()
        await until(pilot, lambda: "✗ a pin stands" in screen_text(app))
        assert "✓ asked" in screen_text(app)


async def test_evacuate_needs_its_word_and_takes_every_machine(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock, (120, 40)) as (app, pilot):
        await pilot.press("E")
        await until(pilot, lambda: isinstance(app.screen, BulkDialog) and app.focused is not None)
        assert "end all 4 machines?" in screen_text(app)
        assert app.screen.query_one("#go", Button).disabled
        app.screen.query_one(Input).focus()
        await pilot.pause()
        type_text(app, "evacuate")
        await pilot.pause()
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.focused, Button) and app.focused.id == "go")
        await pilot.press("enter")
        await daemon.called("destroy", 4)


async def test_a_shell_is_the_daemons_own_command(
    daemon: FakeDaemon, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    from contextlib import nullcontext

    async with running(daemon, clock, (120, 40)) as (app, pilot):
        ran: list[list[str]] = []
        app.shell = lambda argv: ran.append(argv) or 255
        monkeypatch.setattr(app, "suspend", nullcontext)
        await pilot.press("x")
        await until(pilot, lambda: "ssh could not connect" in toasts(app))
        assert ran == [["ssh", "-p", "40022", "root@ssh4.example.net"]]
        await pilot.press("y")
        await until(pilot, lambda: "ssh -p 40022 root@ssh4.example.net" in toasts(app))
        assert app.clipboard == "ssh -p 40022 root@ssh4.example.net"
        await pilot.press("G", "x")
        await until(pilot, lambda: "Miras-xs has no machine." in toasts(app))


@pytest.fixture
def ssh(tmp_path: Path, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for ssh that says how it was called."""
    path = tmp_path / "ssh"
    path.write_text(
        f"#!{sys.executable}\nimport sys\nif '-N' in sys.argv: sys.stdin.read(); sys.exit('bind: taken')\nprint('\\x1b[31mran', *sys.argv[1:]); sys.exit(3)\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    whole = daemon.world.detail

    def detail(run: wire.RunRow) -> wire.RunDetail:
        import msgspec

        return msgspec.structs.replace(whole(run), ssh=[str(path), "-p", "40022", "root@box"])

    monkeypatch.setattr(daemon.world, "detail", detail)
    return path


async def test_a_command_on_the_box_shows_what_it_says(daemon: FakeDaemon, clock: Clock, ssh: Path) -> None:
    async with running(daemon, clock, (120, 40)) as (app, pilot):
        await pilot.press("exclamation_mark")
        await until(pilot, lambda: isinstance(app.screen, Prompt) and isinstance(app.focused, Input))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Reading))
        lines = app.screen.query_one(Lines).make(80)
        text = " ".join(part.strip() for line in lines for part, _ in line)
        assert "ran -o BatchMode=yes -o ConnectTimeout=10 -p 40022 root@box -- nvidia-smi" in text
        assert "✗ exit status 3" in text


async def test_a_forwarded_port_says_when_it_ends(daemon: FakeDaemon, clock: Clock, ssh: Path) -> None:
    async with running(daemon, clock, (120, 40)) as (app, pilot):
        await pilot.press("f")
        await until(pilot, lambda: "http://127.0.0.1:6006 is port 6006 of onyx-1b-grow" in toasts(app))
        await until(pilot, lambda: app.forwards.port_of("t5v0c4hn") is None)
        await pilot.press("F")
        await until(pilot, lambda: isinstance(app.screen, Prompt) and isinstance(app.focused, Input))
        app.focused.value = "99999"  # type: ignore[union-attr]
        await pilot.press("enter")
        await until(pilot, lambda: "a port is a number from 1 to 65535" in screen_text(app))
        app.focused.value = "888"  # type: ignore[union-attr]
        await pilot.press("enter")
        await until(pilot, lambda: "http://127.0.0.1:8888 is port 888 of onyx-1b-grow" in toasts(app))
        await until(pilot, lambda: "bind: taken" in toasts(app))
        assert app.forwards.port_of("t5v0c4hn") is None


async def test_a_pin_keeps_a_machine_and_the_same_key_lets_it_go(daemon: FakeDaemon, clock: Clock) -> None:
    import msgspec

    async with running(daemon, clock, (120, 40)) as (app, pilot):
        app.person = "ada (app)"
        await pilot.press("P")
        asked = await daemon.called("hold")
        assert asked == wire.HoldPlace(run="t5v0c4hn", hold="pin", by="ada (app)")
        await until(pilot, lambda: "onyx-1b-grow stays, and costs, until P again." in toasts(app))
        runs = daemon.world.runs
        pin = wire.HoldRow(name="pin", reason="pinned by ada")
        runs[2] = msgspec.structs.replace(runs[2], holds=[*runs[2].holds, pin])
        daemon.push_runs()
        await until(pilot, lambda: (run := app.fleet.find("t5v0c4hn")) is not None and pin in run.holds)
        await pilot.press("P")
        assert (await daemon.called("hold.release")).hold == "pin"
        await pilot.press("G", "P")
        await until(pilot, lambda: "Miras-xs has no machine any more." in toasts(app))
