"""Colours of a log line are kept, everything else that a terminal would obey is not."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gputui import ansi
from gputui.ansi import PLAIN, Sgr

HOSTILE = st.text(st.sampled_from("\x1b[]m;0123456789:?PX^_\\\x07\x9b\x9c\x9dabcHJK \r\b") | st.characters())


@given(HOSTILE)
def test_no_escape_and_no_control_character_is_left(line: str) -> None:
    text = ansi.strip(line)
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", text)


@given(st.text(st.characters(categories=("L", "N", "P", "S"), exclude_characters="\u00ad"), max_size=80))
def test_plain_text_is_untouched(line: str) -> None:
    assert ansi.strip(line) == line


@pytest.mark.parametrize(
    ("line", "pieces"),
    [
        ("", []),
        ("plain", [("plain", PLAIN)]),
        ("\x1b[31mred\x1b[0m back", [("red", Sgr(color=1)), (" back", PLAIN)]),
        ("\x1b[1;32mok\x1b[22m ok", [("ok", Sgr(color=2, bold=True)), (" ok", Sgr(color=2))]),
        ("\x1b[91mbright", [("bright", Sgr(color=9))]),
        ("\x1b[38;5;208mx", [("x", Sgr(color=208))]),
        ("\x1b[48;2;1;2;3mx", [("x", Sgr(background=(1, 2, 3)))]),
        ("\x1b[38:2:9:8:7mx", [("x", Sgr(color=(9, 8, 7)))]),
        ("\x1b[38;5;999mx", [("x", PLAIN)]),
        ("\x1b[38mx", [("x", PLAIN)]),
        ("\x1b[8mhidden\x1b[5mflash", [("hidden", PLAIN), ("flash", PLAIN)]),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", [("link", PLAIN)]),
        ("\x1b[2Jx\x1b[10;10Hy", [("x", PLAIN), ("y", PLAIN)]),
        ("\x1b[mx", [("x", PLAIN)]),
        ("a\tb", [("a       b", PLAIN)]),
    ],
)
def test_what_a_line_becomes(line: str, pieces: list[ansi.Piece]) -> None:
    assert ansi.parse(line) == pieces


def test_a_number_that_is_no_code_does_no_harm() -> None:
    assert ansi.parse("\x1b[" + "9" * 5000 + "mx") == [("x", PLAIN)]
