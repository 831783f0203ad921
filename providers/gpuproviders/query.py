"""A query language for tables of things: `gpu=h100,a100 price<2.5 reliability>98% region=EU spot !datacenter`.

Terms stand side by side and must all hold. A term is

- `field<value`, also `<= > >= = !=`: compares; a number may carry its unit (`2.5`, `$2.5`, `98%`, `80GB`, `1Gbps`, `5m`)
- `field=one,other`: one of several; `field~part` for text that holds a part; names with spaces stand in quotes
- `flag`: a yes-or-no field that is yes
- `word` or `"two words"`: text that occurs anywhere in the row; case does not matter
- `!term`: what must not hold

What a row does not know matches no comparison, whichever way it is asked. Pure; what the fields of a table are is
said by its `Field`s (those of offers are in `gpuproviders.listing`).
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Generic, TypeVar

K = TypeVar("K")
R = TypeVar("R")
Value = float | str | bool | None
LONGEST: Final = 2000
"""Characters of a query; what is longer was not typed."""


class Kind(Enum):
    """What the values of a field are, and the unit in which its getter tells them."""

    NUMBER = "a number, e.g. 4"
    MONEY = "dollars, e.g. 2.50"
    SIZE = "a size in GB, e.g. 80 or 1.5TB"
    SPEED = "Mbit/s, e.g. 500 or 1Gbps"
    SHARE = "a share, e.g. 98% or 0.98"
    DURATION = "a time, e.g. 90s or 5m"
    TEXT = "a word, or several with commas between"
    FLAG = "yes or no"


@dataclass(frozen=True, slots=True)
class Field(Generic[R]):
    """A column that can be asked for.

    `get` tells a row's value: dollars, GB, Mbit/s, per cent, seconds, text or bool; None when it is not known.
    `expand` turns a wanted text into the values that count as it, and may raise ValueError with what is wrong;
    `alike` compares a value that was asked for (lower case) with a row's, for texts that are more than equal or not.
    """

    name: str
    kind: Kind
    get: Callable[[R], Value]
    doc: str = ""
    also: tuple[str, ...] = ()
    expand: Callable[[str], Sequence[str]] | None = None
    alike: Callable[[str, str], bool] | None = None
    choices: Callable[[], Sequence[str]] | None = None
    """Values worth proposing while somebody types."""


class QueryError(ValueError):
    """A query that cannot be understood. `start` and `end` are where, in characters of its text."""

    def __init__(self, message: str, start: int, end: int) -> None:
        super().__init__(message)
        self.start, self.end = start, end


@dataclass(frozen=True, slots=True)
class Term(Generic[R]):
    """One condition. Without a field: `values[0]` is a text (lower case) that must occur in the row's."""

    field: Field[R] | None
    sign: str
    values: tuple[str | float | bool, ...]
    negated: bool = False

    def holds(self, row: R, text: str) -> bool:
        """Whether it holds of a row, whose text is lower-case."""
        if self.field is None:
            return (str(self.values[0]) in text) is not self.negated
        return self.test()(row)

    def test(self) -> Callable[[R], bool]:
        """The condition on a row's field as one function: made once, asked of thousands of rows."""
        if self.field is None:
            raise ValueError("a word is looked for in a row's text, not in a field")
        get, fits, negated = self.field.get, self._fits(self.field), self.negated

        def holds(row: R) -> bool:
            value = get(row)
            return value is not None and fits(value) is not negated

        return holds

    def _fits(self, one: Field[R]) -> Callable[[Any], bool]:
        values, sign, alike = self.values, self.sign, one.alike
        if one.kind is not Kind.TEXT:
            if sign in _SIGNS:
                compare, limit = _SIGNS[sign], values[0]
                return lambda value: compare(value, limit)
            return lambda value: (value in values) is (sign == "=")
        wanted = tuple(str(value) for value in values)
        if sign == "~":
            return lambda value: any(part in str(value).lower() for part in wanted)

        def fits(value: Any) -> bool:
            have = str(value).lower()
            found = have in wanted or (alike is not None and any(alike(one, have) for one in wanted))
            return found is (sign == "=")

        return fits


