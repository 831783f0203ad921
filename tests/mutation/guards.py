"""Guards of the shell and of the edges, by hand."""

from __future__ import annotations

from dataclasses import dataclass


class Stale(Exception):
    """An anchor that is no longer in the code: the guard was changed or is gone, and the list must say which."""


@dataclass(frozen=True, slots=True)
class Guard:
    """One guard and how it is taken away: `old` must stand exactly once in the module."""

    module: str
    guard: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def change(self) -> str:
        """For the table."""
        return f"{_line(self.old)} → {_line(self.new) or 'nothing'}"


def _line(text: str) -> str:
    return " ".join(text.split())


def applied(guard: Guard, source: str) -> str:
    """The module's source without the guard. Raises Stale."""
    if source.count(guard.old) != 1:
        raise Stale(
            f"{guard.module}: {guard.old!r} stands there {source.count(guard.old)} times, not once ({guard.guard})"
        )
    return source.replace(guard.old, guard.new)


GUARDS: tuple[Guard, ...] = ()
