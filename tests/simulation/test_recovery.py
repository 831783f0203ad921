"""A machine is taken, stopped, comes back: the run goes on from what was proved, and nothing is forgotten (I1, I2, I3)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from simulation.cloud import Box, Job, Machine, Violation
from simulation.schedule import play
from simulation.steps import until
from simulation.world import World

from gpuproviders.money import accrue
from gpuproviders.vast.transport import Answer
from gpuwatch.client import wire
from gpuwatch.daemon import words
from gpuwatch.daemon.main import Children
from gpuwatch.daemon.reconciling import Reconciler
from gpuwatch.ledger import Ledger
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.evolve import Impossible
from gpuwatch.lifecycle.run import Run, State

SPEC = """
name = "rec"
[gpu]
name = "RTX 4090"
[job]
command = "train --resume auto"
[checkpoints]
path = "ckpt"
[[artifacts]]
path = "model.bin"
[recover]
patience = "10m"
"""
STEP = 60.0
STEPS = 30
"""A job of half an hour, a checkpoint a minute."""
FIRST = 5_000_000
NOTHING = Answer(200, {"offers": []}, None)


def trains(world: World, *, steps: int = STEPS) -> list[int]:
    """Jobs that go on from the newest checkpoint on their box; returns the steps at which each began."""
    began: list[int] = []

    def make(_label: str) -> Box:
        box = Box(Job([], 10**9, 0))

        def start(box: Box, at: float) -> None:
            there = [int(p.split("step-")[1].split("/")[0]) for p in box.files if p.endswith("MANIFEST.json")]
            first = max(there, default=0)
            began.append(first)
            left = steps - first
            plan = [(n * STEP, checkpoint(first + n)) for n in range(1, left + 1)]
            box.job.plan = [*box.job.plan, *plan, (left * STEP + 5, finish)]
            box.job.length = left * STEP + 10

        box.job.plan = [(0.0, start)]
        return box

    def checkpoint(step: int) -> Callable[[Box, float], None]:
        def act(box: Box, at: float) -> None:
            box.write(f"ckpt/step-{step}/model.safetensors", 4000 + step, at)
            box.write(f"ckpt/step-{step}/MANIFEST.json", 90, at)

        return act

    def finish(box: Box, at: float) -> None:
        box.write("model.bin", 5000, at)

    world.cloud.make_box = make
    return began


def runs(world: World) -> list[Run]:
    return list(world.durable().values())


def run_of(world: World) -> Run:
    """The run that was launched."""
    (run,) = [r for r in runs(world) if r.of is None]
    return run


def taker(world: World) -> Run | None:
    return next((r for r in runs(world) if r.of is not None), None)


def kinds(world: World, run: Run | None = None) -> list[str]:
    return [e.kind_of(event) for event, _ in world.events((run or run_of(world)).id)]


def left(world: World) -> e.Recovering:
    return next(event for event, _ in world.events(run_of(world).id) if isinstance(event, e.Recovering))


async def running_at(world: World, step: int) -> Machine:
    """Launch, and wait until this step is home; the machine."""
    await world.launch(SPEC, "k")
    await until(lambda: bool(run_of(world).homes) and (run_of(world).homes[-1].step or 0) >= step)
    (machine,) = world.cloud.living()
    return machine


def judged(world: World) -> None:
    """Nothing was wrong at any moment, and all machines of all runs are accounted for."""
    world.judge.end()


# --- the provider takes it -----------------------------------------------------------------------


def test_a_machine_that_is_taken_is_replaced_and_the_job_goes_on_from_the_newest_proved_checkpoint() -> None:
    with World(1) as world:
        began = trains(world)

        async def script(world: World) -> None:
            machine = await running_at(world, 12)
            world.cloud.take(machine)
            await until(lambda: run_of(world).state is State.GONE)

        world.live(script)
        run = run_of(world)
        assert began == [0, 12], "the second job found step 12 on its box"
        assert (run.losses, run.attempt, len(run.past)) == (1, 2, 1)
        assert "restored" in kinds(world)
        assert run.exit_code == 0
        model = next(m for m in world.cloud.machines.values() if not m.takes).box.files
        for step in (12, 13, STEPS):
            home = (world.vault_root / run.id / f"ckpt/step-{step}/model.safetensors").read_bytes()
            assert home == model[f"ckpt/step-{step}/model.safetensors"].content
        judged(world)


def test_what_was_lost_is_said_in_steps_time_and_money() -> None:
    with World(2) as world:
        trains(world)

        async def script(world: World) -> None:
            machine = await running_at(world, 5)
            await asyncio.sleep(STEP * 0.6)
            world.cloud.take(machine)
            await until(lambda: run_of(world).state is State.GONE)

        world.live(script)
        event = left(world)
        assert event.step == 5
        assert event.lost_seconds is not None
        assert 0 < event.lost_seconds <= STEP + 30, "from the checkpoint to the last word of the box"
        assert event.lost_cost == accrue(300_100, event.lost_seconds)
        assert "of work, $" in words.describe(event)
        assert "goes on from step 5" in words.describe(event)
        judged(world)


def test_a_restart_in_the_middle_of_a_recovery_goes_on_with_it() -> None:
    with World(3) as world:
        began = trains(world)

        async def first(world: World) -> None:
            machine = await running_at(world, 4)
            world.cloud.take(machine)
            await until(lambda: "recovering" in kinds(world))
            await world.faults.die()

        async def second(world: World) -> None:
            await until(lambda: run_of(world).state is State.GONE)

        assert not world.live(first, power_cut=True)
        assert world.live(second)
        assert began[-1] >= 4
        judged(world)


def test_when_nothing_is_on_offer_it_is_looked_for_until_the_specs_patience_ends() -> None:
    with World(4) as world:
        trains(world)
        search = world.transport._search
        empty = [False]

        async def script(world: World) -> None:
            machine = await running_at(world, 3)
            empty[0] = True
            world.cloud.take(machine)
            await until(lambda: run_of(world).state is State.RECOVERING)
            await asyncio.sleep(3 * 3600)
            assert run_of(world).state is State.RECOVERING, "the market is empty, nothing bills, it waits"
            empty[0] = False
            await until(lambda: run_of(world).state is State.GONE)

        world.transport._search = lambda kind: NOTHING if empty[0] else search(kind)  # type: ignore[method-assign]
        world.live(script)
        judged(world)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ('[recover]\non_loss = "never"\n', "never"),
        ("[recover]\nattempts = 1\n", "1 machines were used up"),
        ("[budget]\nmax_hours = 0.05\n", "budget"),
    ],
)
def test_a_run_that_may_not_go_on_is_lost_and_says_why(more: str, why: str) -> None:
    with World(5) as world:
        trains(world)
        spec = SPEC.replace('[recover]\npatience = "10m"\n', more) if "[recover]" in more else SPEC + more

        async def script(world: World) -> None:
            await world.launch(spec, "k")
            await until(lambda: bool(run_of(world).homes))
            (machine,) = world.cloud.living()
            world.cloud.take(machine)
            await until(lambda: run_of(world).state is State.LOST)

        world.live(script)
        assert why in (run_of(world).trouble or "")
        assert len(world.cloud.machines) == 1, "nothing more was rented"
        judged(world)


def test_a_checkpoint_that_rotted_in_the_vault_is_passed_over_for_the_one_before_it() -> None:
    with World(6) as world:
        began = trains(world)

        async def script(world: World) -> None:
            machine = await running_at(world, 8)
            rotten = world.vault_root / run_of(world).id / "ckpt/step-8/model.safetensors"
            world.disk.flip(rotten)
            world.rotten[rotten] = rotten.read_bytes()
            world.cloud.take(machine)
            await until(lambda: run_of(world).state is State.GONE)

        world.live(script)
        assert began == [0, 7]
        judged(world)


# --- it comes back -------------------------------------------------------------------------------


def test_a_machine_that_comes_back_after_another_was_rented_is_collected_from_and_destroyed() -> None:
    with World(7) as world:
        trains(world)

        async def script(world: World) -> None:
            machine = await running_at(world, 6)
            machine.box.write("ckpt/step-6/late.bin", 333, world.time.now)  # newer than what is home
            world.cloud.take(machine)
            await until(lambda: run_of(world).attempt == 2 and run_of(world).state is State.RUNNING)
            world.cloud.give_back(machine)
            await until(lambda: (back := taker(world)) is not None and back.state is State.GONE)
            assert run_of(world).state is State.RUNNING, "the run that goes on is not touched"
            await until(lambda: run_of(world).state is State.GONE)

        world.live(script)
        back = taker(world)
        assert back is not None
        assert back.of == run_of(world).id
        assert (world.vault_root / back.id / "ckpt/step-6/late.bin").stat().st_size == 333
        assert kinds(world, back)[0] == "taken-over"
        assert "receipt-written" in kinds(world, back), "it ended by the same gate as every other"
        judged(world)


def test_a_machine_that_comes_back_before_another_was_chosen_goes_on_itself() -> None:
    with World(8) as world:
        began = trains(world)

        async def script(world: World) -> None:
            machine = await running_at(world, 6)
            world.transport._search = lambda _kind: NOTHING  # type: ignore[method-assign]
            world.cloud.take(machine)
            await until(lambda: run_of(world).state is State.RECOVERING)
            world.cloud.give_back(machine, reboot=False)
            await until(lambda: run_of(world).state is State.GONE)

        world.live(script)
        assert kinds(world).count("offer-chosen") == 1
        assert "returned" in kinds(world)
        assert (began, taker(world), run_of(world).losses) == ([0], None, 0)
        judged(world)


def test_a_box_that_restarted_under_its_job_is_collected_from_while_the_run_goes_on_elsewhere() -> None:
    with World(12) as world:
        began = trains(world)

        async def script(world: World) -> None:
            machine = await running_at(world, 6)
            machine.box.write("ckpt/step-6/late.bin", 333, world.time.now)
            machine.box.reboot(world.time.now)
            await until(lambda: all(r.state is State.GONE for r in runs(world)))

        world.live(script)
        back = taker(world)
        assert back is not None
        assert began == [0, 6]
        assert "restarted under the job" in left(world).evidence
        assert (world.vault_root / back.id / "ckpt/step-6/late.bin").stat().st_size == 333
        judged(world)


def test_a_held_machine_that_comes_back_stays_held() -> None:
    with World(9) as world:
        trains(world)

        async def script(world: World) -> None:
            machine = await running_at(world, 6)
            run = run_of(world).id
            await world.children.service.hold(wire.HoldPlace(run=run, reason="look first"))
            world.cloud.take(machine)
            await until(lambda: run_of(world).attempt == 2 and run_of(world).state is State.RUNNING)
            world.cloud.give_back(machine)
            await until(lambda: (back := taker(world)) is not None and back.state is State.VERIFIED)
            await asyncio.sleep(7200)
            back = taker(world)
            assert back is not None
            assert back.state is State.VERIFIED
            for held in (back.id, run):
                await world.children.service.release(wire.HoldRelease(run=held, hold="pin"))
            await until(lambda: all(r.state is State.GONE for r in runs(world)))

        world.live(script)
        judged(world)


# --- it is there and does not run ----------------------------------------------------------------


@pytest.mark.parametrize("status", ["offline", "exited"])
def test_a_machine_that_does_not_run_any_more_is_left_and_collected_from_when_it_runs_again(
    status: str,
) -> None:
    with World(10) as world:
        began = trains(world)

        async def script(world: World) -> None:
            machine = await running_at(world, 9)
            world.cloud.stop(machine, 3600.0, status)
            await until(lambda: run_of(world).attempt == 2 and run_of(world).state is State.RUNNING)
            back = taker(world)
            assert back is not None
            assert back.machine is not None
            assert back.machine.instance_id == machine.instance_id, "somebody has it at every moment"
            assert machine.alive, "nothing is destroyed that cannot be looked into"
            await until(lambda: all(r.state is State.GONE for r in runs(world)))

        world.live(script)
        assert began == [0, 9]
        back = taker(world)
        assert back is not None
        assert "receipt-written" in kinds(world, back)
        judged(world)


def test_a_machine_that_is_down_for_less_than_the_patience_is_waited_for() -> None:
    with World(11) as world:
        trains(world)

        async def script(world: World) -> None:
            machine = await running_at(world, 9)
            world.cloud.stop(machine, 400.0, "offline", reboots=False)
            await until(lambda: run_of(world).state in (State.FAILED, State.GONE))

        world.live(script)
        assert run_of(world).state is State.GONE
        assert len(world.cloud.machines) == 1
        assert "recovering" not in kinds(world)


def test_nothing_is_rented_before_a_short_outage_is_over_and_its_box_is_seen_to_have_restarted() -> None:
    with World(11) as world:
        trains(world)
        left: list[float] = []

        async def script(world: World) -> None:
            machine = await running_at(world, 9)
            back = world.time.now + 400.0
            world.cloud.stop(machine, 400.0, "offline")
            await until(lambda: len(world.cloud.machines) == 2)
            left.append(world.time.now - back)
            await until(lambda: all(r.state is State.GONE for r in runs(world)))

        world.live(script)
        assert left[0] > 0
        assert taker(world) is not None
        judged(world)


# --- many days -----------------------------------------------------------------------------------


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(4))
def test_days_on_which_machines_are_taken_stopped_and_given_back(part: int) -> None:
    recovered = 0
    for seed in range(FIRST + part * 1000, FIRST + part * 1000 + 40):
        world = play(seed, losses=0.05)
        recovered += sum(m.takes for m in world.cloud.machines.values())
    assert recovered > 10, "days without losses prove nothing here"


def test_a_machine_that_nobody_takes_over_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge can fail: a daemon that ignores what comes back leaves machines that bill."""

    async def ignores(*_: object) -> str:
        raise Impossible("somebody took the guard out")

    monkeypatch.setattr(Reconciler, "_given_back", ignores)
    _found()


def test_a_machine_that_is_left_and_written_off_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge can fail: the run leaves its machine and nobody has it from then on."""

    async def forgets(self: Ledger, event: e.TakenOver, leaving: e.Recovering | None = None) -> None:
        if leaving is not None:
            await self.append(event.of, leaving)

    start = Children.start
    monkeypatch.setattr(Ledger, "take_over", forgets)
    monkeypatch.setattr(
        Children, "start", lambda self, run: start(self, run) if run in self._ctx.ledger.runs else None
    )
    _found()


def _found() -> None:
    for seed in range(FIRST, FIRST + 400):
        try:
            play(seed, losses=0.05)
        except (Violation, BaseExceptionGroup) as found:
            assert "stumbled" not in str(found)
            print(f"day {seed - FIRST + 1}: {str(found)[:200]}")
            return
    pytest.fail("400 days with a broken guard and nothing was found")
