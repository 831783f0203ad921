"""The filter language of the tables: `h100 !spot price<2.5`.

Words must all occur (case does not matter), `!word` must not, and `field<number`
(also `<= > >= =`) compares a number; a row that does not know the number does not match.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

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

    def matches(self, text: str, number: Callable[[str], float | None]) -> bool:
        """Whether a row with this lower-case text and these numbers passes."""
        if self.unknown or any(word not in text for word in self.words):
            return False
        if any(word in text for word in self.without):
            return False
        for field, sign, limit in self.comparisons:
            value = number(field)
            if value is None or not _OPERATORS[sign](value, limit):
                return False
        return True


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
