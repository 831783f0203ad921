"""The calls that look: the fleet, one run, why it exists, events, the captured log."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gpuwatch.client import wire
from gpuwatch.daemon import rows, telemetry
from gpuwatch.daemon.desk import Desk
from gpuwatch.daemon.link import alias
from gpuwatch.lifecycle.run import FINAL, Run


class Looking(Desk):
    """Reading; nothing changes by it."""

    async def runs(self, _: wire.Empty) -> wire.Runs:
        return self.snapshot()

    def snapshot(self) -> wire.Runs:
        """The whole fleet: every run that is not over, and the newest that are."""
        runs = sorted(self._ctx.ledger.runs.values(), key=lambda r: -r.created_at)
        return wire.Runs(
            runs=[self._row(r) for r in runs], accounts=self.accounts(), burn=sum(rows.burn(r) for r in runs),
            now=self._ctx.now(), alarms=self.alarms(), older=self._ctx.ledger.forgets,
        )  # fmt: skip

    async def ended(self, query: wire.EndedQuery) -> wire.Ended:
        limit = max(1, min(query.limit, 500))
        found = await self._ctx.ledger.ended(query.before, limit)
        last = found[-1].ended_at if len(found) == limit else None
        return wire.Ended(runs=[self._row(r) for r in found], next=last)

    async def run(self, ref: wire.RunRef) -> wire.RunDetail:
        record = await self.record(ref.run)
        run, live = record.run, self.live(record.run.id)
        return wire.RunDetail(
            run=self._row(run),
            custody=self._report(record),
            spec=run.spec,
            ssh=self._ssh(run),
            events=[rows.event_row(x) for x in await self._ctx.ledger.last_events(run.id, 200)],
            samples=telemetry.past_samples(live),
            log_path=str(self._ctx.vault.log(run.id)),
        )

    def _ssh(self, run: Run) -> list[str]:
        machine = run.machine
        if machine is None or machine.host is None or run.state in FINAL or machine.gone_at is not None:
            return []
        if machine.provider == "ssh":
            return ["ssh", machine.host]
        name = alias(machine)
        return [
            "ssh", "-i", str(self._ctx.key), "-p", str(machine.port), "-o", "IdentitiesOnly=yes",
            "-o", f"HostKeyAlias={name}", "-o", f"UserKnownHostsFile={self._ctx.hostkeys.path(name)}",
            f"{machine.user}@{machine.host}",
        ]  # fmt: skip

    async def why(self, ref: wire.RunRef) -> wire.Why:
        record = await self.record(ref.run)
        run = record.run
        return rows.why(run, self._spec(run), self.live(run.id), record.copies, now=self._ctx.now())

    async def history(self, order: wire.SeriesRead) -> wire.SeriesOf:
        run = await self.find(order.run)
        return telemetry.series(run.id, self.live(run.id), order, self._ctx.now())

    async def events(self, query: wire.EventsRead) -> wire.Events:
        run = None if query.run is None else (await self.find(query.run)).id
        found = await self._ctx.ledger.events(
            since=number_of(query.since), run=run, limit=max(1, min(query.limit, 5000))
        )
        return wire.Events(
            events=[rows.event_row(x) for x in found], next=found[-1].seq if found else query.since
        )

    async def read_log(self, query: wire.LogRead) -> wire.LogChunk:
        run = await self.find(query.run)
        path = self._ctx.vault.log(run.id)
        limit = max(1, min(query.limit, 1 << 20))
        size, start, data = await asyncio.to_thread(read_log, path, query.offset, limit)
        return wire.LogChunk(run=run.id, offset=start, data=data, size=size, complete=self._log_complete(run))

    def _log_complete(self, run: Run) -> bool:
        return self.live(run.id).log_complete or run.state in FINAL


def number_of(since: int) -> int:
    """A number that an event can have."""
    return max(0, min(since, (1 << 63) - 1))


def read_log(path: Path, offset: int, limit: int) -> tuple[int, int, bytes]:
    """(size, start, data) of a captured log; an absent one is empty. Blocking."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            start = max(0, size + offset) if offset < 0 else min(offset, size)
            file.seek(start)
            return size, start, file.read(limit)
    except FileNotFoundError:
        return 0, 0, b""
