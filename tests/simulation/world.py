"""One simulated world: a cloud that lasts, a disk that lasts, and daemon processes that come and go between them."""

from __future__ import annotations

import asyncio
import functools
import gc
import random
import secrets
import shutil
import sqlite3
import sys
import tempfile
import traceback
import types
import warnings
from collections.abc import Callable, Iterable, MutableMapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self
from unittest import mock

import msgspec
import structlog
from simulation import runpod, vast
from simulation.boxes import SimulatedBoxes
from simulation.clock import Crash, Deadlock, SimulatedLoop, Time
from simulation.cloud import Cloud, Violation
from simulation.database import Database
from simulation.disk import Disk, broken, no_space
from simulation.faults import Faults, Kind
from simulation.judge import Judge, kept_running, kept_stopped
from simulation.remote import Remotes

from gpuwatch.box.hostkeys import HostKeys
from gpuwatch.client import wire
from gpuwatch.config import Config, Scrub, Watch
from gpuwatch.custody import permit
from gpuwatch.custody.facts import Copy
from gpuwatch.daemon import mirroring, restoring, retaining
from gpuwatch.daemon.clock import SteadyClock, resume
from gpuwatch.daemon.context import Context
from gpuwatch.daemon.main import Children, fleet_of
from gpuwatch.ledger import Ledger
from gpuwatch.ledger.opening import LedgerDamaged, migrate
from gpuwatch.ledger.schema import PRAGMAS
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.run import FINAL, Run, State
from gpuwatch.paths import Paths
from gpuwatch.spec import RunSpec, read_spec
from gpuwatch.vault import let_go
from gpuwatch.vault.layout import Vault, VaultUnusable, forget_folders

_DISK = (Kind.HANG, Kind.ERROR_BEFORE, Kind.ERROR_AFTER, Kind.DELAY)
_GROWS = ("open", "write", "mkdir", "link")
"""What a full disk refuses."""


