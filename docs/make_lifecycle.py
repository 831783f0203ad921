"""Write docs/lifecycle.md from the code: the arrows of a run, what is done in each state, the register, the holds."""

from __future__ import annotations

import inspect
import re
import sys
from enum import Enum
from pathlib import Path
from typing import get_args

from gpuwatch.custody.holds import KINDS
from gpuwatch.lifecycle import decide, register
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.evolve import ARROWS
from gpuwatch.lifecycle.reconcile import RECHECKS
from gpuwatch.lifecycle.run import FINAL, Phase, State

PAGE = Path(__file__).with_name("lifecycle.md")
STATES = {
    State.REQUESTED: "a person asked for it; an offer is looked for",
    State.RENTING: "a label is written down; the create is sent once under it",
    State.BOOTING: "the machine exists and bills; SSH does not answer yet",
    State.PREPARING: "checked, uploaded to, set up",
    State.RUNNING: "the job runs; checkpoints come home as they appear",
    State.FINISHED: "the job's process is gone",
    State.COLLECTING: "everything promised is copied and proved",
    State.VERIFIED: "everything promised is home; a receipt says so",
    State.PAUSED: "the machine is stopped and keeps its disk, which bills; it is started before anything else",
    State.DESTROYING: "the end is permitted, sent, or being confirmed",
    State.FAILED: "waits for a person; the machine, if there is one, stays",
    State.RECOVERING: "its machine was lost or does not run: another is rented, the newest proved checkpoint put there",
    State.GONE: "the machine is confirmed gone, or there never was one",
    State.LOST: "the provider took the machine",
}
INTRODUCTION = """\
# The life of a run

<!-- made by docs/make_lifecycle.py from the code; a test compares -->

A run is a value that events change: `evolve(run, event)` is the only thing that does, and `decide(run, spec)` says
what to do next. Both are pure. What stands here is read out of `lifecycle/evolve.py: ARROWS`; that the code answers
every state and every event so is tested (`tests/unit/core/test_core_lifecycle.py`). An event without an arrow is
refused before anything is written."""


STEPS = """\
What `decide` can answer; a step is performed, what came of it is an event, and the run is decided again. While a
person holds the run, no step destroys."""
EFFECTS = """\
An effect is durable as *intended* before it is sent, and then {phases} in the state of its machine. What is unknown is
resolved by looking, never by repeating."""
MACHINES = """\
Beside the runs stands a register: one entry for each label that was ever ordered under. It stays open while the machine
exists or may exist, while it is checked again after its end ({checks}), and while an alarm ({alarms}) stands.
These events change only the register and the account:"""
HOLDS = """\
Every reason not to end a machine has a name. `gputui holds` lists those that stand; each is removed alone."""


def words(kind: type) -> str:
    """A class's docstring up to its first full stop, on one line."""
    return " ".join(re.split(r"\.(\s|$)", inspect.getdoc(kind) or "")[0].split())


def tag(kind: type[e.Event]) -> str:
    """The event's name in the ledger."""
    return str(kind.__struct_config__.tag)


def diagram() -> list[str]:
    """All arrows that lead to another state, as Mermaid; arrows between the same two states share a line."""
    arrows: dict[tuple[State, State], list[str]] = {}
    for event, row in ARROWS.items():
        for before, after in row.items():
            if before is not after:
                arrows.setdefault((before, after), []).append(tag(event))
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> requested: requested"]
    order = list(State)
    for (before, after), names in sorted(
        arrows.items(), key=lambda x: (order.index(x[0][0]), order.index(x[0][1]))
    ):
        lines.append(f"    {before.value} --> {after.value}: {', '.join(names)}")
    lines += [f"    {state.value} --> [*]" for state in order if state in FINAL]
    return [*lines, "```"]


def table() -> list[str]:
    """Every event in every state: the next state, `=` for the same, empty where it cannot happen."""
    lines = [
        "| event | " + " | ".join(s.value for s in State) + " |",
        "|---|" + "---|" * len(State),
    ]
    for event, row in ARROWS.items():
        cells = ["=" if row.get(s) is s else "" if s not in row else row[s].value for s in State]
        lines.append(f"| `{tag(event)}` | " + " | ".join(cells) + " |")
    return lines


def events(kinds: tuple[type[e.Event], ...]) -> list[str]:
    """What each event says."""
    return ["| event | says |", "|---|---|", *(f"| `{tag(k)}` | {words(k)} |" for k in kinds)]


def names(kind: type[Enum]) -> str:
    """An enum's values in code font."""
    return ", ".join(f"`{member.value}`" for member in kind)


def effects() -> list[str]:
    """The effects whose outcome may be unknown: intended, then done, refused or unknown."""
    rows = (
        ("create", e.CreateSent, e.Rented, e.CreateRefused, e.CreateUnknown, "looked for by its label"),
        ("destroy", e.DestroySent, e.DestroyAccepted, e.DestroyFailed, e.DestroyFailed, "looked for by id; what is there is sent again"),
        ("destroy of what came back", e.StrayDestroySent, e.StrayDestroyAccepted, e.StrayDestroyFailed, e.StrayDestroyFailed, "the same"),
        ("stop", e.StopSent, e.Paused, e.StopFailed, e.StopFailed, "looked for in a complete listing; what still runs is stopped again"),
        ("start of the job", e.StartSent, e.JobStarted, e.JobEnded, e.StartSent, "the box is asked whether it runs; it starts once"),
    )  # fmt: skip
    lines = ["| effect | intended | done | refused | unknown | resolved by |", "|---|---|---|---|---|---|"]
    for name, intended, done, refused, unknown, how in rows:
        shown = " | ".join(f"`{tag(k)}`" for k in (intended, done, refused, unknown))
        lines.append(f"| {name} | {shown} | {how} |")
    return lines


def page() -> str:
    """The whole page."""
    steps = [kind for kind in get_args(decide.Step) if kind is not decide.Rest]
    checks = ", ".join(f"{int(seconds / 60)} min" for seconds in RECHECKS)
    parts = [
        INTRODUCTION,
        "## The diagram",
        "\n".join(diagram()),
        "## States",
        "\n".join(["| state | means |", "|---|---|", *(f"| {s.value} | {STATES[s]} |" for s in State)]),
        "## Every event in every state",
        "`=`: the event is recorded and the state stays. Empty: it cannot happen.",
        "\n".join(table()),
        "## What the events say",
        "\n".join(events(get_args(e.RunEvent))),
        "## Steps",
        STEPS,
        "\n".join(["| step | does |", "|---|---|", *(f"| {k.__name__} | {words(k)} |" for k in steps)]),
        "## Effects",
        EFFECTS.format(phases=names(Phase)),
        "\n".join(effects()),
        "## Machines",
        MACHINES.format(checks=checks, alarms=names(register.Alarm)),
        "\n".join(events((*get_args(e.RegisterEvent), e.AccountSeen))),
        "## Holds",
        HOLDS,
        "\n".join(
            ["| hold | means | goes by |", "|---|---|---|", *(f"| `{k.name}` | {k.meaning} | {k.removal.value} |" for k in KINDS.values())]
        ),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit(PAGE.read_text(encoding="utf-8") != page())
    PAGE.write_text(page(), encoding="utf-8")
