"""The line of a table's filter: tab completes what is typed, and what could stand there is told above it."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual.binding import Binding, BindingType

from gpuproviders.query import Candidate, Completion
from gputui.filtering import completed
from gputui.table import Piece
from gputui.widgets.entry import Entry
from gputui.widgets.lines import Line, Lines

SHOWN = 8
"""Proposals that are told; more are counted."""


class FilterEntry(Entry):
    """`propose` says what could stand at the cursor; `told` shows it. Tab takes the next proposal, shift+tab the last."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "take(1)", "Complete", show=False, priority=True),
        Binding("shift+tab", "take(-1)", "Complete", show=False, priority=True),
    ]

    def __init__(
        self,
        *,
        kept: Callable[[], None],
        propose: Callable[[str, int], Completion],
        told: Lines,
        placeholder: str,
    ) -> None:
        super().__init__(kept=kept, placeholder=placeholder, id="filter")
        self._propose, self._told = propose, told
        self._round: tuple[str, int, Completion, int] | None = None
        """While tab goes round: what was typed and where, what was proposed for it, and which one stands there."""

    def tell(self) -> None:
        """Show what could be typed here; called after each change."""
        if self._round is None or completed(*self._round)[0] != self.value:
            self._round = None
        found = self._round[2] if self._round else self._propose(self.value, self.cursor_position)
        self._told.set_lines(proposals(found, self._round[3] if self._round else None))

    def action_take(self, by: int) -> None:
        """Put the next proposal where the cursor is."""
        if self._round is None:
            found = self._propose(self.value, self.cursor_position)
            if not any(one.text for one in found.candidates):
                return
            at = 0 if by > 0 else len(found.candidates) - 1
            self._round = (self.value, self.cursor_position, found, at)
        else:
            text, cursor, found, at = self._round
            self._round = (text, cursor, found, (at + by) % len(found.candidates))
        value, cursor = completed(*self._round)
        only = len(self._round[2].candidates) == 1
        self.value, self.cursor_position = value, cursor
        if only:
            self._round = None  # the next tab goes on with what comes after it
        self.tell()


def proposals(found: Completion, chosen: int | None) -> list[Line]:
    """Candidates on one line, with what the chosen (or the only) one means. Pure."""
    offered = [one for one in found.candidates if one.text]
    if not found.candidates:
        return []
    if not offered:
        return [[(f"  {found.candidates[0].doc}", "dim")]]
    first = 0 if chosen is None else max(0, min(chosen - SHOWN // 2, len(offered) - SHOWN))
    line: list[Piece] = [("  ", "")]
    for at, one in enumerate(offered[first : first + SHOWN], first):
        line += [(one.text, "accent" if at == chosen else ""), ("  ", "")]
    if len(offered) > SHOWN:
        line.append((f"of {len(offered)}  ", "dim"))
    meant: Candidate | None = (
        offered[chosen] if chosen is not None else offered[0] if len(offered) == 1 else None
    )
    line.append((meant.doc if meant is not None and meant.doc else "tab completes", "dim"))
    return [line]
