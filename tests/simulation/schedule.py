"""A schedule: from one seed, a whole day of bad luck for the whole daemon, judged from outside."""

from __future__ import annotations

import asyncio

from simulation.faults import Kind
from simulation.jobs import make_keeping_spec, make_spec
from simulation.weather import answer_alarms, arrange, happen, let_go, look
from simulation.world import World

PATIENCE = 4 * 3600.0
"""Seconds of quiet after which whatever is not settled is stuck."""
RESTART = (0.5, 5, 300)
"""Seconds until the init system (or a person) has started a dead daemon again."""
NOTICED = 1500.0
"""Seconds after which a machine that came back must have been seen: an account without runs is listed every 10 min."""
SCRUB_ROUNDS = 3600.0
"""Seconds of quiet in which the scrub of these worlds reads everything once more, and mirrors and retention end."""


def play(seed: int, *, losses: float = 0.0, keeping: bool = False) -> World:
    """Run one schedule to its end and judge it. Raises Violation (or whatever the daemon lets out).

    `keeping`: its runs have a remote and let old checkpoints go. `losses`: how likely at each moment some machine is taken, stopped, or given back, beside the day's own bad luck.
    """
    with World(seed, scrub=seed % 5 == 0, mirrors=keeping) as world:
        arrange(world)
        if losses:
            world.habits |= dict.fromkeys((Kind.TAKEN, Kind.STRANDED, Kind.BACK), losses)
        draw = world.draw
        launches = sorted(
            (world.time.now + draw.uniform(0, 500), f"k{n}") for n in range(draw.choice([1, 1, 2, 3]))
        )
        crashes = draw.choice([0, 0, 1, 3, 8])
        until = world.faults.quiet_from + PATIENCE
        while True:
            crashes -= 1
            after = int(draw.expovariate(1 / 250)) + 1 if crashes >= 0 else None
            if world.live(
                lambda w: day(w, launches, until), crash_after=after, power_cut=draw.random() < 0.5
            ):
                break
            world.time.now += draw.choice(RESTART)
        world.judge.end()
    return world


async def day(world: World, launches: list[tuple[float, str]], until: float) -> None:
    """One process's life: launch what is due, let things happen, wait until all is settled."""
    draw = world.draw
    world.learn()
    while True:
        while launches and launches[0][0] <= world.time.now:
            spec = make_spec(draw) if world.remotes is None else make_keeping_spec(draw)
            await world.launch(spec, launches[0][1])
            launches.pop(0)
        await happen(world)
        await answer_alarms(world)
        if world.faults.quiet:
            await let_go(world)
        if world.time.now > until:
            return
        noticed = world.time.now > world.cloud.back_at + NOTICED
        if not launches and world.faults.quiet and noticed and world.settled():
            await look(world)
            if not world.settled():
                continue  # a run that waited was taken up again while we looked
            if (world.rotten or world.remotes is not None) and not world.scrubbed:
                await asyncio.sleep(SCRUB_ROUNDS)
                world.scrubbed = True
                continue
            return
        await asyncio.sleep(draw.uniform(5, 60))
