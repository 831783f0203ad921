"""What all calls of the daemon's face share: finding runs, their live sides, and what is known about them."""

from __future__ import annotations

import asyncio

from gpuwatch.clean import clean
from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed
from gpuwatch.daemon import alarms, rows
from gpuwatch.daemon.actor import Actor
from gpuwatch.daemon.context import Context
from gpuwatch.daemon.live import Live
from gpuwatch.daemon.reconciling import Reconciler
from gpuwatch.ledger import Record
from gpuwatch.lifecycle.run import Run
from gpuwatch.spec import RunSpec


class Desk:
    """The state behind the calls. `lives` and `actors` are by run id, `reconcilers` by provider."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self.lives: dict[str, Live] = {}
        self.actors: dict[str, Actor] = {}
        self.reconcilers: dict[str, Reconciler] = {}
        self.undriven: dict[str, str] = {}
        """Runs that are not over and that nothing drives, and why."""
        ctx.ledger.forgotten.append(self._forget)

    def _forget(self, run_id: str) -> None:
        """An ended run has left the memory; what was live about it goes too."""
        self.lives.pop(run_id, None)
        self.actors.pop(run_id, None)
        self._ctx.specs.pop(run_id, None)

    def live(self, run_id: str) -> Live:
        """The live side of a run, made when first asked for; a run that is only on the disk has an empty one."""
        return self.lives.setdefault(run_id, Live()) if run_id in self._ctx.ledger.runs else Live()

    async def record(self, ref: str) -> Record:
        """A run by id, name (the newest) or unique prefix of the id, with its copies. Raises CallFailed(not-found)."""
        found = await self._ctx.ledger.matching(ref)
        if len(found) == 1:
            return await self._ctx.ledger.record(found[0])
        if found:
            names = ", ".join(sorted(found)[:5])
            raise CallFailed(
                wire.Code.NOT_FOUND, f"{clean(ref, 60)!r} could be any of {names}; give more of the id"
            )
        raise CallFailed(wire.Code.NOT_FOUND, f"no run is called {clean(ref, 60)!r}; `gputui ls` lists them")

    async def find(self, ref: str) -> Run:
        """The run alone. Raises CallFailed(not-found)."""
        return (await self.record(ref)).run

    def alarms(self) -> list[str]:
        """What needs a person now."""
        return alarms.standing(self._ctx, self.reconcilers, self.undriven, self.lives)

    def accounts(self) -> list[wire.AccountRow]:
        """The accounts as last heard."""
        found = []
        for name, fleet in self._ctx.fleets.items():
            account, reconciler = fleet.account, self.reconcilers.get(name)
            found.append(
                wire.AccountRow(
                    provider=name,
                    user=account.user_id if account else None,
                    credit=account.credit if account else None,
                    age=fleet.age,
                    problem=fleet.problem,
                    foreign=len(reconciler.foreign) if reconciler is not None else 0,
                )
            )
        return found

    def _row(self, run: Run) -> wire.RunRow:
        """One line of the fleet."""
        clock = asyncio.get_running_loop().time()
        copies = self._ctx.ledger.copies(run.id)
        return rows.run_row(run, self._spec(run), self.live(run.id), copies, now=self._ctx.now(), clock=clock)

    def _report(self, record: Record) -> wire.CustodyReport:
        run = record.run
        return rows.custody_report(
            run, self._spec(run), self.live(run.id), record.copies, now=self._ctx.now()
        )

    def _nudge(self, run_id: str) -> None:
        if run_id in self.actors:
            self.actors[run_id].nudge()

    def _spec(self, run: Run) -> RunSpec | None:
        return self._ctx.specs.get(run.id)
