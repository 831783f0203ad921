"""All of the CLI's stdout and stderr: tables and lines for people, JSON for programs, errors that help."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence
from typing import TextIO
from unicodedata import combining, east_asian_width

import msgspec

from gputui.clean import ESCAPE, clean, clean_lines

_TONES = {"good": "32", "busy": "36", "warn": "33", "bad": "31", "dim": "2", "bold": "1"}
_SGR = re.compile(r"\x1b\[[0-9;:]*m\Z")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]")

Cell = str | tuple[str, str]
"""Text, or text and tone (`good`, `busy`, `warn`, `bad`, `dim`, `bold`)."""


def width(text: str) -> int:
    """Columns that `text` takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def cut(text: str, limit: int) -> str:
    """`text` in at most `limit` columns, the cut marked with `…`."""
    if width(text) <= limit:
        return text
    kept, used = [], 0
    for c in text:
        used += width(c)
        if used > limit - 1:
            break
        kept.append(c)
    return "".join(kept) + "…"


class Console:
    """Where a command writes. `json` turns every listing into one JSON document (or one per line)."""

    def __init__(self, *, json: bool = False, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.json = json
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self.terminal = self._out.isatty()
        self.color = self.terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def paint(self, text: str, tone: str) -> str:
        """`text` in a tone, when colours are on."""
        code = _TONES.get(tone)
        return f"\x1b[{code}m{text}\x1b[0m" if self.color and code and text else text

    def clear(self) -> None:
        """A clean terminal for the next look; nothing when the output goes elsewhere."""
        if self.terminal and not self.json:
            self._out.write("\x1b[H\x1b[2J")

    def line(self, text: str = "", tone: str = "") -> None:
        """One line for people; escapes in `text` do not get through."""
        self._out.write(self.paint(clean(text), tone) + "\n")

    def text(self, text: str) -> None:
        """Several lines, cleaned, as they are."""
        self._out.write(clean_lines(text).rstrip("\n") + "\n")

    def write_json(self, value: msgspec.Struct | list[msgspec.Struct] | dict[str, object]) -> None:
        """One value as one line of JSON."""
        self._out.write(msgspec.json.encode(value).decode() + "\n")
        self._out.flush()

    def log_line(self, line: str) -> None:
        """A line of a log: its colours stay when colours are on, nothing else that is not text."""
        keep = self.color
        shown = ESCAPE.sub(lambda m: m[0] if keep and _SGR.match(m[0]) else "", line)
        self._out.write(_CONTROL.sub("", shown) + ("\x1b[0m" if keep and "\x1b" in shown else "") + "\n")

    def raw(self, data: bytes) -> None:
        """Bytes as they are (`logs --raw`)."""
        self._out.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    def flush(self) -> None:
        """Push out what is buffered, for streams that are watched."""
        self._out.flush()

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence[Cell]], *, shrink: int | None = None
    ) -> None:
        """Aligned columns; a header that starts with `>` is right-aligned.

        On a terminal the column `shrink` gives way first; elsewhere nothing is cut.
        """
        right = [name.startswith(">") for name in columns]
        names = [name.removeprefix(">") for name in columns]
        cells = [[(clean(c), "") if isinstance(c, str) else (clean(c[0]), c[1]) for c in row] for row in rows]
        widths = [max([width(name), *(width(row[i][0]) for row in cells)]) for i, name in enumerate(names)]
        if self.terminal and shrink is not None:
            room = shutil.get_terminal_size().columns
            excess = sum(widths) + 2 * (len(widths) - 1) - room
            widths[shrink] = max(6, widths[shrink] - max(0, excess))

        def put(row: Sequence[tuple[str, str]]) -> None:
            parts = []
            for i, (text, tone) in enumerate(row):
                text = cut(text, widths[i])
                pad = " " * (widths[i] - width(text))
                painted = self.paint(text, tone)
                parts.append(pad + painted if right[i] else painted + pad)
            self._out.write("  ".join(parts).rstrip() + "\n")

        put([(name, "dim") for name in names])
        for row in cells:
            put(row)

    def error(self, message: str) -> None:
        """What happened, why, what to do next: to stderr."""
        self._out.flush()
        self._err.write(f"gputui: {clean_lines(message).rstrip()}\n")
        self._err.flush()

    def note(self, message: str) -> None:
        """Something to know that is not the result: to stderr."""
        self._out.flush()
        self._err.write(clean_lines(message).rstrip() + "\n")
        self._err.flush()

    def ask(self, question: str) -> bool:
        """Yes or no on the terminal; anything but yes is no."""
        self._out.flush()
        self._err.write(f"{clean(question)} [y/N] ")
        self._err.flush()
        return sys.stdin.readline().strip().lower() in {"y", "yes"}
