"""Everything that needs a person now, in words that say what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

from gpuwatch.clean import clean
from gpuwatch.daemon import accounting, scrubbing, telemetry, words
from gpuwatch.daemon import standing as mirrors
from gpuwatch.daemon.context import Context
from gpuwatch.daemon.live import Live
from gpuwatch.daemon.reconciling import Reconciler
from gpuwatch.idle.timers import Act
from gpuwatch.lifecycle.reconcile import alarm_of
from gpuwatch.lifecycle.run import FINAL

BLIND = 60.0
"""Seconds without a complete listing after which that is an alarm, while machines are rented."""
MOST = 100
"""Alarms that are listed; the rest is counted."""


def standing(
    ctx: Context,
    reconcilers: Mapping[str, Reconciler],
    undriven: Mapping[str, str],
    lives: Mapping[str, Live],
) -> list[str]:
    """The alarms, a line each, at most MOST and one that counts the rest."""
    found = [clean(text, 600) for text in _alarms(ctx, reconcilers, undriven)]
    watched = {i: live for i, live in lives.items() if (r := ctx.ledger.runs.get(i)) and r.state not in FINAL}
    found += telemetry.alarm_lines(watched)
    found += idle_warnings(watched)
    found += accounting.alarms(ctx, lives, ctx.now(), asyncio.get_running_loop().time())
    if len(found) > MOST:
        found[MOST:] = [f"{len(found) - MOST} more alarms"]
    return found


def idle_warnings(lives: Mapping[str, Live]) -> Iterator[str]:
    """Machines whose idle timer acts soon, or would if it were let: said before it does."""
    for run_id, live in sorted(lives.items()):
        due = live.idle
        if due is not None and due.act in (Act.WARN, Act.NOTIFY):
            what = "is idle" if due.act is Act.NOTIFY else "is"
            yield f"{run_id} {what} {clean(due.text, 300)}; `gputui hold {run_id}` keeps the machine"


def _alarms(
    ctx: Context, reconcilers: Mapping[str, Reconciler], undriven: Mapping[str, str]
) -> Iterator[str]:
    for run in ctx.ledger.runs.values():
        if words.attention(run, None) == "alarm" and run.exists:
            yield f"{run.id}: {run.trouble or run.state.value}; `gputui why {run.id}` says what to do"
    for run_id, reason in undriven.items():
        yield f"{run_id} is not driven: {reason}"
    for entry in ctx.ledger.register.values():
        text = alarm_of(entry)
        if text is not None:
            yield text
    for reconciler in reconcilers.values():
        yield from (str(orphan) for orphan in reconciler.orphans)
    for name, fleet in ctx.fleets.items():
        waiting = any(x.provider == name and x.may_exist for x in ctx.ledger.register.values())
        blind = fleet.age is None or fleet.age > BLIND
        if fleet.failure is not None and fleet.failure.code == "stranger":
            yield f"{name}: {fleet.problem}"
        elif fleet.problem is not None and waiting and blind:
            yield (
                f"{name} cannot be listed ({fleet.problem}): machines are rented there and nothing is decided about them "
                "until it can; check the key, the network, and the provider's status page"
            )
    yield from mirrors.alarms(ctx)
    yield from scrubbing.alarms(ctx.ledger)
