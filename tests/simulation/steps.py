"""What directed days have in common: one job with one artifact, the run that it is of, and waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from simulation.cloud import Box, Job
from simulation.world import World

from gpuwatch.lifecycle.run import Run


def with_job(world: World, *, length: float = 60.0, written: float = 0.5, size: int = 5000) -> None:
    """Every box gets a job of `length` seconds that writes its artifact when this share of them is over."""

    def box(_label: str) -> Box:
        return Box(Job([(length * written, lambda box, at: box.write("model.bin", size, at))], length, 0))

    world.cloud.make_box = box


def only(world: World) -> Run:
    """The one run of the ledger as it is durable."""
    (run,) = world.durable().values()
    return run


async def until(true: Callable[[], bool]) -> None:
    """Until something holds in the simulated world; the whole of it is over long before the deadline."""
    async with asyncio.timeout(86_400):
        while not true():
            await asyncio.sleep(1)
