"""A schedule: from one seed, a whole day of bad luck for the whole daemon, judged from outside.

`python tests/simulation/schedule.py --seed N [--count K]` replays seeds; a failing test prints that line.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from simulation.cloud import Box, Faults, Job
from simulation.world import World

from gpuproviders.model import Trouble
from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed
from gpuwatch.lifecycle.evolve import Impossible
from gpuwatch.lifecycle.register import Alarm

DAY = 86_400.0
SPEC = """
name = "sim"
{top}
[gpu]
name = "RTX 4090"
[job]
command = "train"
[recover]
attempts = {attempts}
[boot]
timeout = "10m"
{rest}
"""


def make_spec(world: World) -> str:
    """A random run spec."""
    draw = world.draw
    kind = draw.choice(["both", "both", "artifacts", "checkpoints", "none"])
    rest, top = "", ""
    if kind in ("both", "checkpoints"):
        rest += '[checkpoints]\npath = "ckpt"\n'
    if kind in ("both", "artifacts"):
        rest += '[[artifacts]]\npath = "model.bin"\n'
        if draw.random() < 0.3:
            rest += '[[artifacts]]\npath = "extra.txt"\nrequired = false\n'
    if kind == "none":
        top = 'artifacts = "none"'
    if draw.random() < 0.2:
        rest += "[budget]\nmax_hours = 0.2\n"
    if draw.random() < 0.2:
        rest += '[setup]\ncommand = "pip"\n'
    return SPEC.format(top=top, attempts=draw.choice([1, 3, 6]), rest=rest)


def make_box(world: World) -> Box:
    """A random job: checkpoints as it goes, an artifact at the end, sometimes a failure, sometimes a late writer."""
    draw = world.draw
    steps = draw.randint(0, 6)
    period = draw.uniform(20, 200)
    fails = draw.random() < 0.25
    contract = draw.random() < 0.5
    length = steps * period + draw.uniform(1, 60)
    plan = []

    def checkpoint(step: int):
        def act(box: Box) -> None:
            at = world.time.now
            if contract:
                for name in ("model.safetensors", "MANIFEST.json"):
                    box.write(f"ckpt/step-{step}/{name}", draw.randint(1, 5_000_000), at)
                box.write("ckpt/latest.json", 100, at)
            else:
                box.write(f"ckpt/step-{step}.pt", draw.randint(1, 50_000_000), at, busy=draw.uniform(0, 30))
            if draw.random() < 0.2:
                box.write("ckpt/.tmp-junk", 10, at)
            if draw.random() < 0.2 and step > 3:
                for path in [p for p in box.files if f"step-{step - 3}" in p]:
                    del box.files[path]  # the trainer's own retention

        return act

    def artifact(box: Box) -> None:
        box.write("model.bin", draw.randint(1, 80_000_000), world.time.now, busy=draw.uniform(0, 20))

    def rewrite(box: Box) -> None:
        box.write("model.bin", draw.randint(1, 1000), world.time.now)

    plan += [(step * period, checkpoint(step)) for step in range(1, steps + 1)]
    if not fails or draw.random() < 0.5:
        plan.append((length - 0.5, artifact))
    if draw.random() < 0.1:
        plan.append((length * 0.9, rewrite))
    plan.sort(key=lambda entry: entry[0])
    return Box(Job(plan, length, draw.choice([1, 137]) if fails else 0))


def arrange(world: World) -> None:
    """Draw what kind of day it is."""
    draw, cloud = world.draw, world.cloud
    world.faults.rate = draw.choice([0.0, 0.02, 0.1, 0.3])
    world.faults.quiet_from = world.time.now + draw.uniform(600, 6000)
    if draw.random() < 0.3:
        start = world.time.now + draw.uniform(0, 1500)
        world.faults.outage = (start, start + draw.uniform(30, 1200))
    cloud.lag_create = draw.choice([0.0, 0.0, 5.0, 60.0])
    cloud.lag_destroy = draw.choice([0.0, 0.0, 10.0, 90.0])
    cloud.boot_seconds = lambda: draw.uniform(5, 300)
    duds = draw.choice([0.0, 0.0, 0.3])
    cloud.dud = lambda: draw.choice(list(Trouble)) if draw.random() < duds else None
    world.spot_risk = draw.choice([0.0, 0.0, 0.0, 0.02])
    cloud.make_box = lambda _: make_box(world)


async def day(world: World, launches: list[tuple[float, str]], until: float) -> None:
    """One process's life: launch what is due, meddle, wait until all is settled."""
    draw = world.draw
    world.learn()
    while True:
        while launches and launches[0][0] <= world.time.now:
            _, key = launches[0]
            await world.launch(make_spec(world), key)
            launches.pop(0)
        if (
            world.ledger is not None
            and world.ledger.runs
            and draw.random() < 0.02
            and world.time.now < world.faults.quiet_from
        ):
            await meddle(world)
        if (
            draw.random() < world.spot_risk
            and world.time.now < world.faults.quiet_from
            and world.cloud.living()
        ):
            victim = draw.choice(world.cloud.living())
            world.cloud.take(victim)
        await answer_alarms(world)
        if draw.random() < 0.02 and world.time.now < world.faults.quiet_from:
            world.boxes.vault_full[0] = not world.boxes.vault_full[0]
        if world.time.now >= world.faults.quiet_from:
            world.boxes.vault_full[0] = False
        if not launches and world.settled() and world.time.now >= world.faults.quiet_from:
            return
        if world.time.now > until:
            return
        await asyncio.sleep(draw.uniform(5, 60))


