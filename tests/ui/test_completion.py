"""The filter completes: fields with what they mean, and the values that occur in this very table."""

import pytest
from textual.widgets import Input
from ui.conftest import Clock, running, screen_text, type_text, until
from ui.fake_daemon import FakeDaemon

from gpuproviders.listing import FIELDS
from gputui.app import GpuTui
from gputui.filtering import completed, completion, values_in
from gputui.screens.offers import OffersScreen
from gputui.widgets.filterentry import proposals


def typed(app: GpuTui) -> str:
    assert isinstance(app.focused, Input)
    return app.focused.value


async def test_tab_completes_a_field_and_then_a_value_that_is_there(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock, (140, 40)) as (app, pilot):
        await pilot.press("2")
        await until(pilot, lambda: isinstance(app.screen, OffersScreen) and app.screen.answer is not None)
        await pilot.press("slash")
        await until(pilot, lambda: isinstance(app.focused, Input))
        type_text(app, "reg")
        await until(pilot, lambda: "region=" in screen_text(app))
        await pilot.press("tab")
        assert typed(app) == "region="
        await until(pilot, lambda: '"Sweden, SE"' in screen_text(app))
        type_text(app, "sw")
        await pilot.pause()
        await pilot.press("tab")
        assert typed(app) == 'region="Sweden, SE" '
        type_text(app, "price")
        await pilot.pause()
        await pilot.press("tab")
        assert typed(app) == 'region="Sweden, SE" price<'
        await until(pilot, lambda: "dollars, e.g. 2.50" in screen_text(app))
        type_text(app, "2")
        await pilot.press("enter")
        table = app.screen.query_one("#offers")
        assert app.focused is table
        assert {o.region for o in (app.screen.table.model.at(i) for i in range(3)) if o} == {"Sweden, SE"}  # type: ignore[attr-defined]
        await pilot.press("escape")
        await pilot.pause()
        assert not app.screen.query("#proposals")


async def test_tab_goes_round_and_shift_tab_back(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock, (140, 40)) as (app, pilot):
        await pilot.press("2")
        await until(pilot, lambda: isinstance(app.screen, OffersScreen) and app.screen.answer is not None)
        await pilot.press("slash")
        await until(pilot, lambda: isinstance(app.focused, Input))
        type_text(app, "!d")
        await pilot.pause()
        found = [one.text for one in completion("!d", 2, {f.name: f for f in FIELDS}).candidates]
        assert len(found) > 2
        seen = []
        for key in ("tab", "tab", "shift+tab", "shift+tab", "tab"):
            await pilot.press(key)
            seen.append(typed(app).removeprefix("!").strip())
        assert seen == [found[0], found[1], found[0], found[-1], found[0]]


async def test_a_table_of_runs_knows_its_own_fields(daemon: FakeDaemon, clock: Clock) -> None:
    async with running(daemon, clock) as (app, pilot):
        await pilot.press("slash")
        await until(pilot, lambda: isinstance(app.focused, Input))
        type_text(app, "ris")
        await pilot.pause()
        await pilot.press("tab")
        assert typed(app) == "risk<"
        await pilot.press("tab")
        assert typed(app) == "risk<", "there is nothing to propose for a number"


@pytest.mark.parametrize(
    ("text", "cursor", "which", "whole"),
    [
        ("sp", 2, 0, ("spot ", 5)),
        ("gpu=a spot", 5, 0, ("gpu=A100 spot", 8)),
        ("gpu=h100,a", 10, 0, ("gpu=h100,A100 ", 14)),
    ],
)
def test_what_is_completed_stays_where_it_was_typed(
    text: str, cursor: int, which: int, whole: tuple[str, int]
) -> None:
    fields = {f.name: f for f in FIELDS}
    found = completion(text, cursor, fields, lambda _: ["A100", "H100"])
    assert completed(text, cursor, found, which) == whole


def test_values_are_the_most_frequent_and_proposals_say_how_many_there_are() -> None:
    (region,) = [f for f in FIELDS if f.name == "region"]

    class Row:
        def __init__(self, region: str | None) -> None:
            self.region = region

    rows = [Row("b"), Row("a"), Row("b"), Row(None), Row("")]
    assert values_in(rows, region) == ["b", "a"]
    many = completion("region=", 7, {"region": region}, lambda _: [f"place{n:02}" for n in range(30)])
    (line,) = proposals(many, 29)
    text = "".join(piece for piece, _ in line)
    assert "place29" in text
    assert "of 30" in text
    assert "place00" not in text
    assert proposals(completion("nosuch", 6, {}), None) == []
