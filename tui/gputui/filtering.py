"""The filter of the tables: the query language of `gpuproviders.query`, read as somebody types.

`h100 !spot price<2.5`: words must all occur, `!word` must not, fields are compared. A table names its fields
either as numbers (a function of the row) or as whole `Field`s with units, texts and flags.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gpuproviders.query import Completion, Field, Kind, Query, complete, read

K = TypeVar("K")
R = TypeVar("R")


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
