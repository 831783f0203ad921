"""What kind of day it is, and what happens on it beside the faults of single calls."""

from __future__ import annotations

import random

import msgspec
from simulation.cloud import Machine
from simulation.faults import Kind
from simulation.jobs import make_box
from simulation.vast import run_of
from simulation.world import World

from gpuproviders.model import Trouble
from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed
from gpuwatch.lifecycle.evolve import Impossible
from gpuwatch.lifecycle.register import Alarm
from gpuwatch.lifecycle.run import FINAL

_WINDOWS: tuple[tuple[Kind, float, float, float], ...] = (
    # kind, how often a day has one, shortest, longest
    (Kind.OFFLINE, 0.3, 30, 900),
    (Kind.STRANGER, 0.12, 30, 900),
    (Kind.DISK_FULL, 0.2, 10, 900),
    (Kind.LEDGER_FULL, 0.08, 1, 300),
)


def arrange(world: World) -> None:
    """Draw what kind of day it is."""
    draw, cloud, faults, now = world.draw, world.cloud, world.faults, world.time.now
    faults.rate = draw.choice([0.0, 0.02, 0.1, 0.3])
    faults.disk_rate = draw.choice([0.0, 0.0, 0.003, 0.02])
    faults.ledger_rate = draw.choice([0.0, 0.0, 0.0, 0.01])
    faults.quiet_from = now + draw.uniform(300, 1800)
    for kind, often, shortest, longest in _WINDOWS:
        if draw.random() < often:
            start = now + draw.uniform(0, 900)
            faults.windows[kind] = [(start, min(start + draw.uniform(shortest, longest), faults.quiet_from))]
    cloud.lag_create = draw.choice([0.0, 0.0, 5.0, 60.0])
    cloud.lag_destroy = draw.choice([0.0, 0.0, 10.0, 90.0])
    world.transport.lies = draw.choice([None, None, "list", "show"])
    cloud.foreign = {
        str(n): draw.choice([None, "somebody", "gputui"]) for n in range(40, 40 + draw.choice([0, 1, 3]))
    }
    cloud.boot_seconds = lambda: draw.uniform(5, 120)
    duds = draw.choice([0.0, 0.0, 0.3])

    def dud() -> Trouble | None:
        if draw.random() >= duds:
            return None
        faults.note(Kind.DUD)
        return draw.choice([Trouble.IMAGE, Trouble.CONTAINER, Trouble.DISK, Trouble.GAVE_UP])

    cloud.dud = dud
    cloud.make_box = lambda label: make_box(draw, world.specs.get(run_of(label)))
    world.habits = {
        Kind.PERSON: 0.02,
        Kind.TAKEN: draw.choice([0.0, 0.0, 0.0, 0.02]),
        Kind.BACK: draw.choice([0.0, 0.1, 0.3]),
        Kind.STRANDED: draw.choice([0.0, 0.0, 0.0, 0.02]),
        Kind.REBOOT: draw.choice([0.0, 0.0, 0.01]),
        Kind.BOX_OFFLINE: draw.choice([0.0, 0.0, 0.03]),
        Kind.CLOCK_STEP: draw.choice([0.0, 0.0, 0.0, 0.02]),
        Kind.SLEEP: draw.choice([0.0, 0.0, 0.0, 0.01]),
        Kind.VAULT_GONE: draw.choice([0.0, 0.0, 0.02]),
        Kind.BIT_ROT: draw.choice([0.0, 0.02]) if world.scrub else 0.0,
    }


async def happen(world: World) -> None:
    """What this moment of the day brings."""
    if world.faults.quiet:
        calm(world)
        return
    for kind, chance in world.habits.items():
        if chance and world.draw.random() < chance:
            await _HAPPEN[kind](world)


def calm(world: World) -> None:
    """The bad time is over: what lasted ends."""
    world.time.wrong = 0.0
    if world.vault_away:
        _mount(world)


def _some_machine(world: World) -> Machine | None:
    living = world.cloud.living()
    return world.draw.choice(living) if living else None


def _note(world: World, kind: Kind, machine: Machine) -> None:
    world.faults.note(kind, run_of(machine.label))


async def _taken(world: World) -> None:
    machine = _some_machine(world)
    if machine is not None:
        _note(world, Kind.TAKEN, machine)
        world.cloud.take(machine)


async def _back(world: World) -> None:
    away = [m for m in world.cloud.machines.values() if m.taken is not None and m.destroyed is None]
    if away:
        machine = world.draw.choice(away)
        _note(world, Kind.BACK, machine)
        world.cloud.give_back(machine)


async def _stranded(world: World) -> None:
    machine = _some_machine(world)
    if machine is not None and machine.down(world.time.now) is None:
        _note(world, Kind.STRANDED, machine)
        longest = max(1.0, world.faults.quiet_from - world.time.now)
        seconds = min(world.draw.choice([90.0, 900.0, 4000.0]), longest)
        world.cloud.stop(machine, seconds, world.draw.choice(["offline", "exited"]))


async def _reboot(world: World) -> None:
    machine = _some_machine(world)
    if machine is not None:
        _note(world, Kind.REBOOT, machine)
        machine.box.reboot(world.time.now)


