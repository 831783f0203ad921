"""Mutants of a module by rule: every test negated, every refusal dropped, every limit moved by one, and so on.

The list is exhaustive by construction: it is made from the module's syntax tree, so that code
which is added later is mutated as well. What is wording (f-strings, messages of exceptions,
docstrings) and what is type (annotations) is left alone: neither guards anything.
"""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

_BOUNDARY = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
_OPPOSITE = {
    ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_SIGN = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult}
_WORDS = frozenset({"__str__", "__repr__"})


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one module. `key` names it without line numbers, so that it survives edits elsewhere."""

    module: str
    where: str
    """The function or class, `-` at the top of the module."""
    rule: str
    before: str
    after: str
    source: str
    """The whole module with the change in it."""
    nth: int = 0
    """Which one, among several with the same text in the same function."""

    @property
    def key(self) -> str:
        """What a list of equivalent mutants names it by."""
        more = f" #{self.nth + 1}" if self.nth else ""
        return f"{self.where}: {self.before} → {self.after}{more}"


def mutants(source: str, module: str) -> list[Mutant]:
    """All mutants of a module's source, in the order of the source."""
    tree = ast.parse(source)
    found: list[Mutant] = []
    seen: Counter[str] = Counter()
    for site in _Sites().of(tree):
        before, after = site.apply()
        text = ast.unparse(tree)
        site.undo()
        mutant = Mutant(module, site.where, site.rule, before, after, text)
        found.append(Mutant(module, site.where, site.rule, before, after, text, seen[mutant.key]))
        seen[mutant.key] += 1
    return found


@dataclass(slots=True)
class _Site:
    """A place and what stands there instead. `index` is None for a field that is no list."""

    where: str
    rule: str
    parent: ast.AST
    field: str
    index: int | None
    new: ast.AST | list[ast.AST]
    shown: ast.AST | None = None
    """What the table shows, when the changed node alone says too little."""
    _old: object = None

    def apply(self) -> tuple[str, str]:
        value = getattr(self.parent, self.field)
        shown = self.shown if self.shown is not None else value if self.index is None else value[self.index]
        before = _text(shown)
        if self.index is None:
            self._old = value
            setattr(self.parent, self.field, self.new)
        else:
            self._old = value[self.index]
            value[self.index] = self.new
        after = _text(self.shown) if self.shown is not None else _text(self.new)
        return before, after

    def undo(self) -> None:
        if self.index is None:
            setattr(self.parent, self.field, self._old)
        else:
            getattr(self.parent, self.field)[self.index] = self._old


def _text(node: object) -> str:
    if isinstance(node, list):
        return ", ".join(_text(n) for n in node) or "nothing"
    text = " ".join(ast.unparse(node).split()) if isinstance(node, ast.AST) else str(node)
    return text if len(text) <= 160 else f"{text[:100]} … {text[-50:]}"


