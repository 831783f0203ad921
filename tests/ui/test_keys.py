"""Keys: one meaning each, remappable by name, and a letter to everything."""

from collections import defaultdict
from pathlib import Path

import pytest
from textual.binding import Binding
from ui.conftest import Clock, running, toasts, until
from ui.fake_daemon import FakeDaemon

from gputui import keymap, keys
from gputui.app import GpuTui
from gputui.screens.help import HelpDialog
from gputui.screens.jump import Jump
from gputui.screens.launch import LaunchDialog
from gputui.screens.run import RunScreen
from gputui.screens.why import WhyDialog
from gputui.widgets.logview import LogView
from gputui.widgets.vtable import VTable

SAME = (
    {"Open", "Launch on this", "Open run"},  # enter does what the row is there for
    {"Filter", "Search"},
    {"First", "Top"},
    {"Last", "Follow", "Newest"},
    {"Left", "Crosshair left"},
    {"Right", "Crosshair right"},
    {"Page down", "Select"},  # space: the next page of a text, the next row of a list
)
"""Words for the same thing in different places."""


def test_the_same_key_means_the_same_everywhere() -> None:
    meanings = defaultdict(set)
    for _, bindings in keys.contexts():
        for binding in bindings:
            if isinstance(binding, Binding) and binding.description:
                for key in binding.key.split(","):
                    meanings[key].add(binding.description)
    for key, said in meanings.items():
        assert len(said) == 1 or any(said <= group for group in SAME), f"{key}: {said}"


def test_every_action_that_a_person_sees_can_be_remapped() -> None:
    for where, bindings in keys.PLACES:
        for binding in bindings:
            if (
                isinstance(binding, Binding)
                and binding.description
                and "tab" not in binding.key
                and "shift+" not in binding.key
            ):
                assert binding.id is not None, f"{where}: {binding.description}"


def test_the_keys_as_they_come_contradict_nothing() -> None:
    assert (
        keymap.resolve(
            {b.id: b.key for _, bs in keys.contexts() for b in bs if isinstance(b, Binding) and b.id},
            keys.contexts(),
        )[1]
        == []
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("destroy = ", "keys.toml"),
        ("destroy = 3", "wants a key in quotes"),
        ('no-such = "D"', "there is no action 'no-such'"),
        ('destroy = "w"', "destroy = 'w' is already why"),
        ('"log.wrap" = "e"', "is already log.trouble"),
        ("a = " + "[" * 3000, "keys.toml"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_told(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    wanted, problems = keymap.read(path)
    good, more = keymap.resolve(wanted, keys.contexts())
    assert good == {}
    assert problem in "\n".join(problems + more)


def test_no_file_is_no_problem(tmp_path: Path) -> None:
    assert keymap.read(tmp_path / "keys.toml") == ({}, [])


async def test_a_key_of_ones_own_works_and_the_old_one_does_not(
    daemon: FakeDaemon, clock: Clock, tmp_path: Path
) -> None:
    path = tmp_path / "keys.toml"
    path.write_text('why = "Q"\nlaunch = "f5, ctrl+n"\nnonsense = "x"\n')
    app = GpuTui(daemon.path, clock=clock, heartbeat=3600, keys=path)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await until(pilot, lambda: app.fleet.runs is not None and app._keymap)
        await pilot.press("w")
        assert not isinstance(app.screen, WhyDialog)
        await pilot.press("Q")
        await until(pilot, lambda: isinstance(app.screen, WhyDialog))
        await pilot.press("escape", "f5")
        await until(pilot, lambda: isinstance(app.screen, LaunchDialog))
        assert "there is no action 'nonsense'" in toasts(app)


async def test_jump_focuses_what_the_letter_is_on(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock, (160, 50)) as (app, pilot):
        app.open_run("r7k2m9qa")
        await until(pilot, lambda: isinstance(app.screen, RunScreen) and app.screen.detail is not None)
        await pilot.press("c")
        await pilot.pause()
        app.set_focus(None)
        await pilot.press("ctrl+o")
        await until(pilot, lambda: isinstance(app.screen, Jump))
        await pilot.press("a")
        await until(pilot, lambda: isinstance(app.focused, VTable))
        await pilot.press("o", "ctrl+o")
        await until(pilot, lambda: isinstance(app.screen, Jump))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, RunScreen))
        assert isinstance(app.focused, LogView)


async def test_help_knows_the_keys_of_ones_own(daemon: FakeDaemon, clock: Clock, tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text('why = "Q"\n')
    app = GpuTui(daemon.path, clock=clock, heartbeat=3600, keys=path)
    async with app.run_test(size=(120, 60)) as pilot:
        await until(pilot, lambda: app.fleet.runs is not None and app._keymap)
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.screen, HelpDialog))
        shown = [
            keys_ for _, section in app.screen._sections for keys_, text in section if text.startswith("Why")
        ]
        assert shown == ["Q"]


async def test_the_header_is_clickable_too(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        for x, place in ((18, "offers"), (56, "alarms"), (40, "money"), (10, "runs")):
            await pilot.click("TopBar", offset=(x, 0))
            assert app.current_mode == place
        await pilot.click("TopBar", offset=(75, 0))
        assert app.current_mode == "runs", "numbers are no buttons"
