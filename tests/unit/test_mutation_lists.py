"""The mutation check's own lists: they name what is in the code today, and the rules find what they should."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "mutation"))

from equivalents import EQUIVALENT  # noqa: E402
from guards import GUARDS, Guard, Stale, applied  # noqa: E402
from operators import mutants  # noqa: E402
from suites import SYSTEMATIC  # noqa: E402


@pytest.mark.parametrize("guard", GUARDS, ids=[f"{Path(g.module).stem}: {g.guard}" for g in GUARDS])
def test_a_guard_of_the_list_stands_in_the_code_once(guard: Guard) -> None:
    without = applied(guard, (ROOT / guard.module).read_text())
    ast.parse(without)
    assert all((ROOT / test).is_file() for test in guard.tests)


def test_a_guard_that_is_not_there_any_more_is_told() -> None:
    with pytest.raises(Stale, match="0 times"):
        applied(Guard("x.py", "g", "if no_such_thing:", "", ()), "if True:\n    pass\n")
    with pytest.raises(Stale, match="2 times"):
        applied(Guard("x.py", "g", "pass", "", ()), "pass\npass\n")


def test_every_module_of_the_pure_core_is_mutated_by_rule() -> None:
    core = {
        path.relative_to(ROOT).as_posix()
        for package in ("custody", "lifecycle")
        for path in (ROOT / "watchdog" / "gpuwatch" / package).glob("*.py")
        if path.name != "__init__.py"
    }
    assert core == set(SYSTEMATIC), "a new module of the pure core belongs into tests/mutation/suites.py"


@pytest.mark.parametrize("module", EQUIVALENT)
def test_what_is_called_equivalent_is_a_mutant(module: str) -> None:
    by_rule = mutants((ROOT / module).read_text(), module) if module in SYSTEMATIC else []
    known = {mutant.key for mutant in by_rule} | {g.change for g in GUARDS if g.module == module}
    assert set(EQUIVALENT[module]) <= known
    assert all(EQUIVALENT[module].values())


SAMPLE = '''
LIMIT = 3
def f(x, flag=False):
    """Text 5 > 3."""
    if x > LIMIT and not flag:
        raise ValueError(f"{x > 1}")
    for y in x:
        if y in (1, 2):
            continue
        g(y, deep=True)
    return {"a": 1, "b": x - 1}
'''


def test_the_rules_leave_no_guard_of_a_function_out() -> None:
    keys = [m.key for m in mutants(SAMPLE, "sample.py")]
    for expected in (
        "-: LIMIT = 3 → LIMIT = 4",
        "f: x > LIMIT and (not flag) → not (x > LIMIT and (not flag))",
        "f: x > LIMIT and (not flag) → not flag",
        "f: x > LIMIT and (not flag) → x > LIMIT",
        "f: x > LIMIT → x >= LIMIT",
        "f: x > LIMIT → x <= LIMIT",
        "f: not flag → flag",
        "f: raise ValueError(f'{x > 1}') → pass",
        "f: y in (1, 2) → not y in (1, 2)",
        "f: y in (1, 2) → y in (2,)",
        "f: continue → pass",
        "f: g(y, deep=True) → pass",
        "f: g(y, deep=True) → g(y)",
        "f: deep=True → deep=False",
        "f: 'a': 1 → no such entry",
        "f: x - 1 → x + 1",
    ):
        assert expected in keys, keys
    assert not [k for k in keys if "5 > 3" in k or ("x > 1" in k.split("→")[0] and "raise" not in k)], (
        "words are no guards"
    )
    assert len(keys) == len(set(keys))


def test_every_mutant_is_another_program() -> None:
    plain = ast.unparse(ast.parse(SAMPLE))
    sources = [m.source for m in mutants(SAMPLE, "sample.py")]
    assert plain not in sources
    assert len(set(sources)) == len(sources)
    for source in sources:
        compile(source, "sample.py", "exec")
