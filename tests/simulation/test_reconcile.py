"""The ledger against the account: what comes back, what was never seen, whose key it is (I2, I3)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from simulation.cloud import Machine
from simulation.faults import Kind
from simulation.steps import only, until, with_job
from simulation.world import World

from gpuwatch.client import wire
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.run import State

SPEC = """
name = "rec"
[gpu]
name = "RTX 4090"
[job]
command = "train"
[[artifacts]]
path = "model.bin"
[boot]
timeout = "20m"
"""


def kinds(world: World) -> list[str]:
    return [e.kind_of(event) for event, _ in world.events(only(world).id)]


def survives_its_first_destroy(world: World, hidden: float) -> list[Machine]:
    """The vendor says yes, hides the machine for a while, and never destroyed it; the second time it does."""
    lied: list[Machine] = []
    true_destroy = world.cloud.destroy

    def destroy(instance_id: str) -> bool:
        machine = world.cloud.machines[instance_id]
        if machine in lied:
            return true_destroy(instance_id)
        lied.append(machine)
        machine.seen_from = world.time.now + hidden
        return True

    world.cloud.destroy = destroy  # type: ignore[method-assign]
    return lied


def only_the_vendors_second_machine(world: World) -> bool:
    """Nothing else was wrong: that two machines lived at one time is what the vendor was made to hide here."""
    return all("rents a second machine" in str(violation) for violation in world.cloud.violations)


@pytest.mark.parametrize("hidden", [120.0, 1500.0, 7200.0])
def test_a_machine_that_comes_back_after_it_was_gone_is_an_alarm_and_ends_by_the_same_gate(
    hidden: float,
) -> None:
    with World(1) as world:
        with_job(world)
        lied = survives_its_first_destroy(world, hidden)
        alarms: list[list[str]] = []

        async def script(world: World) -> None:
            await world.launch(SPEC, "k")
            await until(lambda: only(world).state is State.GONE)
            await until(lambda: only(world).state is not State.GONE)
            alarms.append(world.children.service.snapshot().alarms)
            await until(lambda: only(world).state is State.GONE)

        world.live(script)
        assert "returned" in kinds(world)
        assert any("counted as gone" in line for line in alarms[0])
        assert not lied[0].alive
        again = kinds(world)[kinds(world).index("returned") :]
        assert again.count("destroy-sent") == 1
        assert ("receipt-written" in again) == (hidden > 3600), (
            "an old proof is renewed, a young one looked after"
        )
        assert not world.cloud.violations


def test_a_machine_that_came_back_survives_a_restart_of_the_daemon() -> None:
    with World(2) as world:
        with_job(world)
        lied = survives_its_first_destroy(world, 900.0)

        async def first(world: World) -> None:
            await world.launch(SPEC, "k")
            await until(lambda: only(world).state is State.GONE)

        async def second(world: World) -> None:
            await until(lambda: only(world).state is not State.GONE)

        async def third(world: World) -> None:
            await until(lambda: only(world).state is State.GONE)

        for script in (first, second, third):
            world.live(script)
        assert not lied[0].alive
        assert not world.cloud.violations


def test_an_ended_machine_is_checked_for_an_hour_and_then_off_the_books() -> None:
    with World(3) as world:
        with_job(world)

        async def script(world: World) -> None:
            await world.launch(SPEC, "k")
            await until(lambda: only(world).state is State.GONE)
            assert world.ledger.register, "it is still looked for"
            ended = world.time.now
            await until(lambda: not world.ledger.register)
            assert 3600 <= world.time.now - ended < 3600 + 700

        world.live(script)
        assert kinds(world)[-1] == "buried"


def test_a_dud_that_comes_back_is_destroyed_again_beside_the_run_that_goes_on() -> None:
    with World(4) as world:
        with_job(world, length=9000)
        duds = iter(["first"])
        world.cloud.boot_seconds = lambda: 10**9 if next(duds, None) else 20.0
        lied = survives_its_first_destroy(world, 600.0)

        async def script(world: World) -> None:
            await world.launch(SPEC.replace("20m", "2m") + "[recover]\nattempts = 3\n", "k")
            await until(lambda: "machine-returned" in kinds(world))
            assert only(world).state is State.RUNNING
            await until(lambda: "stray-gone" in kinds(world))
            assert only(world).state is State.RUNNING, "the other machine and its job are not touched"

        world.live(script)
        assert not lied[0].alive
        assert len(world.cloud.living()) == 1
        assert only_the_vendors_second_machine(world)


def test_a_lost_machine_that_comes_back_is_driven_on_to_a_proved_end() -> None:
    with World(5) as world:
        with_job(world, length=4000)

        async def script(world: World) -> None:
            await world.launch(SPEC, "k")
            await until(lambda: only(world).state is State.RUNNING)
            (machine,) = world.cloud.living()
            machine.taken = machine.seen_until = world.time.now  # the host is away
            await until(lambda: only(world).state is State.LOST)
            machine.taken = None  # and there again
            await until(lambda: only(world).state is State.GONE)

        world.live(script)
        assert "receipt-written" in kinds(world)
        assert not world.cloud.living()
        assert not world.cloud.violations


# --- created, and not to be seen -----------------------------------------------------------------


def unseen(world: World) -> None:
    """Whatever is made exists, bills, and is in no listing."""
    world.cloud.lag_create = 10**9


def test_a_machine_that_nobody_can_see_is_an_alarm_and_nothing_more_is_rented_until_it_is_answered() -> None:
    with World(6) as world:
        with_job(world)
        unseen(world)

        async def first(world: World) -> None:
            await world.launch(SPEC, "k")
            await until(lambda: "machine-unseen" in kinds(world))

        async def second(world: World) -> None:
            assert any("gputui resolve" in line for line in world.children.service.snapshot().alarms)
            await world.launch(SPEC, "k2")
            await asyncio.sleep(3 * 3600)
            assert len(world.cloud.machines) == 1, "one machine that cannot be seen, and none after it"
            rows = world.children.service.snapshot().runs
            assert any("nothing more is rented" in (row.reason or "") for row in rows)
            world.cloud.lag_create = 0.0
            (entry,) = [x for x in world.ledger.register.values() if x.alarm is not None]
            await world.children.service.resolve(wire.Resolve(label=entry.label, reason="not in the console"))
            await until(lambda: world.settled())

        world.live(first)
        world.live(second)
        assert len(world.cloud.machines) >= 2
        assert {r.state for r in world.durable().values()} == {State.GONE}


def test_an_alarm_about_a_machine_is_over_by_itself_once_a_listing_shows_it() -> None:
    with World(7) as world:
        with_job(world)
        world.cloud.lag_create = 800.0

        async def script(world: World) -> None:
            await world.launch(SPEC, "k")
            await until(lambda: "machine-unseen" in kinds(world))
            await until(lambda: "machine-listed" in kinds(world))
            assert world.children.service.snapshot().alarms == []
            await until(world.settled)

        world.live(script)
        assert only(world).state is State.GONE
        assert len(world.cloud.machines) == 1
        assert not world.cloud.violations


def test_a_create_whose_machine_appears_long_after_it_was_given_up_is_ended_and_never_adopted_twice() -> None:
    with World(8) as world:
        with_job(world)
        rent = world.cloud.rent
        lost: list[Machine] = []

        def hide_the_first(label: str, offer_id: str) -> Machine:
            machine = rent(label, offer_id)
            if not lost:
                lost.append(machine)
                machine.seen_from = world.time.now + 900.0
            return machine

        async def answer(method: str, path: str, endpoint: str, kwargs: Any, *, attempts: int) -> Any:
            done = await call(method, path, endpoint, kwargs, attempts=attempts)
            return None if endpoint == "create" and len(world.cloud.machines) == 1 else done

        async def script(world: World) -> None:
            await world.launch(SPEC + "[recover]\nattempts = 3\n", "k")
            await until(lambda: "stray-gone" in kinds(world))
            await until(world.settled)

        call, world.transport._call = world.transport._call, answer  # type: ignore[method-assign]
        world.cloud.rent = hide_the_first  # type: ignore[method-assign]
        world.live(script)
        assert only(world).state is State.GONE
        assert not world.cloud.living()
        assert only_the_vendors_second_machine(world)


# --- whose account -------------------------------------------------------------------------------


def test_a_restart_with_another_accounts_key_concludes_nothing_about_our_machines() -> None:
    with World(9) as world:
        with_job(world, length=4000)

        async def first(world: World) -> None:
            await world.launch(SPEC, "k")
            await until(lambda: only(world).state is State.RUNNING)

        async def second(world: World) -> None:
            await asyncio.sleep(2 * 3600)
            assert only(world).state not in (State.LOST, State.GONE), "another account's list is no evidence"
            assert any("another account" in line for line in world.children.service.snapshot().alarms)
            other = await world.launch(SPEC.replace("rec", "other"), "k2")
            await asyncio.sleep(600)
            assert world.ledger.runs[other].machine is None, "nothing is rented on a stranger's account"

        async def third(world: World) -> None:
            await until(world.settled)

        world.live(first)
        world.faults.windows[Kind.STRANGER] = [(world.time.now, world.time.now + 10**6)]
        world.live(second)
        world.faults.windows.clear()
        world.live(third)
        assert {r.state for r in world.durable().values()} == {State.GONE}
        assert not world.cloud.violations
