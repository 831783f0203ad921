"""A daemon that is all script: it speaks the real protocol over a real Unix socket from a `World`.

Tests replace the source, not the UI. By hand: `python tests/ui/fake_daemon.py --socket PATH`
serves the small fleet and lets it live (steps, log lines); point `GPUTUI_HOME` at its folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from ui.scenario import GB, World, gpu_row, sample, small_fleet

from gpuwatch.client import wire

Hook = Callable[[Any], Any]


class Fault(Exception):
    """Answer a call with this error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(eq=False)
class Stream:
    """One subscription of one client."""

    ident: int
    what: wire.Subscribe
    writer: asyncio.StreamWriter


class FakeDaemon:
    """Serves `world` at `path`. `hooks[method]` (maybe async) replaces one method; `calls` records every call."""

    def __init__(self, path: Path, world: World | None = None) -> None:
        self.path = path
        self.world = world if world is not None else small_fleet()
        self.hooks: dict[str, Hook] = {}
        self.calls: list[tuple[str, Any]] = []
        self.counts: Counter[str] = Counter()
        self.streams: list[Stream] = []
        self.protocol = wire.PROTOCOL
        self._news = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._handlers: set[asyncio.Task[None]] = set()
        self._next = 0

    async def start(self) -> None:
        """Listen; may be called again after `stop`."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, str(self.path), limit=wire.MAX_LINE)

    async def stop(self) -> None:
        """Go away as a killed daemon does: every connection breaks, nobody answers."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.path.unlink(missing_ok=True)
        await self.drop_clients()

    async def drop_clients(self) -> None:
        """Break every connection but keep listening."""
        for writer in list(self._writers):
            writer.transport.abort()
        handlers = [task for task in self._handlers if task is not asyncio.current_task()]
        if handlers:
            await asyncio.wait(handlers, timeout=10)

    async def called(self, method: str, times: int = 1) -> Any:
        """Wait until `method` has been called `times` times; the parameters of the last call."""
        async with asyncio.timeout(20), self._news:
            await self._news.wait_for(lambda: self.counts[method] >= times)
        return [params for name, params in self.calls if name == method][-1]

    async def subscribed(self, topic: str, run: str | None = None) -> Stream:
        """Wait for a live subscription."""

        def live() -> list[Stream]:
            return [s for s in self.streams if s.what.topic == topic and s.what.run == run]

        async with asyncio.timeout(20), self._news:
            await self._news.wait_for(lambda: bool(live()))
        return live()[-1]

    # --- news ------------------------------------------------------------------------------------

    def push_runs(self) -> None:
        """Tell everyone who watches the fleet."""
        self._push("runs", None, runs=self.world.fleet())

    def push_event(self, run: str, kind: str, text: str) -> None:
        """Something happened."""
        event = self.world.add_event(run, kind, text)
        for stream in list(self.streams):
            if stream.what.topic == "events" and stream.what.run in {None, run}:
                self._notice(stream, event=event)

    def push_sample(self, run: str, value: wire.Sample) -> None:
        """The box reported."""
        self.world.samples.setdefault(run, []).append(value)
        self._push("telemetry", run, sample=value)

    def append_log(self, run: str, data: bytes, *, complete: bool = False) -> None:
        """The job wrote something."""
        log = self.world.logs.setdefault(run, bytearray())
        start = len(log)
        log += data
        if complete:
            self.world.log_complete.add(run)
        self._push("log", run, log=self._chunk(run, start, len(data)))

    def _push(self, topic: str, run: str | None, **payload: Any) -> None:
        for stream in list(self.streams):
            if stream.what.topic == topic and stream.what.run == run:
                self._notice(stream, **payload)

    def _notice(self, stream: Stream, **payload: Any) -> None:
        notice = wire.Notice(subscription=stream.ident, **payload)
        reply = wire.Reply(method="notice", params=msgspec.Raw(msgspec.json.encode(notice)))
        stream.writer.write(msgspec.json.encode(reply) + b"\n")

    # --- the protocol ----------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        self._writers.add(writer)
        answers: set[asyncio.Task[None]] = set()
        try:
            while line := await reader.readline():
                request = msgspec.json.decode(line, type=wire.Request)
                answer = asyncio.create_task(self._answer(request, writer))
                answers.add(answer)
                answer.add_done_callback(answers.discard)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for answer in answers:
                answer.cancel()
            await asyncio.gather(*answers, return_exceptions=True)
            self.streams = [s for s in self.streams if s.writer is not writer]
            self._writers.discard(writer)
            self._handlers.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, request: wire.Request, writer: asyncio.StreamWriter) -> None:
        after: Callable[[], None] | None = None
        try:
            kind, _ = wire.METHODS[request.method]
            params = msgspec.json.decode(request.params, type=kind)
            self.calls.append((request.method, params))
            if request.method == "subscribe":
                self._next += 1
                stream = Stream(self._next, params, writer)
                result: Any = wire.Subscribed(subscription=stream.ident)
                after = functools.partial(self._begin, stream)
            elif hook := self.hooks.get(request.method):
                result = hook(params)
                if inspect.isawaitable(result):
                    result = await result
            else:
                result = getattr(self, "_" + request.method.replace(".", "_"))(params)
            reply = wire.Reply(id=request.id, result=msgspec.Raw(msgspec.json.encode(result)))
        except Fault as fault:
            reply = wire.Reply(id=request.id, error=wire.Failure(code=fault.code, message=str(fault)))
        writer.write(msgspec.json.encode(reply) + b"\n")
        if after is not None:
            after()
        async with self._news:
            self.counts[request.method] += 1
            self._news.notify_all()

    def _begin(self, stream: Stream) -> None:
        self.streams.append(stream)
        what = stream.what
        if what.topic == "runs":
            self._notice(stream, runs=self.world.fleet())
        elif what.topic == "events":
            for event in self.world.events:
                if event.seq > what.since and what.run in {None, event.run}:
                    self._notice(stream, event=event)
        elif what.topic == "log" and what.run is not None:
            size = len(self.world.logs.get(what.run, b""))
            if what.since < size or what.run in self.world.log_complete:
                self._notice(stream, log=self._chunk(what.run, what.since, size))

    def _chunk(self, run: str, offset: int, limit: int) -> wire.LogChunk:
        log = self.world.logs.get(run, bytearray())
        start = max(0, len(log) + offset) if offset < 0 else min(offset, len(log))
        return wire.LogChunk(
            run=run,
            offset=start,
            data=bytes(log[start : start + limit]),
            size=len(log),
            complete=run in self.world.log_complete,
        )

    def _run_of(self, ref: str) -> wire.RunRow:
        if run := self.world.find(ref):
            return run
        raise Fault(wire.Code.NOT_FOUND, f"there is no run {ref!r}; gputui ls lists them")

    def _hello(self, params: wire.Hello) -> wire.Welcome:
        return wire.Welcome(
            protocol=self.protocol, version="0.1.0", pid=4711, state_dir="/state", vault="/vault"
        )

    def _status(self, params: wire.Empty) -> wire.DaemonStatus:
        world = self.world
        return wire.DaemonStatus(
            version="0.1.0", pid=4711, uptime=8123.0, state_dir="/state", vault="/vault", socket=str(self.path),
            runs=dict(Counter(run.state for run in world.runs)), accounts=world.accounts, alarms=world.alarms, rss=61 * 1_000_000,
        )  # fmt: skip

    def _offers(self, params: wire.OffersQuery) -> wire.Offers:
        wanted = [name.lower() for name in params.gpu]
        rows = [
            o
            for o in self.world.offers
            if (not wanted or any(name in o.gpu.lower() for name in wanted))
            and params.gpu_count in {None, o.gpu_count}
            and (params.max_price is None or o.price <= params.max_price)
            and (params.unverified or o.verified)
            and o.spot == params.spot
        ]
        return wire.Offers(offers=rows[: params.limit], problems=self.world.offer_problems)

    def _offers_history(self, params: wire.PricesQuery) -> wire.Prices:
        return wire.Prices(series=[s for s in self.world.prices if s.spot == params.spot])

    def _spec_check(self, params: wire.SpecText) -> wire.SpecCheck:
        if self.world.check is not None:
            return self.world.check(params)
        problems = []
        if "max_prize" in params.text:
            problems = [
                wire.Problem(
                    file=params.file, key="gpu.max_prize", found="an unknown key", expected="max_price",
                    message="unknown key max_prize; did you mean max_price?",
                )
            ]  # fmt: skip
        return wire.SpecCheck(
            problems=problems,
            name="miras-s",
            plan=[] if problems else [
                "rent 1× H100 SXM or H100 PCIe for at most $2.50/h (best now: vast 9120405 at $2.21/h)",
                "run python train.py --model-size s --resume auto",
                "bring home models/output/final/*.gguf, verify, then destroy",
                "stop launching at $20.00 or 12 h",
            ],
            candidates=[o for o in self.world.offers if "H100" in o.gpu and o.verified and not o.spot]
            if params.market and not problems
            else [],
        )  # fmt: skip

    def _launch(self, params: wire.Launch) -> wire.Launched:
        return wire.Launched(run="n0w1aunc", name="miras-s")

    def _run_retry(self, params: wire.Retry) -> wire.Retried:
        run = self._run_of(params.run)
        if run.instance_id is not None:
            return wire.Retried(run=run.id, name=run.name, text="its files are collected again")
        return wire.Retried(run="n0w1aunc", name=run.name, text="n0w1aunc rents a machine and begins anew")

    def _run_recover(self, params: wire.Recover) -> wire.Retried:
        run = self._run_of(params.run)
        return wire.Retried(
            run=run.id, name=run.name, text="another machine is rented and goes on from step 1750"
        )

    def _machines(self, params: wire.MachinesQuery) -> wire.Machines:
        return wire.Machines(machines=list(self.world.machines))

    def _machine_avoid(self, params: wire.MachineAvoid) -> wire.MachineRow:
        return wire.MachineRow(
            machine=params.machine, gpu=None, gpu_count=None, good=0, reason=params.reason,
            seen=wire.SeenRow(tries=0, duds=0, avoided_until=self.world.now + params.seconds, avoided_by=params.by),
        )  # fmt: skip

    def _machine_forgive(self, params: wire.MachineForgive) -> wire.MachineRow:
        seen = wire.SeenRow(tries=0, duds=0)
        return wire.MachineRow(machine=params.machine, gpu=None, gpu_count=None, good=0, seen=seen)

    def _run_stop(self, params: wire.Stop) -> wire.Retried:
        run = self._run_of(params.run)
        return wire.Retried(
            run=run.id, name=run.name, text="its files are brought home, then the machine is stopped"
        )

    def _run_start(self, params: wire.Start) -> wire.Retried:
        run = self._run_of(params.run)
        return wire.Retried(run=run.id, name=run.name, text="its machine is started, its job is not")

    def _runs(self, params: wire.Empty) -> wire.Runs:
        return self.world.fleet()

    def _run(self, params: wire.RunRef) -> wire.RunDetail:
        return self.world.detail(self._run_of(params.run))

    def _telemetry_history(self, params: wire.SeriesRead) -> wire.SeriesOf:
        run = self._run_of(params.run)
        found: dict[str, list[list[float]]] = {}
        for s in self.world.samples.get(run.id, []):
            pairs = [("loss", s.loss), ("tokens_per_second", s.tokens_per_second)]
            pairs += [(f"gpu{g.index}.utilisation", g.utilisation) for g in s.gpus]
            pairs += [(f"gpu{g.index}.power", g.power) for g in s.gpus]
            for name, value in pairs:
                if value is not None and s.time > self.world.now - params.seconds:
                    found.setdefault(name, []).append([s.time, value, value, value])
        return wire.SeriesOf(
            run=run.id,
            series=[wire.Series(name=name, span=10.0, points=points) for name, points in found.items()],
        )

    def _cost(self, params: wire.CostQuery) -> wire.CostReport:
        runs = self.world.runs if params.run is None else [self._run_of(params.run)]
        return self.world.costs(runs)

    def _why(self, params: wire.RunRef) -> wire.Why:
        return self.world.why(self._run_of(params.run))

    def _destroy(self, params: wire.Destroy) -> wire.CustodyReport:
        run = self._run_of(params.run)
        if params.waive and params.confirm != run.name:
            raise Fault(wire.Code.REFUSED, f"the confirmation must be the run's name, {run.name!r}")
        return self.world.report(run)

    def _destroy_cancel(self, params: wire.Cancel) -> wire.Empty:
        self._run_of(params.run)
        return wire.Empty()

    def _holds(self, params: wire.HoldsQuery) -> wire.Holds:
        runs = self.world.runs if params.run is None else [self._run_of(params.run)]
        return wire.Holds(holds=[wire.RunHold(run=r.id, name=r.name, hold=h) for r in runs for h in r.holds])

    def _hold(self, params: wire.HoldPlace) -> wire.Empty:
        self._run_of(params.run)
        return wire.Empty()

    def _hold_release(self, params: wire.HoldRelease) -> wire.CustodyReport:
        return self.world.report(self._run_of(params.run))

    def _alarm_resolve(self, params: wire.Resolve) -> wire.Empty:
        return wire.Empty()

    def _runs_ended(self, params: wire.EndedQuery) -> wire.Ended:
        return wire.Ended(runs=[], next=None)

    def _log_read(self, params: wire.LogRead) -> wire.LogChunk:
        return self._chunk(self._run_of(params.run).id, params.offset, params.limit)

    def _events(self, params: wire.EventsRead) -> wire.Events:
        rows = [e for e in self.world.events if e.seq > params.since and params.run in {None, e.run}][
            : params.limit
        ]
        return wire.Events(events=rows, next=rows[-1].seq if rows else params.since)

    def _unsubscribe(self, params: wire.Unsubscribe) -> wire.Empty:
        self.streams = [s for s in self.streams if s.ident != params.subscription]
        return wire.Empty()


