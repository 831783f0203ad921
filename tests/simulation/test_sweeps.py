"""The k-th-fault sweeps: in one standard run, strike every single external call in turn.

Provider, SSH, disk and SQLite commit: the call fails, hangs, or the process dies just before or
just after it, killed or by a power cut. However it goes, the run ends the same: one machine
rented, none left, everything promised at home, the same outcome in the ledger.
"""

from __future__ import annotations

import asyncio
import math

import pytest
from simulation.cloud import Box, Job
from simulation.faults import Kind, Sweep
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
    """A job of a minute: one checkpoint, one artifact."""

    def box(_label: str) -> Box:
        def checkpoint(box: Box, at: float) -> None:
            box.write("ckpt/step-1/model.safetensors", 1000, at)
            box.write("ckpt/step-1/MANIFEST.json", 100, at)

        def model(box: Box, at: float) -> None:
            box.write("model.bin", 3000, at)

        return Box(Job([(20, checkpoint), (59, model)], 60, 0))

    world.cloud.make_box = box


async def until_settled(world: World) -> None:
    """Launch the run if nobody has, and wait for its end."""
    world.learn()
    await world.launch(SPEC, "k")
    while not world.settled():
        await asyncio.sleep(5)


def play(sweep: Sweep | None, *, power_cut: bool = False) -> World:
    """The standard run with at most one fault, to its end."""
    with World(7) as world:
        standard(world)
        world.faults.sweep = sweep
        world.faults.quiet_from = math.inf
        for _ in range(3):
            if world.live(until_settled, power_cut=power_cut):
                break
        world.judge.end()
        (run,) = world.durable().values()
        assert run.state is State.GONE
        assert run.exit_code == 0
        assert run.waivers == ()
        assert run.receipt is not None
        assert run.receipt.files == 4, "checkpoint, its manifest, the artifact, the log"
        assert len(world.cloud.machines) <= 2, (
            "a machine that was lost before its job began is replaced, once"
        )
        started = [m for m in world.cloud.machines.values() if m.box.job.started is not None]
        assert len(started) == 1, "the job ran once"
        assert (
            world.disk.surely(world.vault_root / run.id / "model.bin")
            == started[0].box.files["model.bin"].content
        )
    return world


WAYS = {
    "it fails": (Kind.ERROR_BEFORE, False),
    "it works and fails afterwards": (Kind.ERROR_AFTER, False),
    "it hangs": (Kind.HANG, False),
    "killed before": (Kind.CRASH_BEFORE, False),
    "killed after": (Kind.CRASH_AFTER, False),
    "power cut before": (Kind.CRASH_BEFORE, True),
    "power cut after": (Kind.CRASH_AFTER, True),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", WAYS)
def test_whatever_happens_at_the_kth_call_the_run_ends_the_same(way: str) -> None:
    kind, power_cut = WAYS[way]
    struck = 0
    total = play(None).faults.total
    assert total > 150, "the standard run makes too few calls for this to mean anything"
    for number in range(1, total + 1):
        sweep = Sweep(number, kind)
        try:
            play(sweep, power_cut=power_cut)
        except AssertionError as error:
            pytest.fail(f"call {number} of {total}, {way}: {error}")
        struck += sweep.struck
    assert struck > total * (0.1 if kind is Kind.ERROR_AFTER else 0.7)


def test_the_standard_run_makes_every_kind_of_call() -> None:
    calls = set(play(None).faults.calls)
    assert calls >= {
        "vast user", "vast list", "vast search", "vast create", "vast show", "vast destroy",
        "box connect", "box install", "box probe", "box start", "box list", "box send", "box watch", "box tail",
        "disk open", "disk write", "disk fsync", "disk rename", "disk mkdir", "commit",
    }  # fmt: skip
