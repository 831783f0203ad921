"""One program in a tmux window of its own server. Waits on the bytes that reach the terminal, not on time."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import time
from pathlib import Path

TMUX = shutil.which("tmux")
PATIENCE = 90.0
_ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
"""Those two would overrule the window's size."""


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
            if name.startswith(("GPUTUI", "VAST", "HOME", "COLORTERM"))
            for part in ("-e", f"{name}={value}")
        ]
        self._tmux("new-session", "-d", "-x", columns, "-y", lines, "-c", str(home), *settings, "sleep 600")
        self._tmux("pipe-pane", f"cat > {pipe}")
        self._tmux("respawn-pane", "-k", "-c", str(home), *settings, *argv)

    def _tmux(self, *arguments: str) -> str:
        done = subprocess.run(
            [str(TMUX), "-S", self._socket, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=_ENVIRONMENT,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def type(self, *keys: str) -> None:
        self._tmux("send-keys", *keys)

    def write(self, text: str) -> None:
        self._tmux("send-keys", "-l", text)

    def screen(self) -> str:
        return self._tmux("capture-pane", "-p")

    def colours(self) -> str:
        """The screen with its escapes."""
        return self._tmux("capture-pane", "-p", "-e")

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
