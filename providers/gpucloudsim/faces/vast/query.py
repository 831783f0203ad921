"""Vast's query language: `{"field": {"op": value}}`, over rows that are plain dictionaries."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

Row = dict[str, Any]

OPERATORS = frozenset({"eq", "neq", "gt", "gte", "lt", "lte", "in", "notin", "nin"})
ALIASES = {
    "reliability2": "reliability",
    "dphtotal": "dph_total",
    "dph": "dph_total",
    "gpu_totalram": "gpu_total_ram",
    "cuda_vers": "cuda_max_good",
    "ubuntu_version": "os_version",
    "ask_contract_id": "ask_contract_id",
}
NOT_FILTERS = frozenset(
    {
        "order",
        "type",
        "limit",
        "allocated_storage",
        "disable_bundling",
        "order_by",
        "select_cols",
        "owner",
        "q",
    }
)


class BadQuery(Exception):
    """The query is not in the language; the text is what Vast puts into `msg`."""


def _number(value: object) -> float | None:
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return None


def _truth(value: object) -> object:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    return value


def _equal(have: object, want: object) -> bool:
    if have is None or want is None:
        return have is want
    if isinstance(have, bool):
        return have == _truth(want) or (_number(want) is not None and float(have) == _number(want))
    if isinstance(have, (int, float)):
        return _number(want) is not None and abs(float(have) - (_number(want) or 0.0)) < 1e-9
    return str(have) == str(want)


def _compare(have: object, want: object, test: Callable[[float, float], bool]) -> bool:
    left, right = _number(have), _number(want)
    return left is not None and right is not None and test(left, right)


def holds(have: object, operator: str, want: object) -> bool:
    """Whether one condition holds. Numbers may be given as strings; null is neither more nor less."""
    match operator:
        case "eq":
            return _equal(have, want)
        case "neq":
            return not _equal(have, want)
        case "in":
            return isinstance(want, list) and any(_equal(have, item) for item in want)
        case "notin" | "nin":
            return isinstance(want, list) and not any(_equal(have, item) for item in want)
        case "gt":
            return _compare(have, want, lambda a, b: a > b)
        case "gte":
            return _compare(have, want, lambda a, b: a >= b)
        case "lt":
            return _compare(have, want, lambda a, b: a < b)
        case "lte":
            return _compare(have, want, lambda a, b: a <= b)
        case _:
            raise BadQuery(f"unknown operator {operator!r}")


def conditions(query: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    """The query as (field, operator, value). Raises BadQuery as the API does for bare values."""
    found: list[tuple[str, str, Any]] = []
    problems: list[str] = []
    for field, condition in query.items():
        if field in NOT_FILTERS:
            continue
        if not isinstance(condition, dict):
            problems.append(f"q.{field}: Input should be a valid dictionary")
            continue
        for operator, value in condition.items():
            if operator not in OPERATORS:
                problems.append(f"q.{field}.{operator}: Extra inputs are not permitted")
            else:
                found.append((field, operator, value))
    if problems:
        raise BadQuery("; ".join(problems))
    return found


def _offer_value(row: Row, field: str) -> object:
    match field:
        case "id":
            return _NOTHING
        case "verified":
            return row["verification"] == "verified"
        case "datacenter":
            return row["hosting_type"] == 1
        case "duration":
            return row["end_date"] - time.time()
        case "driver_version":
            return row["driver_vers"]
        case "geolocation":
            return row["geolocation"]
        case _:
            return row.get(ALIASES.get(field, field))


_NOTHING = object()


def _place_matches(place: str | None, operator: str, want: object) -> bool:
    if place is None:
        return False
    words = want if isinstance(want, list) else [want]
    inside = any(str(word) in (place, place.rpartition(", ")[2]) for word in words)
    return inside if operator in ("eq", "in") else not inside


def offer_matches(row: Row, found: list[tuple[str, str, Any]]) -> bool:
    """Whether an offer fits all conditions. The `id` filter matches nothing, as on the real service."""
    for field, operator, want in found:
        have = _offer_value(row, field)
        if have is _NOTHING:
            return False
        if field == "geolocation":
            if not _place_matches(row["geolocation"], operator, want):
                return False
        elif not holds(have, operator, want):
            return False
    return True


def row_matches(row: Row, found: list[tuple[str, str, Any]]) -> bool:
    """Whether an instance fits all conditions."""
    return all(holds(row.get(field), operator, want) for field, operator, want in found)


def ordered(rows: list[Row], order: list[tuple[str, str]]) -> list[Row]:
    """Rows sorted by several columns; nulls last."""
    result = list(rows)
    for field, direction in reversed(order):
        column = ALIASES.get(field, field)
        down = direction.lower() == "desc"
        known = [row for row in result if row.get(column) is not None]
        unknown = [row for row in result if row.get(column) is None]
        known.sort(key=lambda row: _sort_key(row[column]), reverse=down)
        result = known + unknown
    return result


def _sort_key(value: object) -> tuple[int, float, str]:
    number = _number(value)
    return (0, number, "") if number is not None else (1, 0.0, str(value))
