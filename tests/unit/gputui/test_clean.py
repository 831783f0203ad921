"""Nothing that a terminal would obey comes out of `clean`, whatever goes in."""

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ui.scenario import run_row, small_fleet

from gputui.clean import RunsCleaner, clean, clean_lines, cleaned
from gpuwatch.client import wire

OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")


@given(st.text(st.characters(exclude_categories=())))
def test_no_control_or_invisible_character_survives(text: str) -> None:
    out = clean(text)
    assert not OBEYED.search(out)
    assert "\n" not in out
    assert "\t" not in out
    out.encode()


@given(st.text(st.characters(exclude_categories=())))
def test_lines_keep_only_feeds_and_tabs(text: str) -> None:
    assert not OBEYED.search(clean_lines(text))


@given(st.text(st.characters(exclude_categories=())))
def test_cleaning_twice_changes_nothing_more(text: str) -> None:
    assert clean(clean(text)) == clean(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]52;c;cm0gLXJm\x07host", "host"),
        ("\x1b]0;PWN\x1b\\host", "host"),
        ("\x1b[2J\x1b[31mred\x1b[0m", "red"),
        ("\x9b31mred", "red"),
        ("\x90payload\x9chost", "host"),
        ("\x1b]0;never ends", ""),
        ("a\r\nb\tc", "a  b c"),
        ("evil\u202eexe.txt", "evil\ufffdexe.txt"),
        ("[red]markup[/] stays text", "[red]markup[/] stays text"),
        ("日本 ünï", "日本 ünï"),
    ],
)
def test_what_becomes_of_known_tricks(text: str, shown: str) -> None:
    assert clean(text) == shown


def test_length_is_bounded_and_the_cut_is_marked() -> None:
    out = clean("x" * 10_000, 100)
    assert len(out) == 100
    assert out.endswith("…")


def test_a_clean_message_is_passed_on_as_the_same_object() -> None:
    row = run_row("r1", "miras-s", "running", next="checkpoint in 2m")
    assert cleaned(row) is row


def test_every_string_of_a_message_is_cleaned_however_deep() -> None:
    row = run_row("r1", "\x1b[31mx", "running", holds=[{"name": "a\x07b"}], gpu="\x9b1mGPU")
    out = cleaned(row)
    assert (out.name, out.gpu, out.holds) == ("x", "GPU", [{"name": "a\ufffdb"}])


def test_a_row_that_says_nothing_new_is_the_same_object_and_a_hostile_one_is_clean_each_time() -> None:
    world = small_fleet()
    world.runs[1] = msgspec.structs.replace(world.runs[1], name="evil\x1b[2J name", next="a\u202eb")
    cleaner = RunsCleaner()

    def snapshot() -> wire.Runs:
        return cleaner.cleaned(msgspec.json.decode(msgspec.json.encode(world.fleet()), type=wire.Runs))

    first = snapshot()
    assert first.runs[1].name == "evil name"
    assert first == cleaned(world.fleet())
    world.runs[0] = msgspec.structs.replace(world.runs[0], step=1841, reason="\x1b]0;t\x07new")
    second = snapshot()
    assert second == cleaned(world.fleet())
    assert second.runs[0].reason == "new"
    assert [a is b for a, b in zip(first.runs, second.runs, strict=True)] == [False, True, True, True, True]
    world.runs = world.runs[1:]
    assert snapshot() == cleaned(world.fleet())
