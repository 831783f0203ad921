"""A person gives a run another try: another machine, another collection, another run. Nothing is lost by any of it (I1)."""

from __future__ import annotations

import pytest
from simulation.cloud import Box, Job
from simulation.test_recovery import SPEC, judged, kinds, left, run_of, running_at, runs, taker, trains, until
from simulation.world import World

from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed
from gpuwatch.lifecycle.run import State

BLOCKED = SPEC.replace("--resume auto", "and forget the model")


async def retry(world: World, run: str, key: str = "again") -> wire.Retried:
    answer = await world.children.service.call("run.retry", wire.Retry(run=run, key=key))
    assert isinstance(answer, wire.Retried)
    return answer


async def recover(world: World, run: str) -> wire.Retried:
    order = wire.Recover(run=run, reason="it is slow", by="ada")
    answer = await world.children.service.call("run.recover", order)
    assert isinstance(answer, wire.Retried)
    return answer


async def end(world: World, run: str) -> None:
    """Destroy a run before its job has made what it promised: that is given up."""
    await world.children.service.call("destroy", wire.Destroy(run=run, by="ada"))
    await until(lambda: run_of(world).state is State.FAILED)
    order = wire.Destroy(run=run, waive=["*"], confirm="rec", reason="never made", by="ada")
    await world.children.service.call("destroy", order)
    await until(lambda: run_of(world).state is State.GONE)


def test_a_run_that_a_person_moves_goes_on_elsewhere_and_leaves_nothing_behind() -> None:
    with World(41) as world:
        began = trains(world)

        async def script(world: World) -> None:
            machine = await running_at(world, 6)
            machine.box.write("ckpt/step-6/late.bin", 333, world.time.now)
            answer = await recover(world, run_of(world).id)
            assert "goes on from step 6" in answer.text
            await until(lambda: all(r.state is State.GONE for r in runs(world)))

        world.live(script)
        back = taker(world)
        assert back is not None
        assert began == [0, 6]
        assert left(world).evidence == "ada asked for another machine: it is slow"
        assert (world.vault_root / back.id / "ckpt/step-6/late.bin").stat().st_size == 333
        judged(world)


def test_what_may_not_go_on_elsewhere_says_why() -> None:
    with World(42) as world:
        trains(world)

        async def script(world: World) -> None:
            run = await world.launch(SPEC, "k")
            with pytest.raises(CallFailed, match="nothing to go on from"):
                await recover(world, run)
            await until(lambda: run_of(world).state is State.RUNNING)
            with pytest.raises(CallFailed, match="it is running, not failed"):
                await retry(world, run)
            await world.children.service.call("destroy", wire.Destroy(run=run, by="ada"))
            with pytest.raises(CallFailed, match="its end was requested by ada"):
                await recover(world, run)
            await until(lambda: run_of(world).state is State.FAILED)
            await end(world, run)

        world.live(script)
        judged(world)


def test_a_collection_that_was_blocked_is_made_again_when_its_reason_is_gone() -> None:
    with World(43) as world:
        world.cloud.make_box = lambda _label: Box(Job([], 60, 0))

        async def script(world: World) -> None:
            run = await world.launch(BLOCKED, "k")
            await until(lambda: run_of(world).state is State.FAILED)
            (machine,) = world.cloud.living()
            for name, size in (("model.bin", 5000), ("ckpt/step-1/MANIFEST.json", 90)):
                machine.box.write(name, size, world.time.now)
            assert (await retry(world, run)).run == run
            await until(lambda: run_of(world).state is State.GONE)
            assert (world.vault_root / run / "model.bin").stat().st_size == 5000

        world.live(script)
        assert kinds(world).count("collect-blocked") == 1
        judged(world)


def test_a_run_that_ended_badly_begins_anew_from_its_newest_checkpoint_and_only_once() -> None:
    with World(44) as world:
        began = trains(world)

        async def script(world: World) -> None:
            await running_at(world, 4)
            first = run_of(world).id
            await end(world, first)
            answer = await retry(world, first)
            assert answer.run != first
            assert (await retry(world, first)).run == answer.run, "one key makes one run"
            await until(lambda: all(r.state is State.GONE for r in runs(world)))
            second = next(r for r in runs(world) if r.id == answer.run)
            assert second.exit_code == 0
            assert second.resume_from is not None
            assert second.resume_from.startswith(f"run:{first}/")
            with pytest.raises(CallFailed, match="its job ended well"):
                await retry(world, second.id, "third")

        world.live(script)
        assert began[0] == 0
        assert began[1] >= 4
        judged(world)