class World:
    """Everything of one schedule. Use as a context manager; `live` plays one process of the daemon."""

    def __init__(self, seed: int, *, scrub: bool = False, both: bool = False, mirrors: bool = False) -> None:
        self.seed = seed
        self.draw = random.Random(seed)
        self.time = Time()
        self.faults = Faults(self.time, self.draw)
        self.faults.states = self._states
        self.cloud = Cloud(self.time, self.draw)
        self.boxes = SimulatedBoxes(self.cloud, self.faults)
        base = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self.home = Path(tempfile.mkdtemp(prefix="gputui-sim-", dir=base))
        self.vault_root = self.home / "vault"
        self.disk = Disk(self.home, self.draw)
        self.disk.gate = self._disk_gate
        self.database = Database(self.faults)
        self.judge = Judge(self)
        self.cloud.judge_destroy = self.judge.at_destroy
        self.cloud.judge_create = self.judge.at_create
        self.cloud.judge_stop = self.judge.at_stop
        self.cloud.judge_forget = self.judge.leaves_box
        self.provider, self.transport = vast.provider(self.cloud, self.faults)
        self.providers: dict[str, Any] = {"vast": self.provider}
        if both:
            self.providers["runpod"], self.runpod = runpod.provider(self.cloud, self.faults)
        self.remotes = Remotes(self.faults) if mirrors else None
        if self.remotes is not None:
            self.remotes.judge = self.judge.leaves_remote
        open_entry = "SELECT 1 FROM labels WHERE sent_at IS NOT NULL AND buried_at IS NULL"
        self.transport.introduced = lambda: bool(self.rows(open_entry))
        self.scrub = scrub
        self.scrubbed = False
        """Whether, at the end, the scrub had time to read everything once more."""
        self.rotten: dict[Path, bytes] = {}
        """Files of the vault whose bytes rotted, with what they hold since."""
        self.unexpected: list[str] = []
        """What the daemon caught and logged as a fault of its own: in the simulation that is a violation."""
        self.specs: dict[str, RunSpec] = {}
        self.habits: dict[Kind, float] = {}
        """How likely each kind of event is at each moment of a bad day."""
        self.boot = 1
        """Which boot of the daemon's own computer this is."""
        self.clock_ran_ahead = False
        """Whether the clock was ahead after a boot of the computer: that looks like time in which nobody was there."""
        self._offset, self._boot_seen = float("inf"), self.boot
        self.crashes = 0
        self.ledger: Ledger | None = None
        self.children: Children | None = None
        self._loop: SimulatedLoop | None = None
        self._disk_kind: Kind | None = None
        self._graveyard: list[Any] = []
        self._stack = ExitStack()

    @property
    def vault_away(self) -> bool:
        """Whether the vault's disk is not mounted."""
        return self.vault_root.name != "vault"

    # --- the frame -------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        random.seed(self.seed)
        ids = random.Random(self.seed + 1)  # what the product draws from the system's randomness
        patch = self._stack.enter_context
        patch(mock.patch.object(secrets, "choice", ids.choice))
        patch(mock.patch.object(secrets, "token_hex", lambda size=16: ids.randbytes(size).hex()))
        clock = types.SimpleNamespace(monotonic=lambda: self.time.monotonic)
        patch(mock.patch.object(permit, "time", clock))
        if self.remotes is not None:
            for module in (mirroring, restoring, retaining):
                patch(mock.patch.object(module, "make_rclone", self.remotes.make))
            patch(mock.patch.object(let_go, "remove", self._leave_vault))
        patch(self.disk.installed())
        structlog.configure(
            processors=[self._listen], wrapper_class=structlog.make_filtering_bound_logger(40),
            cache_logger_on_first_use=False,
        )  # fmt: skip
        # what dies in a world dies quietly: the clean-up of a dead process is no finding
        patch(mock.patch.object(sys, "unraisablehook", _quietly))
        _settle_garbage()
        return self

    def __exit__(self, *_: object) -> None:
        self.database.dispose()
        self._bury()
        self._stack.close()
        shutil.rmtree(self.home, ignore_errors=True)

    def _bury(self) -> None:
        """Let the frozen remains of crashed processes go; what their clean-up would still do reaches nothing."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loop = task = None
            for loop, tasks in self._graveyard:
                for task in tasks:
                    task._log_destroy_pending = False
                tasks.clear()
                loop.freeze()
            del loop, task
            self.children = self.ledger = self._loop = None
            self.faults._never.clear()
            self._graveyard.clear()
            self.disk.dead = True
            gc.collect()

    def _listen(
        self, _logger: Any, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        error = sys.exc_info()[1]
        if event.get("exc_info") and not (error is not None and _disk_refused(error)):
            self.unexpected.append(traceback.format_exc(limit=-6))
        raise structlog.DropEvent

    def _states(self, run_id: str | None) -> Iterable[str]:
        if self.ledger is None:
            return ()
        runs = self.ledger.runs
        if run_id is not None:
            return (runs[run_id].state.value,) if run_id in runs else ()
        return sorted({r.state.value for r in runs.values() if r.state not in FINAL})

    # --- the disk's faults -----------------------------------------------------------------------

    def _disk_gate(self, operation: str, done: bool) -> None:
        faults = self.faults
        if not done:
            kind = self._disk_kind = faults.choose(f"disk {operation}", _DISK, faults.disk_rate)
            if faults.lasts(Kind.DISK_FULL) and operation in _GROWS:
                faults.note(Kind.DISK_FULL)
                raise no_space(operation)
            if kind is Kind.CRASH_BEFORE:
                faults.die_now()
            if kind is Kind.ERROR_BEFORE:
                faults.note(Kind.DISK_BROKEN)
                raise broken(operation)
        else:
            kind, self._disk_kind = self._disk_kind, None
            if kind in (Kind.HANG, Kind.DELAY) and self._loop is not None:
                self._loop.delay_thread(150.0 if kind is Kind.HANG else 10.0)
            if kind is Kind.CRASH_AFTER:
                faults.die_now()
            if kind is Kind.ERROR_AFTER:
                raise broken(operation)

    # --- the daemon ------------------------------------------------------------------------------

    def live(
        self, script: Callable[[World], Any], *, crash_after: int | None = None, power_cut: bool = False
    ) -> bool:
        """One daemon process: start, run `script` beside it, stop. False when it died.

        `power_cut`: a death takes the unsynced part of the disk with it.
        """
        self.time.crash_at = None if crash_after is None else self.time.turns + crash_after
        loop = self._loop = SimulatedLoop(self.time)
        self.disk.dead = False
        try:
            loop.run_until_complete(self._process(script))
        except BaseException as error:
            self._graveyard.append((loop, asyncio.all_tasks(loop)))
            if isinstance(error, Deadlock):
                raise Violation(
                    "I4: the daemon waits for something that never comes, and does not end"
                ) from error
            if not isinstance(error, Crash) and not _disk_refused(error):
                raise
            self._died(Kind.POWER_CUT if power_cut else Kind.KILL)
            return False
        self.time.crash_at = None
        loop.run_until_complete(loop.shutdown_asyncgens())
        return True

    def _died(self, how: Kind) -> None:
        """Whatever the dead process still holds stays frozen: no clean-up of its runs."""
        self.faults.note(how)
        self.crashes += 1
        self.time.crash_at = None
        self.disk.dead = False
        self.ledger = self.children = None
        self.database.crash(power_cut=how is Kind.POWER_CUT)
        self.disk.release()
        if how is Kind.POWER_CUT:
            self.disk.power_cut()
            self.boot += 1
        self.judge.ledger()

    def _leave_vault(self, vault: Vault, run_id: str, folder: str, copies: Iterable[Copy]) -> int:
        """In the place of `let_go.remove`: judged, then done."""
        kept = list(copies)
        self.judge.leaves_vault(run_id, kept)
        return _leave_vault(vault, run_id, folder, kept)

    def _learn_clock(self, clock: SteadyClock) -> None:
        """A new boot may begin with any time of day; within a boot the daemon has to know better."""
        ahead = clock.offset > self._offset + 1
        if ahead and self.boot != self._boot_seen:
            self.clock_ran_ahead = True
        self._offset, self._boot_seen = clock.offset, self.boot
        self.database.offset = clock.offset

    async def _process(self, script: Callable[[World], Any]) -> None:
        """What `gpuwatch.daemon.main.Daemon.run` does, without socket and signals."""
        forget_folders()
        vault = Vault(self.home / "vault")
        vault.create(self.home / "vaults")
        clock = SteadyClock(
            wall=lambda: self.time.wall, elapsed=lambda: self.time.now, boot=f"boot {self.boot}"
        )
        database: Any = self.database
        for pragma in PRAGMAS:
            await database.execute(pragma)
        await migrate(database, self.home / "ledger.db")
        ledger = Ledger(database, now=clock)
        await ledger._load()
        await resume(clock, ledger)
        self._learn_clock(clock)
        self.ledger = ledger
        config = Config(
            watch=Watch(accounts="20s", booting="8s", telemetry="15s", lost_create="3m"),
            scrub=Scrub(enabled=self.scrub, every="20m", per_day="1GB"),
        )
        boxes: Any = self.boxes
        ctx = Context(
            config=config, ledger=ledger, vault=vault, boxes=boxes, hostkeys=HostKeys(self.home), key=self.home / "key",
            public_key="ssh-ed25519 AAAA sim", trainer=None, now=clock,
            fleets={name: fleet_of(p, ledger, config) for name, p in self.providers.items()},
        )  # fmt: skip
        stop = asyncio.Event()
        paths = Paths(config=self.home, state=self.home, runtime=self.home, vault=vault.root)
        async with asyncio.TaskGroup() as tasks:
            writer = tasks.create_task(ledger.write())
            self.children = Children(ctx, paths, tasks, stop)
            self.children.start_all()
            self.children.start_scrub()
            if self.remotes is not None:
                self.children.start_mirrors()
                self.children.start_retention()
            try:
                await script(self)
            finally:
                await self.children.end()
            ledger.stop()
            await writer

    # --- what is durable -------------------------------------------------------------------------

    def rows(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        """Rows of the ledger as it is durable."""
        return self.database.connection.execute(query, values).fetchall()

    def durable(self) -> dict[str, Run]:
        """All runs as they are durable, not as the daemon remembers them."""
        if not self.rows("SELECT 1 FROM sqlite_master WHERE name = 'runs'"):
            return {}
        runs = [
            msgspec.json.decode(row[0], type=Run) for row in self.rows("SELECT doc FROM runs ORDER BY id")
        ]
        return {run.id: run for run in runs}

    def events(self, run_id: str) -> list[tuple[e.AnyEvent, float]]:
        """The run's durable events with their recorded times."""
        query = "SELECT data, at FROM events WHERE run = ? ORDER BY seq"
        return [(e.DECODER.decode(data), at) for data, at in self.rows(query, (run_id,))]

    def numbered(self, run_id: str) -> list[tuple[e.AnyEvent, int]]:
        """The run's durable events with their numbers."""
        query = "SELECT data, seq FROM events WHERE run = ? ORDER BY seq"
        return [(e.DECODER.decode(data), seq) for data, seq in self.rows(query, (run_id,))]

    # --- what a person does ----------------------------------------------------------------------

    async def launch(self, text: str, key: str) -> str:
        """Launch a run through the daemon's own call."""
        assert self.children is not None
        spec = wire.SpecText(text=text, file="sim.toml", base=str(self.home))
        run = (await self.children.service.launch(wire.Launch(spec=spec, key=key))).run
        self.learn()
        return run

    def learn(self) -> None:
        """Know the specs of all durable runs, also of those whose launch call was cut by a crash."""
        for run in self.durable().values():
            self.specs.setdefault(run.id, read_spec(run.spec, file="sim.toml"))

    def settled(self) -> bool:
        """Whether every run is over or waits for a person."""
        assert self.ledger is not None
        return all(
            r.state in FINAL
            or r.state is State.FAILED
            or (r.state is State.PAUSED and kept_stopped(r))
            or kept_running(r)
            for r in self.ledger.runs.values()
        )


_leave_vault = let_go.remove


def _quietly(_: object) -> None:
    """Say nothing."""


@functools.cache
def _settle_garbage() -> None:
    """Burying the dead means collecting garbage, after each world: all that is imported by now is left out of it."""
    gc.disable()
    gc.collect()
    gc.freeze()


def _disk_refused(error: BaseException) -> bool:
    """Whether the daemon ended because its ledger or its vault could not be used: the init system starts it again."""
    if isinstance(error, BaseExceptionGroup):
        return all(_disk_refused(inner) for inner in error.exceptions)
    return isinstance(error, sqlite3.OperationalError | VaultUnusable | LedgerDamaged)
