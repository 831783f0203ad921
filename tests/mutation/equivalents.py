"""Mutants that no test can notice, or that change only words: module → {the mutant's key: why}."""

from __future__ import annotations

_W = "watchdog/gpuwatch/"
_TYPES = "only the type checker reads it"

EQUIVALENT: dict[str, dict[str, str]] = {
    f"{_W}custody/complete.py": {
        "groups: file.path[len(prefix):].split('/', 1) → file.path[len(prefix):].split('/', 2)": "only the first part is used",
        "complete: still.get(entry.name, 0) → still.get(entry.name, 1)": "0 and 1 are both too few reports",
        "complete: -1 → -2": "both put names without a number after step 0",
    },
    f"{_W}custody/permit.py": {
        "_proved: holds or receipt is None → holds": "without a receipt there is a hold already; the operand tells the type checker",
    },
    f"{_W}custody/rules.py": {
        "glob_pattern: (end := glob.find(']', i + 3 if glob.startswith('[!', i) else i + 2)) > 0 → (end := glob.find(']', i + 3 if glob.startswith('[!', i) else i + 2)) >= 0": "find gives -1 or at least 2",
        "glob_pattern: (end := glob.find(']', i + 3 if glob.startswith('[!', i) else i + 2)) > 0 → (end := glob.find(']', i + 3 if glob.startswith('[!', i) else i + 2)) > 1": "find gives -1 or at least 2",
        "assess: clean(spoken(f.path), 200) → clean(spoken(f.path), 201)": "how much of a long name a message shows",
    },
    f"{_W}custody/scrub.py": {
        "Budget: level: float = 0.0 → level: float = 1.0": "a bucket that nobody filled has dripped since ever",
    },
    f"{_W}lifecycle/absence.py": {
        "Absence.enough: self.first is None or self.last is None → self.last is None": "both are set and cleared together",
        "Absence.enough: self.first is None or self.last is None → self.first is None": "both are set and cleared together",
    },
    f"{_W}lifecycle/decide.py": {
        "_decide: machine is not None and machine.instance_id is None → machine.instance_id is None": "a run whose machine exists has one; the operand tells the type checker",
    },
    f"{_W}lifecycle/events.py": {"-: TypeVar('E', bound=Event) → TypeVar('E')": _TYPES},
    f"{_W}lifecycle/evolve.py": {
        "-: (str, Any) → (Any,)": _TYPES,
        "-: (str, Any) → (str,)": _TYPES,
        "-: TypeVar('E', bound=e.Event) → TypeVar('E')": _TYPES,
    },
    f"{_W}vault/layout.py": {
        'or raw.startswith(b"/"): → :': "an absolute path has an empty first part, which is refused, too; this says it better",
    },
}
