"""What a search looks for, in a form that finds it in raw bytes, through the colours in between.

The engine is RE2: linear in the text whatever the pattern (a box writes the text, so a
pattern that explodes on some input would be its weapon), and several times faster than
`re`. Logs are searched as they lie on disk; `loss 2.4` must be found although a colour
changes in the middle. So between any two atoms of the pattern terminal escapes may stand,
and nothing else in it matches the escape character. Measured on a coloured log: stripping
the colours first runs at 100 MB/s, this at several hundred.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from typing import Any

ESCAPES = r"(?:\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\)|[ -/]*[0-Z^-~]))*"
"""Any terminal escapes, between any two characters."""
_ONE_ESCAPE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\)|[ -/]*[0-Z^-~])")

TROUBLE = (
    r"\b(?:NaN|nan|Traceback|Error|ERROR|Exception|FATAL|Fatal|CRITICAL|OOM)\b"
    r"|[Oo]ut of memory|OutOfMemoryError|Killed|Segmentation fault"
)
"""What a person looks for first in a log."""


class NotAPattern(ValueError):
    """The text is no regular expression that RE2 knows; the message says why."""


def through_colours(pattern: str) -> str:
    """`pattern` with room for escapes after each atom. Raises NotAPattern.

    Understands the syntax as far as it has to: where an atom ends, and where a set or a dot
    could swallow an escape.
    """
    out: list[str] = []
    at = 0
    while at < len(pattern):
        piece, at, is_atom = _atom(pattern, at)
        if not is_atom:
            out.append(piece)
            continue
        out.append(f"(?:{piece}{ESCAPES})")
    return "".join(out)


def _atom(text: str, at: int) -> tuple[str, int, bool]:
    """The piece of the pattern that begins at `at`, where it ends, and whether it eats a character."""
    char = text[at]
    if char == "\\":
        if at + 1 >= len(text):
            raise NotAPattern("it ends in a lone backslash")
        if found := re.compile(
            r"\\(?:x\{[0-9A-Fa-f]+\}|x[0-9A-Fa-f]{2}|[pP](?:\{[^}]*\}|.)|[0-7]{1,3}|.)", re.DOTALL
        ).match(text, at):
            piece = found[0]
            if piece[1] in "QEC":
                raise NotAPattern(rf"{piece} is not known here")
            if piece in {r"\D", r"\W", r"\S"}:
                return rf"[^{piece.lower()}\x1b\n]", found.end(), True
            if piece == r"\s":
                return r"[\t\f\r ]", found.end(), True
            if piece[1] in "bB":
                return (
                    "(?:)",
                    found.end(),
                    False,
                )  # the end of a colour is a letter: only the line as shown can tell
            return piece, found.end(), piece[1] not in "Az"
    if char == ".":
        return r"[^\n\x1b]", at + 1, True
    if char == "[":
        return _set(text, at)
    if char in "^$":
        return (f"(?:^|\\r){ESCAPES}", at + 1, False) if char == "^" else (r"\r?$", at + 1, False)
    if char == "(":
        opening = re.compile(r"\((?:\?(?:P?<\w+>|[imsU-]*[:)]))?").match(text, at)
        assert opening is not None  # noqa: S101 - a bracket always matches
        return opening[0], opening.end(), False
    if char in "|)*+?":
        return char, at + 1, False
    if char == "{" and (count := re.compile(r"\{\d+(?:,\d*)?\}\??").match(text, at)):
        return count[0], count.end(), False
    return re.escape(char) if char.isascii() else char, at + 1, True


def _set(text: str, at: int) -> tuple[str, int, bool]:
    match = re.compile(r"\[(\^?)(\]?(?:\\.|\[:\^?\w+:\]|[^\]\\])*)\]", re.DOTALL).match(text, at)
    if match is None:
        raise NotAPattern("a [ has no ]")
    inside = rf"[^{match[2]}\x1b\n]" if match[1] else match[0]
    return inside, match.end(), True


class Finder:
    """Finds lines. Letters match both cases unless `text` has a capital (as less and vim do).

    Raises NotAPattern.
    """

    def __init__(self, text: str) -> None:
        import re2

        self.text = text
        self._loose = re.search(r"\[[^\]]*\\[WDSsPn]|\\[bB]", text) is not None
        """A set in it may swallow an escape or a newline, or a word's edge was left out: what is found is looked at again."""
        options = re2.Options()
        options.never_capture = True
        options.log_errors = False
        options.case_sensitive = not text.islower()
        options.max_mem = 64 << 20
        try:
            self._shown: Any = re2.compile(text, options)
            # group 0 is wrapped so that an alternation stays inside the multi-line flag
            self._raw: Any = re2.compile(f"(?m:{through_colours(text)})".encode(), options)
        except re2.error as error:
            reason = error.args[0] if error.args else error
            said = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
            raise NotAPattern(said.partition("(?m:")[0].strip(" :(") or said) from error

    def spans(self, shown: str) -> list[tuple[int, int]]:
        """Where a line as shown matches; empty matches are left out."""
        return [m.span() for m in self._shown.finditer(shown) if m.end() > m.start()]

    def lines(self, data: bytes, base: int = 0) -> array[int]:
        """Where the lines in `data` that match begin, `base` added; `data` begins at a line's beginning."""
        return array("Q", self._lines(data, base))

    def _lines(self, data: bytes, base: int) -> Iterator[int]:
        search, find, rfind = self._raw.search, data.find, data.rfind
        end, at = len(data), 0
        bars = b"\r" in data
        colours = b"\x1b" in data
        while at < end and (match := search(data, at)) is not None:
            start = match.start()
            begin = rfind(b"\n", 0, start) + 1
            newline = find(b"\n", start)
            if newline < 0:
                newline = end
            if colours and (mark := rfind(b"\x1b", begin, start)) >= 0:
                inside = _ONE_ESCAPE.match(data, mark)
                if inside is not None and inside.end() > start:
                    at = inside.end()  # it began among the numbers of a colour
                    continue
            line = data[begin:newline] if bars or self._loose else b""
            if not line or self._on_show(line):
                yield base + begin
            at = newline + 1

    def _on_show(self, line: bytes) -> bool:
        """Whether the match is in what a progress bar ended up showing, not in what it overwrote."""
        if not self._loose and b"\r" not in line.rstrip(b"\r"):
            return True
        from gputui import ansi

        text = line.decode("utf-8", "replace").rstrip("\r").rpartition("\r")[2]
        return self._shown.search(ansi.strip(text)) is not None
