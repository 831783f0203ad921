"""Text from a box or a vendor, made safe to show: the one boundary of I6 for strings."""

from __future__ import annotations

import re

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI … final
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"  # OSC, DCS, SOS, PM, APC … terminator
    r"|\x1b[ -/]*[0-~]?"  # anything else that starts with ESC
)
_HIDDEN = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5"
    "\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufeff\uffa0\ufff0-\ufffb"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def clean(text: str, limit: int = 500) -> str:
    """One line of text without escapes, control, bidi or invisible characters, at most `limit` characters.

    Escape sequences vanish, other unsafe characters become U+FFFD, a carriage return keeps
    what a terminal would show last, tabs become spaces.
    """
    text = text[: limit * 8]
    if "\r" in text:
        text = text.rstrip("\r").rsplit("\r", 1)[-1]
    text = _HIDDEN.sub("\ufffd", _ESCAPES.sub("", text)).replace("\t", "    ")
    return text if len(text) <= limit else text[: limit - 1] + "…"


def clean_bytes(data: bytes, limit: int = 500) -> str:
    """`clean` for bytes: invalid UTF-8 becomes U+FFFD."""
    return clean(data.decode("utf-8", "replace"), limit)


def show_path(path: str, limit: int = 300) -> str:
    """A file name for people; undecodable bytes (surrogates) are shown as U+FFFD."""
    return clean(path.replace("\n", "\u240a"), limit)
