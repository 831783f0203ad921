"""A terminal with sixteen colours gets its own sixteen, and nothing that it does not know."""

from __future__ import annotations

import re

import pytest
from ui.test_terminal_bytes import Terminal

SGR = re.compile(rb"\x1b\[([0-9;]*)m")
KNOWN = (
    {b"", b"0", b"1", b"2", b"3", b"4", b"7", b"22", b"23", b"24", b"27", b"39", b"49"}
    | {str(n).encode() for first in (30, 40, 90, 100) for n in range(first, first + 8)}
)  # fmt: skip


def sent(**environment: str | None) -> set[bytes]:
    """The parameters of every colour sequence while somebody looks at the fleet, a dialog and the market."""
    terminal = Terminal(environment={"NO_COLOR": None, "GPUTUI_THEME": None, **environment})
    terminal.type(b"", b"miras-s")
    terminal.type(b"d", b"Cancel")
    terminal.type(b"\x1b", b"AT RISK")
    terminal.type(b"2", b"RELIABLE")
    assert terminal.close() == 0
    return {part for found in SGR.findall(terminal.seen) for part in found.split(b";")}


@pytest.mark.usefixtures("served")
def test_only_sixteen_colours_reach_a_terminal_that_has_no_more() -> None:
    parts = sent(TERM="xterm-16color", COLORTERM=None)
    assert parts <= KNOWN, "38 and 48 would be colours that it does not have"
    assert {b"96", b"33", b"91", b"90", b"44"} <= parts, (
        "good, warning, bad, faint and the cursor are told apart"
    )
