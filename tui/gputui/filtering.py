"""The filter of the tables: the query language of `gpuproviders.query`, read as somebody types.

`h100 !spot price<2.5`: words must all occur, `!word` must not, fields are compared. A table names its fields
either as numbers (a function of the row) or as whole `Field`s with units, texts and flags.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gpuproviders.query import Completion, Field, Kind, Query, complete, read

K = TypeVar("K")
R = TypeVar("R")

VALUES = 200
"""Values of a field that are proposed: the most frequent."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A parsed filter. The empty one matches everything, one that is not understood nothing."""

    query: Query[Any] = field(default_factory=Query)
    unknown: tuple[str, ...] = ()
    """Field names and values that were not understood; shown to the person."""
    problem: str | None = None
    """What is wrong with it, in words."""

    def __bool__(self) -> bool:
        return bool(self.query)

    def keep(
        self,
        keys: list[K],
        rows: Mapping[K, R],
        texts: Mapping[K, str],
        fields: Mapping[str, object] | None = None,
    ) -> list[K]:
        """Those of `keys` whose row passes. `texts` are lower-case."""
        return [] if self.unknown else self.query.keep(keys, rows, texts)


def fields_of(fields: Mapping[str, Any]) -> list[Field[Any]]:
    """A table's fields: what is only a function tells a number."""
    return [one if isinstance(one, Field) else Field(name, Kind.NUMBER, one) for name, one in fields.items()]


def parse_filter(text: str, fields: Mapping[str, Any]) -> Filter:
    """The filter that `text` means."""
    query = read(text, fields_of(fields), typing=True)
    unknown = tuple(text[p.start : p.end].lower() for p in query.problems)
    return Filter(query, unknown, str(query.problems[0]) if query.problems else None)


def completion(
    text: str, cursor: int, fields: Mapping[str, Any], values: Callable[[Field[Any]], list[str]] | None = None
) -> Completion:
    """What could be typed at the cursor; `values` tells the values of a text field that occur in the table."""
    return complete(text, cursor, fields_of(fields), values)


def completed(text: str, cursor: int, found: Completion, which: int) -> tuple[str, int]:
    """The text with candidate `which` at the cursor, and where the cursor is then. What is whole gets a blank behind it."""
    word = found.candidates[which].text
    whole = not word.endswith(("=", "<"))
    blank = " " if whole and not text[cursor:].startswith(" ") else ""
    head = text[: found.start] + word + blank
    return head + text[cursor:], len(head)


def values_in(rows: Iterable[Any], one: Field[Any]) -> list[str]:
    """The values of a text field that occur in a table, the most frequent first of their kind, at most VALUES."""
    seen = Counter(value for row in rows if isinstance(value := one.get(row), str) and value)
    return [value for value, _ in seen.most_common(VALUES)]
