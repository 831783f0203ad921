"""Every door to a machine's end, taken in every state of custody: none skips the gate (I1, I5).

The judge stands in the simulated cloud: at the moment of a destroy it compares the box with the
vault. What a person holds (a pin, a session) is checked beside it. A door is whatever can make the
daemon want the end of a machine; a call that is not sorted into `READS` or `DOORS` fails the test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from simulation.cloud import Box, Job, Violation
from simulation.faults import Kind
from simulation.steps import until
from simulation.world import World

from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.evolve import Impossible
from gpuwatch.lifecycle.run import FINAL, Run, State

SPEC = """
name = "door"
[gpu]
name = "RTX 4090"
[job]
command = "train"
[checkpoints]
path = "ckpt"
[[artifacts]]
path = "model.bin"
[idle]
action = "notify"
[recover]
on_loss = "never"
"""


def run_of(world: World) -> Run:
    """The newest run: the only one, or the one that collects from a machine which another goes on without."""
    return max(world.durable().values(), key=lambda run: run.created_at)


def box_of(world: World) -> Box:
    (machine,) = [m for m in world.cloud.machines.values() if m.alive]
    return machine.box


def job(world: World, *, length: float, artifact: bool = True) -> None:
    """Checkpoints on the way, the artifact near the end."""

    def make(_label: str) -> Box:
        def checkpoint(box: Box, at: float) -> None:
            box.write("ckpt/step-1/model.safetensors", 4000, at)
            box.write("ckpt/step-1/MANIFEST.json", 100, at)

        def model(box: Box, at: float) -> None:
            box.write("model.bin", 5000, at)

        plan = [(30.0, checkpoint)] + ([(length - 5, model)] if artifact else [])
        return Box(Job(plan, length, 0))

    world.cloud.make_box = make


# --- the states of custody -----------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    """How far a run's proof is when the door is taken. `held`: a person keeps the machine, no door may end it."""

    reach: Callable[[World], Awaitable[None]]
    length: float = 600.0
    artifact: bool = True
    held: bool = False


async def booting(world: World) -> None:
    world.cloud.boot_seconds = lambda: 900.0
    await world.launch(SPEC, "k")
    await until(lambda: run_of(world).state is State.BOOTING)


async def running(world: World) -> None:
    await world.launch(SPEC, "k")
    await until(lambda: run_of(world).state is State.RUNNING)


async def partly_home(world: World) -> None:
    await running(world)
    await until(lambda: run_of(world).verified_files > 0)


async def unheard(world: World) -> None:
    await partly_home(world)
    start = world.time.now
    world.faults.windows[Kind.OFFLINE] = [(start, start + 3000.0)]


async def vault_full(world: World) -> None:
    world.faults.windows[Kind.DISK_FULL] = [(world.time.now + 40, world.time.now + 10**6)]
    await running(world)
    await until(lambda: world.time.now and box_of(world).job.ended is not None)


async def blocked(world: World) -> None:
    await world.launch(SPEC, "k")
    await until(lambda: run_of(world).state is State.FAILED)


async def verified(world: World) -> None:
    await world.launch(SPEC, "k")
    await until(lambda: run_of(world).state is State.VERIFIED)


async def verified_and_written_again(world: World) -> None:
    await verified(world)
    box_of(world).write("model.bin", 777, world.time.now)


async def verified_long_ago(world: World) -> None:
    await verified(world)
    await asyncio.sleep(2 * 3600)
    box_of(world).write("ckpt/step-9/extra.bin", 9, world.time.now)


async def verified_before_a_reboot(world: World) -> None:
    await verified(world)
    box_of(world).boot += 1
    box_of(world).write("model.bin", 778, world.time.now)


async def removed_at_home(world: World) -> None:
    await verified(world)
    (world.vault_root / run_of(world).id / "model.bin").unlink()


async def pinned(world: World) -> None:
    await verified(world)
    await world.children.service.hold(wire.HoldPlace(run="door", reason="I want to look", by="me"))


async def pinned_while_running(world: World) -> None:
    await running(world)
    await world.children.service.hold(wire.HoldPlace(run="door", hold="demo-day", by="me"))


async def somebody_logged_in(world: World) -> None:
    await verified(world)
    box_of(world).sessions = 1