async def answer_alarms(world: World) -> None:
    """A person reads the alarms about machines that nobody can see, looks into the console, and answers."""
    assert world.children is not None
    assert world.ledger is not None
    for entry in list(world.ledger.register.values()):
        machine = world.cloud.machines.get(entry.instance_id or "")
        if entry.alarm is Alarm.UNSEEN and (machine is None or not machine.alive):
            await world.children.service.resolve(wire.Resolve(label=entry.label, reason="not in the console"))


async def meddle(world: World) -> None:
    """A person presses keys: destroy, take it back, waive."""
    assert world.children is not None
    assert world.ledger is not None
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
        return


def play(seed: int) -> World:
    """Run one schedule to its end and judge it. Raises Violation (or whatever the daemon lets out)."""
    world = World(seed, faults=Faults())
    with world:
        arrange(world)
        draw = world.draw
        launches = sorted((world.time.now + draw.uniform(0, 900), f"k{n}") for n in range(draw.randint(1, 3)))
        until = world.time.now + 2 * DAY
        crashes = draw.choice([0, 0, 1, 3, 8])
        while crashes > 0:
            crashes -= 1
            if world.live(lambda w: day(w, launches, until), crash_after=int(draw.expovariate(1 / 250)) + 1):
                break
            world.time.advance(draw.choice([0.5, 5, 600]))
        else:
            world.live(lambda w: day(w, launches, until))
        world.check_end()
    return world


def main() -> int:
    """Replay or search seeds from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="first seed")
    parser.add_argument("--count", type=int, default=1, help="how many")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first violation")
    options = parser.parse_args()
    sys.unraisablehook = lambda _: None  # frozen coroutines of crashed processes
    started, failures = time.monotonic(), 0
    outcomes: Counter[str] = Counter()
    for seed in range(options.seed, options.seed + options.count):
        try:
            world = play(seed)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            failures += 1
            print(f"seed {seed}: {type(error).__name__}: {error}", flush=True)
            if not options.keep_going:
                traceback.print_exc()
                return 1
        else:
            outcomes["schedules"] += 1
            outcomes["crashes"] += world.crashes
            outcomes["machines"] += len(world.cloud.machines)
            outcomes["calls"] += sum(world.cloud.calls.values())
    took = time.monotonic() - started
    print(
        f"{options.count} schedules from seed {options.seed}: {failures} violations, {took:.1f} s",
        dict(outcomes),
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
