"""The one door for strings we did not write: host names, log lines, offers, exceptions.

The daemon cleans too; this is the second, independent layer. What comes out holds no
terminal escape, no control character, nothing invisible and nothing that turns the
direction of text, and is bounded. It is plain text: whoever shows it must not parse markup.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TypeVar, cast, get_type_hints

import msgspec

from gpuwatch.client import wire

LIMIT = 2_000
"""Characters kept of a string that has no better bound."""
TEXT_LIMIT = 200_000
"""Characters kept of a text of many lines (a spec)."""

REPLACEMENT = "\ufffd"

ESCAPE = re.compile(
    r"\x1b(?:"
    r"\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor, modes
    r"|[\]PX^_].*?(?:\x07|\x1b\\|\x9c|\Z)"  # OSC, DCS, SOS, PM, APC with their payload
    r"|[ -/]*[0-~]"  # two-character and charset escapes
    r")?"
    r"|\x9b[0-?]*[ -/]*[@-~]"
    r"|[\x90\x98\x9d-\x9f].*?(?:\x07|\x1b\\|\x9c|\Z)",
    re.DOTALL,
)
"""Every terminal escape sequence (ECMA-48, 7 and 8 bit), a payload without its end up to the end."""

_UNSHOWABLE = (
    "\x7f-\x9f"  # DEL and C1
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"  # invisible: soft hyphen, joiners, fillers
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f"  # zero width, line separators, bidi controls
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\U000e0000-\U000e0fff"  # tags
    "\ud800-\udfff"  # lone surrogates cannot be encoded
)
_ONE_LINE = re.compile(f"[\x00-\x1f{_UNSHOWABLE}]")
_LINES = re.compile(f"[\x00-\x08\x0b-\x1f{_UNSHOWABLE}]")
_SPACES = str.maketrans("\n\r\t\v\f", "     ")

T = TypeVar("T")


def clean(text: str, limit: int = LIMIT) -> str:
    """`text` as one line that is safe to show; at most `limit` characters, the cut marked with `…`."""
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isprintable():
        # isprintable() says no to every control and format character, so nothing is left but fillers
        return text if text.isascii() else _ONE_LINE.sub(REPLACEMENT, text)
    return _ONE_LINE.sub(REPLACEMENT, ESCAPE.sub("", text).translate(_SPACES))


def clean_lines(text: str, limit: int = TEXT_LIMIT) -> str:
    """Like `clean`, but line feeds and tabs stay."""
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return _LINES.sub(REPLACEMENT, ESCAPE.sub("", text.replace("\r\n", "\n")))


_PLAIN = {int, float, bool, int | None, float | None, bool | None}


@lru_cache
def _text_fields(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    """The fields of a message that may hold text, by its types: numbers need no cleaning."""
    return tuple(name for name, hint in get_type_hints(kind).items() if hint not in _PLAIN)


_MANY_LINES = frozenset({"spec", "message"})


def cleaned(value: T) -> T:
    """A message from the daemon with every string in it cleaned; the very same object if all were clean."""
    return cast("T", _cleaned(value))


class RunsCleaner:
    """Cleans fleet snapshots; a row that has come before, equal in everything, is the very same object again.

    Four times a second most rows say nothing new: they are not looked through again, and what
    holds them can see by identity that nothing changed.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[wire.RunRow, wire.RunRow]] = {}

    def cleaned(self, runs: wire.Runs) -> wire.Runs:
        """The snapshot with every string in it cleaned."""
        before, now = self._known, {}
        for row in runs.runs:
            known = before.get(row.id)
            now[row.id] = known if known is not None and known[0] == row else (row, cleaned(row))
        self._known = now
        rest = cleaned(msgspec.structs.replace(runs, runs=[]))
        return msgspec.structs.replace(rest, runs=[now[row.id][1] for row in runs.runs])


def _cleaned(value: object, field: str = "") -> object:
    if isinstance(value, str):
        return clean_lines(value) if field in _MANY_LINES else clean(value)
    if isinstance(value, msgspec.Struct):
        changed = {}
        for name in _text_fields(type(value)):
            before = getattr(value, name)
            if before is None or (
                before.__class__ is str and len(before) < LIMIT and before.isascii() and before.isprintable()
            ):
                continue  # nearly all there is: what follows would say the same
            if (after := _cleaned(before, name)) is not before:
                changed[name] = after
        return msgspec.structs.replace(value, **changed) if changed else value
    if isinstance(value, list):
        items = [_cleaned(item) for item in value]
        return items if any(a is not b for a, b in zip(items, value, strict=True)) else value
    if isinstance(value, dict):
        pairs = {_cleaned(key): _cleaned(item) for key, item in value.items()}
        return (
            pairs
            if any(a is not b for a, b in zip(pairs.values(), value.values(), strict=False))
            or (pairs.keys() != value.keys())
            else value
        )
    return value