async def _cut_off(world: World) -> None:
    machine = _some_machine(world)
    if machine is not None:
        _note(world, Kind.BOX_OFFLINE, machine)
        end = min(world.time.now + world.draw.uniform(20, 1500), world.faults.quiet_from)
        machine.cut_off.append((world.time.now, end))


async def _clock_step(world: World) -> None:
    world.faults.note(Kind.CLOCK_STEP)
    world.time.wrong += world.draw.choice([-1, 1]) * world.draw.choice([90, 3700, 90_000, 40 * 86_400])


async def _sleep(world: World) -> None:
    world.faults.note(Kind.SLEEP)
    world.time.nap(world.draw.choice([30, 700, 9000]))


async def _vault_gone(world: World) -> None:
    if world.vault_away:
        _mount(world)
    else:
        world.faults.note(Kind.VAULT_GONE)
        world.disk.hide(world.home / "vault")
        world.vault_root = world.home / "vault.away"


def _mount(world: World) -> None:
    world.vault_root = world.home / "vault"
    world.disk.show(world.vault_root)


async def _rot(world: World) -> None:
    files = sorted(
        p
        for p in world.vault_root.glob("*/**/*")
        if p.is_file() and not {".receipts", ".partial"} & set(p.parts)
    )
    if files and not world.vault_away:
        target = world.draw.choice(files)
        # a byte that rots twice is whole again
        if target.stat().st_size and world.rotten.get(target) != target.read_bytes():
            world.faults.note(Kind.BIT_ROT)
            world.disk.flip(target)
            world.rotten[target] = target.read_bytes()


async def _person(world: World) -> None:
    """A person presses keys: destroy, take it back, waive; and looks."""
    assert world.children is not None
    assert world.ledger is not None
    if not world.ledger.runs:
        return
    world.faults.note(Kind.PERSON)
    service = world.children.service
    run = world.draw.choice(sorted(world.ledger.runs))
    row = world.ledger.runs[run]
    try:
        match world.draw.choice(["destroy", "cancel", "waive", "preview"]):
            case "destroy":
                await service.destroy(wire.Destroy(run=run))
            case "cancel":
                await service.cancel(wire.Cancel(run=run))
            case "preview":
                await service.destroy(wire.Destroy(run=run, preview=True))
            case "waive":
                waive = world.draw.choice([["model.bin"], ["ckpt"], ["*"]])
                await service.destroy(
                    wire.Destroy(run=run, waive=waive, confirm=row.name, reason="simulated person")
                )
    except (CallFailed, Impossible):
        pass
    await _halting(world, run)


async def _halting(world: World, run: str) -> None:
    """And keys for a machine that is to be kept: stop, start, hold, release. Drawn beside the day's own draws."""
    assert world.children is not None
    aside = random.Random(f"{world.seed} {world.time.now}")
    service = world.children.service
    try:
        match aside.choice(["stop", "start", "start", "hold", "release", "", "", ""]):
            case "stop":
                await service.halt(wire.Stop(run=run))
            case "start":
                await service.start(wire.Start(run=run))
            case "hold":
                await service.hold(wire.HoldPlace(run=run))
            case "release":
                await service.release(wire.HoldRelease(run=run))
    except (CallFailed, Impossible):
        return


async def let_go(world: World) -> None:
    """At the end of the day people release what they held."""
    assert world.children is not None
    assert world.ledger is not None
    for run in list(world.ledger.runs.values()):
        for pin in run.pins if run.state not in FINAL else ():
            await world.children.service.release(wire.HoldRelease(run=run.id, hold=pin.name))


async def answer_alarms(world: World) -> None:
    """A person reads the alarms about machines that nobody can see, looks into the console, and answers."""
    assert world.children is not None
    assert world.ledger is not None
    for entry in list(world.ledger.register.values()):
        machine = world.cloud.machines.get(entry.instance_id or "")
        if entry.alarm is Alarm.UNSEEN and (machine is None or not machine.alive):
            await world.children.service.resolve(wire.Resolve(label=entry.label, reason="not in the console"))


async def look(world: World) -> None:
    """Ask the daemon for everything that it shows; the judge reads it."""
    assert world.children is not None
    assert world.ledger is not None
    service = world.children.service
    world.judge.shown(await service.status(wire.Empty()), where="status")
    world.judge.shown(await service.runs(wire.Empty()), where="runs")
    for run in world.ledger.runs:
        ref = wire.RunRef(run=run)
        world.judge.shown(await service.why(ref), where="why")
        detail = msgspec.structs.replace(await service.run(ref), spec="")
        world.judge.shown(detail, where="run")


_HAPPEN = {
    Kind.PERSON: _person,
    Kind.TAKEN: _taken,
    Kind.BACK: _back,
    Kind.STRANDED: _stranded,
    Kind.REBOOT: _reboot,
    Kind.BOX_OFFLINE: _cut_off,
    Kind.CLOCK_STEP: _clock_step,
    Kind.SLEEP: _sleep,
    Kind.VAULT_GONE: _vault_gone,
    Kind.BIT_ROT: _rot,
}
