"""The world changes while somebody looks: between a check and an act, and between two halves of one wish."""

from __future__ import annotations

import asyncio

import pytest
from simulation.arriving import SimulatedSentinel
from simulation.faults import Kind, Sweep
from simulation.steps import only, until, with_job
from simulation.world import World

from gpuproviders.errors import Ambiguous, Unavailable
from gpuproviders.model import Created, Listing
from gpuproviders.vast import parse
from gpuproviders.vast.adapter import VastProvider
from gpuwatch.box.sentinel import StageState
from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed
from gpuwatch.daemon.fleet import Fleet
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.absence import AFTER_DESTROY
from gpuwatch.lifecycle.run import State

SPEC = """
name = "race"
[gpu]
name = "RTX 4090"
[job]
command = "train"
[[artifacts]]
path = "model.bin"
"""


def kinds(world: World) -> list[type[e.Event]]:
    return [type(event) for event, _ in world.events(only(world).id)]


def test_a_wish_taken_back_during_the_last_look_keeps_the_machine() -> None:
    with World(1) as world:
        with_job(world)
        answers: list[object] = []

        def hook(name: str) -> None:
            # the last look of a run that is verified: the person changes her mind while it is under way
            run = next(iter(world.ledger.runs.values()), None) if world.ledger else None
            if name == "box list" and run is not None and run.state is State.VERIFIED and not answers:
                answers.append(asyncio.get_running_loop().create_task(world.children.service.cancel(wire.Cancel(run=run.id))))  # fmt: skip

        async def script(world: World) -> None:
            run = await world.launch(SPEC + '[idle]\naction = "notify"\n', "k")
            await until(lambda: only(world).state is State.VERIFIED)
            await world.children.service.destroy(wire.Destroy(run=run))
            world.faults.hook = hook
            await until(lambda: bool(answers))
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
            await until(lambda: only(world).state is State.RUNNING)
            service = world.children.service
            # everything is given up and taken back at once, before the actor has had its turn
            order = wire.Destroy(run=run, waive=["*"], confirm="race", reason="a slip")
            service._nudge = lambda _: None
            await service.destroy(order)
            await service.cancel(wire.Cancel(run=run))
            del service._nudge
            service._nudge(run)
            # the end of the budget comes without any waiver of its own
            await until(world.settled)

        world.live(script)
        assert not world.cloud.violations, world.cloud.violations
        assert only(world).state is State.GONE
        assert e.ReceiptWritten in kinds(world)
        assert (world.vault_root / only(world).id / "model.bin").exists()


@pytest.mark.parametrize("kill_at", range(1, 13))
def test_a_crash_inside_an_order_to_give_files_up_leaves_no_waiver_without_a_wish(kill_at: int) -> None:
    with World(3) as world:
        with_job(world, length=4000)
        commits = 0
        ordered = False

        def hook(name: str) -> None:
            nonlocal commits
            if ordered and name == "commit":
                commits += 1
                if commits == (kill_at + 1) // 2:
                    way = Kind.CRASH_BEFORE if kill_at % 2 else Kind.CRASH_AFTER
                    world.faults.sweep = Sweep(world.faults.total, way)

        async def first(world: World) -> None:
            nonlocal ordered
            run = await world.launch(SPEC + "[budget]\nmax_hours = 0.9\n", "k")
            await until(lambda: only(world).state is State.RUNNING)
            await asyncio.sleep(2500)
            ordered = True
            await world.children.service.destroy(
                wire.Destroy(run=run, waive=["model.bin"], confirm="race", reason="not needed")
            )
            await until(world.settled)

        async def second(world: World) -> None:
            run = only(world)
            assert not run.waivers or run.end_requested_by is not None or run.state is State.GONE
            await until(world.settled)

        world.faults.hook = hook
        if not world.live(first):
            world.faults.hook = lambda _: None
            world.live(second)
        world.judge.end()


def test_a_job_that_does_not_end_is_not_taken_for_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = SimulatedSentinel.stop
    asked: list[str] = []

    async def stubborn(self: SimulatedSentinel, stage: str, *, grace: float = 30) -> StageState:
        asked.append(stage)
        if len(asked) < 4:
            await asyncio.sleep(1)
            return StageState("running" if len(asked) % 2 else "starting", 7, None)
        return await honest(self, stage, grace=grace)

    monkeypatch.setattr(SimulatedSentinel, "stop", stubborn)
    with World(4) as world:
        with_job(world, length=4000)

        async def script(world: World) -> None:
            run = await world.launch(SPEC, "k")
            await until(lambda: only(world).state is State.RUNNING)
            await asyncio.sleep(2500)
            await world.children.service.destroy(wire.Destroy(run=run))
            await until(world.settled)

        world.live(script)
        assert len(asked) == 4, "an answer that the job still runs was taken for its end"
        assert kinds(world).count(e.JobEnded) == 1
        world.judge.end()