async def _live(daemon: FakeDaemon) -> None:
    """Let the small fleet live: the first run trains, logs and reports; for looking at by hand."""
    world = daemon.world
    step, started = 1840, asyncio.get_running_loop().time()
    while True:
        await asyncio.sleep(0.5)
        step += 1
        world.now = 1_790_000_000.0 + asyncio.get_running_loop().time() - started
        gpu = gpu_row(
            0, "H100 SXM", 0.9 + 0.08 * math.sin(step / 5), 61.2, 79.6, 640 + 40 * math.sin(step / 7), 63
        )
        news = sample(step, at=world.now, gpus=[gpu])
        run = world.runs[0]
        world.runs[0] = msgspec.structs.replace(
            run, step=step, loss=news.loss, tokens_per_second=news.tokens_per_second, gpus=[gpu], cost=run.cost + 307,
            telemetry_age=0.2,
        )  # fmt: skip
        mover = world.runs[1]
        if mover.transfer is not None:
            done = min(mover.transfer.bytes_total, mover.transfer.bytes_done + 9_200_000)
            left = mover.transfer.bytes_total - done
            transfer = msgspec.structs.replace(mover.transfer, bytes_done=done, eta=left / 18.4e6)
            world.runs[1] = msgspec.structs.replace(
                mover, transfer=transfer, exposure=wire.Exposure(bytes=left, seconds=610, files=3)
            )
        daemon.push_sample(run.id, news)
        daemon.append_log(
            run.id,
            f"\x1b[32mINFO\x1b[0m  step {step:>5} | loss {news.loss:.4f} | {run.exposure.bytes or 0 // GB} B at risk\n".encode(),
        )
        if step % 40 == 0:
            daemon.push_event(run.id, "checkpoint", f"step {step} verified: 1.83 GB in 54s")
        daemon.push_runs()


async def _main(path: Path) -> None:
    daemon = FakeDaemon(path)
    await daemon.start()
    await _live(daemon)


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", type=Path, required=True)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(parser.parse_args().socket))
