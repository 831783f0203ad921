"""What needs a person, gathered from everything the daemon says. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from gpuwatch.client import wire

_RANK = {"alarm": 0, "warn": 1, "note": 2, "info": 2}


@dataclass(frozen=True, slots=True)
class Alarm:
    """One thing to look at. `run` is the id of the run it is about, None when it is not about one."""

    key: str
    severity: str
    """`alarm`, `warn` or `note`."""
    where: str
    text: str
    run: str | None = None
    todo: str = ""
    """What to do about it, in plain words."""

    @property
    def label(self) -> str | None:
        """The machine's label, when a person may answer for this alarm (`gputui resolve LABEL`)."""
        found = re.search(r"`gputui resolve ([\w.-]+) ", self.text)
        return found[1] if found else None


def alarms_of(fleet: wire.Runs) -> list[Alarm]:
    """All of it, the worst first; each thing once."""
    found = [*_accounts(fleet.accounts)]
    for run in fleet.runs:
        found += _of_run(run)
    mine = tuple(f"{run.id}:" for run in fleet.runs)
    found += [
        Alarm(f"daemon {text}", "alarm", "gpuwatch", text)
        for text in fleet.alarms
        if not text.startswith(mine)
    ]
    return sorted(
        {alarm.key: alarm for alarm in found}.values(), key=lambda a: (_RANK.get(a.severity, 1), a.where)
    )


def _accounts(accounts: Iterable[wire.AccountRow]) -> Iterable[Alarm]:
    for account in accounts:
        if account.problem is not None:
            yield Alarm(
                f"account {account.provider}", "alarm", account.provider, account.problem,
                todo="nothing is decided about its machines until it answers",
            )  # fmt: skip
        if account.foreign:
            count = "a machine" if account.foreign == 1 else f"{account.foreign} machines"
            yield Alarm(
                f"foreign {account.provider}", "note", account.provider,
                f"{count} in this account that gpuwatch did not rent",
                todo="listed only, never touched: look at the vendor's console",
            )  # fmt: skip


def _of_run(run: wire.RunRow) -> Iterable[Alarm]:
    if run.attention in {"alarm", "warn"}:
        text = run.reason or run.state
        yield Alarm(f"run {run.id}", run.attention, run.name, text, run.id, run.next)
    for alarm in run.alarms:
        subject = f"{alarm.subject}: " if alarm.subject else ""
        yield Alarm(
            f"{run.id} {alarm.name} {alarm.subject}", alarm.severity, run.name, subject + alarm.text, run.id
        )
