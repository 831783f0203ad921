"""A person's whole story, typed into a real terminal (tmux) against the real daemon and simulator.

The story itself is in story.py, which also draws the README's animation from it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gpuwatch.client import wire
from integration.story import SPEC, animation, story
from integration.terminal import Terminal
from integration.world import SCRIPT_SPEC, World, world


@pytest.fixture
def here(tmp_path: Path):
    with world(tmp_path) as made:
        yield made


def test_find_an_offer_launch_watch_read_the_log_search_and_destroy(here: World) -> None:
    (here.home / "story.toml").write_text(SPEC)
    terminal = Terminal(here.home, [sys.executable, "-m", "gputui"], here.environment)
    beats = []
    try:
        for caption, _ in story(terminal):
            beats.append((terminal.colours(), caption, 1.0))
            if caption == "the focus is on cancel":
                assert len(here.living()) == 1, "looking at the dialog destroys nothing"
        terminal.type("q")
    finally:
        terminal.close()
    run = here.call("runs", wire.Empty(), wire.Runs).runs[0].id
    assert here.row(run).state == "gone"
    here.assert_receipt_holds(run)
    here.assert_one_machine_and_none_left()
    picture = animation(beats)
    assert picture.count("<g id=") == len(beats)
    assert "the focus is on cancel" in picture


def test_a_job_that_ends_by_itself_is_brought_home_while_a_person_looks_on(here: World) -> None:
    job = "mkdir ckpt; echo hello from the box; echo 1 > ckpt/step-1.bin; while [ ! -e ../go ]; do sleep 0.1; done; echo 2 > m.bin"
    rest = '[checkpoints]\npath = "ckpt"\n[[artifacts]]\npath = "m.bin"'
    (here.home / "story.toml").write_text(
        SCRIPT_SPEC.format(name="story", top="", job=job, boot="60s", rest=rest)
    )
    terminal = Terminal(here.home, [sys.executable, "-m", "gputui"], here.environment)
    try:
        terminal.until("Runs", "Offers", "No runs yet")
        terminal.type("2")
        terminal.until("offers", "on-demand", "$0.")
        terminal.type("/")
        terminal.write("4090")
        terminal.until("\n 4090", "RTX 4090")
        terminal.type("Enter")
        terminal.type("1")
        terminal.type("l")
        terminal.until("run spec", "story.toml", "rent 1 × RTX 4090")
        terminal.type("Enter")
        terminal.until("enter rents")
        terminal.type("Enter")
        terminal.until("story", "running")
        terminal.type("Enter")
        terminal.until("hello from the box")
        terminal.type("c")
        terminal.until("ckpt/step-1.bin", "verified")
        terminal.type("d")
        screen = terminal.until("Cancel")
        assert "job" in screen
        terminal.type("Escape")
        terminal.until("overview")
        assert len(here.living()) == 1, "looking at the dialog destroys nothing"
        box = here.box(here.living()[0])
        (box / "workspace" / "go").touch()
        run = here.call("runs", wire.Empty(), wire.Runs).runs[0].id
        here.wait_event(run, "gone")
        terminal.until("✓ gone")
        terminal.type("q")
    finally:
        terminal.close()
    assert (here.row(run).state, here.row(run).exit_code) == ("gone", 0)
    here.assert_receipt_holds(run)
    here.assert_one_machine_and_none_left()
