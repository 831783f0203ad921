"""What comes next, for every state and whatever it depends on: the whole table of `decide`."""

from __future__ import annotations

import msgspec
import pytest
from core_lives import NOW, machine, run

from gpuwatch.lifecycle import decide as d
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.evolve import evolve
from gpuwatch.lifecycle.run import EVERYTHING, Machine, Pause, Phase, PlacedHold, Run, State
from gpuwatch.spec.model import Artifact, Idle, Job, RunSpec

ENDS = RunSpec(name="r", job=Job(command="true"), artifacts=(Artifact(path="out"),))
TIMED = msgspec.structs.replace(ENDS, idle=Idle(after=900.0))
STOPS = msgspec.structs.replace(ENDS, idle=Idle(action="stop"))
KEEPS = msgspec.structs.replace(ENDS, idle=Idle(action="notify"))

CHOSEN = machine(create=Phase.NONE, create_sent_at=None, rented_at=None, instance_id=None)
SENT = machine(create=Phase.SENT, rented_at=None, instance_id=None)
UNKNOWN = machine(create=Phase.UNKNOWN, rented_at=None, instance_id=None)
IDLE = machine()
WORKED = machine(job_started_at=NOW)
STARTED = machine(job_started_at=NOW, pauses=(Pause(since=NOW, until=NOW),), started_by="me")
AGAIN = machine(job_started_at=NOW, pauses=(Pause(since=NOW, until=NOW),))
PAUSED = machine(job_started_at=NOW, stop=Phase.ACCEPTED, pauses=(Pause(since=NOW),))
RUNS_ON = machine(job_started_at=NOW, unstoppable="its disk would be lost")
GONE = machine(job_started_at=NOW, gone_at=NOW)

S = State
PERSON, KEEP, OVER = (d.Rest(why) for why in (d.Why.PERSON, d.Why.KEEP, d.Why.OVER))
TABLE: list[tuple[State, Machine | None, bool, RunSpec, d.Step]] = [
    # state, machine, whether the end is wished for, spec, what comes next
    (S.REQUESTED, None, False, ENDS, d.FindOffer()),
    (S.REQUESTED, None, True, ENDS, d.EndWithoutMachine()),
    (S.RECOVERING, None, False, ENDS, d.FindOffer()),
    (S.RECOVERING, None, True, ENDS, d.EndWithoutMachine()),
    (S.RENTING, CHOSEN, False, ENDS, d.CreateMachine()),
    (S.RENTING, CHOSEN, True, ENDS, d.EndWithoutMachine()),
    (S.RENTING, SENT, False, ENDS, d.FindByLabel()),
    (S.RENTING, SENT, True, ENDS, d.FindByLabel()),
    (S.RENTING, UNKNOWN, False, ENDS, d.FindByLabel()),
    (S.BOOTING, IDLE, False, ENDS, d.Boot()),
    (S.BOOTING, IDLE, True, ENDS, d.Destroy()),
    (S.PREPARING, IDLE, False, ENDS, d.Prepare()),
    (S.PREPARING, WORKED, False, ENDS, d.Prepare()),
    (S.PREPARING, IDLE, True, ENDS, d.Destroy()),
    (S.PREPARING, WORKED, True, ENDS, d.StopJob()),
    (S.RUNNING, WORKED, False, ENDS, d.WatchJob()),
    (S.RUNNING, WORKED, True, ENDS, d.StopJob()),
    (S.FINISHED, WORKED, False, KEEPS, d.Collect()),
    (S.FINISHED, WORKED, True, ENDS, d.Collect()),
    (S.COLLECTING, WORKED, False, KEEPS, d.Collect()),
    (S.COLLECTING, WORKED, True, ENDS, d.Collect()),
    (S.VERIFIED, WORKED, False, ENDS, d.Destroy()),
    (S.VERIFIED, WORKED, True, ENDS, d.Destroy()),
    (S.VERIFIED, WORKED, False, KEEPS, KEEP),
    (S.VERIFIED, WORKED, True, KEEPS, d.Destroy()),
    (S.VERIFIED, WORKED, False, TIMED, KEEP),
    (S.VERIFIED, WORKED, True, TIMED, d.Destroy()),
    (S.VERIFIED, WORKED, False, STOPS, d.Stop()),
    (S.VERIFIED, WORKED, True, STOPS, d.Destroy()),
    (S.VERIFIED, RUNS_ON, False, STOPS, KEEP),
    (S.VERIFIED, AGAIN, False, STOPS, d.Stop()),
    (S.VERIFIED, STARTED, False, STOPS, KEEP),
    (S.VERIFIED, STARTED, False, ENDS, KEEP),
    (S.VERIFIED, AGAIN, False, ENDS, d.Destroy()),
    *((state, machine(job_started_at=NOW, stop=p), end, ENDS, d.Stop())
      for state in (S.VERIFIED, S.FAILED) for p in (Phase.SENT, Phase.UNKNOWN) for end in (False, True)),
    (S.PAUSED, PAUSED, False, ENDS, d.KeepPaused()),
    (S.PAUSED, PAUSED, True, ENDS, d.Wake()),
    *((S.DESTROYING, machine(destroy=p), end, ENDS, d.ConfirmGone() if p is Phase.ACCEPTED else d.Destroy())
      for p in Phase for end in (False, True)),
    (S.FAILED, None, False, ENDS, PERSON),
    (S.FAILED, WORKED, False, ENDS, PERSON),
    (S.FAILED, SENT, False, ENDS, PERSON),
    (S.FAILED, None, True, ENDS, d.EndWithoutMachine()),
    (S.FAILED, GONE, True, ENDS, d.EndWithoutMachine()),
    (S.FAILED, SENT, True, ENDS, d.FindByLabel()),
    (S.FAILED, UNKNOWN, True, ENDS, d.FindByLabel()),
    (S.FAILED, IDLE, True, ENDS, d.Destroy()),
    (S.FAILED, WORKED, True, ENDS, d.Collect()),
    *((final, GONE, end, ENDS, OVER) for final in (S.GONE, S.LOST) for end in (False, True)),
]  # fmt: skip


