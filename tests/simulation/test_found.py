"""What random days found, as the shortest day that shows it. Each went wrong before it was mended."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from simulation.cloud import Box, Violation
from simulation.faults import Kind, Sweep
from simulation.jobs import REMOTE
from simulation.remote import SimulatedRclone
from simulation.steps import only, with_job
from simulation.world import World

from gpuwatch.client import wire
from gpuwatch.ledger import Ledger
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.run import State
from gpuwatch.mirror import proof
from gpuwatch.vault import layout, names
from gpuwatch.vault.layout import Vault

SPEC = """
name = "found"
[gpu]
name = "RTX 4090"
[job]
command = "train"
[[artifacts]]
path = "model.bin"
"""


async def until(world: World, *states: State) -> None:
    """Until the run is in one of these states; the whole of it is over long before the deadline."""
    async with asyncio.timeout(6 * 3600):
        while not world.durable() or only(world).state not in states:
            await asyncio.sleep(1)


async def to_the_end(world: World) -> None:
    await world.launch(SPEC, "k")
    await until(world, State.GONE, State.FAILED)


def test_a_log_torn_by_a_power_cut_is_fetched_anew() -> None:
    """It was taken for the beginning of the box's log, found to differ, and taken again, for ever."""
    with World(1) as world:
        with_job(world, written=0.9, size=2000)

        async def until_captured(world: World) -> None:
            await world.launch(SPEC, "k")
            await until(world, State.COLLECTING)
            await world.faults.die()

        assert not world.live(until_captured, power_cut=True)
        (machine,) = world.cloud.machines.values()
        folder = world.vault_root / only(world).id
        folder.mkdir(exist_ok=True)
        (folder / "job.log").write_bytes(
            bytes(len(machine.box.log))
        )  # the size reached the disk, the bytes did not
        assert world.live(to_the_end)
        assert only(world).state is State.GONE
        world.judge.end()


@pytest.mark.parametrize("name", ["../../evil", "a//b", "x" * 300])
def test_a_file_that_no_vault_can_hold_waits_for_a_person(name: str) -> None:
    """It was fetched again and again while the machine billed."""
    with World(1) as world:
        with_job(world, written=0.9, size=2000)
        make = world.cloud.make_box

        def hostile(label: str) -> Box:
            box = make(label)
            box.write(f"model.bin/{name}", 10, 0)
            return box

        world.cloud.make_box = hostile
        assert world.live(to_the_end)
        run = only(world)
        assert run.state is State.FAILED
        assert any("not verified" in hold for hold in run.holds)
        world.judge.end()


