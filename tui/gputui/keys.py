"""The table of keys, made from the bindings: `python -m gputui.keys` prints it for docs/guide.md."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from textual.binding import Binding, BindingType

from gputui.app import GpuTui
from gputui.screens.offers import OffersScreen
from gputui.screens.place import Place
from gputui.screens.run import RunScreen
from gputui.widgets.bars import KeyBar
from gputui.widgets.logview import LogView
from gputui.widgets.vtable import VTable

PLACES = (
    ("Everywhere", GpuTui.BINDINGS),
    ("Runs", Place.BINDINGS),
    ("Offers", OffersScreen.BINDINGS),
    ("One run", RunScreen.BINDINGS),
    ("Tables", VTable.BINDINGS),
    ("Log", LogView.BINDINGS),
)
_NAMES = {
    "left_square_bracket": "[",
    "right_square_bracket": "]",
    "pageup": "page up",
    "pagedown": "page down",
    "up": "↑",
    "down": "↓",
    "left": "←",
    "right": "→",
    **KeyBar.NAMES,
}


def rows(bindings: Iterable[BindingType]) -> list[tuple[str, str]]:
    """How each key is written and what it does; keys that mean nothing are left out."""
    found = []
    for binding in bindings:
        if isinstance(binding, Binding) and binding.description:
            keys = " ".join(f"`{_NAMES.get(key, key)}`" for key in binding.key.split(","))
            text = binding.description
            if binding.tooltip:
                text = f"{text}: {binding.tooltip[0].lower()}{binding.tooltip[1:]}"
            found.append((keys, text))
    return found


def markdown() -> str:
    """The whole table."""
    lines = ["| where | key | does |", "|---|---|---|"]
    for place, bindings in PLACES:
        lines += [f"| {place} | {keys} | {text} |" for keys, text in rows(bindings)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
