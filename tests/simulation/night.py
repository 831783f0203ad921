"""A night: twelve virtual hours, forty runs on two clouds, everything goes wrong at two per cent, and nobody is awake.

python tests/simulation/night.py --seed N [--hours 12] [--runs 40]

The laptop sleeps for a quarter of it, two machines are lost while their jobs run (one comes back, one stays
listed and is stopped), a balance runs low. At the end nothing that was mirrored may be lost, no machine forgotten,
and none may have been billed idle for longer than its timers, the copies and the sleep explain. The report
names each incident and what it cost.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from simulation import weather
from simulation.cloud import Box, Job, Machine, Violation
from simulation.faults import Kind
from simulation.vast import run_of
from simulation.world import World

from gpuproviders.model import Trouble
from gpuproviders.money import format_usd
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.run import Run, State
from gpuwatch.mirror import proof
from gpuwatch.mirror.names import folder_of, place
from gpuwatch.spec.units import format_duration, format_size

HOUR = 3600.0
RATE = 0.02
REMOTE = "s3:bucket/night"
CHECKPOINT = 600.0
"""Seconds of training between two checkpoints."""
SLACK = 3600.0
"""Seconds beyond its timers that a machine may wait for copies which fail every fiftieth time."""
BREAKS = 3
"""How often a timer may begin anew: it counts silence that was seen, and at 2 % the stream of reports breaks off."""
PATIENCE = 5 * HOUR
SPEC = """
name = "{name}"
provider = {providers}
[gpu]
name = "RTX 4090"
[job]
command = "train --resume auto"
[checkpoints]
path = "ckpt"
[[artifacts]]
path = "model.bin"
[mirror]
remotes = ["{remote}"]
require = [{require}]
[recover]
attempts = 8
patience = "10m"
[boot]
timeout = "15m"
{idle}
"""


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that went wrong: when (world time), what, with which run, and what it cost in micro-dollars."""

    at: float
    what: str
    run: str | None
    cost: int


@dataclass(slots=True)
class Night:
    """One night and what is known of it at its end."""

    world: World
    began: float
    hours: float
    asleep: tuple[float, float] = (0.0, 0.0)
    scare: tuple[str, float, float | None] = ("", 0.0, None)
    """The account that ran low, when, and when the daemon said so."""
    deaths: list[tuple[float, str]] = field(default_factory=list)
    outages: list[tuple[float, float]] = field(default_factory=list)
    """Times in which nobody could copy or destroy: no daemon, no network, no vault, a closed lid."""
    timers: dict[str, float] = field(default_factory=dict)
    """Name of a run → seconds that its machine may be idle by its timers."""
    lost: list[Machine] = field(default_factory=list)
    idle: dict[str, float] = field(default_factory=dict)
    """Machine → seconds that it was billed although its job was over, as the cloud knows it."""
    ends: dict[str, Run] = field(default_factory=dict)
    """All runs as they ended."""
    incidents: list[Incident] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    """The report."""


def play(seed: int, *, hours: float = 12.0, runs: int = 40) -> Night:
    """Play one night and judge it. Raises Violation."""
    with World(seed, both=True, mirrors=True) as world:
        night = Night(world, world.time.now, hours)
        _arrange(night, runs)
        draw = world.draw
        plan = _plan(night, runs)
        end = night.began + hours * HOUR
        kills = sorted(draw.uniform(night.began, end) for _ in range(max(2, round(hours / 2))))
        while True:
            power_cut = draw.random() < 0.3
            if world.live(lambda w: _hours(night, plan, kills, end), power_cut=power_cut):
                break
            down = draw.choice([0.5, 5.0, 300.0])
            night.deaths.append((world.time.now, f"down for {format_duration(down)}"))
            night.outages.append((world.time.now, world.time.now + down))
            world.time.now += down
        world.judge.end()
        _judge(night)
        night.incidents = incidents(night)
        night.ends = {run.id: run for run in world.durable().values()}
        night.lines = report(night)
    return night


# --- what kind of night it is ---------------------------------------------------------------------


