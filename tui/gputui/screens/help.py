"""Help: the keys of what is focused, made from the bindings themselves, so that it cannot be wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import Screen

from gputui.screens.dialog import Dialog
from gputui.widgets.bars import KeyBar
from gputui.widgets.lines import Line, Lines

_PLUMBING = ("app.focus_", "screen.copy_", "scroll_", "screen.m", "app.help_quit")
"""Bindings of Textual's own that nobody looks up."""

Section = tuple[str, list[tuple[str, str]]]
"""A title and its keys: how they are written, what they do."""


def sections(screen: Screen[Any]) -> list[Section]:
    """The keys that work on `screen` now, grouped by who answers them."""
    found: dict[str, dict[str, tuple[list[str], str]]] = {}
    for node, binding, _, _ in screen.active_bindings.values():
        if not binding.description or binding.system or binding.action.startswith(_PLUMBING):
            continue
        if node is screen.app:
            title = "Everywhere"
        elif isinstance(node, Screen):
            title = "On this screen"
        else:
            title = "In " + {"VTable": "the table", "LogView": "the log"}.get(
                type(node).__name__, type(node).__name__
            )
        keys, text = found.setdefault(title, {}).setdefault(binding.action, ([], binding.description))
        if binding.tooltip:
            text = f"{binding.description}: {binding.tooltip[0].lower()}{binding.tooltip[1:]}"
            found[title][binding.action] = (keys, text)
        keys.append(KeyBar.key_name(binding, screen.app))
    order = ("On this screen", "In the log", "In the table")
    ranked = sorted(found, key=lambda t: (order.index(t) if t in order else len(order), t == "Everywhere", t))
    return [(title, [(" ".join(keys), text) for keys, text in found[title].values()]) for title in ranked]


class HelpDialog(Dialog[None]):
    """Shows sections of keys."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark,enter", "close", "Close")]

    def __init__(self, found: Sequence[Section]) -> None:
        super().__init__()
        self._sections = found

    def compose(self) -> ComposeResult:
        """One text."""
        lines: list[Line] = []
        for title, keys in self._sections:
            if lines:
                lines.append([])
            lines.append([(title, "title")])
            lines += [[(f"  {key:<14}", "key"), (text, "")] for key, text in keys]
        lines += [
            [],
            [("The daemon goes on when you quit; machines are watched with the app closed.", "dim")],
        ]
        with Vertical(classes="dialog"), VerticalScroll(classes="body"):
            yield Lines(lines)

    def action_close(self) -> None:
        """Back."""
        self.dismiss()