class _Sites:
    """Walks a module and names what to change."""

    def __init__(self) -> None:
        self._path: list[str] = []

    @property
    def _where(self) -> str:
        return ".".join(self._path) or "-"

    def of(self, node: ast.AST) -> Iterator[_Site]:
        """Every place below `node`."""
        if isinstance(node, ast.JoinedStr | ast.Raise) or _names_exports(node):
            return
        named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if named:
            if node.name in _WORDS:
                return
            self._path.append(node.name)
        yield from self._at(node)
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "bases", "type_params"):
                continue
            if isinstance(node, ast.ClassDef) and name == "keywords":
                continue
            if isinstance(value, list):
                for index, child in enumerate(value):
                    if isinstance(child, ast.AST):
                        yield from self._child(node, name, index, child)
                        yield from self.of(child)
            elif isinstance(value, ast.AST):
                yield from self._child(node, name, None, value)
                yield from self.of(value)
        if named:
            self._path.pop()

    def _site(
        self,
        rule: str,
        parent: ast.AST,
        field: str,
        index: int | None,
        new: object,
        shown: ast.AST | None = None,
    ) -> _Site:
        return _Site(self._where, rule, parent, field, index, new, shown)  # type: ignore[arg-type]

    # --- what a node does to its own fields ------------------------------------------------------

    def _at(self, node: ast.AST) -> Iterator[_Site]:
        if isinstance(node, ast.If | ast.IfExp | ast.While) and not _constant(node.test, True):
            new = ast.Constant(False) if isinstance(node, ast.While) else _negated(node.test)
            yield self._site("test", node, "test", None, new)
        elif isinstance(node, ast.comprehension):
            for index, test in enumerate(node.ifs):
                yield self._site("test", node, "ifs", index, _negated(test))
        elif isinstance(node, ast.match_case) and node.guard is not None:
            yield self._site("test", node, "guard", None, _negated(node.guard))
        elif isinstance(node, ast.Match):
            for index in range(len(node.cases)):
                rest = node.cases[:index] + node.cases[index + 1 :]
                if rest:
                    yield self._site("case", node, "cases", None, rest)
        elif isinstance(node, ast.BoolOp):
            for index in range(len(node.values)):
                rest = node.values[:index] + node.values[index + 1 :]
                yield self._site("operand", node, "values", None, rest, node)
        elif isinstance(node, ast.Dict) and not any(k is None for k in node.keys):
            for index in range(len(node.keys)):
                yield _DropItem(self._where, node, index)  # type: ignore[misc]
        elif isinstance(node, ast.Call):
            for index in range(len(node.keywords)):
                rest = node.keywords[:index] + node.keywords[index + 1 :]
                yield self._site("argument", node, "keywords", None, rest, node)
            if not self._path:  # tables at the top of a module
                for index in range(1, len(node.args)):
                    rest = node.args[:index] + node.args[index + 1 :]
                    yield self._site("element", node, "args", None, rest, node)
        elif isinstance(node, ast.Compare):
            yield from self._comparison(node)
        elif (
            isinstance(node, ast.Set | ast.List | ast.Tuple)
            and not self._path
            and isinstance(getattr(node, "ctx", None), ast.Load | None)
        ):
            if len(node.elts) > 1:
                for index in range(len(node.elts)):
                    rest = node.elts[:index] + node.elts[index + 1 :]
                    yield self._site("element", node, "elts", None, rest, node)
        elif isinstance(node, ast.BinOp) and type(node.op) in _SIGN:
            yield self._site("sign", node, "op", None, _SIGN[type(node.op)](), node)

    def _comparison(self, node: ast.Compare) -> Iterator[_Site]:
        for index, op in enumerate(node.ops):
            if type(op) in _BOUNDARY:
                yield self._site("boundary", node, "ops", index, _BOUNDARY[type(op)](), node)
            if len(node.ops) > 1 or not getattr(node, "whole", False):
                yield self._site("comparison", node, "ops", index, _OPPOSITE[type(op)](), node)
        for right in node.comparators:
            if isinstance(right, ast.Tuple) and len(right.elts) > 1:
                for at in range(len(right.elts)):
                    rest = right.elts[:at] + right.elts[at + 1 :]
                    yield self._site("element", right, "elts", None, rest, node)

    # --- what a node does to a child -------------------------------------------------------------

    def _child(self, parent: ast.AST, field: str, index: int | None, child: ast.AST) -> Iterator[_Site]:
        if field in ("test", "ifs", "guard") and isinstance(child, ast.Compare):
            child.whole = True  # type: ignore[attr-defined]  # its opposite is the negated test
        if field in ("body", "orelse", "finalbody") and _droppable(child, parent):
            yield self._site("statement", parent, field, index, ast.Pass())
        if (
            isinstance(child, ast.UnaryOp)
            and isinstance(child.op, ast.Not)
            and field not in ("test", "ifs", "guard")
        ):
            yield self._site("not", parent, field, index, child.operand)
        if isinstance(child, ast.Constant):
            if isinstance(child.value, bool):
                if not isinstance(parent, ast.Expr):
                    yield self._site(
                        "constant", parent, field, index, ast.Constant(not child.value), _enough(parent)
                    )
            elif isinstance(child.value, int | float):
                yield self._site(
                    "limit", parent, field, index, ast.Constant(child.value + 1), _enough(parent)
                )


class _DropItem(_Site):
    """One entry of a dictionary less."""

    __slots__ = ("_at",)

    def __init__(self, where: str, node: ast.Dict, at: int) -> None:
        super().__init__(where, "entry", node, "keys", None, [])
        self._at = at

    def apply(self) -> tuple[str, str]:
        node = self.parent
        assert isinstance(node, ast.Dict)
        self._old = (node.keys, node.values)
        before = f"{_text(node.keys[self._at])}: {_text(node.values[self._at])}"
        node.keys = node.keys[: self._at] + node.keys[self._at + 1 :]
        node.values = node.values[: self._at] + node.values[self._at + 1 :]
        return before, "no such entry"

    def undo(self) -> None:
        self.parent.keys, self.parent.values = self._old  # type: ignore[attr-defined,misc]


def _names_exports(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"


def _droppable(statement: ast.AST, parent: ast.AST) -> bool:
    """Whether the module still makes sense, to Python, without this statement."""
    match statement:
        case ast.Raise() | ast.AugAssign() | ast.Continue() | ast.Break() | ast.Delete():
            return True
        case ast.Expr(value=ast.Call() | ast.Await()):
            return True
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript(), *_]):
            return True
        case ast.Return():  # an early one; without the last one the function would answer nothing at all
            return isinstance(parent, ast.If | ast.For | ast.While | ast.With | ast.Try)
    return False


def _negated(test: ast.expr) -> ast.expr:
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return copy.copy(test.operand)
    return ast.UnaryOp(ast.Not(), test)


def _constant(node: ast.AST, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _enough(parent: ast.AST) -> ast.AST | None:
    """The smallest thing that tells a reader what was changed."""
    return (
        parent
        if isinstance(parent, ast.expr | ast.stmt | ast.keyword)
        and not isinstance(parent, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        else None
    )