def _arrange(night: Night, runs: int) -> None:
    world, draw = night.world, night.world.draw
    cloud, faults, end = world.cloud, world.faults, night.began + night.hours * HOUR
    faults.rate = faults.disk_rate = faults.ledger_rate = RATE
    faults.quiet_from = end
    cloud.meters = True
    cloud.credit = {"vast": 100.0 * runs, "runpod": 100.0 * runs}
    cloud.lag_create, cloud.lag_destroy = 5.0, 10.0
    world.transport.lies = "list"
    cloud.foreign = {"41": "somebody", "42": "gputui"}
    cloud.boot_seconds = lambda: draw.uniform(20, 240)
    troubles = (Trouble.IMAGE, Trouble.CONTAINER, Trouble.DISK, Trouble.GAVE_UP)

    def dud() -> Trouble | None:
        if draw.random() >= RATE:
            return None
        faults.note(Kind.DUD)
        return draw.choice(troubles)

    cloud.dud = dud
    cloud.make_box = lambda label: _box(night, run_of(label))
    # faults that last come at 2 % of all hours of a run
    moments = night.hours * HOUR / 32.5
    often = RATE * runs * night.hours / 3 / moments
    world.habits = dict.fromkeys((Kind.BOX_OFFLINE, Kind.REBOOT, Kind.BIT_ROT), often)
    for kind in (Kind.OFFLINE, Kind.DISK_FULL, Kind.STRANGER):
        start = night.began + draw.uniform(0.2, 0.9) * night.hours * HOUR
        window = (start, min(end, start + draw.uniform(120, 900)))
        faults.windows[kind] = [window]
        if kind is not Kind.STRANGER:
            night.outages.append(window)


def _box(night: Night, run: str) -> Box:
    """A job that goes on from the newest checkpoint on its box, one every ten minutes."""
    name = run.rsplit("-", 1)[0]
    steps = 2 + int(hashlib.sha256(name.encode()).hexdigest(), 16) % 11
    box = Box(Job([], 10**9, 0), sessions=0)

    def checkpoint(step: int) -> Callable[[Box, float], None]:
        def act(box: Box, at: float) -> None:
            box.step = step
            box.write(f"ckpt/step-{step}/model.safetensors", 3000 + step, at)
            box.write(f"ckpt/step-{step}/MANIFEST.json", 90, at)

        return act

    def start(box: Box, _at: float) -> None:
        there = [int(p.split("step-")[1].split("/")[0]) for p in box.files if p.endswith("MANIFEST.json")]
        first = max(there, default=0)
        box.step = first
        left = max(0, steps - first)
        box.job.plan += [(n * CHECKPOINT, checkpoint(first + n)) for n in range(1, left + 1)]
        box.job.plan.append((left * CHECKPOINT + 20, lambda box, at: box.write("model.bin", 6000, at)))
        box.job.length = left * CHECKPOINT + 30

    box.job.plan = [(0.0, start)]
    return box


@dataclass(slots=True)
class Plan:
    """What is to happen and when (world time)."""

    launches: list[tuple[float, str, str]]
    losses: list[tuple[float, str]]
    sleep_at: float
    sleep_for: float
    scare_at: float
    scared: str
    vault_away: list[tuple[float, float]]
    """When the vault's disk is not mounted."""
    topped_up: bool = False
    back: list[tuple[float, Machine]] = field(default_factory=list)


def _plan(night: Night, runs: int) -> Plan:
    draw, span = night.world.draw, night.hours * HOUR
    launches = []
    for n in range(runs):
        name = f"n{n}"
        timed = draw.random() < 0.4
        night.timers[name] = 900.0 if timed else 0.0
        require = f'"vault", "{REMOTE}"' if draw.random() < 0.5 else '"vault"'
        idle = '[idle]\nafter = "15m"\n' if timed else ""
        providers = ('["runpod"]', '["vast"]', '["vast", "runpod"]')[n % 3]
        spec = SPEC.format(name=name, providers=providers, remote=REMOTE, require=require, idle=idle)
        launches.append((night.began + draw.uniform(0, span * 0.6), name, spec))
    away = [night.began + span * part for part in (0.2, 0.8)]
    losses = [(night.began + span * 0.15, "taken"), (night.began + span * 0.6, "exited")]
    return Plan(
        sorted(launches), losses, night.began + span * 0.3, span * 0.25, night.began + span * 0.7,
        draw.choice(["vast", "runpod"]), [(at, at + draw.uniform(300, 2400)) for at in away],
    )  # fmt: skip


# --- the hours ------------------------------------------------------------------------------------


