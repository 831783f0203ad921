"""The calls that stop a machine and start it again. Both are wishes; the run's driver acts, behind its permit (I1)."""

from __future__ import annotations

from gpuproviders.money import format_usd
from gpuwatch.budget.cost import stopped_price
from gpuwatch.clean import clean
from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed
from gpuwatch.daemon.desk import Desk
from gpuwatch.daemon.idling import can_stop
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.evolve import target
from gpuwatch.lifecycle.run import State


class Halting(Desk):
    """Stop and start."""

    async def halt(self, order: wire.Stop) -> wire.Retried:
        """End the job, collect, stop. Where stopping loses the disk, or there is no such thing, it is refused."""
        run = await self.find(order.run)
        if run.state is State.PAUSED:
            raise CallFailed(
                wire.Code.CONFLICT, f"{run.id} is stopped already; `gputui start {run.id}` starts it"
            )
        if target(run.state, e.StopRequested) is None or not run.data_at_risk or run.machine is None:
            raise CallFailed(
                wire.Code.CONFLICT,
                f"{run.id} is {run.state.value}: only a machine on which its job has run is stopped; "
                f"`gputui destroy {run.id}` ends it",
            )
        if run.end_requested_by is not None:
            raise CallFailed(
                wire.Code.CONFLICT,
                f"the end of {run.id} was requested by {run.end_requested_by}; `gputui destroy {run.id} --cancel` first",
            )
        if run.pins:
            raise CallFailed(
                wire.Code.REFUSED,
                f"{run.id} is held by {run.pins[0].by} ({run.pins[0].name}); `gputui release {run.id} {run.pins[0].name}` first",
            )
        if not can_stop(self._ctx, run):
            why = run.machine.unstoppable or "its provider cannot stop it and keep its disk"
            raise CallFailed(
                wire.Code.REFUSED, f"{run.id} cannot be stopped: {why}; `gputui destroy {run.id}` ends it"
            )
        by = clean(order.by, 60) or "a person"
        await self._ctx.ledger.append(run.id, e.StopRequested(by=by, reason=order.reason.strip()))
        self._nudge(run.id)
        bill = format_usd(stopped_price(run.machine))
        first = "its job is ended, " if run.state is State.RUNNING else ""
        return wire.Retried(
            run=run.id,
            name=run.name,
            text=f"{first}its files are collected, then it is stopped; its disk costs {bill}/h",
        )

    async def start(self, order: wire.Start) -> wire.Retried:
        """Start a stopped machine again."""
        run = await self.find(order.run)
        if run.state is not State.PAUSED:
            raise CallFailed(wire.Code.CONFLICT, f"{run.id} is {run.state.value}, not stopped")
        if run.end_requested_by is not None:
            raise CallFailed(
                wire.Code.CONFLICT, f"{run.id} is being started already, to be collected and ended"
            )
        by = clean(order.by, 60) or "a person"
        await self._ctx.ledger.append(run.id, e.WakeRequested(by=by, reason=order.reason.strip()))
        self._nudge(run.id)
        return wire.Retried(
            run=run.id, name=run.name,
            text="its machine is started; the job is not: log in with `gputui ssh`, and the idle timers begin anew",
        )  # fmt: skip
