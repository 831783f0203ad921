"""The life of a run: every event in every state, random walks, and the ledger's file format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from core_lives import (
    BOOT,
    EVENTS,
    INSTANCE,
    LABEL,
    NOW,
    REGISTER,
    REQUESTED,
    TAKEN_OVER,
    machine,
    receipt,
    run,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gpuwatch.custody.facts import Inventory
from gpuwatch.custody.permit import Refusal, grant, grant_empty, grant_given_up
from gpuwatch.custody.rules import Assessment, Hold
from gpuwatch.lifecycle import decide as d
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.evolve import Impossible, create, evolve, target
from gpuwatch.lifecycle.register import Entry
from gpuwatch.lifecycle.run import EVERYTHING, FINAL, Machine, Phase, PlacedHold, ReceiptRef, Run, State
from gpuwatch.spec.model import Artifact, Idle, Job, RunSpec

SPEC = RunSpec(name="r", job=Job(command="true"), artifacts=(Artifact(path="out"),))
KEEP = msgspec.structs.replace(SPEC, idle=Idle(action="notify"))

# --- every state × every event -------------------------------------------------------------------

# One line per event; one column per state: requested renting booting preparing running finished collecting
# verified paused destroying failed recovering gone lost. `.` = cannot happen, `=` = the state stays, else the next state.
NEXT = {
    "q": "requested", "r": "renting", "b": "booting", "p": "preparing", "R": "running", "F": "finished",
    "c": "collecting", "v": "verified", "P": "paused", "d": "destroying", "f": "failed", "E": "recovering", "G": "gone",
    "L": "lost",
}  # fmt: skip
TABLE = """
                  q r b p R F c v P d f E G L
