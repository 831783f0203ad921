"""A daemon that only remembers: serves a recording over the real protocol, at its own pace.

The app cannot tell it from a daemon, except that nothing can be changed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from gputui.replay.records import Header, Record
from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed

_LONGEST_PAUSE = 3.0
"""Seconds that are played of a time in which nothing happened."""


class ReplayServer:
    """Serves `records` at `path`; `speed` times as fast, 0 is everything at once."""

    def __init__(self, path: Path, header: Header, records: list[Record], *, speed: float = 1.0) -> None:
        self._path = path
        self._header = header
        self._records = records
        self._speed = speed
        self.finished = asyncio.Event()
        """Set when the last record has been played."""
        self._runs = wire.Runs(runs=[], accounts=[], burn=0, now=header.started)
        self._details: dict[str, wire.RunDetail] = {}
        self._whys: dict[str, wire.Why] = {}
        self._offers = wire.Offers(offers=[], problems=["no market was recorded"])
        self._events: list[wire.EventRow] = []
        self._samples: dict[str, list[wire.Sample]] = {}
        self._logs: dict[str, bytearray] = {}
        self._complete: set[str] = set()
        self._news = asyncio.Condition()
        self._version = 0
        self._clients: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Listen and play, until cancelled."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        server = await asyncio.start_unix_server(self._accept, str(self._path), limit=wire.MAX_LINE)
        try:
            await self._play()
            await asyncio.Event().wait()
        finally:
            server.close()
            for task in list(self._clients):
                task.cancel()
            await asyncio.gather(*self._clients, return_exceptions=True)
            self._path.unlink(missing_ok=True)

    async def _play(self) -> None:
        before = 0.0
        for record in self._records:
            pause = min(_LONGEST_PAUSE, record.at - before)
            before = record.at
            if self._speed > 0 and pause > 0:
                await asyncio.sleep(pause / self._speed)
            self._apply(record)
            if self._speed > 0:
                await self._tell()
        await self._tell()
        self.finished.set()

    async def _tell(self) -> None:
        async with self._news:
            self._version += 1
            self._news.notify_all()

    def _apply(self, record: Record) -> None:
        """One record into what is known."""
        if record.runs is not None:
            self._runs = record.runs
        if record.detail is not None:
            self._details[record.detail.run.id] = record.detail
            known = {event.seq for event in self._events}
            self._events += [event for event in record.detail.events if event.seq not in known]
            self._samples.setdefault(record.detail.run.id, record.detail.samples)
        if record.why is not None:
            self._whys[record.why.run] = record.why
        if record.offers is not None:
            self._offers = record.offers
        if record.event is not None and record.event.seq not in {event.seq for event in self._events}:
            self._events.append(record.event)
        if record.run is not None and record.sample is not None:
            self._samples.setdefault(record.run, []).append(record.sample)
        if record.run is not None and record.log is not None:
            self._logs.setdefault(record.run, bytearray()).extend(record.log.data)
            if record.log.complete:
                self._complete.add(record.run)

    # --- the protocol ----------------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio runs handlers as tasks
        self._clients.add(task)
        streams: dict[int, asyncio.Task[None]] = {}
        number = 0
        try:
            while line := await reader.readline():
                request = msgspec.json.decode(line, type=wire.Request)
                result: wire.Struct | None = None
                failure: wire.Failure | None = None
                try:
                    if request.method == "subscribe":
                        number += 1
                        result = wire.Subscribed(subscription=number)
                    elif request.method == "unsubscribe":
                        ended = msgspec.json.decode(request.params, type=wire.Unsubscribe).subscription
                        if ended in streams:
                            streams.pop(ended).cancel()
                        result = wire.Empty()
                    else:
                        result = self._answer(request)
                except CallFailed as error:
                    failure = wire.Failure(code=error.code, message=str(error))
                raw = msgspec.Raw(msgspec.json.encode(result))
                reply = wire.Reply(id=request.id, result=raw, error=failure)
                writer.write(msgspec.json.encode(reply) + b"\n")
                if request.method == "subscribe":
                    order = msgspec.json.decode(request.params, type=wire.Subscribe)
                    streams[number] = asyncio.create_task(
                        self._stream(order, number, writer), name="replay-stream"
                    )
                await writer.drain()
        except (OSError, asyncio.CancelledError, msgspec.DecodeError):
            pass
        finally:
            self._clients.discard(task)
            for stream in streams.values():
                stream.cancel()
            await asyncio.gather(*streams.values(), return_exceptions=True)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _answer(self, request: wire.Request) -> wire.Struct:
        answers: dict[str, Callable[[], wire.Struct]] = {
            "hello": lambda: wire.Welcome(
                protocol=wire.PROTOCOL,
                version=f"{self._header.version} (replay)",
                pid=0,
                state_dir="",
                vault="",
            ),
            "status": self._status,
            "runs": lambda: self._runs,
            "offers": lambda: self._offers,
            "run": lambda: self._detail(msgspec.json.decode(request.params, type=wire.RunRef).run),
            "why": lambda: self._why(msgspec.json.decode(request.params, type=wire.RunRef).run),
            "destroy": lambda: self._custody(msgspec.json.decode(request.params, type=wire.Destroy)),
            "log.read": lambda: self._log(msgspec.json.decode(request.params, type=wire.LogRead)),
            "events": lambda: self._timeline(msgspec.json.decode(request.params, type=wire.EventsRead)),
        }
        if (answer := answers.get(request.method)) is None:
            raise CallFailed(wire.Code.CONFLICT, "this is a recording: nothing can be changed in it")
        return answer()

    def _status(self) -> wire.Struct:
        return wire.DaemonStatus(
            version=f"{self._header.version} (replay)", pid=0, uptime=0.0, state_dir="", vault="", socket=str(self._path),
            runs={}, accounts=self._runs.accounts, alarms=[], rss=0,
        )  # fmt: skip

    def _ident(self, ref: str) -> str:
        rows = self._runs.runs
        for row in rows:
            if ref in {row.id, row.name} or (ref and row.id.startswith(ref)):
                return row.id
        raise CallFailed(wire.Code.NOT_FOUND, f"the recording has no run {ref[:60]!r}")

    def _detail(self, ref: str) -> wire.RunDetail:
        ident = self._ident(ref)
        detail = self._details.get(ident)
        if detail is None:
            raise CallFailed(wire.Code.NOT_FOUND, "the recording has no more of this run than its row")
        row = next(row for row in self._runs.runs if row.id == ident)
        events = [event for event in self._events if event.run == ident]
        return msgspec.structs.replace(detail, run=row, events=events, samples=self._samples.get(ident, []))

    def _why(self, ref: str) -> wire.Why:
        ident = self._ident(ref)
        if ident not in self._whys:
            raise CallFailed(wire.Code.NOT_FOUND, "the recording does not say why")
        return self._whys[ident]

    def _custody(self, order: wire.Destroy) -> wire.CustodyReport:
        if not order.preview:
            raise CallFailed(wire.Code.CONFLICT, "this is a recording: nothing can be destroyed in it")
        return self._detail(order.run).custody

    def _log(self, query: wire.LogRead) -> wire.LogChunk:
        ident = self._ident(query.run)
        return self._chunk(ident, query.offset, query.limit)

    def _chunk(self, run: str, offset: int, limit: int) -> wire.LogChunk:
        data = self._logs.get(run, bytearray())
        start = max(0, len(data) + offset) if offset < 0 else min(offset, len(data))
        return wire.LogChunk(
            run=run,
            offset=start,
            data=bytes(data[start : start + limit]),
            size=len(data),
            complete=run in self._complete,
        )

    def _timeline(self, query: wire.EventsRead) -> wire.Events:
        found = [e for e in self._events if e.seq > query.since and query.run in {None, e.run}][: query.limit]
        return wire.Events(events=found, next=found[-1].seq if found else query.since)

    async def _stream(self, order: wire.Subscribe, number: int, writer: asyncio.StreamWriter) -> None:
        since, first = order.since, True
        run = order.run or ""
        sent = len(self._samples.get(run, ()))
        while True:
            seen, notices = self._version, list[wire.Notice]()
            if order.topic == "runs":
                notices = [wire.Notice(subscription=number, runs=self._runs)]
            elif order.topic == "events":
                fresh = [e for e in self._events if e.seq > since and order.run in {None, e.run}]
                notices = [wire.Notice(subscription=number, event=e) for e in fresh]
                since = max([since, *(e.seq for e in fresh)])
            elif order.topic == "log":
                chunk = self._chunk(run, since, 1 << 18)
                if chunk.data or first or chunk.complete:
                    notices = [wire.Notice(subscription=number, log=chunk)]
                since = chunk.offset + len(chunk.data)
            elif order.topic == "telemetry":
                samples = self._samples.get(run, [])
                notices = [wire.Notice(subscription=number, sample=s) for s in samples[sent:]]
                sent = len(samples)
            for notice in notices:
                reply = wire.Reply(method="notice", params=msgspec.Raw(msgspec.json.encode(notice)))
                writer.write(msgspec.json.encode(reply) + b"\n")
            await writer.drain()
            first = False
            await self._changed(seen)

    async def _changed(self, seen: int) -> None:
        """Wait until something was played after version `seen`."""
        async with self._news:
            await self._news.wait_for(lambda: self._version != seen)
