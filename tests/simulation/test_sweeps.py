"""The k-th-fault sweep: in one standard run, crash just before or after every single external call, in turn.

However the process dies, the next one carries on: one machine rented, none left, everything promised at home.
"""

from __future__ import annotations

import asyncio

import pytest
from simulation.cloud import Box, Job
from simulation.world import World

from gpuwatch.lifecycle.run import State

SPEC = """
name = "std"
[gpu]
name = "RTX 4090"
[job]
command = "train"
[checkpoints]
path = "ckpt"
[[artifacts]]
path = "model.bin"
"""


def standard(world: World) -> None:
    def box(_order: object) -> Box:
        def checkpoint(box: Box) -> None:
            box.write("ckpt/step-1/model.safetensors", 1000, world.time.now)
            box.write("ckpt/step-1/MANIFEST.json", 100, world.time.now)

        def model(box: Box) -> None:
            box.write("model.bin", 5000, world.time.now)

        return Box(Job([(30, checkpoint), (89, model)], 90, 0))

    world.cloud.make_box = box


async def until_settled(world: World) -> None:
    world.learn()
    if not world.durable():
        await world.launch(SPEC, "k")
    while not world.settled():
        await asyncio.sleep(5)


def play(kill_at: int | None) -> tuple[World, int]:
    """The standard run, killed at the k-th external call; returns the world and how many calls there were."""
    calls = 0
    with World(7) as world:
        standard(world)

        def hook(_name: str) -> None:
            nonlocal calls
            calls += 1
            if calls == kill_at:
                world.time.die()

        world.cloud.hook = hook
        for _ in range(3):
            if world.live(until_settled):
                break
        world.check_end()
        (run,) = world.durable().values()
        assert run.state is State.GONE
        assert run.exit_code == 0
        assert len(world.cloud.machines) == 1
        assert (world.vault.root / run.id / "model.bin").read_bytes().startswith(b"model.bin:")
    return world, calls


@pytest.mark.parametrize("part", range(4))
def test_killed_at_every_external_call_in_turn_the_run_ends_the_same(part: int) -> None:
    _, total = play(None)
    assert total > 60, "the standard run makes too few calls for this to mean anything"
    for k in range(1 + part, total + 1, 4):
        play(k)
