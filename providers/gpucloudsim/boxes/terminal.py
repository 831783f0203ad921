"""Pseudo-terminals for SSH sessions, set up as sshd sets them up."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import sys
import termios
from collections.abc import Mapping

# Opcodes of RFC 4254 section 8 -> (index of the termios list, flag). Indices: 0 iflag, 1 oflag, 3 lflag.
_FLAGS: dict[int, tuple[int, str]] = {
    30: (0, "IGNPAR"),
    31: (0, "PARMRK"),
    32: (0, "INPCK"),
    33: (0, "ISTRIP"),
    34: (0, "INLCR"),
    35: (0, "IGNCR"),
    36: (0, "ICRNL"),
    38: (0, "IXON"),
    39: (0, "IXANY"),
    40: (0, "IXOFF"),
    41: (0, "IMAXBEL"),
    50: (3, "ISIG"),
    51: (3, "ICANON"),
    53: (3, "ECHO"),
    54: (3, "ECHOE"),
    55: (3, "ECHOK"),
    56: (3, "ECHONL"),
    57: (3, "NOFLSH"),
    58: (3, "TOSTOP"),
    59: (3, "IEXTEN"),
    60: (3, "ECHOCTL"),
    61: (3, "ECHOKE"),
    70: (1, "OPOST"),
    72: (1, "ONLCR"),
    73: (1, "OCRNL"),
    74: (1, "ONOCR"),
    75: (1, "ONLRET"),
}
_CHARACTERS: dict[int, str] = {
    1: "VINTR",
    2: "VQUIT",
    3: "VERASE",
    4: "VKILL",
    5: "VEOF",
    6: "VEOL",
    7: "VEOL2",
    8: "VSTART",
    9: "VSTOP",
    10: "VSUSP",
    12: "VREPRINT",
    13: "VWERASE",
    14: "VLNEXT",
    18: "VDISCARD",
}
NO_CHARACTER = 255

# The child takes its terminal as the controlling one and becomes the program. A program of its own
# instead of preexec_fn, which is not safe in a process that has threads.
_TAKE_TERMINAL = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"


def on_terminal(argv: list[str]) -> list[str]:
    """The command that runs `argv` with its standard input as controlling terminal (needs a new session)."""
    return [sys.executable, "-I", "-S", "-c", _TAKE_TERMINAL, *argv]


def apply_modes(fd: int, modes: Mapping[int, int]) -> None:
    """Set the terminal as the client asked (opcodes of RFC 4254; unknown ones are ignored)."""
    if not modes:
        return
    attributes = termios.tcgetattr(fd)
    for code, value in modes.items():
        if code in _FLAGS:
            index, name = _FLAGS[code]
            flag = getattr(termios, name, 0)
            attributes[index] = attributes[index] | flag if value else attributes[index] & ~flag
        elif code in _CHARACTERS:
            position = getattr(termios, _CHARACTERS[code], None)
            if position is not None:
                attributes[6][position] = b"\0" if value == NO_CHARACTER else bytes([value & 0xFF])
    with contextlib.suppress(termios.error):
        termios.tcsetattr(fd, termios.TCSANOW, attributes)


def resize(fd: int, width: int, height: int, pixwidth: int = 0, pixheight: int = 0) -> None:
    """Tell the terminal its size in characters (and pixels)."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, pixwidth, pixheight))


def open_terminal(modes: Mapping[int, int], size: tuple[int, int, int, int]) -> tuple[int, int]:
    """(master, slave) of a new terminal."""
    master, slave = os.openpty()
    apply_modes(slave, modes)
    resize(slave, *size)
    return master, slave
