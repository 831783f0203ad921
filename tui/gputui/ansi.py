"""Colours of a log line, and nothing else of what a terminal would obey.

SGR sequences (ECMA-48 §8.3.117; 8, 256 and 24-bit colours) become styles; every other
escape and control character is dropped. Concealed and blinking text is shown plainly:
a box does not get to hide a line or to flash.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from gputui.clean import ESCAPE

_SGR = re.compile(r"(?:\x1b\[|\x9b)([0-9;:]*)m\Z")
_UNSHOWABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e0fff\ud800-\udfff]"
)

Color = int | tuple[int, int, int]
"""An index of the 256-colour palette, or red, green, blue."""


@dataclass(frozen=True, slots=True)
class Sgr:
    """How a piece of text looks. The default is plain."""

    color: Color | None = None
    background: Color | None = None
    bold: bool = False
    dim: bool = False
    italic: bool = False
    underline: bool = False
    reverse: bool = False
    strike: bool = False


PLAIN = Sgr()
Piece = tuple[str, Sgr]

_SWITCHES: dict[int, dict[str, bool]] = {
    1: {"bold": True},
    2: {"dim": True},
    3: {"italic": True},
    4: {"underline": True},
    7: {"reverse": True},
    9: {"strike": True},
    21: {"underline": True},
    22: {"bold": False, "dim": False},
    23: {"italic": False},
    24: {"underline": False},
    27: {"reverse": False},
    29: {"strike": False},
}


def parse(line: str) -> list[Piece]:
    """Pieces of one line with their looks; never empty pieces, no control characters."""
    if "\x1b" not in line and "\x9b" not in line and line.isprintable():
        return [(line, PLAIN)] if line else []
    pieces: list[Piece] = []
    look = PLAIN
    at = 0
    for match in ESCAPE.finditer(line):
        _add(pieces, line[at : match.start()], look)
        at = match.end()
        if sgr := _SGR.match(match[0]):
            look = _apply(look, sgr[1])
    _add(pieces, line[at:], look)
    return pieces


def strip(line: str) -> str:
    """The text of a line without any escape or control character."""
    return "".join(text for text, _ in parse(line))


def _add(pieces: list[Piece], text: str, look: Sgr) -> None:
    text = _UNSHOWABLE.sub("", text.expandtabs(8))
    if text:
        pieces.append((text, look))


def _apply(look: Sgr, text: str) -> Sgr:
    codes = [int(part) if part and len(part) < 5 else 0 for part in text.replace(":", ";").split(";")]
    at = 0
    while at < len(codes):
        code = codes[at]
        at += 1
        if code == 0:
            look = PLAIN
        elif switch := _SWITCHES.get(code):
            look = replace(look, **switch)
        elif code in {38, 48}:
            color, at = _extended(codes, at)
            if color is not None:
                look = replace(look, color=color) if code == 38 else replace(look, background=color)
        elif 30 <= code <= 37 or 90 <= code <= 97:
            look = replace(look, color=code - 30 if code < 90 else code - 82)
        elif 40 <= code <= 47 or 100 <= code <= 107:
            look = replace(look, background=code - 40 if code < 100 else code - 92)
        elif code == 39:
            look = replace(look, color=None)
        elif code == 49:
            look = replace(look, background=None)
    return look


def _extended(codes: list[int], at: int) -> tuple[Color | None, int]:
    """The colour after a 38 or 48 (`5;n` or `2;r;g;b`) and where the next code starts."""
    kind = codes[at] if at < len(codes) else None
    if kind == 5 and at + 1 < len(codes):
        return (codes[at + 1] if codes[at + 1] < 256 else None), at + 2
    if kind == 2 and at + 3 < len(codes):
        r, g, b = codes[at + 1 : at + 4]
        return ((r, g, b) if max(r, g, b) < 256 else None), at + 4
    return None, len(codes)
