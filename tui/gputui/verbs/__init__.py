"""What each command does: ask the daemon, hand the answer to the console, return the exit status.

One module for each topic; only the one that is needed is imported.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from gputui.console import Console

Verb = Callable[[argparse.Namespace, "Console"], int]

TOPICS: dict[str, tuple[str, ...]] = {
    "offers": ("offers",),
    "machines": ("machines", "avoid", "forgive"),
    "launch": ("launch",),
    "runs": ("ls", "show", "why", "logs", "events"),
    "custody": ("holds", "hold", "pin", "release", "unpin", "resolve", "destroy", "evacuate"),
    "mending": ("retry", "recover", "stop", "start"),
    "box": ("ssh", "forward"),
    "money": ("cost",),
    "mirrors": ("mirror",),
    "daemon": ("status", "login"),
    "app": ("record", "replay", "serve", "completion"),
}
"""Module -> the commands that it does, each by a function of its name."""


def verb(name: str) -> Verb:
    """What does the command `name`."""
    topic = next(topic for topic, names in TOPICS.items() if name in names)
    return cast("Verb", getattr(import_module(f"gputui.verbs.{topic}"), name))
