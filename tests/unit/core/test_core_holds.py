"""Named holds, and the grounds for a stop and for ending a machine that came back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from core_lives import BOOT, INSTANCE, LABEL, NOW, machine, receipt, run

from gpuwatch.custody import holds as named
from gpuwatch.custody.facts import BoxFile, Inventory
from gpuwatch.custody.permit import (
    DestroyPermit,
    Refusal,
    StopPermit,
    grant,
    grant_empty,
    grant_given_up,
    grant_stop,
    grant_stray,
)
from gpuwatch.custody.rules import Assessment, Hold, assess
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.decide import Destroy, Rest, Why, decide
from gpuwatch.lifecycle.evolve import Impossible, evolve
from gpuwatch.lifecycle.register import Entry
from gpuwatch.lifecycle.run import EVERYTHING, PlacedHold, Run, State
from gpuwatch.spec.model import Artifact, Job, RunSpec

SPEC = RunSpec(name="r", job=Job(command="x"), artifacts=(Artifact(path="out"),))
PIN = PlacedHold(name="pin", by="me", at=NOW, reason="I want to look")
CLEAR = Assessment((), (), ())
WORKED = machine(job_started_at=NOW, boot_id=BOOT)
VERIFIED = run(State.VERIFIED, machine=WORKED, receipt=receipt(), end_requested_by="me")
GROUNDS: dict[str, tuple[Run, Callable[..., DestroyPermit]]] = {
    "nothing ever ran": (run(State.BOOTING, machine=machine()), grant_empty),
    "everything waived": (run(State.FAILED, machine=WORKED, waivers=(EVERYTHING,)), grant_given_up),
    "proved": (VERIFIED, lambda who, **kw: proved(who, **kw)),
}


def proved(who: Run, *, sessions: int | None = None, transferring: bool = False) -> DestroyPermit:
    look = Inventory(INSTANCE, BOOT, NOW, (), sessions=sessions)
    return grant(who, who.receipt, CLEAR, look, now=NOW, transferring=transferring)


def held(who: Run) -> Run:
    return msgspec.structs.replace(who, pins=(PIN,))


def released(who: Run, name: str) -> Run:
    return evolve(who, e.HoldReleased(name=name, by="me"), NOW)


# --- what a person places ------------------------------------------------------------------------


@pytest.mark.parametrize("ground", GROUNDS)
def test_a_pin_stands_before_every_ground_waivers_included(ground: str) -> None:
    who, ask = GROUNDS[ground]
    assert ask(who).instance_id == INSTANCE
    with pytest.raises(Refusal, match="pin: I want to look"):
        ask(held(who))


@pytest.mark.parametrize("ground", GROUNDS)
def test_a_pinned_run_rests_instead_of_being_destroyed(ground: str) -> None:
    who = msgspec.structs.replace(GROUNDS[ground][0], end_requested_by="budget")
    assert isinstance(decide(who, SPEC), Destroy)
    assert decide(held(who), SPEC) == Rest(Why.HELD)
    with pytest.raises(Impossible, match="held by pin"):
        evolve(held(who), e.DestroySent(permit="x", instance_id=INSTANCE), NOW)


def test_each_hold_is_placed_and_released_alone_with_who_when_and_why() -> None:
    who = evolve(VERIFIED, e.HoldPlaced(name="pin", by="ann", reason="look"), NOW)
    who = evolve(who, e.HoldPlaced(name="demo-day", by="bob"), NOW + 1)
    who = evolve(who, e.HoldPlaced(name="pin", by="ann", reason="look twice"), NOW + 2)
    assert [(h.name, h.by, h.at, h.reason) for h in who.pins] == [
        ("demo-day", "bob", NOW + 1, ""),
        ("pin", "ann", NOW + 2, "look twice"),
    ]
    assert [h.name for h in released(who, "demo-day").pins] == ["pin"]
    assert released(released(who, "demo-day"), "pin").pins == ()
    assert [h.by for h in named.placed(who)] == ["bob", "ann"]


def test_a_pin_survives_the_next_machine_and_a_released_fact_does_not() -> None:
    who = released(evolve(run(), e.HoldPlaced(name="pin", by="me"), NOW), "ssh-session")
    chosen = e.OfferChosen(
        label="gputui-r1-2-bb", provider="vast", offer_id="1", machine_id=None, gpu="x", gpu_count=1, gpu_memory=1,
        price=1, disk_price=0,
    )  # fmt: skip
    after = evolve(who, chosen, NOW)
    assert ([h.name for h in after.pins], after.released) == (["pin"], ())


def test_nothing_is_held_once_the_destroy_is_on_its_way() -> None:
    with pytest.raises(Impossible):
        evolve(run(State.DESTROYING, machine=WORKED), e.HoldPlaced(name="pin", by="me"), NOW)


# --- what comes and goes -------------------------------------------------------------------------


@pytest.mark.parametrize("ground", GROUNDS)
def test_somebody_logged_in_holds_every_ground_until_released(ground: str) -> None:
    who, ask = GROUNDS[ground]
    with pytest.raises(Refusal, match="ssh-session: somebody is logged in"):
        ask(who, sessions=1)
    with pytest.raises(Refusal, match="2 people are"):
        ask(who, sessions=2)
    assert ask(released(who, "ssh-session"), sessions=1)
    assert ask(who, sessions=0)


def test_a_box_that_cannot_tell_who_is_logged_in_holds_nothing_by_that() -> None:
    assert named.passing(VERIFIED, sessions=None, transferring=False) == ()


def test_files_on_their_way_hold_until_they_are_home_or_let_go() -> None:
    with pytest.raises(Refusal, match="downloading"):
        proved(VERIFIED, transferring=True)
    assert proved(released(VERIFIED, "downloading"), transferring=True)
    assert {named.SESSION, named.DOWNLOADING} == named.WAIT


def test_what_the_box_could_not_list_holds_until_it_is_released_by_its_name() -> None:
    look = Inventory(INSTANCE, BOOT, NOW, (BoxFile("out/a", 1, 2, 3, 4),), ("cannot list out/secret",))
    names = {h.name for h in assess(SPEC, look, {}).holds}
    assert names == {"artifacts", "inventory"}
    assert {h.name for h in assess(SPEC, look, {}, released=["inventory"]).holds} == {"artifacts"}
    assert {h.name for h in assess(SPEC, look, {}, released=["artifacts"]).holds} == names, (
        "files need a waiver"
    )


def test_every_hold_that_the_code_makes_has_a_meaning_and_a_way_out() -> None:
    import ast
    from pathlib import Path

    import gpuwatch

    made = set()
    for path in Path(gpuwatch.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            first = node.args[0] if isinstance(node, ast.Call) and node.args else None
            if (
                isinstance(node, ast.Call)
                and ast.unparse(node.func).endswith("Hold")
                and isinstance(first, ast.Constant)
            ):
                made.add(first.value)
    assert made
    assert made <= set(named.KINDS)
    assert named.removal("a-name-of-my-own") is named.Removal.RELEASE


# --- a stop --------------------------------------------------------------------------------------


def stop(who: Run, *, keeps: bool | None, **more: Any) -> StopPermit:
    return grant_stop(who, keeps_disk=keeps, now=NOW, **more)


def test_a_stop_that_keeps_the_disk_loses_nothing_and_covers_no_loss() -> None:
    for who in (run(State.RUNNING, machine=WORKED), VERIFIED, run(State.BOOTING, machine=machine())):
        permit = stop(who, keeps=True)
        assert (permit.instance_id, permit.covers_loss) == (INSTANCE, False)


@pytest.mark.parametrize("keeps", [False, None])
def test_a_stop_that_loses_the_disk_takes_what_a_destroy_takes(keeps: bool | None) -> None:
    look = Inventory(INSTANCE, BOOT, NOW, ())
    with pytest.raises(Refusal, match="loses its disk"):
        stop(run(State.RUNNING, machine=WORKED), keeps=keeps)
    with pytest.raises(Refusal, match="no receipt"):
        stop(run(State.RUNNING, machine=WORKED), keeps=keeps, assessment=CLEAR, inventory=look)
    unsafe = Assessment((Hold("artifacts", "1 file"),), (), ())
    with pytest.raises(Refusal, match="1 file"):
        stop(VERIFIED, keeps=keeps, receipt=receipt(), assessment=unsafe, inventory=look)
    for who in (run(State.BOOTING, machine=machine()), GROUNDS["everything waived"][0]):
        assert stop(who, keeps=keeps).covers_loss
        with pytest.raises(Refusal, match="pin"):
            stop(held(who), keeps=keeps)
    assert stop(VERIFIED, keeps=keeps, receipt=receipt(), assessment=CLEAR, inventory=look).covers_loss
    with pytest.raises(Refusal, match="no machine"):
        stop(run(), keeps=keeps)


# --- a machine that came back --------------------------------------------------------------------


def stray(**fields: Any) -> Entry:
    known: dict[str, Any] = {
        "label": LABEL,
        "run": "r1",
        "provider": "vast",
        "at": NOW,
        "instance_id": INSTANCE,
    }
    return Entry(**(known | fields))


def test_a_stray_ends_only_when_register_and_run_agree_that_nothing_ran_on_it() -> None:
    dud = machine(gone_at=NOW, dud="no SSH")
    assert grant_stray(stray(), run(past=(dud,)), INSTANCE).instance_id == INSTANCE
    assert grant_stray(stray(), run(), INSTANCE), "a create that never showed up left no machine in its run"
    refused = [
        (stray(job_at=NOW), run(past=(dud,)), INSTANCE),
        (stray(), run(past=(machine(gone_at=NOW, job_started_at=NOW),)), INSTANCE),
        (stray(), run(machine=machine()), INSTANCE),
        (stray(run="another"), run(), INSTANCE),
        (stray(), run(), "78"),
        (stray(), held(run()), INSTANCE),
    ]
    for entry, who, instance_id in refused:
        with pytest.raises(Refusal):
            grant_stray(entry, who, instance_id)
