"""A line to type that is left at once by enter: what is typed right after belongs to what comes next."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import Input


class Entry(Input):
    """`kept` runs inside the key press itself.

    An ordinary input posts a message, and the key after enter may arrive before anybody has read it:
    someone who types fast, or pastes, would write commands into the line that they had left.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "keep", "Keep", show=False, priority=True),
    ]

    def __init__(self, *, kept: Callable[[], None], placeholder: str, id: str) -> None:  # noqa: A002
        super().__init__(placeholder=placeholder, id=id, compact=True)
        self._kept = kept

    def action_keep(self) -> None:
        """Leave it as it is. Keys that wait in its queue are still typed into it."""
        self._kept()
