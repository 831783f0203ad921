"""What to do about a verdict: warn, stop after X, destroy after Y more. Pure.

Destroying is only ever a wish: custody stands behind it as behind every other (I1).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from gpuwatch.idle.verdict import Verdict
from gpuwatch.spec.model import Idle
from gpuwatch.spec.units import format_duration

WARN_SHARE, WARN_MOST = 1 / 3, 300.0
"""The warning comes a third of the window before the act, at most 5 minutes."""


class Act(Enum):
    """What is due."""

    NOTHING = "nothing"
    WARN = "warn"
    NOTIFY = "notify"
    STOP = "stop"
    END = "end"


@dataclass(frozen=True, slots=True)
class Due:
    """What is due now, and what comes next in how many seconds, in words."""

    act: Act
    text: str
    seconds: float | None = None


def due(
    idle: Idle,
    verdict: Verdict | None,
    *,
    stopped_for: float | None = None,
    held: bool = False,
    can_stop: bool = True,
    proved: bool = True,
) -> Due:
    """The next act of the two timers.

    `idle.after` seconds of idleness: stop (or end, or only tell); `idle.destroy_after` seconds more: end.
    A stopped machine is judged by its own clock, `stopped_for`. Where stopping is not possible the machine
    runs on until the second timer, and is then ended by the same gate. A person's hold outranks both. Unless it is
    `proved` that everything is home, a stopped machine waits for a person: starting it would prove no more.
    """
    if idle.after is None:
        return Due(Act.NOTHING, "no idle timer in the spec")
    if held:
        return Due(Act.NOTHING, "held by a person: the idle timers wait")
    if stopped_for is not None:
        if idle.destroy_after is None:
            return Due(Act.NOTHING, "stopped, and kept until a person decides")
        if not proved:
            return Due(
                Act.NOTHING, "stopped, and kept until a person decides: not everything it promised is home"
            )
        left = idle.destroy_after - stopped_for
        if left > 0:
            return Due(Act.NOTHING, f"stopped; destroyed in {format_duration(left)}", left)
        return Due(Act.END, f"stopped for {format_duration(stopped_for)}")
    if verdict is None:
        return Due(Act.NOTHING, "not judged yet")
    stops = can_stop and (idle.action == "stop" or idle.destroy_after is not None)
    if verdict.idle:
        if idle.action == "notify":
            return Due(Act.NOTIFY, verdict.text)
        if stops:
            return Due(Act.STOP, verdict.text)
        if idle.destroy_after is not None and verdict.quiet < idle.after + idle.destroy_after:
            left = idle.after + idle.destroy_after - verdict.quiet
            return Due(
                Act.WARN, f"cannot be stopped; destroyed in {format_duration(left)}: {verdict.text}", left
            )
        if idle.action == "stop" and idle.destroy_after is None:
            return Due(Act.NOTIFY, f"cannot be stopped without losing its disk: {verdict.text}")
        return Due(Act.END, verdict.text)
    if verdict.idle_in is not None and verdict.idle_in <= min(WARN_MOST, idle.after * WARN_SHARE):
        then = "told" if idle.action == "notify" else "stopped" if stops else "collected and destroyed"
        return Due(Act.WARN, f"{then} in {format_duration(verdict.idle_in)}: {verdict.text}", verdict.idle_in)
    return Due(Act.NOTHING, verdict.text, verdict.idle_in)
