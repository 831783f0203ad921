"""The daemon's face: which call does what. Everything that changes a run goes through events."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

from gpuwatch import __version__
from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed
from gpuwatch.daemon import accounting, retained, standing
from gpuwatch.daemon.billing import Bills
from gpuwatch.daemon.context import Context
from gpuwatch.daemon.ending import Ending
from gpuwatch.daemon.halting import Halting
from gpuwatch.daemon.mending import Mending
from gpuwatch.daemon.streaming import Streaming
from gpuwatch.lifecycle.evolve import Impossible
from gpuwatch.paths import Paths
from gpuwatch.prices import PriceBook


class Service(Halting, Mending, Streaming, Ending):
    """What clients can ask for. `start_run` starts driving a run; `stop` asks the daemon to end."""

    def __init__(
        self, ctx: Context, paths: Paths, *, start_run: Callable[[str], None], stop: Callable[[], None]
    ) -> None:
        super().__init__(ctx, start_run=start_run, prices=PriceBook(paths.state / "prices.jsonl"))
        self._paths = paths
        self._bills = Bills(ctx)
        self._stop = stop
        self._started = asyncio.get_running_loop().time()
        self._calls: dict[str, Callable[[Any], Awaitable[wire.Struct]]] = {
            "hello": self.hello,
            "status": self.status,
            "shutdown": self.shutdown,
            "offers": self.offers,
            "offers.history": self.prices,
            "machines": self.machines,
            "machine.avoid": self.avoid,
            "machine.forgive": self.forgive,
            "spec.check": self.check_spec,
            "launch": self.launch,
            "run.retry": self.retry,
            "run.stop": self.halt,
            "run.start": self.start,
            "run.recover": self.recover,
            "runs": self.runs,
            "runs.ended": self.ended,
            "run": self.run,
            "why": self.why,
            "destroy": self.destroy,
            "destroy.cancel": self.cancel,
            "holds": self.holds,
            "hold": self.hold,
            "hold.release": self.release,
            "alarm.resolve": self.resolve,
            "log.read": self.read_log,
            "telemetry.history": self.history,
            "mirror.status": self.mirrors,
            "cost": self.cost,
            "events": self.events,
        }

    async def call(self, method: str, params: wire.Struct) -> wire.Struct:
        """Dispatch. Raises CallFailed with a stable code."""
        try:
            return await self._calls[method](params)
        except Impossible as error:
            # the run moved on while the call was made
            raise CallFailed(wire.Code.CONFLICT, f"{error}; look again and decide anew") from error

    async def hello(self, _: wire.Hello) -> wire.Welcome:
        return wire.Welcome(
            protocol=wire.PROTOCOL, version=__version__, pid=os.getpid(), state_dir=str(self._paths.state),
            vault=str(self._ctx.vault.root),
        )  # fmt: skip

    async def status(self, _: wire.Empty) -> wire.DaemonStatus:
        return wire.DaemonStatus(
            version=__version__, pid=os.getpid(), uptime=asyncio.get_running_loop().time() - self._started,
            state_dir=str(self._paths.state), vault=str(self._ctx.vault.root), socket=str(self._paths.socket),
            runs=await self._ctx.ledger.counts(), accounts=self.accounts(), alarms=self.alarms(),
            rss=await asyncio.to_thread(_rss),
        )  # fmt: skip

    async def mirrors(self, order: wire.MirrorQuery) -> wire.MirrorStatus:
        """How far runs are on their remotes."""
        run = None if order.run is None else (await self.find(order.run)).id
        return wire.MirrorStatus(
            mirrors=standing.rows(self._ctx, run), retention=retained.rows(self._ctx, run)
        )

    async def cost(self, order: wire.CostQuery) -> wire.CostReport:
        """What runs have cost, what they will cost, how long the balances last."""
        ledger, now = self._ctx.ledger, self._ctx.now()
        if order.run is not None:
            runs = [await self.find(order.run)]
        else:
            known = {run.id: run for run in await ledger.ended(now, 100)} | dict(ledger.runs)
            runs = sorted(known.values(), key=lambda run: -run.created_at)
        charges = await self._bills.of(runs)
        return accounting.report(self._ctx, self.lives, runs, now, asyncio.get_running_loop().time(), charges)

    async def shutdown(self, _: wire.Empty) -> wire.Empty:
        self._stop()
        return wire.Empty()


def _rss() -> int:
    """Resident memory of this process, bytes."""
    import psutil

    return int(psutil.Process().memory_info().rss)
