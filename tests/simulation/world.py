"""One simulated world: a cloud that lasts, and daemon processes that come and go over one ledger and vault."""

from __future__ import annotations

import asyncio
import gc
import random
import shutil
import sqlite3
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any, Self

import structlog
from simulation.boxes import SimulatedBoxes
from simulation.clock import Crash, SimulatedLoop, Time
from simulation.cloud import Cloud, Faults, Machine, SimulatedProvider, Violation, at_home, promised

from gpuwatch.box.hostkeys import HostKeys
from gpuwatch.client import wire
from gpuwatch.config import Config, Watch
from gpuwatch.daemon import launching, renting
from gpuwatch.daemon.context import Context
from gpuwatch.daemon.main import Children, fleet_of
from gpuwatch.ledger import Ledger
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.run import FINAL, Run, State
from gpuwatch.paths import Paths
from gpuwatch.spec import RunSpec, read_spec
from gpuwatch.vault.layout import Vault

UNEXPECTED: list[str] = []
"""What the daemon caught and logged as a fault of its own: in the simulation that is a failure."""


def _listen(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if event.get("exc_info"):
        UNEXPECTED.append(traceback.format_exc(limit=-6))
    raise structlog.DropEvent


structlog.configure(
    processors=[_listen],
    wrapper_class=structlog.make_filtering_bound_logger(40),
    cache_logger_on_first_use=False,
)

WALL = 1_800_000_000.0 - 1_000_000.0


class _Cursor:
    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self._cursor = cursor

    def __await__(self) -> Any:
        async def done() -> _Cursor:
            return self

        return done().__await__()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._cursor.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        row = self._cursor.fetchone()
        if row is None:
            raise StopAsyncIteration
        return row

    async def fetchone(self) -> Any:
        return self._cursor.fetchone()

    async def fetchall(self) -> list[Any]:
        return self._cursor.fetchall()


class _SeededSecrets:
    """The two functions of `secrets` that the daemon uses, replayable."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self.choice = draw.choice

    def token_hex(self, size: int) -> str:
        return self._draw.randbytes(size).hex()


class Database:
    """SQLite without threads, as aiosqlite looks. A crash rolls back what was not committed."""

    def __init__(self, cloud: Cloud) -> None:
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        self._cloud = cloud

    def execute(self, sql: str, values: Sequence[Any] = ()) -> _Cursor:
        if sql == "COMMIT":
            self._cloud.hook("commit")
            if self._cloud.time.dying:
                return _Cursor(
                    self._connection.execute("SELECT 1")
                )  # dead before the commit: `crash` rolls back
        cursor = _Cursor(self._connection.execute(sql, values))
        if sql == "COMMIT":
            self._cloud.hook("commit:after")
        return cursor

    def executemany(self, sql: str, values: Sequence[Sequence[Any]]) -> _Cursor:
        return _Cursor(self._connection.executemany(sql, values))

    def crash(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    async def close(self) -> None:
        return None

    def dispose(self) -> None:
        self._connection.close()


class World:
    """Everything of one schedule. Use as a context manager."""

    def __init__(self, seed: int, *, faults: Faults | None = None) -> None:
        self.seed = seed
        UNEXPECTED.clear()
        self.draw = random.Random(seed)
        random.seed(seed)
        ids = random.Random(seed + 1)  # what the product draws from the system's randomness
        launching.secrets = renting.secrets = _SeededSecrets(ids)  # type: ignore[attr-defined]
        self.time = Time()
        self.faults = faults or Faults()
        self.cloud = Cloud(self.time, self.draw, self.faults)
        self.cloud.judge = self._judge
        self.cloud.judge_create = self._judge_create
        self.boxes = SimulatedBoxes(self.cloud)
        base = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self.home = Path(tempfile.mkdtemp(prefix="gputui-sim-", dir=base))
        self.vault = Vault(self.home / "vault")
        self.vault.create()
        self.database = Database(self.cloud)
        self.ledger: Ledger | None = None
        self.children: Children | None = None
        self.specs: dict[str, RunSpec] = {}
        self.crashes = 0
        self.spot_risk = 0.0
        self.labels: set[str] = set()
        self._graveyard: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.database.dispose()
        shutil.rmtree(self.home, ignore_errors=True)
        self._bury()

    def _bury(self) -> None:
        """Let the frozen remains of crashed processes go; what their clean-up would still do reaches nothing."""
        if not self._graveyard:
            return
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                loops = [loop for loop, _ in self._graveyard]
                for _, tasks in self._graveyard:
                    for task in tasks:
                        task._log_destroy_pending = False
                self.children = self.ledger = None
                self._graveyard.clear()
                for loop in loops:
                    loop._ready.clear()
                    loop._scheduled.clear()
                gc.collect()
                for loop in loops:
                    loop.close()
        finally:
            sys.unraisablehook = hook

    def now(self) -> float:
        """Wall time of the simulated world."""
        return WALL + self.time.now

    # --- the judge -------------------------------------------------------------------------------

    def run_of(self, label: str) -> str:
        """The run that a label names."""
        return label.removeprefix("gputui-").rsplit("-", 2)[0]

    def _judge(self, machine: Machine) -> None:
        """I1, at the very moment of the destroy: everything promised is at home, or a person gave it up."""
        box = machine.box
        box.run_to(self.time.now)
        if box.job.started is None:
            return
        run_id = self.run_of(machine.label)
        run = self._run(run_id)
        spec = self.specs[run_id]
        waived = set(run.waivers)
        for path, file in box.files.items():
            if not promised(spec, path) or path in waived or "*" in waived:
                continue
            if not at_home(self.vault.root, run_id, path, file.content):
                raise Violation(
                    f"I1: {path} of {run_id} was destroyed with machine {machine.instance_id} and is not at home"
                )
        missing = [a.path for a in spec.artifacts if a.required and a.path not in box.files]
        if missing and not waived:
            raise Violation(f"I1: {run_id} promised {missing} and was destroyed without it or a waiver")

    def _judge_create(self, order: Any) -> None:
        """I2, at the very moment of the create: a label once, known to the ledger, and no second machine of the run."""
        if order.label in self.labels:
            raise Violation(f"I2: label {order.label} was sent twice")
        self.labels.add(order.label)
        run_id = self.run_of(order.label)
        run = self._run(run_id)
        if run.machine is None or run.machine.label != order.label:
            raise Violation(f"I2: label {order.label} is not in the ledger")
        others = [m for m in self.cloud.living() if self.run_of(m.label) == run_id]
        if others:
            raise Violation(f"I2: {run_id} rents a second machine while {others[0].instance_id} lives")

    def _run(self, run_id: str) -> Run:
        """The run as it is durable, read from the database and not from the daemon's memory."""
        import msgspec

        row = self.database._connection.execute("SELECT doc FROM runs WHERE id = ?", (run_id,)).fetchone()
        return msgspec.json.decode(row[0], type=Run)

    def durable(self) -> dict[str, Run]:
        """All runs as they are durable."""
        import msgspec

        rows = self.database._connection.execute("SELECT doc FROM runs").fetchall()
        runs = [msgspec.json.decode(row[0], type=Run) for row in rows]
        return {run.id: run for run in runs}

    def events(self, run_id: str) -> list[e.AnyEvent]:
        """The run's events as they are durable."""
        query = "SELECT data FROM events WHERE run = ? ORDER BY seq"
        return [
            e.DECODER.decode(row[0]) for row in self.database._connection.execute(query, (run_id,)).fetchall()
        ]

    # --- the daemon ------------------------------------------------------------------------------

    def live(self, script: Callable[[World], Any], *, crash_after: int | None = None) -> bool:
        """One daemon process: start, run `script` beside it, stop. False when it crashed."""
        self.time.crash_at = None if crash_after is None else self.time.turns + crash_after
        loop = SimulatedLoop(self.time)
        loop.set_exception_handler(lambda *_: None)
        asyncio.set_event_loop(loop)
        main = loop.create_task(self._process(script))
        try:
            loop.run_until_complete(main)
        except BaseException as error:
            if not isinstance(error, Crash):
                self._graveyard.append((loop, asyncio.all_tasks(loop)))
                raise
            self.crashes += 1
            self.database.crash()
            # whatever the dead process still holds stays frozen: kill -9 runs no clean-up
            self._graveyard.append((loop, asyncio.all_tasks(loop)))
            return False
        else:
            self.time.crash_at = None
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
            return True
        finally:
            asyncio.set_event_loop(None)

    async def _process(self, script: Callable[[World], Any]) -> None:
        from gpuwatch.ledger.schema import PRAGMAS
        from gpuwatch.ledger.store import _migrate

        for pragma in PRAGMAS:
            self.database.execute(pragma)
        await _migrate(self.database, self.home / "ledger.db")  # type: ignore[arg-type]
        ledger = Ledger(self.database, now=self.now)  # type: ignore[arg-type]
        await ledger._load()
        self.ledger = ledger
        config = Config(watch=Watch(accounts="15s", booting="5s", telemetry="10s", lost_create="3m"))
        fleets = {"vast": fleet_of(SimulatedProvider(self.cloud), ledger, config)}
        ctx = Context(
            config=config, ledger=ledger, vault=self.vault, boxes=self.boxes,  # type: ignore[arg-type]
            hostkeys=HostKeys(self.home), key=self.home / "key", public_key="ssh-ed25519 AAAA sim", fleets=fleets,
            trainer=None, now=self.now,
        )  # fmt: skip
        stop = asyncio.Event()
        paths = Paths(config=self.home, state=self.home, runtime=self.home, vault=self.vault.root)
        async with asyncio.TaskGroup() as tasks:
            writer = tasks.create_task(ledger.write())
            self.children = Children(ctx, paths, tasks, stop)
            self.children.start_all()
            try:
                await script(self)
            finally:
                await self.children.end()
            ledger.stop()
            await writer

    # --- what a person does ----------------------------------------------------------------------

    async def launch(self, text: str, key: str) -> str:
        """Launch a run through the daemon's own call."""
        assert self.children is not None
        spec = wire.SpecText(text=text, file="sim.toml", base=str(self.home))
        run = (await self.children.service.launch(wire.Launch(spec=spec, key=key))).run
        # what counts is the spec that the run was made with: a repeated key changes nothing
        self.specs.setdefault(run, read_spec((await self.children.service.find(run)).spec, file="sim.toml"))
        return run

    def learn(self) -> None:
        """Know the specs of runs whose launch call was cut by a crash."""
        for run in self.durable().values():
            self.specs.setdefault(run.id, read_spec(run.spec, file="sim.toml"))

    def settled(self) -> bool:
        """Whether every run is over or waits for a person."""
        assert self.ledger is not None
        return all(r.state in FINAL or r.state is State.FAILED for r in self.ledger.runs.values())

    # --- the end ---------------------------------------------------------------------------------

    def check_end(self) -> None:
        """After a quiet time: no machine that nobody knows, nobody lost that was not taken, every wait has a reason."""
        if self.cloud.violations:
            raise self.cloud.violations[0]
        if UNEXPECTED:
            raise Violation(f"the daemon tripped over itself: {UNEXPECTED[0]}")
        runs = self.durable()
        for machine in self.cloud.living():
            run = runs[self.run_of(machine.label)]
            if run.machine is None or run.machine.instance_id != machine.instance_id:
                raise Violation(
                    f"I2: machine {machine.instance_id} ({machine.label}) lives and its run {run.id} does not know"
                )
            if run.state is not State.FAILED:
                raise Violation(
                    f"machine {machine.instance_id} still lives while {run.id} is {run.state.value}"
                )
            if not run.trouble:
                raise Violation(f"{run.id} waits for a person and does not say why")
        for run in runs.values():
            if run.state not in FINAL and run.state is not State.FAILED:
                raise Violation(f"{run.id} is stuck in {run.state.value}: {run.trouble}")
            taken = [
                m
                for m in self.cloud.machines.values()
                if m.taken is not None and self.run_of(m.label) == run.id
            ]
            if run.state is State.LOST and not taken:
                raise Violation(f"I3: {run.id} counts as lost and nobody took its machine")
            if run.state is State.GONE and run.receipt is not None:
                receipt = self.vault.receipts(run.id) / f"{run.receipt.digest}.json"
                if not receipt.is_file():
                    raise Violation(f"{run.id} is gone and its receipt is not in the vault")
