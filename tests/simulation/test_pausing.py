"""A machine that is stopped and kept: stopped once everything is home, started and proved again before it is ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from simulation import jobs, schedule
from simulation.cloud import Box, Job, Machine
from simulation.steps import until
from simulation.world import World

from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.run import FINAL, Run, State

SPEC = """
name = "kept"
[gpu]
name = "RTX 4090"
[job]
command = "train"
[[artifacts]]
path = "model.bin"
[idle]
after = "2m"
action = "stop"
{more}
"""


def job(world: World, *, artifact: bool = True) -> None:
    """Two minutes of work; the artifact at its end."""

    def make(_label: str) -> Box:
        plan = [(110.0, lambda box, at: box.write("model.bin", 5000, at))] if artifact else []
        box = Box(Job(plan, 120.0, 0))
        box.sessions = 0
        return box

    world.cloud.make_box = make


def the(world: World) -> Run:
    return max(world.durable().values(), key=lambda run: run.created_at)


def machine(world: World) -> Machine:
    (found,) = world.cloud.machines.values()
    return found


def happened(world: World, kind: type[e.Event]) -> int:
    return sum(isinstance(event, kind) for event, _ in world.events(the(world).id))


async def paused(world: World) -> None:
    await until(lambda: the(world).state is State.PAUSED)


def play(
    script: Callable[[World], Awaitable[None]], *, more: str = "", artifact: bool = True, seed: int = 5
) -> World:
    with World(seed) as world:
        job(world, artifact=artifact)

        async def day(world: World) -> None:
            await world.launch(SPEC.format(more=more), "k")
            await script(world)

        assert world.live(day)
        if world.cloud.violations:
            raise world.cloud.violations[0]
        world.judge.ledger()
    return world


def test_an_idle_machine_is_stopped_with_everything_at_home_and_costs_its_disk_until_a_person_decides() -> (
    None
):
    async def script(world: World) -> None:
        await paused(world)
        since, run = world.time.now, the(world)
        assert run.receipt is not None
        assert machine(world).halted
        assert world.children is not None
        row = next(r for r in (await world.children.service.runs(wire.Empty())).runs if r.id == run.id)
        assert "disk" in row.next
        await asyncio.sleep(1800)
        assert (the(world).state, machine(world).alive, len(machine(world).halts)) == (State.PAUSED, True, 1)
        assert world.time.now - since >= 1800

    play(script)


def test_the_second_timer_starts_it_looks_once_more_and_ends_it_through_the_gate() -> None:
    async def script(world: World) -> None:
        await paused(world)
        stopped = world.time.now
        # what appeared on its disk while nobody looked comes home first
        machine(world).box.write("model.bin", 7000, world.time.now)
        await until(lambda: the(world).state is State.GONE)
        assert world.time.now - stopped >= 3600
        assert (world.vault_root / the(world).id / "model.bin").stat().st_size == 7000
        assert happened(world, e.ReceiptWritten) == 2

    play(script, more='destroy_after = "1h"')


def test_a_hold_keeps_it_from_both_timers_and_they_begin_anew_when_it_goes() -> None:
    async def script(world: World) -> None:
        assert world.children is not None
        service = world.children.service
        await until(lambda: the(world).state is State.RUNNING)
        await service.hold(wire.HoldPlace(run="kept"))
        await until(lambda: the(world).state is State.VERIFIED)
        await asyncio.sleep(7200)
        assert the(world).state is State.VERIFIED
        await service.release(wire.HoldRelease(run="kept"))
        await paused(world)
        await service.hold(wire.HoldPlace(run="kept"))
        await asyncio.sleep(7200)
        assert the(world).state is State.PAUSED
        await service.release(wire.HoldRelease(run="kept"))
        await asyncio.sleep(1800)
        assert the(world).state is State.PAUSED
        await until(lambda: the(world).state is State.GONE)

    play(script, more='destroy_after = "1h"')


def test_a_person_starts_it_again_and_it_is_the_same_run_which_is_stopped_again_when_it_rests() -> None:
    async def script(world: World) -> None:
        assert world.children is not None
        service = world.children.service
        await paused(world)
        run, number = the(world).id, machine(world).instance_id
        assert "the job is not" in (await service.start(wire.Start(run="kept"))).text
        await until(lambda: the(world).state is State.VERIFIED)
        assert (the(world).id, machine(world).instance_id, machine(world).halted) == (run, number, False)
        with pytest.raises(CallFailed, match="not stopped"):
            await service.start(wire.Start(run="kept"))
        machine(world).box.sessions = 1  # somebody works on it: neither timer nor stop
        await asyncio.sleep(1800)
        assert the(world).state is State.VERIFIED
        machine(world).box.sessions = 0
        await paused(world)
        assert len(machine(world).halts) == 2

    play(script)


def test_what_cannot_be_proved_is_stopped_and_waits_for_a_person_and_no_timer_ends_it() -> None:
    async def script(world: World) -> None:
        await until(lambda: the(world).state is State.FAILED)
        await paused(world)
        await asyncio.sleep(5400)
        assert (the(world).state, the(world).receipt) == (State.PAUSED, None)

    play(script, more='destroy_after = "1h"', artifact=False)


def test_a_stop_that_a_person_asks_for_ends_the_job_and_brings_everything_home_first() -> None:
    async def script(world: World) -> None:
        assert world.children is not None
        await until(lambda: the(world).state is State.RUNNING)
        machine(world).box.write("model.bin", 4000, world.time.now)
        await world.children.service.halt(wire.Stop(run="kept", by="me", reason="the night"))
        await paused(world)
        assert (world.vault_root / the(world).id / "model.bin").stat().st_size == 4000
        with pytest.raises(CallFailed, match="stopped already"):
            await world.children.service.halt(wire.Stop(run="kept"))

    play(script)


def test_a_machine_whose_start_is_refused_is_kept_and_told_and_everything_waived_ends_it_as_it_is() -> None:
    async def script(world: World) -> None:
        assert world.children is not None
        service = world.children.service
        await paused(world)
        resume, world.cloud.resume = world.cloud.resume, lambda _machine: None  # queued for ever
        await service.destroy(wire.Destroy(run="kept"))
        await asyncio.sleep(7200)
        assert (the(world).state, machine(world).alive) == (State.PAUSED, True)
        order = wire.Destroy(run="kept", waive=["*"], confirm="kept", reason="it is old")
        await service.destroy(order)
        await until(lambda: the(world).state is State.GONE)
        world.cloud.resume = resume

    play(script)


def test_a_stopped_machine_that_its_provider_takes_is_told_and_nothing_of_it_was_only_there() -> None:
    async def script(world: World) -> None:
        await paused(world)
        world.cloud.take(machine(world))
        await until(lambda: the(world).state is State.LOST)
        assert "everything it promised was home" in (the(world).trouble or "")

    play(script)


@pytest.mark.parametrize("after", range(20, 400, 19))
def test_a_process_that_dies_at_any_moment_of_a_stop_or_start_leaves_the_same_end(after: int) -> None:
    """I4: killed while it stops, waits, starts and ends; each time the next one carries on."""
    with World(after) as world:
        job(world)

        async def day(world: World) -> None:
            world.learn()
            if not world.durable():
                await world.launch(SPEC.format(more='destroy_after = "10m"'), "k")
            await until(lambda: the(world).state in FINAL)

        deaths = iter([after * 3, after, after, after, None])
        while not world.live(day, crash_after=next(deaths, None), power_cut=after % 2 == 0):
            world.time.now += 30
        if world.cloud.violations:
            raise world.cloud.violations[0]
        run = the(world)
        assert (run.state, run.waivers) == (State.GONE, ())
        assert world.judge.ledger()


@pytest.mark.parametrize("seed", range(9000, 9030))
def test_days_on_which_every_run_has_timers_end_well(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "timers", lambda draw: jobs.TIMERS[seed % len(jobs.TIMERS)])
    schedule.play(seed)
