"""The filter language of the tables: `h100 !spot price<2.5`.

Words must all occur (case does not matter), `!word` must not, and `field<number`
(also `<= > >= =`) compares a number; a row that does not know the number does not match.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

K = TypeVar("K")
R = TypeVar("R")

_COMPARISON = re.compile(r"([a-z]+)(<=|>=|<|>|=)(-?[0-9]+(?:\.[0-9]+)?)%?\Z")
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
}


@dataclass(frozen=True, slots=True)
class Filter:
    """A parsed filter. The empty one matches everything."""

    words: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    comparisons: tuple[tuple[str, str, float], ...] = ()
    unknown: tuple[str, ...] = ()
    """Field names that the table does not have; shown to the person, matched by nothing."""

    def __bool__(self) -> bool:
        return bool(self.words or self.without or self.comparisons or self.unknown)

    def keep(
        self,
        keys: list[K],
        rows: Mapping[K, R],
        texts: Mapping[K, str],
        fields: Mapping[str, Callable[[R], float | None]],
    ) -> list[K]:
        """Those of `keys` whose row passes. `texts` are lower-case. One pass per term: 20,000 rows in milliseconds."""
        if self.unknown:
            return []
        for word in self.words:
            keys = [key for key in keys if word in texts[key]]
        for word in self.without:
            keys = [key for key in keys if word not in texts[key]]
        for field, sign, limit in self.comparisons:
            number, fits = fields[field], _OPERATORS[sign]
            keys = [key for key in keys if (value := number(rows[key])) is not None and fits(value, limit)]
        return keys


def parse_filter(text: str, fields: Mapping[str, object]) -> Filter:
    """The filter that `text` means; `fields` are the names of numbers that rows have."""
    words, without, comparisons, unknown = [], [], [], []
    for term in text.lower().split():
        if match := _COMPARISON.match(term):
            name, sign, number = match.groups()
            if name in fields:
                comparisons.append((name, sign, float(number)))
            else:
                unknown.append(name)
        elif term.startswith("!") and len(term) > 1:
            without.append(term[1:])
        else:
            words.append(term)
    return Filter(tuple(words), tuple(without), tuple(comparisons), tuple(unknown))
