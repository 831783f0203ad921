"""The table of keys, made from the bindings: `python -m gputui.keys` prints it for docs/guide.md."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from textual.binding import Binding, BindingType

from gputui.app import GpuTui
from gputui.screens.alarms import AlarmsScreen
from gputui.screens.machines import MachinesScreen
from gputui.screens.money import MoneyScreen
from gputui.screens.offers import OffersScreen
from gputui.screens.place import Place
from gputui.screens.run import RunScreen
from gputui.screens.run_log import LogPane
from gputui.screens.runs import RunsScreen
from gputui.widgets.bars import KeyBar
from gputui.widgets.chart import Charts
from gputui.widgets.logview import LogView
from gputui.widgets.vtable import VTable

PLACES = (
    ("Everywhere", GpuTui.BINDINGS),
    ("Runs", Place.BINDINGS),
    ("Offers", OffersScreen.BINDINGS),
    ("Machines", MachinesScreen.BINDINGS),
    ("Alarms", AlarmsScreen.BINDINGS),
    ("One run", RunScreen.BINDINGS),
    ("Tables", VTable.BINDINGS),
    ("Log", [*LogView.BINDINGS, *LogPane.BINDINGS]),
    ("Metrics", Charts.BINDINGS),
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
    "dollar_sign": "$",
    "exclamation_mark": "!",
    "ampersand": "&",
    "asterisk": "*",
    "plus": "+",
    "equals_sign": "=",
    "minus": "-",
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


def contexts() -> list[tuple[str, list[BindingType]]]:
    """What answers keys at the same time: the app, a place, what is focused in it."""
    found: list[tuple[str, list[BindingType]]] = []
    for name, screen, parts in (
        ("Runs", RunsScreen, (VTable,)),
        ("Offers", OffersScreen, (VTable,)),
        ("Machines", MachinesScreen, (VTable,)),
        ("Alarms", AlarmsScreen, (VTable,)),
        ("Money", MoneyScreen, (VTable,)),
        ("One run", RunScreen, (VTable, LogView, LogPane, Charts)),
    ):
        nearest = {key for b in screen.BINDINGS if isinstance(b, Binding) for key in b.key.split(",")}
        inherited = [
            b
            for b in Place.BINDINGS
            if screen is not RunsScreen and isinstance(b, Binding) and not nearest & set(b.key.split(","))
        ]
        base = [*GpuTui.BINDINGS, *inherited, *screen.BINDINGS]
        found += [(name, [*base, *part.BINDINGS]) for part in parts]
    return found


def ids() -> str:
    """Every action's id with its keys, for keys.toml."""
    known: dict[str, tuple[str, str]] = {}
    for _, bindings in contexts():
        known |= {
            b.id: (b.key, b.description) for b in bindings if isinstance(b, Binding) and b.id is not None
        }
    return "".join(f"{name:<20} {key:<28} {text}\n" for name, (key, text) in sorted(known.items()))


if __name__ == "__main__":
    sys.stdout.write(ids() if "--ids" in sys.argv else markdown())
