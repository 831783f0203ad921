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
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest
from ui.conftest import ThreadedDaemon
from ui.scenario import World
from ui.test_hostile import EVIL, evil_world

from gpuwatch.client import wire


@pytest.fixture
def world() -> World:
    return evil_world(EVIL["escapes"])


class Terminal:
    """A 120×40 terminal with the app in it; keeps every byte that it writes."""

    def __init__(self, *words: str, environment: Mapping[str, str | None] | None = None) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm-256color", COLORTERM="truecolor", TEXTUAL_ANIMATIONS="none")
            for name, value in (environment or {}).items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})
            os.execv(sys.executable, [sys.executable, "-m", "gputui", *words])
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        os.kill(self.pid, signal.SIGWINCH)
        self.seen = b""

    def type(self, keys: bytes, until: bytes, *, again: bool = False) -> None:
        """Press keys and read until the app has written `until` (anew); `again` presses them until it has."""
        os.write(self.fd, keys)
        start, deadline = len(self.seen), time.monotonic() + 30
        while until not in self.seen[start:]:
            left = max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([self.fd], [], [], min(left, 3.0) if again else left)
            if again and not ready and left:
                os.write(self.fd, keys)
                continue
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
    terminal.type(b"\r", b"overview", again=True)
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


# --- the same through a recording (issue E, done when 4) -------------------------------------------

SEQUENCE = re.compile(
    rb"\x1b(?:\[([<=>?]?)[0-9;:]*([ -/]*[@-~])|\](.*?)(?:\x07|\x1b\\\\)|([PX^_])|([ -/]*[0-~]))", re.DOTALL
)


def kinds(out: bytes) -> set[bytes]:
    """Every kind of control in what a terminal was sent: sequences without their numbers, bare control characters."""
    found = set()
    for match in SEQUENCE.finditer(out):
        prefix, final, osc, string, other = match.groups()
        if osc is not None:
            found.add(b"OSC " + osc)  # its text too: a title is an effect
        elif final == b"h" or final == b"l":
            found.add(match[0])  # modes by number
        else:
            found.add((prefix or b"") + (final or string or other or b""))
    rest = SEQUENCE.sub(b"", out)
    found |= {bytes([byte]) for byte in rest if byte < 32 or byte == 127}
    found |= set(re.findall(rb"\xc2[\x80-\x9f]", rest))
    return found


def recording(home: Path, world: World) -> Path:
    """A recording of this world, as a hostile stranger would send it: without what our own recorder removes."""
    from gputui.replay.records import Header, Record

    path = home / "story.jsonl"
    log = wire.LogChunk(run="r1", offset=0, data=bytes(world.logs["r1"]), size=0, complete=True)
    run = world.runs[0]
    lines = [
        Header(started=world.now, version="0.1.0"),
        Record(at=0.0, what="runs", runs=world.fleet()),
        Record(at=0.0, what="offers", offers=wire.Offers(offers=world.offers, problems=world.offer_problems)),
        Record(at=0.0, what="run", run="r1", detail=world.detail(run), why=world.why(run)),
        *(Record(at=0.0, what="event", event=event) for event in world.events),
        Record(at=0.0, what="log", run="r1", log=log),
    ]
    path.write_bytes(b"\n".join(map(msgspec.json.encode, lines)) + b"\n")
    return path


def walk(path: Path) -> bytes:
    """What the terminal is sent while a person looks at every screen of a recording."""
    terminal = Terminal("replay", str(path), "--speed", "0")
    terminal.type(b"", b"running")
    terminal.type(b"w", b"Why ")
    terminal.type(b"w", b"AT RISK")
    terminal.type(b"d", b"Cancel")
    terminal.type(b"\r", b"AT RISK")  # the focus is on cancel
    terminal.type(b"\r", b"overview", again=True)
    terminal.type(b"t", b"WHAT")
    terminal.type(b"c", b"FILE")
    terminal.type(b"b", b"under custody")
    terminal.type(b"$", b"r asks again")
    terminal.type(b"p", b"ssh")
    terminal.type(b"o", b"end of the log")
    terminal.type(b"/", b"regular expression")
    terminal.type(b"e", b"match")
    terminal.type(b"\x1b", b"G follows again")
    terminal.type(b"\x1b", b"AT RISK")
    terminal.type(b"2", b"offer")
    terminal.type(b"?", b"On this screen")
    terminal.type(
        b"\x1b", b"RELIABLE"
    )  # not a word that each second writes: `esc :` at once would be alt+colon
    terminal.type(b":", b"Search for commands")
    terminal.type(b"\x1b", b"RELIABLE")
    assert terminal.close() == 0
    return terminal.seen


def test_hostile_recordings_make_the_terminal_do_nothing_that_a_plain_one_does_not(home: Path) -> None:
    plain = kinds(walk(recording(home, evil_world("plain words"))))
    for kind, text in EVIL.items():
        hostile = walk(recording(home, evil_world(text)))
        assert kinds(hostile) <= plain, kind
        for sign in ("\u202e", "\u200b", "\ufeff"):
            assert sign.encode() not in hostile, kind
