"""A person's first five minutes, typed into a real terminal (tmux) against the real daemon and simulator."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpuwatch.client import wire
from integration.world import SCRIPT_SPEC, World, world

TMUX = shutil.which("tmux")
PATIENCE = 60.0


class Terminal:
    """One program in a tmux window of its own server. Waits on the bytes that reach the terminal, not on time."""

    def __init__(
        self, home: Path, argv: list[str], env: dict[str, str], *, size: tuple[int, int] = (120, 40)
    ) -> None:
        assert TMUX is not None, "tmux is not installed (apt-get install tmux)"
        self._socket = str(home / "tmux.sock")
        pipe = home / "screen.pipe"
        os.mkfifo(pipe)
        self._bytes = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        columns, lines = map(str, size)
        settings = [
            part
            for name, value in env.items()
            if name.startswith(("GPUTUI", "VAST", "HOME"))
            for part in ("-e", f"{name}={value}")
        ]
        self._tmux("new-session", "-d", "-x", columns, "-y", lines, "-c", str(home), *settings, "sleep 600")
        self._tmux("pipe-pane", f"cat > {pipe}")
        self._tmux("respawn-pane", "-k", "-c", str(home), *settings, *argv)

    def _tmux(self, *arguments: str) -> str:
        done = subprocess.run(
            [str(TMUX), "-S", self._socket, *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def type(self, *keys: str) -> None:
        self._tmux("send-keys", *keys)

    def write(self, text: str) -> None:
        self._tmux("send-keys", "-l", text)

    def screen(self) -> str:
        return self._tmux("capture-pane", "-p")

    def until(self, *texts: str) -> str:
        """The screen once all `texts` are on it; looked at again whenever new bytes reach the terminal."""
        deadline = time.monotonic() + PATIENCE
        while True:
            screen = self.screen()
            if all(text in screen for text in texts):
                return screen
            left = deadline - time.monotonic()
            assert left > 0, f"{texts} never appeared:\n{screen}"
            if select.select([self._bytes], [], [], min(left, 1.0))[0]:
                os.read(self._bytes, 1 << 16)

    def close(self) -> None:
        subprocess.run([str(TMUX), "-S", self._socket, "kill-server"], capture_output=True, check=False)
        os.close(self._bytes)


@pytest.fixture
def here(tmp_path: Path):
    with world(tmp_path) as made:
        yield made


def test_find_an_offer_launch_watch_read_the_log_ask_custody_and_leave(here: World) -> None:
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
        terminal.until("RTX 4090")
        terminal.type("Enter")
        terminal.type("1")
        terminal.type("l")
        terminal.until("run spec")
        if "story.toml" not in terminal.screen():
            terminal.write("story.toml")
        terminal.until("story.toml", "rent 1 × RTX 4090")
        terminal.type("Enter")
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