@dataclass(frozen=True, slots=True)
class Query(Generic[R]):
    """Terms that must all hold; the empty one holds of everything."""

    terms: tuple[Term[R], ...] = ()
    problems: tuple[QueryError, ...] = ()
    """What could not be understood, when it was read leniently."""

    def __bool__(self) -> bool:
        return bool(self.terms or self.problems)

    def matches(self, row: R, text: str) -> bool:
        """Whether a row fits; `text` is its text in lower case."""
        return all(term.holds(row, text) for term in self.terms)

    def keep(self, keys: list[K], rows: Mapping[K, R], texts: Mapping[K, str]) -> list[K]:
        """Those of `keys` whose row fits, in their order. One pass a term: 20,000 rows in milliseconds."""
        for term in self.terms:
            if term.field is None:
                word, wanted = str(term.values[0]), not term.negated
                keys = [key for key in keys if (word in texts[key]) is wanted]
            else:
                test = term.test()
                keys = [key for key in keys if test(rows[key])]
        return keys

    @property
    def words(self) -> tuple[str, ...]:
        """The plain words that must occur."""
        return tuple(str(t.values[0]) for t in self.terms if t.field is None and not t.negated)

    def about(self, name: str) -> tuple[Term[R], ...]:
        """The terms about the field of this name."""
        return tuple(t for t in self.terms if t.field is not None and t.field.name == name)


_SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_ITEM = r'(?:"[^"]*"|[^\s,"]+)'
_TERM = re.compile(
    rf"(?P<no>!?)(?:(?P<name>[A-Za-z][A-Za-z_]*)\s*(?P<sign><=|>=|!=|<|>|=|~)\s*(?P<value>{_ITEM}(?:,{_ITEM})*|)"
    r'|"(?P<quoted>[^"]*)"|(?P<word>[^\s"]+))'
)
_NUMBER = re.compile(r"\$?(-?[0-9]+(?:\.[0-9]+)?)\s*([a-z%/]*)\Z")
_UNITS: dict[Kind, dict[str, float]] = {
    Kind.NUMBER: {"": 1, "%": 1},
    Kind.MONEY: {"": 1, "/h": 1, "usd": 1, "c": 0.01},
    Kind.SIZE: {"": 1, "g": 1, "gb": 1, "gib": 2**30 / 1e9, "m": 1e-3, "mb": 1e-3, "t": 1e3, "tb": 1e3, "tib": 2**40 / 1e9},
    Kind.SPEED: {"": 1, "mbps": 1, "mbit/s": 1, "m": 1, "gbps": 1e3, "gbit/s": 1e3, "g": 1e3, "kbps": 1e-3},
    Kind.SHARE: {"": 1, "%": 1},
    Kind.DURATION: {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400},
}  # fmt: skip
_YES, _NO = frozenset({"yes", "true", "on", "1"}), frozenset({"no", "false", "off", "0"})


def by_name(fields: Iterable[Field[R]]) -> dict[str, Field[R]]:
    """Fields by each of their names."""
    return {name: one for one in fields for name in (one.name, *one.also)}


def parse(text: str, fields: Iterable[Field[R]]) -> Query[R]:
    """The query that `text` means. Raises QueryError, which says what was expected."""
    query = read(text, fields)
    if query.problems:
        raise query.problems[0]
    return query


def read(text: str, fields: Iterable[Field[R]], *, typing: bool = False) -> Query[R]:
    """The query that `text` means as far as it can be understood; the rest stands in its `problems`.

    While somebody is `typing`, a comparison at the end that has no value yet is nothing at all.
    """
    known = by_name(fields)
    terms: list[Term[R]] = []
    problems: list[QueryError] = []
    if len(text) > LONGEST:
        return Query(
            problems=(QueryError(f"the query is longer than {LONGEST} characters", LONGEST, len(text)),)
        )
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        match = _TERM.match(text, at)
        if match is None or (match["value"] == "" and text[match.end() : match.end() + 1] == '"'):
            problems.append(
                QueryError('a quote (") is not closed', at if match is None else match.end(), len(text))
            )
            break
        unfinished = typing and match["sign"] is not None and not match["value"] and match.end() == len(text)
        if not unfinished:
            try:
                terms.append(_term(match, known))
            except QueryError as error:
                problems.append(error)
        at = match.end()
    return Query(tuple(terms), tuple(problems))


