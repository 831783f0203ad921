"""The judge: I1 to I6 of the design, checked from outside the code under test.

It sees what really exists (the cloud, the boxes, the disk as any power cut would leave it, the
ledger as it is durable) and never asks the daemon for its opinion, except where the opinion
itself is what is judged (what the daemon shows, I6).

    I1  `at_destroy`   every promised file surely at home, or given up by a person; a receipt beside it
    I2  `at_create`    a label once, durable first, no second machine; `_nothing_unknown`; foreign ones in `Cloud.destroy`
    I3  `_evidence`    nothing counts as gone, lost or never made that exists; nothing is concluded without network
    I4  `ledger`       the durable events replay to the durable state; sweeps compare the outcome
    I5  `_budget`      a ceiling ends the job, not before its time and not long after
    I6  `_inside`      no file outside the vault; `shown`: no control character in anything that is shown
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec
from simulation.cloud import Machine, Violation
from simulation.faults import Kind
from simulation.vast import run_of

from gpuwatch.custody.facts import Copy
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle import recover
from gpuwatch.lifecycle.evolve import ARROWS, create, evolve
from gpuwatch.lifecycle.run import FINAL, Run, State
from gpuwatch.spec import RunSpec, read_spec

if TYPE_CHECKING:
    from simulation.world import World

EARLY, LATE = 60.0, 2400.0
"""Seconds by which a budget may end a job too early, or too late once everything works."""
_CONCLUSIONS = ("gone", "dud-gone", "lost", "recovering")


class Judge:
    """Judges one world. Every method raises Violation."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._labels: set[str] = set()
        self.let_go: Counter[str] = Counter()
        """Files that retention removed, by the place that they left."""
        self.unnoticed = 0
        """Files that rotted between their proof and the destroy, before anything could notice."""

    # --- at the very moment ----------------------------------------------------------------------

    def at_destroy(self, machine: Machine) -> None:
        """I1: everything promised is surely at home, or a person gave it up."""
        world, box = self._world, machine.box
        if box.job.started is None:
            return
        run = self._owner(machine)
        if run is None:
            raise Violation(
                f"I1: machine {machine.instance_id} ({machine.label}) was destroyed and no run in the ledger has it"
            )
        run_id = run.id
        spec = read_spec(run.spec, file=run.file)
        waived = set(run.waivers)
        if "*" in waived:
            return
        named = self._receipted(run_id)
        for path, file in box.files.items():
            if not promised(spec, path) or path in waived:
                continue
            target = world.vault_root / run_id / path
            if world.disk.surely(target) != file.content:
                if target in world.rotten and not self._noticed(run_id, path):
                    self.unnoticed += 1
                    continue
                raise Violation(
                    f"I1: {path} of {run_id} was destroyed with machine {machine.instance_id} and is not surely at home"
                )
            if path not in named:
                raise Violation(f"I1: {path} of {run_id} is at home and no durable receipt says so")
        if run.of is not None:
            return  # it only collects: what its machine never made, the run that goes on makes
        missing = [a.path for a in spec.artifacts if a.required and a.path not in box.files]
        if missing and not waived:
            raise Violation(f"I1: {run_id} promised {missing} and was destroyed without it or a waiver")
        if not spec.no_artifacts and not waived and not any(promised(spec, p) for p in box.files):
            raise Violation(f"I1: nothing that {run_id} promised exists, and it was destroyed")

    # --- when retention removes --------------------------------------------------------------------

    def leaves_vault(self, run_id: str, copies: Iterable[Copy]) -> None:
        """I1: what retention takes from the vault stands on a remote, byte for byte."""

        def verdict() -> None:
            remotes = self._world.remotes
            there = {
                hashlib.sha256(content).hexdigest()
                for target, content in (remotes.files.items() if remotes is not None else ())
                if f"/runs/{run_id}/" in target
            }
            for copy in copies:
                if (self._world.vault_root / run_id / copy.path).exists() and copy.sha256 not in there:
                    raise Violation(f"I1: {copy.path} of {run_id} leaves the vault and stands nowhere else")
                self.let_go["vault"] += 1

        self._world.cloud.judged(verdict)

    def leaves_remote(self, target: str) -> None:
        """I1: what retention takes from a remote is surely in the vault."""
        self.let_go["remote"] += 1
        run_id, _, rest = target.partition("/runs/")[2].partition("/")
        self._world.cloud.judged(
            lambda: self._at_home(run_id, "ckpt" + rest.removeprefix("checkpoints"), target)
        )

    def leaves_box(self, machine: Machine, path: str) -> None:
        """I1: what retention takes from a box is surely in the vault, as it is there."""

        def verdict() -> None:
            run = self._owner(machine)
            if run is None:
                raise Violation(f"I1: {path} leaves a machine that no run has")
            self.let_go["box"] += 1
            self._at_home(run.id, path, f"its machine {machine.instance_id}", machine.box.files[path].content)

        self._world.cloud.judged(verdict)

    def _at_home(self, run_id: str, path: str, where: str, content: bytes | None = None) -> None:
        target = self._world.vault_root / run_id / path
        found = self._world.disk.surely(target)
        if (found is None or content not in (None, found)) and target not in self._world.rotten:
            raise Violation(f"I1: {path} of {run_id} leaves {where} and is not surely at home")

    def _owner(self, machine: Machine) -> Run | None:
        """The durable run whose machine this is now, else the one that its label names."""
        runs = self._world.durable()
        for run in runs.values():
            if run.machine is not None and run.machine.label == machine.label:
                return run
        return runs.get(run_of(machine.label))

    def _owner_id(self, machine: Machine) -> str | None:
        owner = self._owner(machine)
        return owner.id if owner is not None else None

    def _receipted(self, run_id: str) -> set[str]:
        """The files that a durable receipt of this run names."""
        names: set[str] = set()
        for path in (self._world.vault_root / run_id / ".receipts").glob("*.json"):
            content = self._world.disk.surely(path)
            if content is not None:
                names.update(row["path"] for row in json.loads(content)["files"])
        return names

    def _noticed(self, run_id: str, path: str) -> bool:
        query = "SELECT problem FROM scrubs WHERE run = ? AND path = ? AND problem IS NOT NULL"
        return bool(self._world.rows(query, (run_id, os.fsencode(path))))

    def at_stop(self, machine: Machine) -> None:
        """I5, and a person's word: only a machine whose job is over is stopped, after its stop was written down, and
        none that somebody holds."""
        run = self._owner(machine)
        if run is None or run.machine is None or run.machine.label != machine.label:
            raise Violation(
                f"I2: machine {machine.instance_id} ({machine.label}) was stopped and no run in the ledger has it"
            )
        sent = any(isinstance(event, e.StopSent) for event, _ in self._world.numbered(run.id))
        started = any(
            isinstance(event, e.WakeRequested | e.EndRequested) for event, _ in self._world.numbered(run.id)
        )
        if not sent:
            raise Violation(
                f"I4: machine {machine.instance_id} of {run.id} was stopped and the ledger does not know"
            )
        if run.pins:
            raise Violation(
                f"I5: machine {machine.instance_id} of {run.id} was stopped while {run.pins[0].name} held it"
            )
        job = machine.box.job
        if job.started is not None and job.ended is None and not started:
            raise Violation(f"I5: machine {machine.instance_id} of {run.id} was stopped while its job ran")

    def at_create(self, label: str) -> None:
        """I2: a label once, known to the ledger first, and no second machine of the run."""
        if label in self._labels:
            raise Violation(f"I2: label {label} was sent twice")
        self._labels.add(label)
        run_id = run_of(label)
        run = self._world.durable().get(run_id)
        if run is None or run.machine is None or run.machine.label != label:
            raise Violation(f"I2: label {label} is not in the ledger")
        # one that was taken and came back just now, or that another run drives, is not forgotten
        others = [
            m
            for m in self._world.cloud.living()
            if run_of(m.label) == run_id and not m.takes and self._owner_id(m) == run_id
        ]
        if others:
            raise Violation(f"I2: {run_id} rents a second machine while {others[0].instance_id} lives")

    # --- after each death of a process, and at the end -------------------------------------------

    def ledger(self) -> dict[str, Run]:
        """I4: the durable events replay to the durable state. Returns that state."""
        runs = self._world.durable()
        for run_id, run in runs.items():
            replayed: Run | None = None
            for event, at in self._world.events(run_id):
                if type(event) not in ARROWS and not isinstance(event, e.Requested | e.TakenOver):
                    continue  # it is about a machine, not about its run
                replayed = (
                    create(run_id, event, at)
                    if isinstance(event, e.Requested | e.TakenOver)
                    else evolve(_made(replayed), event, at)
                )
            if msgspec.json.encode(replayed) != msgspec.json.encode(run):
                raise Violation(f"I4: the events of {run_id} do not replay to its state")
        return runs

    def end(self) -> None:
        """After a quiet time: everything that is asked of the world at its end."""
        world = self._world
        if world.cloud.violations:
            raise world.cloud.violations[0]
        if world.unexpected:
            raise Violation(f"the daemon tripped over itself: {world.unexpected[0]}")
        runs = self.ledger()
        self._nothing_unknown(runs)
        for run in runs.values():
            self._settled(run)
            self._evidence(run)
            self._budget(run)
        self._receipts(runs.values())
        self._rot()
        self._inside(runs)

    def _nothing_unknown(self, runs: dict[str, Run]) -> None:
        for machine in self._world.cloud.living():
            run = self._owner(machine)
            if run is None:
                raise Violation(
                    f"I2: machine {machine.instance_id} ({machine.label}) lives and the ledger has no such run"
                )
            if run.machine is None or run.machine.instance_id != machine.instance_id:
                raise Violation(
                    f"I2: machine {machine.instance_id} ({machine.label}) lives and its run {run.id} does not know"
                )
            if run.state is State.PAUSED:
                if not machine.halted:
                    raise Violation(
                        f"I5: {run.id} counts as stopped and machine {machine.instance_id} runs and bills"
                    )
                continue
            if run.state is not State.FAILED and not kept_running(run):
                raise Violation(
                    f"I2: machine {machine.instance_id} still lives while {run.id} is {run.state.value}"
                )
            if not run.trouble and run.state is State.FAILED:
                raise Violation(f"I2: {run.id} waits for a person and does not say why")

    def _settled(self, run: Run) -> None:
        if run.state is State.PAUSED and not kept_stopped(run):
            raise Violation(f"I4: {run.id} is stopped, and its second timer never ended it: {run.trouble}")
        if run.state not in FINAL and run.state not in (State.FAILED, State.PAUSED) and not kept_running(run):
            raise Violation(f"I4: {run.id} is stuck in {run.state.value}: {run.trouble}")

    def _evidence(self, run: Run) -> None:
        """I3: what counts as gone is gone, and nobody concluded that without a network."""
        world = self._world
        named = [m for m in world.cloud.machines.values() if run_of(m.label) == (run.of or run.id)]
        mine = [m for m in named if self._owner_id(m) == run.id]
        if run.state is State.LOST and not any(m.takes for m in mine):
            raise Violation(f"I3: {run.id} counts as lost and nobody took its machine")
        left = [event for event, _ in world.events(run.id) if isinstance(event, e.Recovering)]
        gone = sum(event.handed_to is None for event in left)
        if gone > sum(m.takes for m in named):
            raise Violation(f"I3: {run.id} went on without a machine that nobody had taken")
        asked = sum(recover.ASKED in event.evidence for event in left)  # a person may leave what runs
        if len(left) - gone - asked > sum(len(m.stopped) + m.box.boot - 1 for m in named):
            raise Violation(f"I3: {run.id} left a machine that ran")
        alive = [m.instance_id for m in mine if m.alive]
        if run.state in FINAL and alive:
            raise Violation(f"I3: {run.id} is {run.state.value} and machine {alive[0]} lives")
        for kind, seq in world.rows("SELECT kind, seq FROM events WHERE run = ?", (run.id,)):
            at = world.database.times[seq]
            for start, end in world.faults.windows.get(Kind.OFFLINE, ()):
                if kind in _CONCLUSIONS and start + 60 < at < end and run.machine is not None:
                    raise Violation(f"I3: {kind} of {run.id} was concluded while there was no network")

    def _budget(self, run: Run) -> None:
        """I5: a ceiling ends the job, in time by a right clock."""
        world, limit = self._world, read_spec(run.spec, file=run.file).budget.max_time
        if limit is None or run.of is not None:
            return
        jobs = [m.box.job.started for m in world.cloud.machines.values() if run_of(m.label) == run.id]
        started = min((at for at in jobs if at is not None), default=None)
        for event, seq in world.numbered(run.id):
            if isinstance(event, e.EndRequested) and event.by == "budget" and started is not None:
                ran = world.database.times[seq] - started
                # a clock that is ahead after a boot cannot be told from time that passed while nobody was there
                if ran < limit - EARLY and not world.clock_ran_ahead:
                    raise Violation(
                        f"I5: {run.id} was ended by its budget of {limit:.0f} s after {ran:.0f} s"
                    )
        for machine in world.cloud.machines.values():
            job = machine.box.job
            mine = run_of(machine.label) == run.id and self._owner_id(machine) == run.id
            if mine and job.started is not None and job.ended is not None:
                due = max(job.started + limit, world.faults.quiet_from)
                # while the lid was closed nobody could end anything
                if job.ended > due + LATE + world.time.slept and not run.waivers:
                    raise Violation(f"I5: the job of {run.id} ran {job.ended - due:.0f} s beyond its budget")

    def _receipts(self, runs: Iterable[Run]) -> None:
        for run in runs:
            if run.state is State.GONE and run.receipt is not None:
                path = self._world.vault_root / run.id / ".receipts" / f"{run.receipt.digest}.json"
                if self._world.disk.surely(path) is None:
                    raise Violation(f"I1: {run.id} is gone and its receipt is not surely in the vault")

    def _rot(self) -> None:
        """What rotted and was proved before is known as bad, or whole again."""
        world = self._world
        if not world.scrubbed:
            return
        for target, content in world.rotten.items():
            run_id, path = target.relative_to(world.vault_root).as_posix().split("/", 1)
            known = world.rows("SELECT 1 FROM copies WHERE run = ? AND path = ?", (run_id, os.fsencode(path)))
            rotten = target.is_file() and target.read_bytes() == content
            if known and rotten and not self._noticed(run_id, path):
                raise Violation(f"I1: {path} of {run_id} rotted in the vault and nobody noticed")

    def _inside(self, runs: dict[str, Run]) -> None:
        """I6: nothing from a box lies outside its run's folder."""
        world = self._world
        for folder, _, names in os.walk(world.home):
            inside = os.path.relpath(folder, world.vault_root)
            if inside.split("/")[0] in runs or os.path.relpath(folder, world.home).split("/")[0] == "pins":
                continue
            for name in names:
                if (inside, name) != (".", ".gputui-vault") and not name.startswith(("ledger.", "vaults")):
                    raise Violation(f"I6: {folder}/{name} is no file of a run")

    def shown(self, answer: msgspec.Struct, *, where: str) -> None:
        """I6: what a client is told can be told, and has no control character."""
        try:
            text = msgspec.json.encode(answer)
        except UnicodeEncodeError as error:
            raise Violation(f"I6: {where} holds text that no client can be told: {error}") from error
        for mark in (b"\\u00", b"\x1b", b"\\b", b"\\r"):
            if mark in text:
                at = text.index(mark)
                raise Violation(f"I6: {where} shows a control character: {text[max(0, at - 60) : at + 20]!r}")


def _made(run: Run | None) -> Run:
    if run is None:
        raise Violation("I4: the first event of a run is not its request")
    return run


def kept_stopped(run: Run) -> bool:
    """Whether a stopped machine rightly stays so: no second timer, or something is not home, and nobody wants its end."""
    timer = read_spec(run.spec, file=run.file).idle.destroy_after
    asked = run.end_requested_by is not None or run.wake_requested_by is not None
    return not asked and (timer is None or run.receipt is None)


def kept_running(run: Run) -> bool:
    """Whether a machine rightly runs on with everything home: somebody started it, and no timer is in the spec."""
    started = run.machine is not None and run.machine.started_by is not None
    timed = read_spec(run.spec, file=run.file).idle.after is not None
    return run.state is State.VERIFIED and started and not timed and run.end_requested_by is None


def promised(spec: RunSpec, path: str) -> bool:
    """A second opinion on what is promised, simpler than the product's globs: prefixes and names."""
    if spec.checkpoints is not None and path.startswith(spec.checkpoints.path + "/") and "/." not in path:
        return True
    return any(path == a.path for a in spec.artifacts)