async def _hours(night: Night, plan: Plan, kills: list[float], end: float) -> None:
    """One process's share of the night."""
    world, draw, time = night.world, night.world.draw, night.world.time
    world.learn()
    while True:
        while plan.launches and plan.launches[0][0] <= time.now:
            await world.launch(plan.launches[0][2], plan.launches[0][1])
            plan.launches.pop(0)
        if kills and kills[0] <= time.now < end:
            kills.pop(0)
            await world.faults.die()
        if time.now >= plan.sleep_at and not night.asleep[1]:
            night.asleep = (time.now, time.now + plan.sleep_for)
            night.outages.append(night.asleep)
            world.faults.note(Kind.SLEEP)
            time.nap(plan.sleep_for)
        _lose(night, plan)
        await _scare(night, plan)
        _unmount(night, plan)
        await weather.happen(world)
        await weather.answer_alarms(world)
        noticed = time.now > world.cloud.back_at + 1500
        if time.now > end and not plan.launches and not plan.back and noticed and world.settled():
            await weather.look(world)
            return
        if time.now > end + PATIENCE:
            return
        await asyncio.sleep(draw.uniform(5, 60))


def _unmount(night: Night, plan: Plan) -> None:
    """The vault's disk is pulled out, and put back."""
    world, now = night.world, night.world.time.now
    while plan.vault_away and plan.vault_away[0][1] <= now:
        start, _ = plan.vault_away.pop(0)
        if world.vault_away:
            world.vault_root = world.home / "vault"
            world.disk.show(world.vault_root)
            night.outages.append((start, now))
    if plan.vault_away and plan.vault_away[0][0] <= now and not world.vault_away:
        world.faults.note(Kind.VAULT_GONE)
        world.disk.hide(world.home / "vault")
        world.vault_root = world.home / "vault.away"


def _lose(night: Night, plan: Plan) -> None:
    """Spot losses: of machines whose job has something at home, so that there is something to go on from."""
    world = night.world
    now = world.time.now
    while plan.back and plan.back[0][0] <= now:
        world.cloud.give_back(plan.back.pop(0)[1])
    while plan.losses and plan.losses[0][0] <= now:
        machine = _victim(world)
        if machine is None:
            return
        _, how = plan.losses.pop(0)
        night.lost.append(machine)
        world.faults.note(Kind.TAKEN if how == "taken" else Kind.STRANDED, run_of(machine.label))
        if how == "taken":
            world.cloud.take(machine)
            plan.back.append((now + 1.5 * HOUR, machine))
        else:
            world.cloud.stop(machine, 1.5 * HOUR, how)


def _victim(world: World) -> Machine | None:
    runs = {
        r.machine.instance_id: r for r in world.durable().values() if r.machine is not None and r.of is None
    }
    for machine in world.cloud.living():
        run = runs.get(machine.instance_id)
        job = machine.box.job
        if run is not None and run.state is State.RUNNING and run.homes and job.ended is None:
            return machine
    return None


async def _scare(night: Night, plan: Plan) -> None:
    """Somebody else spends the account's money; the daemon says that it ends; half an hour later a person pays in."""
    world = night.world
    now, cloud = world.time.now, world.cloud
    if now < plan.scare_at or plan.topped_up:
        return
    vendor, since, told = night.scare
    if not vendor:
        if not any(m.vendor == plan.scared for m in cloud.living()):
            plan.scared = next((m.vendor for m in cloud.living()), plan.scared)
        cloud.credit[plan.scared] -= cloud.left(plan.scared) - 0.25
        night.scare = (plan.scared, now, None)
        return
    assert world.children is not None
    alarms = world.children.service.snapshot().alarms
    if told is None and any(a.startswith(f"{vendor}:") and "$" in a for a in alarms):
        night.scare = (vendor, since, now)
    if now - since > 1800:
        cloud.credit[vendor] += 500.0
        plan.topped_up = True


# --- what is asked at its end ---------------------------------------------------------------------


def _judge(night: Night) -> None:
    _mirrored(night)
    _orphans(night)
    _idle(night)
    if night.scare[0] and night.scare[2] is None:
        raise Violation(f"the balance of {night.scare[0]} ran low and nobody was told")
    if len(night.lost) < 2:
        raise Violation("no machine was lost: this night proves nothing")


def _mirrored(night: Night) -> None:
    """Whatever the daemon ever called mirrored is there, byte for byte."""
    world = night.world
    assert world.remotes is not None
    from gpuwatch.vault.layout import Vault

    vault = Vault(world.vault_root)
    files = 0
    for run in world.durable().values():
        for path, stands in proof.load(vault, run.id, REMOTE).items():
            where, name = place(path, "ckpt")
            target = "/".join(part for part in (folder_of(REMOTE, run.id), where, name) if part)
            content = world.remotes.files.get(target)
            if content is None or hashlib.sha256(content).hexdigest() != stands.sha256:
                raise Violation(f"{path} of {run.id} counts as mirrored and is not there")
            files += 1
    if not files:
        raise Violation("nothing was mirrored: this night proves nothing")


