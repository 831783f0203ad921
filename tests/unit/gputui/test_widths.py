"""Columns of every table fit into the width at which they appear, so that none is cut away by another."""

from __future__ import annotations

import pytest

from gputui.fleet import History
from gputui.screens import alarms, money, offers, run_asked, run_parts, runs
from gputui.table import TableModel, layout

TABLES = {
    "runs": runs.model(History()),
    "offers": offers.model(),
    "alarms": alarms.model(),
    "money": money.model(),
    "custody": run_parts.artifacts(),
    "timeline": run_parts.timeline(),
    "files": run_asked.files(),
}


@pytest.mark.parametrize("name", TABLES)
def test_from_eighty_columns_on_everything_shown_has_room(name: str) -> None:
    model: TableModel[object] = TABLES[name]  # type: ignore[assignment]
    for room in range(77, 260):
        widths = layout(model.columns, room)
        taken = sum(width for _, width in widths) + 2 * (len(widths) - 1)
        assert taken <= room, f"{name} needs {taken} of {room} cells: {[c.title for c, _ in widths]}"
