"""Writes down what the daemon says: the fleet, each run, its log and telemetry, the market once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from gputui.replay.records import Header, Record
from gputui.replay.redact import redact, redact_text
from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed
from gpuwatch.client.stream import AsyncClient

_LOG_BEFORE = 1 << 16
"""Bytes of each log from before the recording."""
_MOST_RUNS = 40
"""Runs whose log and telemetry are followed, what needs a person first."""


class Recorder:
    """One recording, a line at a time to `out`. `clock` is monotonic seconds."""

    def __init__(
        self,
        client: AsyncClient,
        out: Callable[[bytes], object],
        *,
        clock: Callable[[], float],
        logs: bool = True,
    ) -> None:
        self._client = client
        self._out = out
        self._clock = clock
        self._logs = logs
        self._start = clock()
        self._seen: dict[str, Any] = {}
        self.lines = 0
        """Written so far."""

    async def run(self, welcome: wire.Welcome) -> None:
        """Record until cancelled, or until the daemon goes. Raises DaemonUnreachable."""
        fleet = await self._client.call("runs", wire.Empty(), wire.Runs)
        self._write(Header(started=fleet.now, version=welcome.version))
        with suppress(CallFailed):  # no market is part of the truth
            offers = await self._client.call("offers", wire.OffersQuery(), wire.Offers, timeout=60)
            self._put("offers", offers=offers)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._events(), name="record-events")
            async for notice in self._client.notices(wire.Subscribe(topic="runs")):
                if notice.runs is None:
                    continue
                for run in notice.runs.runs[:_MOST_RUNS]:
                    if run.id not in self._seen:
                        group.create_task(self._samples(run.id), name="record-telemetry")
                        if self._logs:
                            group.create_task(self._log(run.id), name="record-log")
                    await self._detail(run)
                self._put("runs", runs=notice.runs)

    async def _detail(self, run: wire.RunRow) -> None:
        key = (run.state, run.checkpoints, run.verified_bytes, run.holds, run.exit_code)
        if self._seen.get(run.id) == key:
            return
        self._seen[run.id] = key
        ref = wire.RunRef(run=run.id)
        detail = await self._client.call("run", ref, wire.RunDetail)
        why = await self._client.call("why", ref, wire.Why)
        self._put("run", run=run.id, detail=detail, why=why)

    async def _events(self) -> None:
        async for notice in self._client.notices(wire.Subscribe(topic="events")):
            if notice.event is not None:
                self._put("event", event=notice.event)

    async def _samples(self, run: str) -> None:
        async for notice in self._client.notices(wire.Subscribe(topic="telemetry", run=run)):
            if notice.sample is not None:
                self._put("sample", run=run, sample=notice.sample)

    async def _log(self, run: str) -> None:
        end = await self._client.call("log.read", wire.LogRead(run=run, offset=-1, limit=1), wire.LogChunk)
        since, rest = max(0, end.size - _LOG_BEFORE), b""
        async for notice in self._client.notices(wire.Subscribe(topic="log", run=run, since=since)):
            if (chunk := notice.log) is None:
                continue
            # a secret may be cut in two by a chunk's end, so whole lines are what is redacted
            data = rest + chunk.data
            cut = len(data) if chunk.complete else data.rfind(b"\n") + 1
            data, rest = data[:cut], data[cut:]
            text = redact_text(data.decode("utf-8", "replace"))
            if data or chunk.complete:
                self._put(
                    "log", run=run, log=msgspec.structs.replace(chunk, data=text.encode(), offset=0, size=0)
                )

    def _put(self, what: str, run: str | None = None, **payload: Any) -> None:
        self._write(Record(at=round(self._clock() - self._start, 3), what=what, run=run, **payload))

    def _write(self, line: msgspec.Struct) -> None:
        plain = msgspec.to_builtins(line)
        log = plain.pop("log", None)
        plain = redact(plain)
        if log is not None:
            plain["log"] = log
        self._out(msgspec.json.encode(plain) + b"\n")
        self.lines += 1
