"""The guide's key table and command list are the real ones."""

from pathlib import Path

from gputui import keys
from gputui.cli import build_parser
from gpuwatch.client import wire

GUIDE = Path(__file__).parents[2] / "docs" / "guide.md"


def test_the_key_table_is_made_from_the_bindings() -> None:
    text = GUIDE.read_text()
    table = text.partition("a test compares -->\n")[2].partition("<!-- /keys -->")[0]
    assert table == keys.markdown(), "python -m gputui.keys prints the new table"


def test_every_command_and_json_shape_is_in_the_guide() -> None:
    text = GUIDE.read_text()
    actions = [a for a in build_parser()._actions if a.choices and a.dest == "verb"]
    for verb in actions[0].choices or ():
        assert f"gputui {verb}" in text
    for shape in (
        wire.Offers,
        wire.Runs,
        wire.RunDetail,
        wire.Why,
        wire.CustodyReport,
        wire.EventRow,
        wire.LogChunk,
    ):
        assert f"`{shape.__name__}`" in text
