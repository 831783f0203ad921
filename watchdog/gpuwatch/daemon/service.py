"""The calls of the daemon's face, as methods. Everything that changes a run goes through events."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from gpuproviders.errors import ProviderError
from gpuproviders.gpus import UnknownGpu, resolve
from gpuproviders.model import OfferQuery
from gpuproviders.money import MicroUsd, format_usd
from gpuwatch import __version__
from gpuwatch.clean import clean
from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed
from gpuwatch.custody.facts import Inventory
from gpuwatch.custody.rules import assess, waivable
from gpuwatch.daemon import rows, scrubbing, telemetry, words
from gpuwatch.daemon.actor import Actor
from gpuwatch.daemon.context import Context
from gpuwatch.daemon.link import alias
from gpuwatch.daemon.live import Live
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.evolve import Impossible
from gpuwatch.lifecycle.orphans import orphans
from gpuwatch.lifecycle.run import EVERYTHING, FINAL, Phase, Run, State
from gpuwatch.paths import Paths
from gpuwatch.spec import RunSpec, SpecError, read_spec
from gpuwatch.spec.units import format_duration, format_size

PUSH_SECONDS = 0.25
"""Subscribers get at most one fleet snapshot in this time."""
_ALPHABET = "abcdefghjkmnpqrstvwxyz23456789"


class Service:
    """What clients can ask for. `start_run` starts driving a run; `stop` asks the daemon to end."""

    def __init__(
        self, ctx: Context, paths: Paths, *, start_run: Callable[[str], None], stop: Callable[[], None]
    ) -> None:
        self._ctx = ctx
        self._paths = paths
        self._start_run = start_run
        self._stop = stop
        self._started = asyncio.get_running_loop().time()
        self.lives: dict[str, Live] = {}
        self.actors: dict[str, Actor] = {}
        self._calls: dict[str, Callable[[Any], Awaitable[wire.Struct]]] = {
            "hello": self.hello,
            "status": self.status,
            "shutdown": self.shutdown,
            "offers": self.offers,
            "spec.check": self.check_spec,
            "launch": self.launch,
            "runs": self.runs,
            "run": self.run,
            "why": self.why,
            "destroy": self.destroy,
            "destroy.cancel": self.cancel,
            "log.read": self.read_log,
            "telemetry.history": self.history,
            "events": self.events,
        }

    async def call(self, method: str, params: wire.Struct) -> wire.Struct:
        """Dispatch. Raises CallFailed with a stable code."""
        return await self._calls[method](params)

    def live(self, run_id: str) -> Live:
        """The live side of a run, made when first asked for."""
        return self.lives.setdefault(run_id, Live())

    # --- the daemon ------------------------------------------------------------------------------

    async def hello(self, _: wire.Hello) -> wire.Welcome:
        return wire.Welcome(
            protocol=wire.PROTOCOL, version=__version__, pid=os.getpid(), state_dir=str(self._paths.state),
            vault=str(self._ctx.vault.root),
        )  # fmt: skip

    async def status(self, _: wire.Empty) -> wire.DaemonStatus:
        counts: dict[str, int] = {}
        alarms = []
        for run in self._ctx.ledger.runs.values():
            counts[run.state.value] = counts.get(run.state.value, 0) + 1
            if words.attention(run, None) == "alarm" and run.exists:
                alarms.append(f"{run.id}: {clean(run.trouble or run.state.value)}")
        for fleet in self._ctx.fleets.values():
            if fleet.listing is not None:
                runs = self._ctx.ledger.runs.values()
                alarms += [clean(str(o), 400) for o in orphans(fleet.listing.instances, runs)]
        alarms += scrubbing.alarms(self._ctx.ledger)
        alarms += telemetry.alarm_lines(
            {i: live for i, live in self.lives.items() if self._ctx.ledger.runs[i].state not in FINAL}
        )
        return wire.DaemonStatus(
            version=__version__, pid=os.getpid(), uptime=asyncio.get_running_loop().time() - self._started,
            state_dir=str(self._paths.state), vault=str(self._ctx.vault.root), socket=str(self._paths.socket),
            runs=counts, accounts=self._accounts(), alarms=alarms, rss=await asyncio.to_thread(_rss),
        )  # fmt: skip

    async def shutdown(self, _: wire.Empty) -> wire.Empty:
        self._stop()
        return wire.Empty()

    def _accounts(self) -> list[wire.AccountRow]:
        ours = {
            m.instance_id
            for run in self._ctx.ledger.runs.values()
            for m in (*run.past, *([run.machine] if run.machine is not None else []))
        }
        found = []
        for name, fleet in self._ctx.fleets.items():
            listed = fleet.listing.instances if fleet.listing is not None else ()
            account = fleet.account
            found.append(
                wire.AccountRow(
                    provider=name,
                    user=account.user_id if account else None,
                    credit=account.credit if account else None,
                    age=fleet.age,
                    problem=fleet.problem,
                    foreign=sum(1 for i in listed if i.instance_id not in ours),
                )
            )
        return found

    # --- the market ------------------------------------------------------------------------------

    async def offers(self, query: wire.OffersQuery) -> wire.Offers:
        try:
            names = tuple(dict.fromkeys(n for wish in query.gpu for n in resolve(wish)))
        except UnknownGpu as error:
            raise CallFailed(
                wire.Code.USAGE, f"{error}. Names are matched in any spelling (h100, rtx_4090)."
            ) from error
        wish = OfferQuery(
            gpu_names=names, gpu_count=query.gpu_count,
            max_price=None if query.max_price is None else MicroUsd(query.max_price), spot=query.spot,
            min_reliability=query.min_reliability, disk=query.disk, verified_only=not query.unverified,
            limit=max(1, min(query.limit, 20_000)),
        )  # fmt: skip
        found: list[wire.OfferRow] = []
        problems: list[str] = []
        fleets = list(self._ctx.fleets.values())
        answers = await asyncio.gather(*(f.provider.offers(wish) for f in fleets), return_exceptions=True)
        for fleet, answer in zip(fleets, answers, strict=True):
            if isinstance(answer, ProviderError):
                problems.append(f"{fleet.provider.name}: {answer}")
            elif isinstance(answer, BaseException):
                raise answer
            else:
                found += [rows.offer_row(o) for o in answer]
        if problems and not found and len(problems) == len(fleets):
            raise CallFailed(wire.Code.PROVIDER, "; ".join(problems))
        found.sort(key=lambda o: (o.price, o.provider, o.offer_id))
        return wire.Offers(offers=found[: wish.limit], problems=problems)

    # --- launching -------------------------------------------------------------------------------

    async def check_spec(self, text: wire.SpecText) -> wire.SpecCheck:
        try:
            spec = await asyncio.to_thread(_read, text)
        except SpecError as error:
            return wire.SpecCheck(problems=_problems(error), name=None, plan=[])
        return wire.SpecCheck(problems=[], name=spec.name, plan=plan(spec))

    async def launch(self, order: wire.Launch) -> wire.Launched:
        try:
            spec = await asyncio.to_thread(_read, order.spec)
        except SpecError as error:
            problems = [p.__dict__ if hasattr(p, "__dict__") else {} for p in error.problems]
            listing = "\n".join(f"  {p}" for p in error.problems)
            raise CallFailed(
                wire.Code.SPEC, f"{error.file} cannot be launched:\n{listing}", {"problems": problems}
            ) from error
        if not order.key or len(order.key) > 200:
            raise CallFailed(wire.Code.USAGE, "a launch needs a key of at most 200 characters")
        if not any(name in self._ctx.fleets for name in spec.providers):
            raise CallFailed(
                wire.Code.PROVIDER,
                f"no account of {' or '.join(spec.providers)} is configured; `gpuwatch doctor` says what is missing",
            )
        # from here to `create` the event loop does not turn: one key makes one run
        known = self._ctx.ledger.run_for_key(order.key)
        if known is not None:
            return wire.Launched(run=known, name=self._ctx.ledger.runs[known].name)
        run_id = self._new_id(spec.name)
        event = e.Requested(
            name=spec.name, spec=order.spec.text, file=order.spec.file, base=order.spec.base, key=order.key,
            provider=order.provider, offer_id=order.offer_id,
        )  # fmt: skip
        self._ctx.specs[run_id] = spec
        await self._ctx.ledger.create(run_id, event)
        self._start_run(run_id)
        return wire.Launched(run=run_id, name=spec.name)

    def _new_id(self, name: str) -> str:
        while True:
            run_id = f"{name}-{''.join(secrets.choice(_ALPHABET) for _ in range(4))}"
            if run_id not in self._ctx.ledger.runs:
                return run_id

    # --- looking ---------------------------------------------------------------------------------

    def find(self, ref: str) -> Run:
        """A run by id, name (the newest) or unique prefix of the id. Raises CallFailed(not-found)."""
        known = self._ctx.ledger.runs
        if ref in known:
            return known[ref]
        named = sorted((r for r in known.values() if r.name == ref), key=lambda r: r.created_at)
        if named:
            return named[-1]
        begins = [r for r in known.values() if r.id.startswith(ref)] if ref else []
        if len(begins) == 1:
            return begins[0]
        if begins:
            names = ", ".join(sorted(r.id for r in begins)[:5])
            raise CallFailed(
                wire.Code.NOT_FOUND, f"{clean(ref, 60)!r} could be any of {names}; give more of the id"
            )
        raise CallFailed(wire.Code.NOT_FOUND, f"no run is called {clean(ref, 60)!r}; `gputui ls` lists them")

    async def runs(self, _: wire.Empty) -> wire.Runs:
        return self.snapshot()

    def snapshot(self) -> wire.Runs:
        """The whole fleet."""
        now, clock = self._ctx.now(), asyncio.get_running_loop().time()
        runs = sorted(self._ctx.ledger.runs.values(), key=lambda r: -r.created_at)
        listed = [
            rows.run_row(
                r, self._spec(r), self.live(r.id), self._ctx.ledger.copies(r.id), now=now, clock=clock
            )
            for r in runs
        ]
        return wire.Runs(
            runs=listed, accounts=self._accounts(), burn=sum(rows.burn(r) for r in runs), now=now
        )

    async def run(self, ref: wire.RunRef) -> wire.RunDetail:
        run = self.find(ref.run)
        live, copies, now = self.live(run.id), self._ctx.ledger.copies(run.id), self._ctx.now()
        clock = asyncio.get_running_loop().time()
        return wire.RunDetail(
            run=rows.run_row(run, self._spec(run), live, copies, now=now, clock=clock),
            custody=rows.custody_report(run, self._spec(run), live, copies, now=now),
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
        name = alias(machine)
        return [
            "ssh", "-i", str(self._ctx.key), "-p", str(machine.port), "-o", "IdentitiesOnly=yes",
            "-o", f"HostKeyAlias={name}", "-o", f"UserKnownHostsFile={self._ctx.hostkeys.path(name)}",
            f"{machine.user}@{machine.host}",
        ]  # fmt: skip

    async def why(self, ref: wire.RunRef) -> wire.Why:
        run = self.find(ref.run)
        return rows.why(
            run, self._spec(run), self.live(run.id), self._ctx.ledger.copies(run.id), now=self._ctx.now()
        )

    async def history(self, order: wire.SeriesRead) -> wire.SeriesOf:
        run = self.find(order.run)
        return telemetry.series(run.id, self.live(run.id), order, self._ctx.now())

    async def events(self, query: wire.EventsRead) -> wire.Events:
        run = None if query.run is None else self.find(query.run).id
        found = await self._ctx.ledger.events(
            since=_number(query.since), run=run, limit=max(1, min(query.limit, 5000))
        )
        return wire.Events(
            events=[rows.event_row(x) for x in found], next=found[-1].seq if found else query.since
        )

    async def read_log(self, query: wire.LogRead) -> wire.LogChunk:
        run = self.find(query.run)
        path = self._ctx.vault.log(run.id)
        limit = max(1, min(query.limit, 1 << 20))
        size, start, data = await asyncio.to_thread(_read_log, path, query.offset, limit)
        return wire.LogChunk(run=run.id, offset=start, data=data, size=size, complete=self._log_complete(run))

    def _log_complete(self, run: Run) -> bool:
        return self.live(run.id).log_complete or run.state in FINAL

    # --- ending ----------------------------------------------------------------------------------

    async def destroy(self, order: wire.Destroy) -> wire.CustodyReport:
        """Ask for the end. Never destroys by itself: it writes a wish, and custody decides (I1)."""
        run = self.find(order.run)
        spec, live = self._spec(run), self.live(run.id)
        if order.preview:
            return self._report(run)
        if run.state in FINAL:
            raise CallFailed(
                wire.Code.CONFLICT, f"{run.id} is {run.state.value} already; there is nothing to destroy"
            )
        names = self._waived_files(run, spec, live, order) if order.waive else []
        if run.end_requested_by is None:
            reason = order.reason if order.waive else ""
            await self._ctx.ledger.append(run.id, e.EndRequested(by="a person", reason=reason))
        if names:
            # the wish first: a crash between the two must not leave consent that a later wish would find
            try:
                await self._ctx.ledger.append(run.id, e.Waived(files=names, reason=order.reason))
            except Impossible as error:
                raise CallFailed(
                    wire.Code.CONFLICT,
                    f"{run.id} has changed meanwhile, nothing was given up: look at it again",
                ) from error
        self._nudge(run.id)
        return self._report(self._ctx.ledger.runs[run.id])

    def _waived_files(self, run: Run, spec: RunSpec | None, live: Live, order: wire.Destroy) -> list[str]:
        if order.confirm != run.name:
            raise CallFailed(
                wire.Code.REFUSED,
                f"giving up files needs the run's name typed: confirm = {run.name!r}, not {clean(order.confirm, 40)!r}",
            )
        if not order.reason.strip():
            raise CallFailed(wire.Code.REFUSED, "giving up files needs a reason; it stays in the ledger")
        if not run.data_at_risk or run.state is State.DESTROYING:
            raise CallFailed(
                wire.Code.CONFLICT, f"{run.id} is {run.state.value}: there is nothing to give up"
            )
        if order.waive == [EVERYTHING]:
            return [EVERYTHING]
        if spec is None or live.boot_id is None:
            raise CallFailed(
                wire.Code.REFUSED,
                "the box has not been heard, so single files cannot be named; `--waive-all` gives up everything",
            )
        inventory = Inventory("", live.boot_id, self._ctx.now(), live.files)
        verdict = assess(
            spec, inventory, self._ctx.ledger.copies(run.id), run.waivers, job_succeeded=run.exit_code == 0
        )
        known = waivable(verdict, spec)
        unknown = [w for w in order.waive if w not in known]
        if unknown:
            raise CallFailed(
                wire.Code.USAGE,
                f"not among what is unsafe: {', '.join(clean(u, 80) for u in unknown)}; unsafe now: "
                + (", ".join(clean(k, 80) for k in known[:20]) or "nothing"),
            )
        return list(order.waive)

    async def cancel(self, order: wire.Cancel) -> wire.Empty:
        run = self.find(order.run)
        if run.end_requested_by is None:
            raise CallFailed(wire.Code.CONFLICT, f"nobody asked to end {run.id}")
        if run.state is State.DESTROYING or (
            run.machine is not None and run.machine.destroy is not Phase.NONE
        ):
            raise CallFailed(wire.Code.CONFLICT, f"too late: the destroy of {run.id} has been sent")
        await self._ctx.ledger.append(run.id, e.EndCancelled())
        self._nudge(run.id)
        return wire.Empty()

    def _report(self, run: Run) -> wire.CustodyReport:
        copies = self._ctx.ledger.copies(run.id)
        return rows.custody_report(run, self._spec(run), self.live(run.id), copies, now=self._ctx.now())

    def _nudge(self, run_id: str) -> None:
        if run_id in self.actors:
            self.actors[run_id].nudge()

    def _spec(self, run: Run) -> RunSpec | None:
        return self._ctx.specs.get(run.id)

    # --- streams ---------------------------------------------------------------------------------

    async def stream(self, order: wire.Subscribe, number: int) -> AsyncIterator[wire.Notice]:
        """The notices of one subscription, for ever. Raises CallFailed for a wrong topic or run."""
        match order.topic:
            case "runs":
                source = self._stream_runs(number)
            case "events":
                source = self._stream_events(order, number)
            case "log":
                source = self._stream_log(self.find(order.run or ""), order.since, number)
            case "telemetry":
                source = self._stream_samples(self.find(order.run or ""), number)
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
        run = None if order.run is None else self.find(order.run).id
        since = _number(order.since)
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
            size, start, data = await asyncio.to_thread(_read_log, path, position, 1 << 18)
            complete = self._log_complete(self._ctx.ledger.runs[run.id]) and start + len(data) >= size
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


def plan(spec: RunSpec) -> list[str]:
    """What a launch would do, a line each. Pure."""
    gpus = " or ".join(spec.gpu.names) or "any GPU"
    limit = (
        f" up to {format_usd(spec.gpu.max_price)}/h" if spec.gpu.max_price is not None else ", cheapest first"
    )
    lines = [
        f"rent {spec.gpu.count} × {gpus} on {' or '.join(spec.providers)}{limit}, {format_size(spec.disk)} of disk",
        f"image {spec.image}; SSH must answer within {format_duration(spec.boot.timeout)}",
    ]
    if spec.upload.paths:
        lines.append(f"upload {', '.join(spec.upload.paths)}")
    if spec.setup is not None:
        lines.append(f"set up: {clean(spec.setup.command, 100)}")
    lines.append(f"run: {clean(spec.job.command, 120)}")
    if spec.checkpoints is not None:
        lines.append(f"mirror checkpoints from {spec.checkpoints.path} as they appear")
    promised = ", ".join(a.path for a in spec.artifacts if a.required)
    lines.append(
        f"at the end collect and verify {promised or 'nothing but the log'}, then destroy the machine"
    )
    if spec.budget.max_cost is not None:
        lines.append(f"at {format_usd(spec.budget.max_cost)} stop the job, collect, verify, destroy")
    if spec.budget.max_time is not None:
        lines.append(f"after {format_duration(spec.budget.max_time)} stop the job, collect, verify, destroy")
    return lines


def _read(text: wire.SpecText) -> RunSpec:
    base = Path(text.base)
    return read_spec(text.text, file=text.file, base=base if base.is_absolute() and base.is_dir() else None)


def _problems(error: SpecError) -> list[wire.Problem]:
    return [
        wire.Problem(file=error.file, key=p.key, found=p.found, expected=p.expected, message=str(p))
        for p in error.problems
    ]


def _number(since: int) -> int:
    """A number that an event can have."""
    return max(0, min(since, (1 << 63) - 1))


def _read_log(path: Path, offset: int, limit: int) -> tuple[int, int, bytes]:
    """(size, start, data); an absent log is an empty one."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            start = max(0, size + offset) if offset < 0 else min(offset, size)
            file.seek(start)
            return size, start, file.read(limit)
    except FileNotFoundError:
        return 0, 0, b""


def _rss() -> int:
    """Resident memory of this process, bytes."""
    import psutil

    return int(psutil.Process().memory_info().rss)
