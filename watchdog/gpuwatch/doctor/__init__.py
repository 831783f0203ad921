"""`gpuwatch doctor`: is everything here that the daemon needs, and if not, what is to be done.

Each check looks at one thing, says what it found and what to do; none repairs anything.
They work whether a daemon runs or not, and one that breaks does not end the others. No
secret is ever part of what is said.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gpuwatch import __version__
from gpuwatch.clean import clean
from gpuwatch.doctor import archive, books, clocks, machine, own, vendors
from gpuwatch.doctor.clocks import clock_problems
from gpuwatch.doctor.finding import Check, Found, Level, Patient
from gpuwatch.paths import discover

__all__ = [
    "Check", "Level", "Patient", "clock_problems", "document", "examine", "healthy", "lines", "run",
]  # fmt: skip

FORMAT = "gputui-doctor/1"


_URL = re.compile(r"(?i)(key|token|secret)=[^&\s]+")


_CHECKS: tuple[tuple[str, Callable[[Patient], Found]], ...] = (
    ("python", machine.python),
    ("packages", machine.packages),
    ("config", machine.config),
    ("state", own.state),
    ("ledger", books.ledger),
    ("socket", own.socket),
    ("daemon", own.daemon),
    ("ssh-key", own.ssh_key),
    ("vault", archive.vault),
    ("credentials", vendors.credentials),
    ("clock", clocks.clock),
    ("rclone", machine.rclone),
    ("open-files", machine.open_files),
)


def examine(patient: Patient, *, online: bool = False) -> Found:
    """All checks, in the order in which they are best mended."""
    for name, check in _CHECKS:
        yield from _guarded(name, check, patient)
    if online:
        yield from _guarded("account", vendors.accounts, patient)


def _guarded(name: str, check: Callable[[Patient], Found], patient: Patient) -> Found:
    try:
        yield from check(patient)
    except Exception as error:  # noqa: BLE001 - a check that breaks is a finding; the others go on
        what = f"the check itself failed: {type(error).__name__}: {clean(str(error), 200)}"
        yield Check(name, Level.FAIL, what, "please report this line")


def lines(checks: Sequence[Check]) -> Iterator[str]:
    """The answer for people."""
    width = max((len(c.name) for c in checks), default=0)
    for check in checks:
        yield f"{check.level.value:<5} {check.name:<{width}}  {_shown(check.found)}"
        if check.todo:
            yield f"      {'':<{width}}  → {_shown(check.todo)}"
    bad = {level: sum(c.level is level for c in checks) for level in (Level.FAIL, Level.WARN)}
    told = [f"{n} {level.value}{'s' * (n != 1)}" for level, n in bad.items() if n]
    yield ", ".join(told) if told else "all is well"


def document(checks: Sequence[Check]) -> dict[str, Any]:
    """The answer for programs; documented in docs/operations.md."""
    return {
        "format": FORMAT,
        "version": __version__,
        "ok": healthy(checks),
        "checks": [
            {"name": c.name, "level": c.level.value, "found": _shown(c.found), "do": _shown(c.todo)}
            for c in checks
        ],
    }


def healthy(checks: Sequence[Check]) -> bool:
    """Whether no check failed; warnings do not count."""
    return all(c.level is not Level.FAIL for c in checks)


def _shown(text: str) -> str:
    return _URL.sub(r"\1=…", clean(text, 600))


def run(*, as_json: bool, online: bool) -> int:
    """Examine this machine and print the answer; returns the exit code."""
    checks = list(examine(Patient(discover()), online=online))
    out = json.dumps(document(checks), indent=2) if as_json else "\n".join(lines(checks))
    sys.stdout.write(out + "\n")
    return 0 if healthy(checks) else 1
