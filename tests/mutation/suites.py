"""Which modules are mutated by rule, and the narrowest tests that must notice a change in each."""

from __future__ import annotations

_CORE = "tests/unit/core/test_core_"
_W = "watchdog/gpuwatch/"


def core(*names: str) -> tuple[str, ...]:
    """Test files of the core by their short names."""
    return tuple(f"{_CORE}{name}.py" for name in names)


SYSTEMATIC: dict[str, tuple[str, ...]] = {
    f"{_W}custody/complete.py": core("custody_table", "whole_and_absent"),
    f"{_W}custody/facts.py": core("custody_table", "custody_rules"),
    f"{_W}custody/holds.py": core("custody_table", "holds"),
    f"{_W}custody/permit.py": core("holds", "permit", "register", "lifecycle"),
    f"{_W}custody/rules.py": core("custody_table", "custody_rules"),
    f"{_W}custody/scrub.py": core("custody_table", "scrub"),
    f"{_W}lifecycle/absence.py": core("whole_and_absent"),
    f"{_W}lifecycle/decide.py": core("decide", "lifecycle"),
    f"{_W}lifecycle/events.py": core("evolve", "ledger", "lifecycle"),
    f"{_W}lifecycle/evolve.py": core("evolve", "lifecycle"),
    f"{_W}lifecycle/reconcile.py": core("register"),
    f"{_W}lifecycle/recover.py": core("recover"),
    f"{_W}lifecycle/register.py": core("register"),
    f"{_W}lifecycle/run.py": core("evolve", "lifecycle"),
}


def tests_of(module: str) -> tuple[str, ...]:
    """The narrow tests of a module of the pure core."""
    return SYSTEMATIC[module]