SCENES = {
    "booting": Scene(booting),
    "running": Scene(running),
    "partly home": Scene(partly_home),
    "unheard": Scene(unheard),
    "vault full": Scene(vault_full, length=60),
    "blocked": Scene(blocked, length=60, artifact=False),
    "verified": Scene(verified, length=60),
    "verified, then written again": Scene(verified_and_written_again, length=60),
    "verified long ago": Scene(verified_long_ago, length=60),
    "verified before a reboot": Scene(verified_before_a_reboot, length=60),
    "removed at home": Scene(removed_at_home, length=60),
    "pinned": Scene(pinned, length=60, held=True),
    "pinned while running": Scene(pinned_while_running, held=True),
    "somebody logged in": Scene(somebody_logged_in, length=60, held=True),
}

# --- the doors -----------------------------------------------------------------------------------


async def call(world: World, method: str, params: wire.Struct) -> None:
    """As any client does: over the daemon's own dispatch. A refusal is an answer like any other."""
    try:
        await world.children.service.call(method, params)
    except CallFailed as refused:
        assert refused.code in (wire.Code.REFUSED, wire.Code.CONFLICT, wire.Code.USAGE, wire.Code.NOT_FOUND)


async def destroy(world: World) -> None:
    """`d` in the app, `gputui destroy`, the API: all three send this."""
    await call(world, "destroy", wire.Destroy(run="door"))


async def waive_unnamed(world: World) -> None:
    await call(world, "destroy", wire.Destroy(run="door", waive=["*"], confirm="", reason="no name typed"))


async def waive_without_reason(world: World) -> None:
    await call(world, "destroy", wire.Destroy(run="door", waive=["*"], confirm="door", reason=" "))


async def release_every_hold(world: World) -> None:
    """Everything that can be let go without giving files up; pins and sessions of others stay (not ours to release)."""
    for name in ("artifacts", "missing", "unknown-state", "inventory", "downloading", "receipt", "job"):
        await call(world, "hold.release", wire.HoldRelease(run="door", hold=name))


async def wish(world: World, by: str) -> None:
    """What every rule of the daemon does, and all that it can do."""
    run = run_of(world)
    if run.state not in FINAL and run.end_requested_by is None:
        try:
            await world.ledger.append(run.id, e.EndRequested(by=by, reason="the rule of this door"))
        except Impossible:
            return
        world.children.service._nudge(run.id)


async def idle_rule(world: World) -> None:
    await wish(world, "idle")


async def budget_rule(world: World) -> None:
    await wish(world, "budget")


async def end_of_time(world: World) -> None:
    await wish(world, "retention")


async def kill_and_restart(_world: World) -> None:
    """Reconciliation at start: the process ends here and another carries on."""


async def came_back(world: World) -> None:
    """Reconciliation while running: the machine goes out of sight and is there again."""
    (machine,) = world.cloud.living()
    machine.taken = machine.seen_until = world.time.now
    await asyncio.sleep(1800)
    machine.taken = None


