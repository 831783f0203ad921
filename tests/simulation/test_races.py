"""The world changes while somebody looks: between a check and an act, and between two halves of one wish."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from simulation.cloud import Box, Job
from simulation.world import World

from gpuwatch.box.sentinel import StageState
from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.run import Run, State

SPEC = """
name = "race"
[gpu]
name = "RTX 4090"
[job]
command = "train"
[[artifacts]]
path = "model.bin"
"""


def with_job(world: World, *, length: float = 60.0) -> None:
    """A job that writes its one artifact in the middle and goes on."""

    def box(_order: object) -> Box:
        return Box(Job([(length / 2, lambda box: box.write("model.bin", 5000, world.time.now))], length, 0))

    world.cloud.make_box = box


def only(world: World) -> Run:
    (run,) = world.durable().values()
    return run


async def until(world: World, true: Callable[[], bool]) -> None:
    """Until something holds in the simulated world; the whole of it is over long before the deadline."""
    async with asyncio.timeout(86_400):
        while not true():
            await asyncio.sleep(1)


def kinds(world: World) -> list[type[e.Event]]:
    return [type(event) for event in world.events(only(world).id)]


def test_a_wish_taken_back_during_the_last_look_keeps_the_machine() -> None:
    with World(1) as world:
        with_job(world)
        answers: list[object] = []

        def hook(name: str) -> None:
            # the last look of a run that is verified: the person changes her mind while it is under way
            run = next(iter(world.ledger.runs.values()), None) if world.ledger else None
            if name == "inventory" and run is not None and run.state is State.VERIFIED and not answers:
                answers.append(asyncio.get_running_loop().create_task(world.children.service.cancel(wire.Cancel(run=run.id))))  # fmt: skip

        async def script(world: World) -> None:
            run = await world.launch(SPEC + '[idle]\naction = "notify"\n', "k")
            await until(world, lambda: only(world).state is State.VERIFIED)
            await world.children.service.destroy(wire.Destroy(run=run))
            world.cloud.hook = hook
            await until(world, lambda: bool(answers))
            await asyncio.sleep(600)

        world.live(script)
        assert len(world.cloud.living()) == 1, (
            "she was told that it is taken back, and the machine went all the same"
        )
        assert only(world).state is State.VERIFIED
        assert e.DestroySent not in kinds(world)


def test_a_waiver_ends_with_the_wish_that_it_was_given_for() -> None:
    with World(2) as world:
        with_job(world, length=4000)

        async def script(world: World) -> None:
            run = await world.launch(SPEC + "[budget]\nmax_hours = 0.9\n", "k")
            await until(world, lambda: only(world).state is State.RUNNING)
            service = world.children.service
            # everything is given up and taken back at once, before the actor has had its turn
            order = wire.Destroy(run=run, waive=["*"], confirm="race", reason="a slip")
            service._nudge = lambda _: None
            await service.destroy(order)
            await service.cancel(wire.Cancel(run=run))
            del service._nudge
            service._nudge(run)
            # the end of the budget comes without any waiver of its own
            await until(world, world.settled)

        world.live(script)
        assert not world.cloud.violations, world.cloud.violations
        assert only(world).state is State.GONE
        assert e.ReceiptWritten in kinds(world)
        assert (world.vault.root / only(world).id / "model.bin").exists()


@pytest.mark.parametrize("kill_at", range(1, 13))
def test_a_crash_inside_an_order_to_give_files_up_leaves_no_waiver_without_a_wish(kill_at: int) -> None:
    with World(3) as world:
        with_job(world, length=4000)
        commits = 0
        ordered = False

        def hook(name: str) -> None:
            nonlocal commits
            if ordered and name.startswith("commit"):
                commits += 1
                if commits == kill_at:
                    world.time.die()

        async def first(world: World) -> None:
            nonlocal ordered
            run = await world.launch(SPEC + "[budget]\nmax_hours = 0.9\n", "k")
            await until(world, lambda: only(world).state is State.RUNNING)
            await asyncio.sleep(2500)
            ordered = True
            await world.children.service.destroy(
                wire.Destroy(run=run, waive=["model.bin"], confirm="race", reason="not needed")
            )
            await until(world, world.settled)

        async def second(world: World) -> None:
            run = only(world)
            assert not run.waivers or run.end_requested_by is not None or run.state is State.GONE
            await until(world, world.settled)

        world.cloud.hook = hook
        if not world.live(first):
            world.cloud.hook = lambda _: None
            world.live(second)
        world.check_end()


def test_a_job_that_does_not_end_is_not_taken_for_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    from simulation.boxes import SimulatedAgent

    honest = SimulatedAgent.stop
    asked: list[str] = []

    async def stubborn(self: SimulatedAgent, stage: str, *, grace: float = 30) -> StageState:
        asked.append(stage)
        if len(asked) < 4:
            await asyncio.sleep(1)
            return StageState("running" if len(asked) % 2 else "starting", 7, None)
        return await honest(self, stage, grace=grace)

    monkeypatch.setattr(SimulatedAgent, "stop", stubborn)
    with World(4) as world:
        with_job(world, length=4000)

        async def script(world: World) -> None:
            run = await world.launch(SPEC, "k")
            await until(world, lambda: only(world).state is State.RUNNING)
            await asyncio.sleep(2500)
            await world.children.service.destroy(wire.Destroy(run=run))
            await until(world, world.settled)

        world.live(script)
        assert len(asked) == 4, "an answer that the job still runs was taken for its end"
        assert kinds(world).count(e.JobEnded) == 1
        world.check_end()


def test_an_order_that_is_too_late_says_so() -> None:
    with World(5) as world:
        with_job(world)

        async def script(world: World) -> None:
            run = await world.launch(SPEC, "k")
            await until(world, lambda: only(world).state is State.DESTROYING)
            with pytest.raises(CallFailed):
                await world.children.service.destroy(
                    wire.Destroy(run=run, waive=["*"], confirm="race", reason="late")
                )
            await until(world, world.settled)

        world.live(script)
        world.check_end()
