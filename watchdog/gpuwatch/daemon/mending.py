"""The calls that give a run another try: collect again, the same spec anew, another machine. A person decides (I1).

None destroys and none loses anything: what is on a machine that is left behind is another run's to collect.
"""

from __future__ import annotations

from gpuwatch.clean import clean
from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed
from gpuwatch.daemon.launching import Launching
from gpuwatch.daemon.presence import leave
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle import recover
from gpuwatch.lifecycle.run import FINAL, Run, State


def no_retry(run: Run) -> str | None:
    """Why there is nothing to try again, None when there is. Pure."""
    if run.of is not None:
        return f"it only collects what was on a machine of {run.of}; retry that one"
    if run.state is State.FAILED:
        if run.exists and not run.data_at_risk:
            return f"its machine may exist and nothing ran on it: `gputui destroy {run.id}` first"
        return None
    if run.state not in FINAL:
        return f"it is {run.state.value}, not failed"
    if run.state is State.GONE and run.exit_code == 0:
        return "its job ended well; launch the spec again to have another run"
    return None


class Mending(Launching):
    """Retry and recover."""

    async def retry(self, order: wire.Retry) -> wire.Retried:
        """A collection that could not prove everything is made again; a run without a machine begins anew, as another."""
        run = await self.find(order.run)
        why_not = no_retry(run)
        if why_not is not None:
            raise CallFailed(wire.Code.CONFLICT, f"{run.id} cannot be retried: {why_not}")
        if run.data_at_risk and run.state is State.FAILED:
            await self._ctx.ledger.append(run.id, e.CollectStarted())
            self._nudge(run.id)
            return wire.Retried(run=run.id, name=run.name, text="its files are collected again")
        begin = run.id if run.homes and not order.fresh else None
        spec = wire.SpecText(text=run.spec, file=run.file, base=run.base)
        launched = await self.launch(wire.Launch(spec=spec, key=order.key, resume_from=begin))
        newest = recover.newest(run)
        step = f" from step {newest.step}" if newest is not None and newest.step is not None else ""
        where = f"goes on{step} of {run.id}" if begin is not None else "begins anew"
        return wire.Retried(
            run=launched.run, name=launched.name, text=f"{launched.run} rents a machine and {where}"
        )

    async def recover(self, order: wire.Recover) -> wire.Retried:
        """Leave a machine that exists: the run goes on elsewhere from its newest checkpoint at home."""
        run = await self.find(order.run)
        spec, now = self._spec(run), self._ctx.now()
        if spec is None or run.machine is None or not run.data_at_risk:
            raise CallFailed(
                wire.Code.CONFLICT,
                f"{run.id} has no machine on which its job ran: there is nothing to go on from",
            )
        why_not = recover.refusal(run, spec, now)
        if why_not is not None:
            raise CallFailed(wire.Code.CONFLICT, f"{run.id} does not go on elsewhere: {why_not}")
        said = f": {clean(order.reason, 200)}" if order.reason.strip() else ""
        why = f"{clean(order.by, 60) or 'a person'} {recover.ASKED}{said}"
        if not await leave(self._ctx, run.id, spec, self.live(run.id), why, self._start_run):
            raise CallFailed(wire.Code.CONFLICT, f"{run.id} has changed meanwhile: look at it again")
        self._nudge(run.id)
        left = await self.find(run.id)
        home = recover.newest(left)
        begin = f"step {home.step}" if home is not None and home.step is not None else "the beginning"
        return wire.Retried(
            run=run.id, name=run.name,
            text=f"another machine is rented and goes on from {begin}; what is on the old one is collected, then it is ended",
        )  # fmt: skip