def _orphans(night: Night) -> None:
    living = {m.instance_id for m in night.world.cloud.living()}
    held = {
        r.machine.instance_id
        for r in night.world.durable().values()
        if r.machine is not None and r.state is State.FAILED
    }
    if living - held:
        raise Violation(f"I2: nobody answers for {sorted(living - held)}")


def _idle(night: Night) -> None:
    """No machine was billed idle beyond its timers, what kept everybody from ending it, and the time that copies take."""
    world = night.world
    holders = {r.machine.instance_id: r for r in world.durable().values() if r.machine is not None}
    for machine in world.cloud.machines.values():
        since = machine.box.job.ended
        if since is None:
            continue
        for start, stop, _ in machine.stopped:
            since = max(since, stop) if start <= since else since
        if machine.takes:
            since = max(since, world.cloud.back_at)
        until = machine.destroyed or (machine.taken if machine.taken is not None else world.time.now)
        night.idle[machine.instance_id] = max(0.0, until - since)
        run = holders.get(machine.instance_id)
        if run is not None and run.state is State.FAILED:
            continue  # a person was asked: what it costs stands in the report
        name = run_of(machine.label).rsplit("-", 1)[0]
        kept = sum(max(0.0, min(until, b) - max(since, a)) for a, b in [*night.outages, *machine.cut_off])
        allowed = BREAKS * night.timers.get(name, 0.0) + kept + SLACK
        if until - since > allowed:
            raise Violation(
                f"machine {machine.instance_id} of {machine.label} was billed idle for {until - since:.0f} s, "
                f"{allowed:.0f} s are explained"
            )


# --- the report -----------------------------------------------------------------------------------


def incidents(night: Night) -> list[Incident]:
    """Each incident with its cost, in order of time."""
    world = night.world
    found = [
        Incident(at, f"gpuwatch died and was started again ({how})", None, 0) for at, how in night.deaths
    ]
    asleep, awake = night.asleep
    if awake:
        found.append(
            Incident(asleep, f"the laptop slept for {format_duration(awake - asleep)}", None, _slept(night))
        )
    vendor, since, told = night.scare
    if vendor:
        how = f"said after {format_duration((told or since) - since)}"
        found.append(
            Incident(since, f"the balance of {vendor} ran low, {how}; paid in after 30 min", None, 0)
        )
    for run in world.durable().values():
        found += _of_run(night, run)
    return sorted(found, key=lambda i: i.at)


def _of_run(night: Night, run: Run) -> list[Incident]:
    world = night.world
    found = _waits(night, run)
    duds = {m.label: m for m in run.past if m.dud is not None}
    for event, seq in world.numbered(run.id):
        at = world.database.times[seq]
        match event:
            case e.Recovering():
                steps = "" if event.lost_steps is None else f", {event.lost_steps} steps"
                lost = format_duration(event.lost_seconds or 0.0)
                what = f"machine lost ({event.evidence.split(':')[0]}): {lost}{steps} of work; goes on from step {event.step}"
                found.append(Incident(at, what, run.id, event.lost_cost or 0))
            case e.TakenOver():
                machine = world.cloud.machines[event.instance_id]
                what = f"instance {event.instance_id} left or back: collected from and ended"
                cost = int(((machine.destroyed or world.time.now) - at) / HOUR * machine.price * 1e6)
                found.append(Incident(at, what, run.of, cost))
            case e.Dud():
                dud = next((m for m in duds.values() if m.dud == event.reason), None)
                seconds = (dud.gone_at or 0.0) - (dud.rented_at or 0.0) if dud is not None else 0.0
                cost = int(dud.price * seconds / HOUR) if dud is not None else 0
                found.append(Incident(at, f"a machine was no good: {event.reason[:60]}", run.id, cost))
            case e.CreateUnknown():
                found.append(
                    Incident(at, "the answer to a create was lost; looked for by its label", run.id, 0)
                )
            case e.MachineUnseen():
                found.append(Incident(at, "a machine that was made and not listed", run.id, 0))
            case e.MachineReturned() | e.Returned():
                found.append(Incident(at, f"instance {event.instance_id} came back", run.id, 0))
            case e.DestroyFailed():
                found.append(Incident(at, f"a destroy was not confirmed: {event.reason[:60]}", run.id, 0))
            case e.CollectBlocked() | e.GaveUp() | e.NoOffer():
                reason = "; ".join(event.holds) if isinstance(event, e.CollectBlocked) else event.reason
                machine = (
                    world.cloud.machines.get(run.machine.instance_id or "")
                    if run.machine is not None
                    else None
                )
                seconds = 0.0 if machine is None or not machine.alive else world.time.now - at
                cost = int(seconds / HOUR * (machine.price if machine is not None else 0) * 1e6)
                found.append(Incident(at, f"waits for a person: {reason[:80]}", run.id, cost))
    return found


