"""Order, filter and position of rows, apart from drawing."""

from dataclasses import dataclass
from operator import itemgetter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gputui.filtering import parse_filter
from gputui.table import Column, TableModel, layout, pieces


@dataclass(frozen=True)
class Row:
    key: str
    price: float | None
    name: str = ""


def table() -> TableModel[Row]:
    return TableModel(
        columns=(
            Column("name", "NAME", 10, lambda r: r.name, lambda r: r.name, flex=1),
            Column("price", "PRICE", 8, lambda r: str(r.price), lambda r: r.price, descending=True),
            Column("note", "NOTE", 5, lambda r: "", wide=60),
        ),
        key=lambda r: r.key,
        text=lambda r: r.name,
        fields={"price": lambda r: r.price},
    )


ROWS = st.lists(
    st.builds(
        Row,
        key=st.text("abcdef", min_size=1, max_size=3),
        price=st.none() | st.floats(0, 100),
        name=st.text("xyz ", max_size=4),
    ),
    unique_by=lambda r: r.key,
    max_size=30,
)


@given(ROWS, st.booleans())
def test_sorting_keeps_every_row_and_puts_the_unknown_last(rows: list[Row], reverse: bool) -> None:
    model = table()
    model.load(rows)
    model.sort("price", reverse=reverse)
    assert sorted(model.order) == sorted(r.key for r in rows)
    prices = [model.rows[key].price for key in model.order]
    known = [p for p in prices if p is not None]
    assert known == sorted(known, reverse=reverse)
    assert all(p is None for p in prices[len(known) :])


@given(ROWS, st.text("xyz", max_size=2), st.floats(0, 100))
def test_a_filter_shows_exactly_the_rows_that_match(rows: list[Row], word: str, limit: float) -> None:
    model = table()
    model.load(rows)
    model.set_filter(f"{word} price<{limit:.2f}")
    wanted = [
        r.key for r in rows if word in r.name and r.price is not None and r.price < float(f"{limit:.2f}")
    ]
    assert model.order == wanted


@given(ROWS)
def test_position_is_where_the_row_is_shown(rows: list[Row]) -> None:
    model = table()
    model.load(rows)
    model.sort("name")
    for at, key in enumerate(model.order):
        assert model.position(key) == at
        assert model.at(at) is model.rows[key]
    assert model.position("not there") is None


def test_loading_tells_which_rows_are_new_or_other() -> None:
    model = table()
    model.load([Row("a", 1), Row("b", 2)])
    assert model.load([Row("a", 1), Row("b", 3), Row("c", 4)]) == {"b", "c"}


def test_a_changed_name_is_filtered_by_its_new_text() -> None:
    model = table()
    model.load([Row("a", 1, "old")])
    model.set_filter("old")
    model.load([Row("a", 1, "new")])
    assert model.order == []


def test_sorting_by_the_same_column_again_turns_it_round() -> None:
    model = table()
    model.load([Row("a", 1), Row("b", 2)])
    model.sort("price")
    assert model.order == ["b", "a"]
    model.sort("price")
    assert model.order == ["a", "b"]


def test_sort_next_goes_through_the_columns_and_back_to_none() -> None:
    model = table()
    names = []
    for _ in range(3):
        model.sort_next()
        names.append(model.sorted_by)
    assert names == ["name", "price", None]


@given(st.integers(0, 200))
def test_columns_never_take_more_than_the_room_once_they_fit(room: int) -> None:
    widths = layout(table().columns, room)
    used = sum(width for _, width in widths) + 2 * (len(widths) - 1)
    assert used <= max(room, 20)
    assert ("note" in [column.key for column, _ in widths]) == (room >= 60)


def test_cells_may_be_text_one_piece_or_several() -> None:
    assert list(pieces("a")) == [("a", "")]
    assert list(pieces(("a", "warn"))) == [("a", "warn")]
    assert list(pieces([("a", "warn"), ("b", "")])) == [("a", "warn"), ("b", "")]
    assert list(pieces([("a", "warn")])) == [("a", "warn")]


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("", True),
        ("h100", True),
        ("h100 sxm", True),
        ("h100 pcie", False),
        ("!spot", True),
        ("!h100", False),
        ("price<3", True),
        ("price<=2.5", True),
        ("price>2.5", False),
        ("price=2.5", True),
        ("missing>1", False),
        ("nosuch<1", False),
        ("<", False),
    ],
)
def test_what_the_filter_language_means(text: str, passes: bool) -> None:
    row = {"price": 2.5, "missing": None}
    fields = {name: itemgetter(name) for name in row}
    kept = parse_filter(text, fields).keep(["it"], {"it": row}, {"it": "h100 sxm sweden"}, fields)
    assert kept == (["it"] if passes else [])


def test_an_unknown_field_is_named() -> None:
    assert parse_filter("prize<3", {"price": 1}).unknown == ("prize",)
