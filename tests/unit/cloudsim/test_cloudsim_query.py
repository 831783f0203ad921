"""Vast's query language as the service understands it."""

from __future__ import annotations

import pytest

from gpucloudsim.engine import lifecycle
from gpucloudsim.engine.market import HOUR, MARKET_EPOCH
from gpucloudsim.engine.model import World
from gpucloudsim.faces.vast.query import BadQuery, Row, conditions, holds, offer_matches, ordered
from gpucloudsim.faces.vast.rows import offer_row

NOW = MARKET_EPOCH + 300 * 24 * HOUR
OFFERS = [offer_row(o, False, 8.0, NOW) for o in lifecycle.offers(World(1, NOW, 0), NOW)]


@pytest.mark.parametrize(
    ("have", "operator", "want", "expected"),
    [
        (1, "eq", "1", True), (1, "eq", 1.0, True), (2, "eq", "1", False), (24564, "gte", "24000", True),
        (0.99, "gt", 0.99, False), ("RTX 4090", "eq", "RTX 4090", True), ("RTX 4090", "eq", "RTX_4090", False),
        (True, "eq", "true", True), (False, "eq", True, False), (None, "eq", None, True), (None, "gte", 0, False),
        ("a", "in", ["a", "b"], True), (4, "in", ["2", "4"], True), ("a", "notin", ["a"], False), (None, "neq", "x", True),
    ],
)  # fmt: skip
def test_operators_take_numbers_as_strings_and_null_is_neither_more_nor_less(
    have: object, operator: str, want: object, expected: bool
) -> None:
    assert holds(have, operator, want) is expected


def test_bare_values_are_refused_with_the_services_words() -> None:
    with pytest.raises(BadQuery, match=r"q\.gpu_name: Input should be a valid dictionary"):
        conditions({"gpu_name": "RTX 4090", "type": "on-demand"})
    with pytest.raises(BadQuery, match="Extra inputs"):
        conditions({"gpu_ram": {"atleast": 4}})


@pytest.mark.parametrize(
    ("query", "check"),
    [
        ({"verified": {"eq": True}}, lambda row: row["verification"] == "verified"),
        ({"datacenter": {"eq": True}}, lambda row: row["hosting_type"] == 1),
        ({"duration": {"gte": 10 * 86400}}, lambda row: row["end_date"] * 1e6 > NOW),
        ({"geolocation": {"in": ["DE", "SE"]}}, lambda row: row["geolocation"].endswith(("DE", "SE"))),
        ({"reliability2": {"gte": "0.99"}}, lambda row: row["reliability"] >= 0.99),
        ({"dph": {"lte": 0.5}}, lambda row: row["dph_total"] <= 0.5),
    ],
)  # fmt: skip
def test_virtual_columns_and_aliases_filter(query: dict[str, object], check: object) -> None:
    found = [row for row in OFFERS if offer_matches(row, conditions(query))]
    assert found
    assert len(found) < len(OFFERS)
    assert all(check(row) for row in found)  # type: ignore[operator]


def test_id_matches_nothing_and_ask_contract_id_one() -> None:
    wanted = OFFERS[3]["id"]
    assert [row for row in OFFERS if offer_matches(row, conditions({"id": {"eq": wanted}}))] == []
    assert [row for row in OFFERS if offer_matches(row, conditions({"ask_contract_id": {"eq": wanted}}))] == [
        OFFERS[3]
    ]


def test_order_is_stable_by_several_columns_with_nulls_last() -> None:
    rows: list[Row] = [{"a": 2, "b": "x"}, {"a": None, "b": "y"}, {"a": 1, "b": "z"}, {"a": 2, "b": "a"}]
    assert [row["b"] for row in ordered(rows, [("a", "desc"), ("b", "asc")])] == ["a", "x", "z", "y"]
