"""The guide's key table and command list are the real ones."""

import json
import re
import runpy
from pathlib import Path

from gputui import keys
from gputui.cli import build_parser
from gputui.shapes import SHAPES
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


def test_every_command_with_json_has_its_shape_and_the_schema_and_manual_are_current() -> None:
    verbs = next(a for a in build_parser()._actions if a.choices and a.dest == "verb").choices or {}
    printing = {
        name for name, sub in verbs.items() if any("--json" in a.option_strings for a in sub._actions)
    }
    assert printing == set(SHAPES)
    make = runpy.run_path(str(GUIDE.with_name("make_cli.py")))
    assert make["MAN"].read_text() == make["man"](), "python docs/make_cli.py writes it anew"
    assert make["SCHEMA"].read_text() == make["schema"](), "python docs/make_cli.py writes it anew"
    assert json.loads(make["schema"]())["properties"].keys() == SHAPES.keys()


def test_every_screen_is_shown_in_the_guide_and_every_picture_of_it_is_generated() -> None:
    from ui.screenshots import SCENES
    from ui.test_snapshots import SCENES as PLAYED

    shown = set(re.findall(r"\(img/([a-z-]+)\.svg\)", GUIDE.read_text()))
    assert shown == set(SCENES), "python tests/ui/screenshots.py docs/img draws them"
    assert {scene for scene, _ in SCENES.values()} == set(PLAYED), "each screen has snapshot tests too"
    for name in shown:
        assert (GUIDE.parent / "img" / f"{name}.svg").is_file()