def life(state: State, with_machine: Machine | None, *, ending: bool, waivers: tuple[str, ...] = ()) -> Run:
    wish = "a person" if ending else None
    return run(state, machine=with_machine, end_requested_by=wish, waivers=waivers)


@pytest.mark.parametrize(
    ("state", "with_machine", "ending", "spec", "step"), TABLE, ids=[f"{r[0].value}-{n}" for n, r in enumerate(TABLE)]
)  # fmt: skip
def test_what_comes_next(
    state: State, with_machine: Machine | None, ending: bool, spec: RunSpec, step: d.Step
) -> None:
    assert d.decide(life(state, with_machine, ending=ending), spec) == step


@pytest.mark.parametrize(
    ("state", "step"),
    [(S.RUNNING, d.StopJob()), (S.FINISHED, d.Collect()), (S.COLLECTING, d.Collect()), (S.VERIFIED, d.Stop()), (S.FAILED, d.Stop())],
)  # fmt: skip
@pytest.mark.parametrize("spec", [ENDS, TIMED, KEEPS, STOPS])
def test_a_wish_to_stop_ends_the_job_collects_and_stops_and_a_hold_or_an_end_outranks_it(
    state: State, step: d.Step, spec: RunSpec
) -> None:
    wished = msgspec.structs.replace(life(state, WORKED, ending=False), stop_requested_by="idle")
    assert d.decide(wished, spec) == step
    held = msgspec.structs.replace(wished, pins=(PlacedHold(name="pin", by="me", at=NOW),))
    assert d.decide(held, spec) not in (d.Stop(), d.StopJob())
    ended = msgspec.structs.replace(wished, end_requested_by="me")
    assert d.decide(ended, spec) != d.Stop()


def test_a_stopped_machine_is_started_when_a_person_wants_it() -> None:
    wanted = msgspec.structs.replace(life(S.PAUSED, PAUSED, ending=False), wake_requested_by="me")
    assert d.decide(wanted, ENDS) == d.Wake()


def test_the_table_has_every_state() -> None:
    assert {row[0] for row in TABLE} == set(State)


@pytest.mark.parametrize("state", [S.PREPARING, S.RUNNING, S.FINISHED, S.COLLECTING, S.VERIFIED, S.FAILED])
def test_who_gives_up_everything_is_not_made_to_wait_for_a_copy(state: State) -> None:
    everything, something = (EVERYTHING,), ("out/a", "out")
    assert d.decide(life(state, WORKED, ending=True, waivers=everything), KEEPS) == d.Destroy()
    for ending, waivers in ((False, everything), (True, something), (False, something)):
        usual = d.decide(life(state, WORKED, ending=ending), KEEPS)
        assert d.decide(life(state, WORKED, ending=ending, waivers=waivers), KEEPS) == usual


@pytest.mark.parametrize(
    ("state", "with_machine", "ending", "spec", "step"), TABLE, ids=[f"{r[0].value}-{n}" for n, r in enumerate(TABLE)]
)  # fmt: skip
def test_a_pin_stops_the_destroy_and_nothing_else(
    state: State, with_machine: Machine | None, ending: bool, spec: RunSpec, step: d.Step
) -> None:
    pinned = msgspec.structs.replace(
        life(state, with_machine, ending=ending), pins=(PlacedHold(name="pin", by="me", at=NOW),)
    )
    expected = d.Rest(d.Why.HELD) if step == d.Destroy() else step
    if step == d.Stop() and not pinned.stop_under_way:
        expected = KEEP
    assert d.decide(pinned, spec) == expected


def test_giving_up_everything_changes_nothing_where_there_is_nothing_or_it_is_under_way() -> None:
    waived = (EVERYTHING,)
    for state, on, step in (
        (S.REQUESTED, None, d.EndWithoutMachine()),
        (S.RENTING, SENT, d.FindByLabel()),
        (S.FAILED, None, d.EndWithoutMachine()),
        (S.DESTROYING, machine(job_started_at=NOW, destroy=Phase.ACCEPTED), d.ConfirmGone()),
    ):
        assert d.decide(life(state, on, ending=True, waivers=waived), ENDS) == step


def test_a_run_that_ends_before_its_create_was_sent_rents_nothing() -> None:
    chosen = life(S.RENTING, CHOSEN, ending=True)
    after = evolve(chosen, e.Gone(evidence="no machine exists"), NOW)
    assert after.state is S.GONE
    assert not after.exists