def _waits(night: Night, run: Run) -> list[Incident]:
    """Collections that did not work at once: from the first refusal to the receipt, a line each."""
    world = night.world
    found: list[Incident] = []
    since, reasons = 0.0, Counter[str]()
    price = run.machine.price if run.machine is not None else 0
    for event, seq in world.numbered(run.id):
        at = world.database.times[seq]
        if isinstance(event, e.CollectFailed):
            since = since if reasons else at
            reasons[re.sub(r"\d+ of \d+ files", "files", event.reason)[:50]] += 1
        elif reasons and isinstance(event, e.ReceiptWritten | e.CollectBlocked | e.Lost | e.Recovering):
            why, _ = reasons.most_common(1)[0]
            what = f"copies took {format_duration(at - since)} and {reasons.total()} tries: {why}"
            found.append(Incident(since, what, run.id, int((at - since) / HOUR * price)))
            reasons.clear()
    return found


def _slept(night: Night) -> int:
    """What machines whose job ended during the sleep cost until it was over."""
    asleep, awake = night.asleep
    total = 0.0
    for machine in night.world.cloud.machines.values():
        ended = machine.box.job.ended
        if ended is not None and asleep <= ended < awake:
            total += (awake - ended) / HOUR * machine.price
    return int(total * 1e6)


def report(night: Night) -> list[str]:
    """For people: the night, each incident and its cost, what it all came to."""
    world = night.world
    runs = [r for r in world.durable().values() if r.of is None]
    states = Counter(r.state.value for r in runs)
    machines = world.cloud.machines.values()
    billed = sum(m.billed(world.time.now) for m in machines)
    kinds = Counter(m.vendor for m in machines)
    head = (
        f"seed {world.seed}: {night.hours:g} virtual hours, {len(runs)} runs, {len(machines)} machines "
        f"({kinds['vast']} vast, {kinds['runpod']} runpod), {world.faults.total} calls, "
        f"{sum(world.faults.struck.values())} faults at {RATE:.0%}, {world.crashes} deaths of gpuwatch"
    )
    lines = [head, ""]
    found = night.incidents
    same: Counter[str] = Counter()
    for incident in found:
        clock = incident.at - night.began
        when = f"{int(clock // HOUR):02}:{int(clock % HOUR // 60):02}"
        lines.append(f"{when}  {format_usd(incident.cost):>9}  {incident.run or '-':<14} {incident.what}")
        same[incident.what.split(":")[0]] += 1
    files = [r.verified_bytes for r in world.durable().values()]
    assert world.remotes is not None
    idle = sum(s / HOUR * world.cloud.machines[i].price for i, s in night.idle.items())
    lines += [
        "",
        f"{len(found)} incidents, {format_usd(sum(i.cost for i in found))}; runs: "
        + ", ".join(f"{n} {state}" for state, n in sorted(states.items())),
        f"verified at home {format_size(sum(files))}; mirrored {len(world.remotes.files)} files",
        f"billed ${billed:.2f}; of it idle after a job's end, copies and timers included, ${idle:.2f}",
        "nothing lost that was mirrored, no machine forgotten, none billed idle beyond what its timers and the night explain",
    ]
    return lines


def main() -> int:
    """Play a night and print its report; 1 when it went wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hours", type=float, default=12.0)
    parser.add_argument("--runs", type=int, default=40)
    options = parser.parse_args()
    sys.unraisablehook = lambda _: None
    try:
        night = play(options.seed, hours=options.hours, runs=options.runs)
    except Violation as violation:
        print(f"seed {options.seed}: {violation}", file=sys.stderr)
        return 1
    print("\n".join(night.lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