def _term(match: re.Match[str], known: Mapping[str, Field[R]]) -> Term[R]:
    negated = bool(match["no"])
    if match["sign"] is None:
        word = (match["quoted"] if match["quoted"] is not None else match["word"]).lower()
        flag = known.get(word) if match["quoted"] is None else None
        if flag is not None and flag.kind is Kind.FLAG:
            return Term(flag, "=", (True,), negated)
        return Term(None, "~", (word,), negated)
    name, sign = match["name"].lower(), match["sign"]
    one = known.get(name)
    if one is None:
        raise QueryError(_no_field(name, known), match.start("name"), match.end("name"))
    items = [item.strip('"') for item in re.findall(_ITEM, match["value"])]
    if not items:
        raise QueryError(f"{name}{sign} lacks a value: {one.kind.value}", match.start(), match.end())
    try:
        return Term(one, sign, _values(one, sign, items), negated)
    except ValueError as error:
        raise QueryError(str(error), match.start("value"), match.end()) from error


def _no_field(name: str, known: Mapping[str, Field[R]]) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f"there is no field {name!r}; did you mean {' or '.join(near)}?"
    return f"there is no field {name!r}; there are {', '.join(sorted({f.name for f in known.values()}))}"


def _values(one: Field[R], sign: str, items: list[str]) -> tuple[str | float | bool, ...]:
    if one.kind is Kind.TEXT:
        if sign not in ("=", "!=", "~"):
            raise ValueError(f"{one.name} is text: use = or != or ~ (holds), not {sign}")
        if one.expand is None or sign == "~":
            return tuple(item.lower() for item in items)
        return tuple(value.lower() for item in items for value in one.expand(item))
    if sign == "~":
        raise ValueError(f"{one.name} is no text: compare it with < <= > >= = or !=")
    if one.kind is Kind.FLAG:
        if sign not in ("=", "!=") or len(items) != 1 or items[0].lower() not in _YES | _NO:
            raise ValueError(f"{one.name} is yes or no: write {one.name} or !{one.name}")
        return (items[0].lower() in _YES,)
    if len(items) > 1 and sign not in ("=", "!="):
        raise ValueError(f"{one.name}{sign} takes one value, not {len(items)}")
    return tuple(number_of(item, one) for item in items)


def number_of(text: str, one: Field[Any]) -> float:
    """A number with or without its unit, in the unit of the field. Raises ValueError."""
    match = _NUMBER.match(text.lower())
    units = _UNITS[one.kind]
    if match is None or match[2] not in units:
        raise ValueError(f"{one.name} is {one.kind.value}; {text[:40]!r} is not")
    value = float(match[1]) * units[match[2]]
    if one.kind is Kind.SHARE and not match[2] and value <= 1:
        value *= 100  # 0.98 and 98 are the same share
    return value


def marked(text: str, error: QueryError) -> str:
    """Two lines: the query, and a mark under what was not understood."""
    return f"  {text}\n  {' ' * error.start}{'^' * max(1, error.end - error.start)}"


# --- while somebody types ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Candidate:
    """What could stand at the cursor instead of the word there."""

    text: str
    doc: str = ""


@dataclass(frozen=True, slots=True)
class Completion:
    """Candidates for the characters from `start` to the cursor."""

    start: int
    candidates: tuple[Candidate, ...] = field(default=())


def complete(
    text: str,
    cursor: int,
    fields: Iterable[Field[R]],
    values: Callable[[Field[R]], Iterable[str]] | None = None,
) -> Completion:
    """What could be typed at the cursor: field names with their sign, flags, and the values of text fields.

    `values` tells the values that occur in the table; without it a field's own `choices` are proposed.
    """
    listed = list(fields)
    start = cursor
    while start > 0 and not text[start - 1].isspace():
        start -= 1
    word = text[start:cursor]
    start += word.startswith("!")
    word = word.removeprefix("!")
    match = re.match(r"([A-Za-z_]+)(<=|>=|!=|<|>|=|~)(.*)", word, re.DOTALL)
    if match is None:
        found = [
            Candidate(
                one.name if one.kind is Kind.FLAG else one.name + ("=" if one.kind is Kind.TEXT else "<"),
                one.doc,
            )
            for one in listed
            if one.name.startswith(word.lower())
        ]
        return Completion(start, tuple(found))
    one = by_name(listed).get(match[1].lower())
    if one is None or one.kind is not Kind.TEXT:
        return Completion(cursor, () if one is None else (Candidate("", one.kind.value),))
    last = match[3].rpartition(",")[2]
    proposed = (
        list(values(one)) if values is not None else list(one.choices() if one.choices is not None else ())
    )
    wanted = last.strip('"').lower()
    texts = sorted({v for v in proposed if v.lower().startswith(wanted)}, key=str.lower)
    return Completion(
        cursor - len(last), tuple(Candidate(f'"{v}"' if re.search(r"[\s,]", v) else v) for v in texts)
    )
