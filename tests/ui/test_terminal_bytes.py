"""The real app in a real pseudo-terminal: what a box says never becomes what the terminal obeys."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ui.conftest import ThreadedDaemon
from ui.scenario import World
from ui.test_hostile import EVIL, evil_world


@pytest.fixture
def world() -> World:
    return evil_world(EVIL["escapes"])


class Terminal:
    """A 120×40 terminal with the app in it; keeps every byte that it writes."""

    def __init__(self) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm-256color", COLORTERM="truecolor", TEXTUAL_ANIMATIONS="none")
            os.execv(sys.executable, [sys.executable, "-m", "gputui"])
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        os.kill(self.pid, signal.SIGWINCH)
        self.seen = b""

    def type(self, keys: bytes, until: bytes) -> None:
        """Press keys and read until the app has written `until` (anew)."""
        os.write(self.fd, keys)
        start, deadline = len(self.seen), time.monotonic() + 30
        while until not in self.seen[start:]:
            ready, _, _ = select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{until!r} never appeared after {keys!r}"
            self.seen += os.read(self.fd, 1 << 16)

    def close(self) -> int:
        """Quit and return the exit status."""
        os.write(self.fd, b"q")
        try:
            while chunk := os.read(self.fd, 1 << 16):
                self.seen += chunk
        except OSError:
            pass  # how Linux says that the other side of a pty is closed
        _, status = os.waitpid(self.pid, 0)
        os.close(self.fd)
        return os.waitstatus_to_exitcode(status)


@pytest.fixture
def terminal(served: ThreadedDaemon, home: Path) -> Iterator[Terminal]:
    return Terminal()


def test_no_escape_of_a_box_reaches_the_terminal(terminal: Terminal) -> None:
    terminal.type(b"", b"abcd")
    terminal.type(b"w", b"Why ")
    terminal.type(b"w", b"AT RISK")
    terminal.type(b"d", b"Collect, verify")
    terminal.type(b"\r", b"AT RISK")  # the focus is on cancel
    terminal.type(b"\r", b"overview")
    terminal.type(b"t", b"WHAT")
    terminal.type(b"c", b"FILE")
    terminal.type(b"p", b"ssh")
    assert terminal.close() == 0
    out = terminal.seen
    assert b"abcd" in out
    assert b"cm0gLXJm" not in out, "the clipboard was written to"
    assert b"never ends" not in out, "the title was set"
    assert not re.search(rb"\xc2[\x80-\x9f]", out), "an 8-bit control character"
    assert out.count(b"\x1b[?1049l") == 1, "only the app itself may leave the alternate screen"
