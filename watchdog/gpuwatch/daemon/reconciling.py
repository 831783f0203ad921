"""The ledger against one account, at start and for ever: whatever its listings show is compared with the register.

Reading only, but for two things: a machine that came back is given to its run again, or,
when nothing ever ran on it, ended through the same gate as every other. Machines that are
not ours are counted and never touched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from gpuproviders.errors import ProviderError
from gpuproviders.model import Instance, Listing
from gpuwatch.daemon import destroying, presence
from gpuwatch.daemon.context import Context
from gpuwatch.daemon.fleet import Fleet
from gpuwatch.daemon.renting import introduce
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle import reconcile as r
from gpuwatch.lifecycle import recover
from gpuwatch.lifecycle.absence import OUT_OF_THE_BLUE, Absence
from gpuwatch.lifecycle.evolve import Impossible
from gpuwatch.lifecycle.register import Entry
from gpuwatch.lifecycle.run import Run, State

log = structlog.get_logger()


class Reconciler:
    """Compares one account's listings with the register. Run `run` as a task beside the fleet's `watch`.

    `start_run` starts driving a run again whose machine came back.
    """

    def __init__(self, ctx: Context, fleet: Fleet, start_run: Callable[[str], None]) -> None:
        self._ctx = ctx
        self._fleet = fleet
        self._start_run = start_run
        self._unlisted: dict[str, Absence] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}
        self.orphans: tuple[r.Orphan, ...] = ()
        """Machines with our label that no run drives, as of the newest listing."""
        self.foreign: tuple[Instance, ...] = ()
        """Machines of the account that are not ours."""

    @property
    def name(self) -> str:
        """The provider's name."""
        return self._fleet.provider.name

    async def run(self) -> None:
        """For ever. A fault of ours is logged and tried again: the next listing brings the same facts."""
        try:
            while True:
                try:
                    await self._round()
                except ProviderError as error:
                    log.warning("reconciling waits", provider=self.name, problem=str(error))
                except Exception:
                    if (task := asyncio.current_task()) is not None and task.cancelling():
                        raise asyncio.CancelledError from None
                    log.exception("reconciling failed", provider=self.name)
                    await asyncio.sleep(60)
        finally:
            for ending in self._ending.values():
                ending.cancel()
            await asyncio.gather(*self._ending.values(), return_exceptions=True)

    async def _round(self) -> None:
        """Wait for the next listing, or for a check that is due; take it in. Raises ProviderError."""
        wait = r.next_check(self._entries(), self._ctx.now())
        try:
            async with asyncio.timeout(wait):
                listing = await self._fleet.looked()
        except TimeoutError:
            self._fleet.hurry()
            return
        if listing is not None and self._fleet.listed_at is not None:
            await introduce(self._ctx, self._fleet)
            await self.take_in(listing, self._fleet.listed_at)

    def _entries(self) -> list[Entry]:
        return [x for x in self._ctx.ledger.register.values() if x.provider == self.name]

    async def take_in(self, listing: Listing, at: float) -> None:
        """Compare one complete listing, taken at `at` (event-loop time). Raises ProviderError."""
        orphans: list[r.Orphan] = []
        foreign: list[Instance] = []
        for finding in r.judge(listing.instances, await self._known(listing)):
            match finding:
                case r.Orphan():
                    orphans.append(finding)
                case r.Foreign():
                    foreign.append(finding.instance)
                case r.Sighted(entry, instance):
                    seen = e.MachineListed(label=entry.label, instance_id=instance.instance_id)
                    await self._ctx.ledger.note(seen)
                case r.Back(entry, instance):
                    orphan = await self._take_back(entry, instance)
                    orphans += [orphan] if orphan is not None else []
        self.orphans, self.foreign = tuple(orphans), tuple(foreign)
        await self._miss(listing, at)
        await self._bury(listing)
        for entry in r.strays(self._entries()):
            if entry.label not in self._ending or self._ending[entry.label].done():
                self._ending[entry.label] = asyncio.create_task(self._end(entry.label))

    async def _known(self, listing: Listing) -> dict[str, Entry]:
        """The entries that the listing can be about: all open ones, and those of labels that are closed."""
        known = {x.label: x for x in self._entries()}
        for instance in listing.instances:
            label = instance.label
            if label is not None and label not in known and r.carries_our_label(instance):
                entry = await self._ctx.ledger.entry(label)
                if entry is not None and entry.provider == self.name:
                    known[label] = entry
        return known

    async def _take_back(self, entry: Entry, instance: Instance) -> r.Orphan | None:
        """A machine that counted as gone is there: its run drives it again, or it is ended as a stray."""
        ledger = self._ctx.ledger
        log.error("a machine came back", label=entry.label, instance=instance.instance_id)
        ledger.reopen(entry)
        if entry.job_at is None:
            back = e.MachineReturned(label=entry.label, instance_id=instance.instance_id)
            await ledger.note(back)
            return None
        run = await ledger.recall(entry.run)
        evidence = f"a complete listing shows it as {instance.power.value}"
        try:
            driven = await self._given_back(run, entry, instance, evidence)
        except (Impossible, ValueError) as why:
            return r.Orphan(
                self.name,
                instance.instance_id,
                entry.label,
                f"a job of {entry.run} may have run on it ({why})",
            )
        self._start_run(driven)
        return None

    async def _given_back(self, run: Run, entry: Entry, instance: Instance, evidence: str) -> str:
        """The run that drives a machine which came back: its own, or one that only collects from it.

        Raises Impossible and ValueError when none can.
        """
        ledger = self._ctx.ledger
        last = run.machine or (run.past[-1] if run.state is State.RECOVERING and run.past else None)
        if last is not None and last.label == entry.label:
            await ledger.append(run.id, e.Returned(instance_id=instance.instance_id, evidence=evidence))
            return run.id
        left = next((m for m in run.past if m.label == entry.label), None)
        if left is None:
            raise Impossible(f"run {run.id} has another machine now")
        text = f"it counted as lost and came back ({evidence}); {run.id} goes on without it"
        proved = presence.proved_of(self._ctx, run, left.boot_id)
        taken = recover.taken_over(run, left, text, stranded=False, proved=proved)
        if await ledger.known(taken.taker):
            raise Impossible(f"{taken.taker} had it before")
        await ledger.take_over(taken)
        return taken.taker

    async def _miss(self, listing: Listing, at: float) -> None:
        """Count the listings that lack a machine which the vendor said it made."""
        missing = r.unlisted(self._entries(), listing.instances)
        self._unlisted = {x.label: self._unlisted.get(x.label, Absence()) for x in missing}
        for entry in missing:
            absence = self._unlisted[entry.label]
            absence.observe(at, listed=False)
            if not absence.enough(OUT_OF_THE_BLUE) or entry.instance_id is None:
                continue
            found = await self._fleet.provider.instance(entry.instance_id)
            looked = (
                "a look-up by id finds nothing either" if found is None else "though a look-up by id shows it"
            )
            evidence = f"{absence.count} complete listings without it; {looked}"
            await self._ctx.ledger.note(e.MachineUnseen(label=entry.label, evidence=evidence))

    async def _bury(self, listing: Listing) -> None:
        """The last check after a machine's end: neither the listing nor a look-up knows it."""
        for entry in r.to_bury(self._entries(), listing.instances, self._ctx.now()):
            evidence = "a complete listing an hour and more after its end does not show it"
            if entry.instance_id is not None:
                found = await self._fleet.provider.instance(entry.instance_id)
                if found is not None:
                    await self._take_back(entry, found)
                    continue
                evidence += ", and a look-up finds nothing"
            await self._ctx.ledger.note(e.Buried(label=entry.label, evidence=evidence))

    async def _end(self, label: str) -> None:
        try:
            await destroying.end_stray(self._ctx, self._fleet, label)
        except Exception:
            log.exception("ending a stray failed", label=label)