def test_an_order_that_is_too_late_says_so() -> None:
    with World(5) as world:
        with_job(world)

        async def script(world: World) -> None:
            run = await world.launch(SPEC, "k")
            await until(lambda: only(world).state is State.DESTROYING)
            with pytest.raises(CallFailed):
                await world.children.service.destroy(
                    wire.Destroy(run=run, waive=["*"], confirm="race", reason="late")
                )
            await until(world.settled)

        world.live(script)
        world.judge.end()


def neighbour(world: World) -> str:
    """Somebody else's machine in the same account; its id."""
    judge, world.cloud.judge_create = world.cloud.judge_create, lambda _: None
    made = world.cloud.rent("my colleague's", "5")
    world.cloud.judge_create = judge
    return made.instance_id


@pytest.mark.parametrize("answer", ["plain", "ambiguous", "someone else's later"])
def test_an_answer_that_names_somebody_elses_machine_leads_to_ours_and_leaves_theirs(
    answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I2: machines that are not ours are listed, never touched; whatever the answer to our create says."""
    honest = VastProvider.create
    with World(6) as world:
        with_job(world)
        theirs = neighbour(world)

        async def wrong(self: VastProvider, order: object) -> Created:
            await honest(self, order)
            if answer == "ambiguous":
                raise Ambiguous("500", instance_id=theirs)
            return Created(theirs)

        monkeypatch.setattr(VastProvider, "create", wrong)
        if answer == "someone else's later":  # listed only when we count on it already
            world.cloud.machines[theirs].seen_from = world.time.now + 40

        async def script(world: World) -> None:
            await until(lambda: world.children._ctx.fleets["vast"].listing is not None)
            run = await world.launch(SPEC, "k")
            await asyncio.sleep(4000)
            if only(world).state not in (State.GONE, State.FAILED):
                await world.children.service.destroy(wire.Destroy(run=run))
            await asyncio.sleep(4000)

        world.live(script)
        mine = [m for m in world.cloud.machines.values() if m.instance_id != theirs]
        assert world.cloud.machines[theirs].alive, "somebody else's machine was destroyed"
        assert world.cloud.machines[theirs].box.job.started is None, "our job ran on somebody else's machine"
        if answer != "someone else's later":
            assert only(world).state is State.GONE
            assert not any(m.alive for m in mine)
            assert (world.vault_root / only(world).id / "model.bin").exists()


def test_a_look_up_that_asked_another_account_is_no_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """I3: the key is exchanged between a listing and the look-up, and back: nobody says whose answer that was."""
    with World(7) as world:
        theirs = neighbour(world)
        looked = [False]

        async def nobody(_self: VastProvider, _instance_id: str) -> None:
            looked[0] = True

        async def listing(self: VastProvider) -> Listing:
            if looked[0] and not world.time.now % 2:
                raise Unavailable("another account")
            return Listing(
                tuple(
                    parse.instance(world.cloud.status(m)) for m in world.cloud.machines.values() if looked[0]
                )
            )

        monkeypatch.setattr(VastProvider, "instance", nobody)
        monkeypatch.setattr(VastProvider, "instances", listing)
        found: list[object] = []

        async def script(world: World) -> None:
            fleet: Fleet = world.children._ctx.fleets["vast"]
            fleet.need()
            found.append(await fleet.await_absence(theirs, AFTER_DESTROY))

        world.live(script)
        assert found == [None], "a machine that the next listing shows counts as gone"


def test_an_upload_is_shown_while_it_lasts_and_is_no_hold() -> None:
    with World(1) as world:
        with_job(world)
        (world.home / "data.bin").write_bytes(b"x" * 5000)
        asked: list[asyncio.Task[wire.RunDetail]] = []

        def hook(name: str) -> None:
            if name == "box receive" and not asked:
                run = wire.RunRef(run=only(world).id)
                assert world.children is not None
                asked.append(asyncio.get_running_loop().create_task(world.children.service.run(run)))

        async def script(world: World) -> None:
            await world.launch(SPEC + '[upload]\npaths = ["data.bin"]\n', "k")
            await until(lambda: only(world).state is State.GONE)

        world.faults.hook = hook
        assert world.live(script)
        (task,) = asked
        row = task.result().run
        assert row.transfer is not None
        assert (row.transfer.up, row.transfer.bytes_total, row.transfer.files_total) == (True, 5000, 1)
        assert "downloading" not in [hold.name for hold in row.holds]
