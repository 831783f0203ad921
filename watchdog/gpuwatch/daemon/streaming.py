"""Subscriptions: the fleet, events, a log, telemetry, pushed as they change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from gpuwatch.clean import clean
from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed
from gpuwatch.daemon import rows, telemetry
from gpuwatch.daemon.looking import Looking, number_of, read_log
from gpuwatch.lifecycle.run import Run

PUSH_SECONDS = 0.25
"""Subscribers get at most one fleet snapshot in this time."""


class Streaming(Looking):
    """Streams of what `Looking` reads."""

    async def stream(self, order: wire.Subscribe, number: int) -> AsyncIterator[wire.Notice]:
        """The notices of one subscription, for ever. Raises CallFailed for a wrong topic or run."""
        match order.topic:
            case "runs":
                source = self._stream_runs(number)
            case "events":
                source = self._stream_events(order, number)
            case "log":
                source = self._stream_log(await self.find(order.run or ""), order.since, number)
            case "telemetry":
                source = self._stream_samples(await self.find(order.run or ""), number)
            case _:
                raise CallFailed(
                    wire.Code.USAGE, f"no topic {clean(order.topic, 40)!r}: runs, events, log, telemetry"
                )
        async for notice in source:
            yield notice

    async def _stream_runs(self, number: int) -> AsyncIterator[wire.Notice]:
        while True:
            waits: list[asyncio.Task[Any]] = [asyncio.create_task(self._ctx.ledger.changed())]
            waits += [asyncio.create_task(live.changed.wait()) for live in self.lives.values()]
            yield wire.Notice(subscription=number, runs=self.snapshot())
            try:
                # money and ages move by themselves, so there is a picture at least every 2 s
                await asyncio.wait(waits, timeout=2, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
            await asyncio.sleep(PUSH_SECONDS)

    async def _stream_events(self, order: wire.Subscribe, number: int) -> AsyncIterator[wire.Notice]:
        run = None if order.run is None else (await self.find(order.run)).id
        since = number_of(order.since)
        while True:
            changed = asyncio.create_task(self._ctx.ledger.changed())
            try:
                for stored in await self._ctx.ledger.events(since=since, run=run, limit=500):
                    since = stored.seq
                    yield wire.Notice(subscription=number, event=rows.event_row(stored))
                await changed
            finally:
                changed.cancel()

    async def _stream_log(self, run: Run, since: int, number: int) -> AsyncIterator[wire.Notice]:
        path, live = self._ctx.vault.log(run.id), self.live(run.id)
        position = since
        first = True
        while True:
            logged = live.logged
            size, start, data = await asyncio.to_thread(read_log, path, position, 1 << 18)
            complete = (
                self._log_complete(self._ctx.ledger.runs.get(run.id, run)) and start + len(data) >= size
            )
            if data or first or complete:
                chunk = wire.LogChunk(run=run.id, offset=start, data=data, size=size, complete=complete)
                yield wire.Notice(subscription=number, log=chunk)
            position, first = start + len(data), False
            if complete:
                return
            if not data:
                waits: list[asyncio.Task[Any]] = [
                    asyncio.create_task(logged.wait()),
                    asyncio.create_task(self._ctx.ledger.changed()),
                ]
                try:
                    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for wait in waits:
                        wait.cancel()

    async def _stream_samples(self, run: Run, number: int) -> AsyncIterator[wire.Notice]:
        live = self.live(run.id)
        while True:
            await live.reported.wait()
            if live.report is not None:
                yield wire.Notice(subscription=number, sample=telemetry.sample_row(live.report))