DOORS: dict[str, Callable[[World], Awaitable[None]]] = {
    "destroy (app, command line, API)": destroy,
    "waive without the name": waive_unnamed,
    "waive without a reason": waive_without_reason,
    "release what facts hold": release_every_hold,
    "idle rule": idle_rule,
    "budget rule": budget_rule,
    "end of time": end_of_time,
    "reconcile at start": kill_and_restart,
    "reconcile while running": came_back,
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("scene", SCENES)
def test_no_door_skips_the_gate(scene: str, door: str) -> None:
    setting = SCENES[scene]
    with World(11) as world:
        job(world, length=setting.length, artifact=setting.artifact)

        async def take(world: World) -> None:
            await setting.reach(world)
            await DOORS[door](world)
            await asyncio.sleep(120)

        async def after(world: World) -> None:
            world.learn()
            await asyncio.sleep(900)  # the account is compared with the ledger meanwhile
            if setting.held:
                # as long as it is held the machine stays, whatever else happens
                box = next(m.box for m in world.cloud.machines.values())
                await asyncio.sleep(3 * 3600)
                assert world.cloud.living(), f"{door} ended a machine that a person holds"
                for name in [p.name for p in run_of(world).pins]:
                    await call(world, "hold.release", wire.HoldRelease(run="door", hold=name))
                box.sessions = 0
            await destroy(world)
            world.faults.windows.clear()
            await until(world.settled)

        world.live(take)
        world.live(after)
        if world.cloud.violations:
            raise world.cloud.violations[0]
        run = run_of(world)
        assert run.waivers == (), "no door gave files up without the run's name and a reason"
        assert (run.state is State.FAILED) == bool(world.cloud.living()), f"{run.state}: {run.trouble}"
        if run.state is State.FAILED:
            assert "missing" in (run.trouble or ""), "what is kept is kept for a file that was never made"


@pytest.mark.parametrize("door", [name for name in DOORS if "reconcile" not in name])
def test_no_door_to_a_machine_that_was_left_skips_the_gate(door: str) -> None:
    """It came back while its run goes on elsewhere: the run that has it now is asked as any other."""
    with World(13) as world:
        job(world, length=900)

        async def script(world: World) -> None:
            first = await world.launch(SPEC.replace('"never"', '"resume"'), "k")
            await until(lambda: run_of(world).verified_files > 0)
            (machine,) = world.cloud.living()
            machine.box.write("ckpt/step-1/late.bin", 4321, world.time.now)
            world.cloud.take(machine)
            await until(lambda: run_of(world).attempt == 2 and run_of(world).state is State.RUNNING)
            start = world.time.now
            world.faults.windows[Kind.DISK_FULL] = [(start, start + 2400.0)]  # nothing can come home yet
            world.cloud.give_back(machine)
            await until(lambda: run_of(world).of == first)
            await DOORS[door](world)
            await asyncio.sleep(1200)
            assert machine.alive, f"{door} ended a machine whose files are not home"
            await until(lambda: run_of(world).state in FINAL)
            await call(world, "destroy", wire.Destroy(run=first))
            await until(world.settled)

        world.live(script)
        if world.cloud.violations:
            raise world.cloud.violations[0]
        left = run_of(world)
        assert left.waivers == ()
        assert left.state is State.GONE, left.trouble
        assert (world.vault_root / left.id / "ckpt/step-1/late.bin").stat().st_size == 4321


def test_the_judge_of_this_test_sees_a_destroy_that_skips_the_gate() -> None:
    """The test can fail: with a grant that looks at nothing, the judge finds the loss."""
    from gpuwatch.custody import permit as custody
    from gpuwatch.daemon import destroying

    def blind(run: Run, *_: Any, **__: Any) -> Any:
        return custody.DestroyPermit(custody._SEAL, instance_id=run.machine.instance_id, ground="none")

    true_permit = destroying._permit

    async def skip(_ctx: Any, run: Run, *_: Any) -> Any:
        return blind(run)

    with World(12) as world:
        job(world, length=60)
        destroying._permit = skip  # type: ignore[assignment]
        try:

            async def script(world: World) -> None:
                await verified_and_written_again(world)
                await destroy(world)
                await until(world.settled)

            world.live(script)
        finally:
            destroying._permit = true_permit
        assert any(isinstance(v, Violation) and "I1" in str(v) for v in world.cloud.violations)


# --- all doors are here --------------------------------------------------------------------------

READS = {
    "hello", "status", "offers", "offers.history", "cost", "spec.check", "runs", "runs.ended", "run", "why", "holds", "log.read",
    "telemetry.history", "mirror.status", "events", "subscribe", "unsubscribe", "machines",
}  # fmt: skip
NO_END = {
    "shutdown": "ends the daemon, no machine; a restart carries on",
    "launch": "begins",
    "run.retry": "collects again, or launches the same spec as another run",
    "run.stop": "stops, where that keeps the disk, and only once everything was collected (test_pausing)",
    "run.start": "starts a stopped machine",
    "run.recover": "leaves a machine to a run that collects from it and ends it like any other (test_mending)",
    "destroy.cancel": "takes a wish back",
    "hold": "keeps",
    "machine.avoid": "a word about what to rent next; touches no machine that is rented",
    "machine.forgive": "takes such a word back",
    "alarm.resolve": "answers for a machine that nobody can see; touches none",
}
TAKEN = {"destroy", "hold.release"}


def test_a_client_that_only_looks_may_send_what_changes_nothing() -> None:
    assert wire.READS == READS


def test_every_call_of_the_daemon_is_a_door_of_this_test_or_said_to_be_none() -> None:
    assert set(wire.METHODS) == READS | set(NO_END) | TAKEN


def test_what_the_app_and_the_command_line_send_is_one_of_those_calls() -> None:
    """The app holds no provider and no ledger (import arrows); what it calls by name is known here."""
    import ast
    from pathlib import Path

    import gputui

    called: set[str] = set()
    for path in Path(gputui.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("call", "ask"):
                called |= {
                    a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)
                }
    known = called & set(wire.METHODS)
    assert {"destroy", "destroy.cancel", "hold.release"} <= known
    assert all(isinstance(msgspec.structs.fields(wire.METHODS[m][0]), tuple) for m in known)