@pytest.mark.parametrize("guarded", [True, False])
def test_a_path_that_nobody_looked_at_is_what_the_judge_finds(
    guarded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judge can fail on I6: with the guard of paths broken, the same day leaves a file outside its run."""
    if not guarded:
        for module in (layout, names):
            monkeypatch.setattr(module, "relative_parts", lambda path: tuple(path.split("/")))
    with World(1) as world:
        with_job(world, written=0.9, size=2000)
        make = world.cloud.make_box

        def hostile(label: str) -> Box:
            box = make(label)
            box.write("out/good", 500, 0)
            box.write("out/../../evil", 50, 0)
            return box

        world.cloud.make_box = hostile

        async def script(world: World) -> None:
            await world.launch(SPEC + '[[artifacts]]\npath = "out"\nrequired = false\n', "k")
            await until(world, State.GONE, State.FAILED)

        assert world.live(script)
        if guarded:
            world.judge.end()
        else:
            with pytest.raises(Violation, match="I6"):
                world.judge.end()


@pytest.mark.parametrize("step", [-90_000.0, 90_000.0])
def test_a_clock_that_somebody_sets_ends_no_job(step: float) -> None:
    """A day forward ended jobs by their budget; a day back let them run on."""
    with World(1) as world:
        with_job(world, written=0.9, size=2000, length=100_000.0)

        async def script(world: World) -> None:
            await world.launch(SPEC + "[budget]\nmax_hours = 1\n", "k")
            await until(world, State.RUNNING)
            await asyncio.sleep(600)
            world.time.wrong = step
            await until(world, State.FAILED)

        assert world.live(script)
        (job,) = [m.box.job for m in world.cloud.machines.values()]
        assert job.ended is not None
        assert job.started is not None
        assert 3500 < job.ended - job.started < 3700


@pytest.mark.parametrize("step", [-90_000.0, 90_000.0])
def test_a_clock_that_somebody_sets_while_no_daemon_runs_ends_no_job(step: float) -> None:
    """Only within one process were durations kept from the wall clock."""
    with World(1) as world:
        with_job(world, written=0.9, size=2000, length=100_000.0)

        async def first(world: World) -> None:
            await world.launch(SPEC + "[budget]\nmax_hours = 1\n", "k")
            await until(world, State.RUNNING)
            await asyncio.sleep(600)
            await world.faults.die()

        assert not world.live(first, power_cut=False)
        world.time.wrong = step
        world.time.now += 30
        assert world.live(lambda world: until(world, State.FAILED))
        (job,) = [m.box.job for m in world.cloud.machines.values()]
        assert job.ended is not None
        assert job.started is not None
        assert 3500 < job.ended - job.started < 3700


def test_a_clock_forgotten_at_a_restart_is_what_that_day_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "mark_clock", lambda *_: None)
    with pytest.raises(AssertionError):
        test_a_clock_that_somebody_sets_while_no_daemon_runs_ends_no_job(90_000.0)


def test_a_machine_that_no_listing_has_had_yet_is_not_gone_because_the_clock_was_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A laptop booted an hour ahead: a machine of this minute was a dud by its age, absent, and rented anew."""
    with World(1) as world:
        with_job(world, written=0.9, size=2000)
        world.cloud.lag_create = 90.0
        honest, lost = world.transport._write, iter(("the first",))

        async def unanswered(kind: Kind | None, endpoint: str, path: str, kwargs: dict[str, Any]) -> Any:
            if endpoint == "destroy" and next(lost, None):
                return None
            return await honest(kind, endpoint, path, kwargs)

        monkeypatch.setattr(world.transport, "_write", unanswered)

        async def until_rented(world: World) -> None:
            await world.launch(SPEC, "k")
            await until(world, State.BOOTING)
            await world.faults.die()

        assert not world.live(until_rented, power_cut=True)
        world.time.wrong = 3700.0
        assert world.live(lambda world: until(world, State.GONE, State.FAILED))
        assert next(lost, None) is None
        world.judge.end()


def test_no_vault_is_made_in_the_mount_point_of_the_one_that_is_not_mounted() -> None:
    """A daemon that started while the disk was away made a new one there, and proved files into it."""
    with World(1) as world:
        with_job(world, written=0.9, size=2000)

        async def until_running(world: World) -> None:
            await world.launch(SPEC, "k")
            await until(world, State.RUNNING)
            await world.faults.die()

        async def until_it_cannot(world: World) -> None:
            await until(world, State.COLLECTING)
            await asyncio.sleep(300)
            assert only(world).state is State.COLLECTING
            world.disk.show(world.home / "vault")
            world.vault_root = world.home / "vault"
            await until(world, State.GONE)

        assert not world.live(until_running)
        world.disk.hide(world.home / "vault")
        world.vault_root = world.home / "vault.away"
        assert world.live(until_it_cannot)
        world.judge.end()


def test_a_receipt_that_is_not_there_any_more_permits_nothing() -> None:
    """It is collected and written again."""
    with World(1) as world:
        with_job(world, written=0.9, size=2000)

        async def script(world: World) -> None:
            assert world.children is not None
            run = await world.launch(SPEC + '[idle]\naction = "notify"\n', "k")
            await until(world, State.VERIFIED)
            for path in world.vault_root.glob("*/.receipts/*.json"):
                path.unlink()
            await world.children.service.destroy(wire.Destroy(run=run))
            await until(world, State.GONE)

        assert world.live(script)
        kinds = [type(event) for event, _ in world.events(only(world).id)]
        assert kinds.count(e.ReceiptWritten) == 2
        world.judge.end()


def test_a_permit_that_grew_old_over_a_hanging_disk_is_asked_for_again() -> None:
    """The record of the destroy took minutes to be written; the daemon tripped over its own permit."""
    with World(1) as world:
        with_job(world, written=0.9, size=2000)

        def hook(name: str) -> None:
            run = next(iter(world.ledger.runs.values()), None) if world.ledger else None
            # the event is in memory, its commit has not begun
            if (
                name == "commit"
                and run is not None
                and run.state is State.DESTROYING
                and world.faults.sweep is None
            ):
                world.faults.sweep = Sweep(world.faults.total, Kind.HANG)

        world.faults.hook = hook
        assert world.live(to_the_end)
        assert world.faults.sweep is not None
        assert world.faults.sweep.struck
        kinds = [type(event) for event, _ in world.events(only(world).id)]
        assert kinds.count(e.DestroySent) == 2
        world.judge.end()


def test_a_file_that_rots_at_home_before_it_is_mirrored_does_not_count_there() -> None:
    """The remote was compared with the rotten file, found equal, and called verified for the good one."""
    rotten: list[Path] = []
    whole = SimulatedRclone.copy

    async def after_rot(self: SimulatedRclone, source: Path, there: str, names: Any, **more: Any) -> None:
        if not rotten:
            rotten.append(source / names[0])
            data, stamp = rotten[0].read_bytes(), rotten[0].stat().st_mtime_ns
            rotten[0].write_bytes(bytes([data[0] ^ 1]) + data[1:])
            os.utime(rotten[0], ns=(stamp, stamp))
        await whole(self, source, there, names, **more)

    with World(6, mirrors=True) as world:
        with_job(world, written=0.9, size=2000)
        spec = SPEC + f'[mirror]\nremotes = ["{REMOTE}"]\n'

        async def script(world: World) -> None:
            await world.launch(spec, "k")
            await until(world, State.GONE, State.FAILED)
            await asyncio.sleep(3600)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SimulatedRclone, "copy", after_rot)
            world.live(script)
        assert rotten
        assert world.remotes is not None
        there = {hashlib.sha256(content).hexdigest() for content in world.remotes.files.values()}
        stands = proof.load(Vault(world.vault_root), only(world).id, REMOTE)
        assert stands, "what did not rot is verified"
        assert {s.sha256 for s in stands.values()} <= there, "what is called verified is there"