offer-chosen      r . . . . . . . . . . r . .
no-offer          f . . . . . . . . . . f . .
create-sent       . = . . . . . . . . . . . .
create-refused    . q . . . . . . . . q . . .
create-unknown    . = . . . . . . . . . . . .
rented            . b . . . . . . . . b . . .
booted            . . p = = = = = . . = . . .
dud               . . d d . . . . . . . . . .
box-checked       . . . = . . . . . . . . . .
prepare-failed    . . . d . . . . . . . . . .
start-sent        . . . = . . . . . . . . . .
job-started       . . . R . . . . . . . . . .
files-verified    . . . . = = = = . . = . . .
checkpoint-home   . . . . = = = = . . = . . .
restored          . . . = . . . . . . . . . .
job-ended         . . . F F . . . . . . . . .
collect-started   . . . . . c = c . c c . . .
collect-blocked   . . . . . . f . . . . . . .
collect-failed    . . . . . . = . . . . . . .
receipt-written   . . . . . . v . . . . . . .
end-requested     = = = = = = = = = = = = . .
end-cancelled     = = = = = = = = = . = = . .
waived            . . . = = = = = = . = . . .
hold-placed       = = = = = = = = = . = = . .
hold-released     = = = = = = = = = = = = . .
stop-requested    . . . . = = = = . . = . . .
stop-sent         . . . . . . . = . . = . . .
stop-failed       . . . . . . . = . . = . . .
paused            . . . . . . . P . . P . . .
wake-requested    . . . . . . . . = . . . . .
woken             . . . . . . . . F . . . . .
destroy-sent      . . d d d d d d d = d . . .
destroy-accepted  . . . . . . . . . = . . . .
destroy-failed    . . . . . . . . . = . . . .
dud-gone          . . . . . . . . . q . . . .
gone              G G . . . . . . . G G G . .
lost              . . L L L L L L L L L . . .
recovering        . . . E E E E . . . . . . .
returned          . . . . . . . . . . . R d R
gave-up           f f f f . . f . . . . f . .
"""


def expected() -> dict[tuple[str, str], str | None]:
    """(event, state) → next state, None when it cannot happen."""
    header, *rows = TABLE.strip("\n").splitlines()
    columns = [NEXT[c] for c in header.split()]
    table: dict[tuple[str, str], str | None] = {}
    for row in rows:
        kind, *cells = row.split()
        for state, cell in zip(columns, cells, strict=True):
            table[kind, state] = None if cell == "." else state if cell == "=" else NEXT[cell]
    return table


EXPECTED = expected()
PAIRS = [(kind, state) for kind in EVENTS for state in State]


def test_the_table_names_every_event_and_every_state() -> None:
    kinds = {e.kind_of(event) for event in EVENTS.values()}
    every = {str(t.__struct_config__.tag) for t in get_args(e.RunEvent)}
    assert kinds == every - {"requested", "taken-over"}
    assert set(EXPECTED) == {(k, s.value) for k in kinds for s in State}


@pytest.mark.parametrize(
    ("event", "state"), PAIRS, ids=[f"{e.kind_of(EVENTS[k])}-{s.value}" for k, s in PAIRS]
)
def test_every_event_in_every_state_has_the_answer_of_the_table(event: type[e.Event], state: State) -> None:
    answer = target(state, event)
    assert (answer and answer.value) == EXPECTED[e.kind_of(EVENTS[event]), state.value]


MACHINES: dict[str, Machine | None] = {
    "none": None,
    "chosen": machine(create=Phase.NONE, instance_id=None, create_sent_at=None, rented_at=None),
    "sent": machine(create=Phase.SENT, instance_id=None),
    "unknown": machine(create=Phase.UNKNOWN, instance_id=None),
    "rented": machine(),
    "dud": machine(dud="no SSH", destroy=Phase.ACCEPTED),
    "worked": machine(job_started_at=NOW, boot_id=BOOT),
    "destroyed": machine(job_started_at=NOW, boot_id=BOOT, destroy=Phase.ACCEPTED),
    "gone": machine(gone_at=NOW, destroy=Phase.ACCEPTED),
}


@pytest.mark.parametrize("kind", EVENTS, ids=lambda k: e.kind_of(EVENTS[k]))
@pytest.mark.parametrize("name", MACHINES)
def test_evolve_answers_any_run_with_a_run_or_impossible_and_changes_nothing(
    kind: type[e.Event], name: str
) -> None:
    for state in State:
        before = run(state, machine=MACHINES[name])
        frozen = msgspec.json.encode(before)
        try:
            after = evolve(before, EVENTS[kind], NOW + 5)
        except Impossible:
            continue
        finally:
            assert msgspec.json.encode(before) == frozen
        assert after.state is target(state, kind)
        assert (after.since == NOW + 5) == (after.state is not state)
        assert (after.ended_at is not None) == (after.state in FINAL)
        assert isinstance(d.decide(after, SPEC), d.Step)


def test_events_that_answer_must_answer_the_question_that_is_open() -> None:
    sent = run(State.RENTING, machine=MACHINES["sent"])
    for wrong in (
        e.Rented(label="another", instance_id="5"),
        e.CreateRefused(label="another", reason=""),
        e.CreateUnknown(label="another", reason=""),
        e.CreateSent(label=LABEL),
    ):
        with pytest.raises(Impossible):
            evolve(sent, wrong, NOW)


@pytest.mark.parametrize("name", ["chosen", "rented", "worked", "gone"])
def test_a_machine_that_is_known_is_not_overwritten_or_forgotten(name: str) -> None:
    failed = run(State.FAILED, machine=MACHINES[name])
    for late in (e.Rented(label=LABEL, instance_id="666"), e.CreateRefused(label=LABEL, reason="late")):
        with pytest.raises(Impossible):
            evolve(failed, late, NOW)


@pytest.mark.parametrize("state", [State.REQUESTED, State.RENTING, State.FAILED, State.DESTROYING])
@pytest.mark.parametrize("name", ["sent", "unknown", "rented", "worked"])
def test_a_machine_that_may_exist_is_gone_only_after_an_accepted_destroy(state: State, name: str) -> None:
    with pytest.raises(Impossible):
        evolve(run(state, machine=MACHINES[name]), e.Gone(evidence="?"), NOW)


def test_a_destroy_is_of_this_machine() -> None:
    with pytest.raises(Impossible):
        evolve(run(State.VERIFIED, machine=machine()), e.DestroySent(permit="p", instance_id="78"), NOW)


def test_there_is_nothing_to_collect_where_no_job_ran() -> None:
    for name in ("none", "sent", "rented", "gone"):
        with pytest.raises(Impossible):
            evolve(run(State.FAILED, machine=MACHINES[name]), e.CollectStarted(), NOW)


def test_a_destroy_that_outlived_its_receipt_leads_back_to_collecting_until_it_is_accepted() -> None:
    refused = run(
        State.DESTROYING, machine=machine(job_started_at=NOW, destroy=Phase.UNKNOWN), receipt=receipt()
    )
    after = evolve(refused, e.CollectStarted(), NOW)
    assert (after.state, after.receipt) == (State.COLLECTING, None)
    with pytest.raises(Impossible, match="too late"):
        evolve(run(State.DESTROYING, machine=MACHINES["destroyed"]), e.CollectStarted(), NOW)


def test_a_new_collection_voids_the_old_receipt() -> None:
    verified = run(State.VERIFIED, machine=MACHINES["worked"], receipt=receipt())
    assert evolve(verified, e.CollectStarted(), NOW).receipt is None


def test_only_a_dud_leads_to_the_next_offer_and_only_a_known_machine_can_be_lost() -> None:
    with pytest.raises(Impossible, match="no dud"):
        evolve(run(State.DESTROYING, machine=MACHINES["destroyed"]), e.DudGone(evidence="x"), NOW)
    assert evolve(run(State.DESTROYING, machine=MACHINES["dud"]), e.DudGone(evidence="x"), NOW).past
    for name in ("none", "sent", "unknown"):
        with pytest.raises(Impossible):
            evolve(run(State.FAILED, machine=MACHINES[name]), e.Lost(evidence="x"), NOW)


def test_consent_and_proof_end_with_their_machine() -> None:
    before = run(waivers=(EVERYTHING,), receipt=receipt(), holds=("x: y",))
    after = evolve(before, EVENTS[e.OfferChosen], NOW)
    assert (after.waivers, after.receipt, after.holds) == ((), None, ())


WISHED = run(State.COLLECTING, machine=MACHINES["worked"], end_requested_by="a person", end_reason="enough")


def test_consent_ends_with_the_wish_that_it_was_given_for() -> None:
    consented = evolve(WISHED, e.Waived(files=["out/a", EVERYTHING], reason="r"), NOW)
    assert consented.waivers == ("out/a", EVERYTHING)
    after = evolve(consented, e.EndCancelled(), NOW)
    assert (after.waivers, after.end_requested_by, after.end_reason) == ((), None, "")
    with pytest.raises(Impossible, match="nobody wants"):
        evolve(after, e.Waived(files=["out/a"], reason="r"), NOW)


def test_a_blocked_collection_spends_the_wish_unless_everything_was_given_up_meanwhile() -> None:
    blocked = e.CollectBlocked(holds=["artifacts: 1 file"])
    for waivers, wish in (((), None), (("out/a",), None), ((EVERYTHING,), "a person")):
        after = evolve(msgspec.structs.replace(WISHED, waivers=waivers), blocked, NOW)
        assert (after.state, after.end_requested_by) == (State.FAILED, wish)
        assert isinstance(d.decide(after, SPEC), d.Destroy) == (wish is not None)


@pytest.mark.parametrize("answer", [e.DestroyAccepted(), e.DestroyFailed(reason="500")])
def test_there_is_no_answer_to_a_destroy_that_was_not_sent(answer: e.AnyEvent) -> None:
    with pytest.raises(Impossible, match="no destroy"):
        evolve(run(State.DESTROYING, machine=machine(dud="x")), answer, NOW)
    assert evolve(run(State.DESTROYING, machine=machine(destroy=Phase.SENT)), answer, NOW)


def test_an_offer_that_someone_else_took_does_not_count_as_an_attempt() -> None:
    chosen = evolve(run(), EVENTS[e.OfferChosen], NOW)
    sent = evolve(chosen, EVENTS[e.CreateSent], NOW)
    assert chosen.attempt == 1
    assert evolve(sent, e.CreateRefused(label=LABEL, reason="", offer_gone=True), NOW).attempt == 0
    assert evolve(sent, e.CreateRefused(label=LABEL, reason=""), NOW).attempt == 1


def test_a_dud_is_avoided_by_offer_and_by_machine() -> None:
    after = evolve(run(State.BOOTING, machine=machine(), attempt=1), e.Dud(reason="dead"), NOW)
    assert after.avoid == ("vast:offer:9", "vast:machine:12")


# --- random walks --------------------------------------------------------------------------------


class Walk(RuleBasedStateMachine):
    """Any events in any order; the model remembers only what the invariants need."""

    @initialize()
    def born(self) -> None:
        self.run: Run = create("r1", REQUESTED, NOW)
        self.at = NOW
        self.offers = 0
        self.job_on_machine = False
        self.all_waived = False
        self.proved = False

    def happen(self, event: e.AnyEvent) -> bool:
        self.at += 1
        frozen = msgspec.json.encode(self.run)
        line = e.ENCODER.encode(event)
        assert e.DECODER.decode(line) == event
        try:
            after = evolve(self.run, event, self.at)
        except Impossible:
            return False
        finally:
            assert msgspec.json.encode(self.run) == frozen
        if self.run.state in FINAL:
            assert isinstance(event, e.Returned), (
                "nothing happens after the end, unless the machine comes back"
            )
        self.run = after
        match event:
            case e.OfferChosen():
                self.offers += 1
                self.job_on_machine = self.all_waived = self.proved = False
            case e.CreateRefused(offer_gone=True):
                self.offers -= 1
            case e.Recovering():
                self.all_waived = self.proved = self.job_on_machine = False
            case e.Returned():
                self.job_on_machine = True
            case e.StartSent() | e.JobStarted():
                self.job_on_machine = True
            case e.EndCancelled():
                self.all_waived = False
            case e.Waived(files=files):
                self.all_waived = self.all_waived or EVERYTHING in files
            case e.ReceiptWritten():
                self.proved = True
            case e.CollectStarted():
                self.proved = False
            case _:
                pass
        return True

    @rule(kind=st.sampled_from([k for k in EVENTS if k is not e.DestroySent]))
    def something_happens(self, kind: type[e.Event]) -> None:
        self.happen(EVENTS[kind])

    @rule(label=st.sampled_from([LABEL, "other"]), gone=st.booleans())
    def an_answer_comes(self, label: str, gone: bool) -> None:
        self.happen(e.CreateRefused(label=label, reason="", offer_gone=gone))

    @rule(files=st.sampled_from([["out/a"], [EVERYTHING]]))
    def files_are_waived(self, files: list[str]) -> None:
        self.happen(e.Waived(files=files, reason="r"))

    @precondition(lambda self: self.run.state not in FINAL)
    @rule()
    def the_next_step_succeeds(self) -> None:
        """What the daemon would do, so that walks get far."""
        step = d.decide(self.run, SPEC)
        good: dict[type[Any], type[e.Event]] = {
            d.FindOffer: e.OfferChosen, d.CreateMachine: e.CreateSent, d.FindByLabel: e.Rented, d.Boot: e.Booted,
            d.Prepare: e.JobStarted, d.WatchJob: e.JobEnded, d.StopJob: e.JobEnded, d.ConfirmGone: e.Gone,
            d.EndWithoutMachine: e.Gone,
        }  # fmt: skip
        if type(step) in good:
            assert self.happen(EVENTS[good[type(step)]])
        elif isinstance(step, d.Collect):
            assert self.happen(e.CollectStarted())
            assert self.happen(EVENTS[e.ReceiptWritten])

    @precondition(lambda self: self.run.state not in FINAL)
    @rule(clear=st.booleans())
    def a_destroy_is_tried_through_custody(self, clear: bool) -> None:
        nothing_to_lose = not self.job_on_machine or self.all_waived or (self.proved and clear)
        inventory = Inventory(INSTANCE, BOOT, self.at, ())
        verdict = Assessment((), (), ()) if clear else Assessment((Hold("artifacts", "1 file"),), (), ())
        permits = []
        for ask in (
            lambda: grant_empty(self.run),
            lambda: grant_given_up(self.run),
            lambda: grant(self.run, self.run.receipt, verdict, inventory, now=self.at),
        ):
            try:
                permits.append(ask())
            except Refusal as refusal:
                assert refusal.holds
        if permits:
            assert nothing_to_lose, "a permit although a job's files were neither proved nor given up"
            sent = e.DestroySent(permit=permits[0].ground, instance_id=permits[0].instance_id)
            if self.happen(sent):
                self.happen(e.DestroyAccepted())

    @invariant()
    def the_run_can_be_written_down_and_read_again(self) -> None:
        if hasattr(self, "run"):
            assert msgspec.json.decode(msgspec.json.encode(self.run), type=Run) == self.run

    @invariant()
    def the_next_step_is_defined_and_possible(self) -> None:
        if not hasattr(self, "run"):
            return
        run = self.run
        for spec in (SPEC, KEEP):
            step = d.decide(run, spec)
            assert step == d.decide(run, spec)
            known = run.machine is not None and run.machine.instance_id is not None
            match step:
                case d.CreateMachine():
                    assert run.machine is not None
                    assert run.machine.create is Phase.NONE
                case d.FindByLabel():
                    assert run.machine is not None
                    assert run.machine.create in (Phase.SENT, Phase.UNKNOWN)
                case d.Destroy() | d.ConfirmGone() | d.Boot() | d.Prepare():
                    assert known
                case d.Collect() | d.WatchJob() | d.StopJob():
                    assert run.data_at_risk
                case d.EndWithoutMachine():
                    assert not run.exists
                case d.Rest(why=d.Why.OVER):
                    assert run.state in FINAL
                case _:
                    pass

    @invariant()
    def what_must_always_hold(self) -> None:
        if not hasattr(self, "run"):
            return
        run = self.run
        assert run.attempt == self.offers
        assert run.given_up == self.all_waived
        assert all(m.gone_at is not None for m in run.past)
        if run.state in (State.REQUESTED, State.RECOVERING):
            assert run.machine is None
        if run.state is State.GONE:
            assert not run.exists
        if run.state is State.VERIFIED:
            assert run.receipt is not None
        if run.state in FINAL:
            assert run.ended_at is not None
            assert {kind for kind in EVENTS if target(run.state, kind) is not None} == {e.Returned}


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


# --- the file format -----------------------------------------------------------------------------

GOLDEN = Path(__file__).with_name("ledger_format.json")


def described() -> dict[str, Any]:
    """Names and fields that stand in ledgers; `!` marks a field without default."""

    def fields(struct: type[msgspec.Struct]) -> list[str]:
        return [f.encode_name + ("!" if f.required else "") for f in msgspec.structs.fields(struct)]

    kinds: list[type[e.Event]] = sorted(get_args(e.AnyEvent), key=lambda t: str(t.__struct_config__.tag))
    return {
        "events": {str(t.__struct_config__.tag): fields(t) for t in kinds},
        "documents": {t.__name__: fields(t) for t in (Run, Machine, ReceiptRef, PlacedHold, Entry)},
        "states": [s.value for s in State],
        "phases": [p.value for p in Phase],
    }


def test_the_ledgers_format_is_frozen() -> None:
    """Old ledgers stay readable: nothing is renamed or removed, and what is new has a default.

    After adding an event or a field, write it down: python tests/unit/core/test_core_lifecycle.py
    """
    assert described() == json.loads(GOLDEN.read_text())["format"]


@pytest.mark.parametrize("line", json.loads(GOLDEN.read_text())["lines"], ids=lambda v: v["kind"])
def test_lines_of_old_ledgers_are_still_read(line: dict[str, Any]) -> None:
    event = e.DECODER.decode(msgspec.json.encode(line))
    assert e.kind_of(event) == line["kind"]
    assert msgspec.to_builtins(event).items() >= line.items()


def test_runs_of_old_ledgers_are_still_read() -> None:
    for doc in json.loads(GOLDEN.read_text())["runs"]:
        read = msgspec.convert(doc, Run)
        again = json.loads(msgspec.json.encode(read))
        assert {k: again[k] for k in doc if k not in ("machine", "past")} == {
            k: v for k, v in doc.items() if k not in ("machine", "past")
        }
        assert again["machine"] is None or again["machine"].items() >= doc["machine"].items()


def test_an_unknown_field_of_a_later_version_is_no_error_and_an_unknown_kind_is() -> None:
    assert e.DECODER.decode(b'{"kind":"collect-started","later":1}') == e.CollectStarted()
    with pytest.raises(msgspec.ValidationError):
        e.DECODER.decode(b'{"kind":"teleported"}')


def test_texts_that_cannot_be_written_down_are_mended_before_they_are_decided_on() -> None:
    event = e.CollectBlocked(holds=["artifacts: a\udcff", "plain"])
    mended = e.storable(event)
    assert e.DECODER.decode(e.ENCODER.encode(mended)) == mended
    assert mended.holds[1] == "plain"
    assert "\ufffd" in mended.holds[0]
    fine = e.CollectBlocked(holds=["é"])
    assert e.storable(fine) is fine


def freeze() -> None:
    """Write the golden file anew, keeping the old lines and runs that it holds."""
    old = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {"lines": [], "runs": []}
    have = {line["kind"] for line in old["lines"]}
    new = [REQUESTED, TAKEN_OVER, *EVENTS.values(), *REGISTER]
    lines = old["lines"] + [msgspec.to_builtins(x) for x in new if e.kind_of(x) not in have]
    sample = run(
        State.VERIFIED, machine=machine(job_started_at=NOW), receipt=receipt(), past=(machine(gone_at=NOW),)
    )
    runs = old["runs"] or [msgspec.to_builtins(run()), msgspec.to_builtins(sample)]
    content = {"format": described(), "lines": lines, "runs": runs}
    GOLDEN.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    freeze()
