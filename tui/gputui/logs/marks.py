"""What a line of a log is about, told by a mark in front of it. Pure."""

from __future__ import annotations

import re
from enum import Enum

from gputui.logs.pattern import TROUBLE


class Mark(Enum):
    """Glyph and tone."""

    TROUBLE = ("✗", "bad")
    WARNING = ("△", "warn")
    CHECKPOINT = ("◆", "accent")
    STEP = ("·", "dim")
    NONE = (" ", "")


_TROUBLE = re.compile(TROUBLE)
_WARN = re.compile(r"\bwarn(?:ing)?\b", re.IGNORECASE)
_CHECKPOINT = re.compile(r"\b(?:ckpt|checkpoint)\b.*\b(?:wr[io]te?|written|saved|saving)\b", re.IGNORECASE)
_STEP = re.compile(r"\b(?:step|iter(?:ation)?)\b\s*[=:]?\s*\d", re.IGNORECASE)


def mark_of(text: str) -> Mark:
    """The most urgent mark that fits a line as shown."""
    if _TROUBLE.search(text):
        return Mark.TROUBLE
    if _WARN.search(text):
        return Mark.WARNING
    if _CHECKPOINT.search(text):
        return Mark.CHECKPOINT
    return Mark.STEP if _STEP.search(text) else Mark.NONE
