"""What each event leaves behind: exactly these fields change, to exactly this, and nothing else does.

Who evolves a run wrongly loses what it knows of its machine. Each row: the run before, the event, the fields
after it that differ (those of the machine as `machine.…`).
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from core_lives import BOOT, EVENTS, INSTANCE, LABEL, NOW, REQUESTED, TAKEN_OVER, machine, receipt, run

from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle.evolve import HOMES, Impossible, create, evolve
from gpuwatch.lifecycle.run import EVERYTHING, FINAL, Home, Machine, Pause, Phase, PlacedHold, Run, State

AT = NOW + 60
S = State
CHOSEN = machine(create=Phase.NONE, create_sent_at=None, rented_at=None, instance_id=None)
SENT = machine(create=Phase.SENT, create_sent_at=NOW - 5, rented_at=None, instance_id=None)
LOOKED_FOR = msgspec.structs.replace(SENT, create=Phase.UNKNOWN)
WORKED = machine(job_started_at=NOW - 9, boot_id=BOOT, workspace="/root", job_pid=4)
ENDING = machine(destroy=Phase.SENT, destroy_sent_at=NOW)
ACCEPTED = machine(destroy=Phase.ACCEPTED, destroy_sent_at=NOW)
STOPPING = msgspec.structs.replace(WORKED, stop=Phase.SENT)
STOPPED = msgspec.structs.replace(WORKED, stop=Phase.ACCEPTED, pauses=(Pause(since=NOW),))
HOME = Home(name="step-3", step=3, files=2, bytes=10, digest="d" * 64, at=NOW)
PIN = PlacedHold(name="pin", by="me", at=NOW)


def changes(before: Run, event: e.RunEvent) -> dict[str, Any]:
    """The fields that the event changed; the state and what follows from it (`since`, `ended_at`) left out."""
    after = evolve(before, event, AT)
    found: dict[str, Any] = {}
    for field in (
        f.name for f in msgspec.structs.fields(Run) if f.name not in ("state", "since", "ended_at")
    ):
        old, new = getattr(before, field), getattr(after, field)
        if old == new:
            continue
        if field == "machine" and isinstance(old, Machine) and isinstance(new, Machine):
            names = (f.name for f in msgspec.structs.fields(Machine))
            found |= {f"machine.{n}": getattr(new, n) for n in names if getattr(old, n) != getattr(new, n)}
        else:
            found[field] = new
    assert (after.since == AT) == (after.state is not before.state)
    assert after.ended_at == (AT if after.state in FINAL else None)
    return found


def life(state: State, on: Machine | None = None, **more: Any) -> Run:
    """A run with a past: every field that events may clear is set to something."""
    return run(state, machine=on, **({"trouble": "before"} | more))


OFFER = EVENTS[e.OfferChosen]
CHOSEN_NOW = msgspec.structs.replace(CHOSEN, chosen_at=AT)
ROWS: list[tuple[str, Run, e.RunEvent, dict[str, Any]]] = [
    ("an offer", life(S.REQUESTED, attempt=1, waivers=("a",), receipt=receipt(), holds=("x: y",), released=(PIN,)), OFFER,
     {"machine": CHOSEN_NOW, "attempt": 2, "trouble": None, "waivers": (), "receipt": None, "holds": (), "released": ()}),
    ("an offer keeps a pin", life(S.REQUESTED, pins=(PIN,)), OFFER, {"machine": CHOSEN_NOW, "attempt": 1, "trouble": None}),
    ("none", life(S.REQUESTED), e.NoOffer(reason="none"), {"trouble": "none"}),
    ("create sent", life(S.RENTING, CHOSEN), e.CreateSent(label=LABEL), {"machine.create": Phase.SENT, "machine.create_sent_at": AT}),
    ("refused", life(S.RENTING, SENT, attempt=2, avoid=("x",)), e.CreateRefused(label=LABEL, reason="no"),
     {"machine": None, "trouble": "no", "avoid": ("x", "vast:offer:9")}),
    ("refused after long looking", life(S.FAILED, LOOKED_FOR), e.CreateRefused(label=LABEL, reason="no"),
     {"machine": None, "trouble": "no", "avoid": ("vast:offer:9",)}),
    ("taken by another", life(S.RENTING, SENT, attempt=2), e.CreateRefused(label=LABEL, reason="no", offer_gone=True),
     {"machine": None, "trouble": "no", "avoid": ("vast:offer:9",), "attempt": 1}),
    ("no answer", life(S.RENTING, SENT), e.CreateUnknown(label=LABEL, reason="timeout"),
     {"machine.create": Phase.UNKNOWN, "trouble": "timeout"}),
    ("rented", life(S.RENTING, SENT), e.Rented(label=LABEL, instance_id=INSTANCE),
     {"machine.create": Phase.ACCEPTED, "machine.instance_id": INSTANCE, "machine.rented_at": NOW - 5, "trouble": None}),
    ("found", life(S.RENTING, LOOKED_FOR), e.Rented(label=LABEL, instance_id=INSTANCE, adopted=True),
     {"machine.create": Phase.ACCEPTED, "machine.instance_id": INSTANCE, "machine.rented_at": NOW - 5, "trouble": None}),
    ("rented, and nobody knows since when", life(S.RENTING, machine(create=Phase.SENT, create_sent_at=None, rented_at=None, instance_id=None)),
     e.Rented(label=LABEL, instance_id=INSTANCE),
     {"machine.create": Phase.ACCEPTED, "machine.instance_id": INSTANCE, "machine.rented_at": AT, "trouble": None}),
    ("booted", life(S.BOOTING, machine()), e.Booted(host="h", port=7, user="u", fingerprint="f", seconds=1.0),
     {"machine.host": "h", "machine.port": 7, "machine.user": "u", "machine.fingerprint": "f"}),
    ("a dud", life(S.BOOTING, machine(), avoid=("x",)), e.Dud(reason="dead"),
     {"machine.dud": "dead", "avoid": ("x", "vast:offer:9", "vast:machine:12"), "trouble": "dead"}),
    ("a dud without a name", life(S.PREPARING, machine(machine_id=None)), e.Dud(reason="dead"),
     {"machine.dud": "dead", "avoid": ("vast:offer:9",), "trouble": "dead"}),
    ("checked", life(S.PREPARING, machine()), e.BoxChecked(boot_id="b2", workspace="/w", python="3", gpus=1),
     {"machine.boot_id": "b2", "machine.workspace": "/w"}),
    ("not to be prepared", life(S.PREPARING, machine()), e.PrepareFailed(reason="setup"),
     {"trouble": "setup", "end_requested_by": "gpuwatch", "end_reason": "setup", "job_ended_at": AT}),
    ("start sent", life(S.PREPARING, machine()), e.StartSent(boot_id="b2"),
     {"machine.job_started_at": AT, "machine.boot_id": "b2"}),
    ("start sent again", life(S.PREPARING, WORKED), e.StartSent(boot_id="b2"), {"machine.boot_id": "b2"}),
    ("started", life(S.PREPARING, machine()), e.JobStarted(boot_id="b2", pid=5),
     {"machine.job_started_at": AT, "machine.boot_id": "b2", "machine.job_pid": 5, "started_at": AT, "trouble": None}),
    ("started again", life(S.PREPARING, WORKED, started_at=NOW - 7), e.JobStarted(boot_id="b2", pid=5),
     {"machine.boot_id": "b2", "machine.job_pid": 5, "trouble": None}),
    ("a checkpoint", life(S.RUNNING, WORKED), e.FilesVerified(files=2, bytes=10, step=3),
     {"verified_files": 2, "verified_bytes": 10, "last_verified_at": AT, "checkpoints": 1, "last_step": 3}),
    ("an older checkpoint", life(S.RUNNING, WORKED, verified_files=1, verified_bytes=5, checkpoints=2, last_step=9),
     e.FilesVerified(files=2, bytes=10, step=3), {"verified_files": 3, "verified_bytes": 15, "last_verified_at": AT, "checkpoints": 3}),
    ("step 0", life(S.RUNNING, WORKED), e.FilesVerified(files=1, bytes=1, step=0),
     {"verified_files": 1, "verified_bytes": 1, "last_verified_at": AT, "checkpoints": 1, "last_step": 0}),
    ("files", life(S.VERIFIED, WORKED), e.FilesVerified(files=2, bytes=10), {"verified_files": 2, "verified_bytes": 10, "last_verified_at": AT}),
    ("a checkpoint is whole at home", life(S.RUNNING, WORKED, homes=(HOME,)),
     e.CheckpointHome(name="step-5", step=5, files=2, bytes=10, digest="c" * 64),
     {"homes": (HOME, Home(name="step-5", step=5, files=2, bytes=10, digest="c" * 64, at=AT))}),
    ("an older one comes home late", life(S.RUNNING, WORKED, homes=(HOME,)),
     e.CheckpointHome(name="step-2", step=2, files=2, bytes=10, digest="c" * 64),
     {"homes": (Home(name="step-2", step=2, files=2, bytes=10, digest="c" * 64, at=AT), HOME)}),
    ("one that was written again", life(S.RUNNING, WORKED, homes=(HOME,)),
     e.CheckpointHome(name="step-3", step=3, files=1, bytes=4, digest="e" * 64),
     {"homes": (Home(name="step-3", step=3, files=1, bytes=4, digest="e" * 64, at=AT),)}),
    ("restored", life(S.PREPARING, machine()), e.Restored(source="the vault", name="step-3", step=3, files=2, bytes=10),
     {"machine.restored": "step-3"}),
    ("goes on elsewhere", life(S.RUNNING, WORKED, receipt=receipt(), holds=("a: 1",), waivers=("x",), job_ended_at=NOW, exit_code=0),
     e.Recovering(evidence="taken", step=3),
     {"machine": None, "past": (msgspec.structs.replace(WORKED, gone_at=AT),), "avoid": ("vast:offer:9", "vast:machine:12"),
      "trouble": "taken", "losses": 1, "lost_at": AT, "receipt": None, "holds": (), "waivers": (), "job_ended_at": None, "exit_code": None}),
    ("goes on before the job began", life(S.PREPARING, machine()), e.Recovering(evidence="taken"),
     {"machine": None, "past": (machine(gone_at=AT),), "avoid": ("vast:offer:9", "vast:machine:12"), "trouble": "taken", "lost_at": AT}),
    ("the job runs again", life(S.PREPARING, machine(), lost_at=NOW, losses=1, started_at=NOW), e.JobStarted(boot_id=BOOT, pid=5),
     {"machine.job_started_at": AT, "machine.job_pid": 5, "machine.boot_id": BOOT, "lost_at": None, "trouble": None}),
    ("back before another was chosen", life(S.RECOVERING, None, past=(msgspec.structs.replace(WORKED, gone_at=NOW),), losses=1, lost_at=NOW),
     e.Returned(instance_id=INSTANCE, evidence="x"),
     {"machine": WORKED, "past": (), "losses": 0, "lost_at": None, "trouble": "the machine came back"}),
    ("the job failed", life(S.RUNNING, WORKED), e.JobEnded(exit_code=1, reason="exit 1"), {"job_ended_at": AT, "exit_code": 1, "trouble": "exit 1"}),
    ("the job is done", life(S.RUNNING, WORKED), e.JobEnded(exit_code=0), {"job_ended_at": AT, "exit_code": 0, "trouble": None}),
    ("collecting", life(S.VERIFIED, WORKED, receipt=receipt()), e.CollectStarted(), {"receipt": None}),
    ("blocked", life(S.COLLECTING, WORKED, end_requested_by="budget"), e.CollectBlocked(holds=["a: 1", "b: 2"]),
     {"holds": ("a: 1", "b: 2"), "trouble": "a: 1; b: 2", "end_requested_by": None}),
    ("blocked too late", life(S.COLLECTING, WORKED, end_requested_by="me", waivers=(EVERYTHING,)), e.CollectBlocked(holds=["a: 1"]),
     {"holds": ("a: 1",), "trouble": "a: 1"}),
    ("not this time", life(S.COLLECTING, WORKED), e.CollectFailed(reason="full"), {"trouble": "full"}),
    ("receipt", life(S.COLLECTING, WORKED, holds=("a: 1",)),
     e.ReceiptWritten(digest="e" * 64, files=3, bytes=4, boot_id="b2", at=NOW + 1, waived=["w"]),
     {"receipt": receipt(digest="e" * 64, files=3, bytes=4, boot_id="b2", at=NOW + 1, waived=("w",)), "holds": (), "trouble": None}),
    ("end wished", life(S.RUNNING, WORKED), e.EndRequested(by="me", reason="enough"), {"end_requested_by": "me", "end_reason": "enough"}),
    ("wish taken back", life(S.RUNNING, WORKED, end_requested_by="me", end_reason="enough", waivers=("a",)), e.EndCancelled(),
     {"end_requested_by": None, "end_reason": "", "waivers": (), "kept_since": AT}),
    ("given up", life(S.RUNNING, WORKED, end_requested_by="me", waivers=("a",)), e.Waived(files=["b", "a"], reason="r"), {"waivers": ("a", "b")}),
    ("pinned", life(S.RUNNING, WORKED), e.HoldPlaced(name="pin", by="me", reason="look"),
     {"pins": (PlacedHold(name="pin", by="me", at=AT, reason="look"),)}),
    ("pinned again", life(S.RUNNING, WORKED, pins=(PIN, PlacedHold(name="x", by="y", at=NOW))), e.HoldPlaced(name="pin", by="you"),
     {"pins": (PlacedHold(name="x", by="y", at=NOW), PlacedHold(name="pin", by="you", at=AT))}),
    ("unpinned", life(S.DESTROYING, WORKED, pins=(PIN,)), e.HoldReleased(name="pin", by="me"), {"pins": (), "kept_since": AT}),
    ("a hold by facts removed", life(S.RUNNING, WORKED, pins=(PIN,)), e.HoldReleased(name="ssh-session", by="me", reason="it is mine"),
     {"released": (PlacedHold(name="ssh-session", by="me", at=AT, reason="it is mine"),)}),
    ("… and again", life(S.RUNNING, WORKED, released=(PIN,)), e.HoldReleased(name="pin", by="me"), {}),
    ("pinned, a stop was wished", life(S.RUNNING, WORKED, stop_requested_by="idle"), e.HoldPlaced(name="pin", by="me"),
     {"pins": (PlacedHold(name="pin", by="me", at=AT),), "stop_requested_by": None}),
    ("stop wished", life(S.RUNNING, WORKED), e.StopRequested(by="idle"), {"stop_requested_by": "idle"}),
    ("stop sent", life(S.VERIFIED, WORKED), e.StopSent(permit="p", instance_id=INSTANCE), {"machine.stop": Phase.SENT}),
    ("stop unknown", life(S.FAILED, STOPPING), e.StopFailed(reason="500"), {"machine.stop": Phase.UNKNOWN}),
    ("stop refused", life(S.VERIFIED, STOPPING, stop_requested_by="me"), e.StopFailed(reason="busy", refused=True), {"machine.stop": Phase.NONE}),
    ("stop never", life(S.VERIFIED, STOPPING, stop_requested_by="me"), e.StopFailed(reason="no volume", never=True),
     {"machine.stop": Phase.NONE, "machine.unstoppable": "no volume", "stop_requested_by": None}),
    ("stopped", life(S.VERIFIED, STOPPING, receipt=receipt(), stop_requested_by="idle"), e.Paused(evidence="listed"),
     {"machine.stop": Phase.ACCEPTED, "machine.pauses": (Pause(since=AT),), "stop_requested_by": None}),
    ("start wished", life(S.PAUSED, STOPPED), e.WakeRequested(by="me"), {"wake_requested_by": "me"}),
    ("started", life(S.PAUSED, STOPPED, wake_requested_by="me", released=(PIN,)), e.Woken(evidence="listed"),
     {"machine.stop": Phase.NONE, "machine.pauses": (Pause(since=NOW, until=AT),), "machine.started_by": "me", "wake_requested_by": None,
      "released": ()}),
    ("started to be ended", life(S.PAUSED, STOPPED, end_requested_by="idle"), e.Woken(evidence="listed"),
     {"machine.stop": Phase.NONE, "machine.pauses": (Pause(since=NOW, until=AT),)}),
    ("lost while stopped", life(S.PAUSED, STOPPED), e.Lost(evidence="taken"),
     {"machine.gone_at": AT, "machine.stop": Phase.NONE, "machine.pauses": (Pause(since=NOW, until=AT),), "trouble": "taken"}),
    ("destroy sent", life(S.VERIFIED, WORKED), e.DestroySent(permit="p", instance_id=INSTANCE), {"machine.destroy": Phase.SENT, "machine.destroy_sent_at": AT}),
    ("destroy accepted", life(S.DESTROYING, ENDING), e.DestroyAccepted(), {"machine.destroy": Phase.ACCEPTED}),
    ("destroy failed", life(S.DESTROYING, ENDING), e.DestroyFailed(reason="500"), {"machine.destroy": Phase.UNKNOWN, "trouble": "500"}),
    ("gone", life(S.DESTROYING, ACCEPTED), e.Gone(evidence="x"), {"machine.gone_at": AT}),
    ("never there", life(S.REQUESTED), e.Gone(evidence="x"), {}),
    ("a dud gone", life(S.DESTROYING, machine(destroy=Phase.ACCEPTED, dud="d")), e.DudGone(evidence="x"),
     {"machine": None, "past": (machine(destroy=Phase.ACCEPTED, dud="d", gone_at=AT),)}),
    ("lost", life(S.RUNNING, WORKED), e.Lost(evidence="taken"), {"machine.gone_at": AT, "trouble": "taken"}),
    ("back from the lost", life(S.LOST, msgspec.structs.replace(WORKED, gone_at=NOW)), e.Returned(instance_id=INSTANCE, evidence="x"),
     {"machine.gone_at": None, "trouble": "the machine came back"}),
    ("back from the gone", life(S.GONE, msgspec.structs.replace(WORKED, gone_at=NOW, destroy=Phase.ACCEPTED)), e.Returned(instance_id=INSTANCE, evidence="x"),
     {"machine.gone_at": None, "machine.destroy": Phase.UNKNOWN, "end_requested_by": "gpuwatch",
      "trouble": "the machine came back after it was confirmed gone"}),
    ("back from the gone, by whose wish", life(S.GONE, msgspec.structs.replace(WORKED, gone_at=NOW, destroy=Phase.ACCEPTED), end_requested_by="me"),
     e.Returned(instance_id=INSTANCE, evidence="x"),
     {"machine.gone_at": None, "machine.destroy": Phase.UNKNOWN, "trouble": "the machine came back after it was confirmed gone"}),
    ("given up by us", life(S.BOOTING, machine()), e.GaveUp(reason="tried"), {"trouble": "tried"}),
]  # fmt: skip


@pytest.mark.parametrize(("before", "event", "after"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS])
def test_what_an_event_leaves_behind(before: Run, event: e.RunEvent, after: dict[str, Any]) -> None:
    assert changes(before, event) == after


def test_a_run_remembers_the_newest_checkpoints_at_home_and_not_all() -> None:
    run = life(S.RUNNING, WORKED)
    for step in range(40):
        run = evolve(
            run, e.CheckpointHome(name=f"step-{step}", step=step, files=1, bytes=1, digest="c" * 64), AT
        )
    assert [h.step for h in run.homes] == list(range(40 - HOMES, 40))


def test_a_machine_that_is_taken_over_is_driven_to_its_proved_end_by_a_run_of_its_own() -> None:
    made = create("r1-back1", TAKEN_OVER, AT)
    assert (made.state, made.of, made.on_box, made.end_requested_by) == (S.RUNNING, "r1", "r1", "gpuwatch")
    assert made.machine is not None
    assert (made.machine.instance_id, made.machine.job_started_at, made.machine.rented_at) == (
        INSTANCE,
        NOW,
        AT,
    )
    assert made.data_at_risk
    assert [h.name for h in made.pins] == ["pin"], "what a person held stays held"


def test_every_event_has_its_row() -> None:
    assert {type(row[2]) for row in ROWS} == set(EVENTS)


def test_a_request_makes_a_run_that_knows_nothing_yet() -> None:
    asked = msgspec.structs.replace(REQUESTED, provider="vast", offer_id="9")
    made = create("r1", asked, NOW)
    expected = Run(
        id="r1", name="r", state=S.REQUESTED, spec="name = 'r'", file="r.toml", base="/home/me", key="k1", created_at=NOW,
        since=NOW, pinned_provider="vast", pinned_offer="9",
    )  # fmt: skip
    assert made == expected
    assert (made.verified_files, made.verified_bytes, made.checkpoints, made.attempt) == (0, 0, 0, 0)
    assert e.Rented(label="l", instance_id="1").adopted is False
    refused = e.CreateRefused(label="l", reason="no")
    assert (refused.offer_gone, refused.absent) == (False, False)


@pytest.mark.parametrize("event", [e.Dud(reason="x"), e.PrepareFailed(reason="x")])
def test_a_machine_where_a_job_may_have_started_is_no_dud(event: e.RunEvent) -> None:
    with pytest.raises(Impossible, match="may have started"):
        evolve(life(S.PREPARING, WORKED), event, AT)


@pytest.mark.parametrize(
    ("before", "event", "why"),
    [
        (life(S.PREPARING, machine()), e.JobEnded(exit_code=0), "ever started"),
        (life(S.RENTING, CHOSEN), e.CreateSent(label="another"), "was sent before"),
        (life(S.VERIFIED, WORKED, pins=(PIN,)), e.DestroySent(permit="p", instance_id=INSTANCE), "held by pin"),
        (life(S.GONE, msgspec.structs.replace(WORKED, gone_at=NOW)), e.Returned(instance_id="78", evidence="x"), "was gone"),
        (life(S.GONE, WORKED), e.Returned(instance_id=INSTANCE, evidence="x"), "was gone"),
        (life(S.GONE, machine(gone_at=NOW)), e.Returned(instance_id=INSTANCE, evidence="x"), "ever ran"),
        (life(S.RECOVERING, None), e.Returned(instance_id=INSTANCE, evidence="x"), "not the one"),
        (life(S.RECOVERING, None, past=(machine(gone_at=NOW),)), e.Returned(instance_id=INSTANCE, evidence="x"), "not the one"),
        (life(S.RUNNING, WORKED, of="r0"), e.Recovering(evidence="x"), "only collects"),
        (life(S.RUNNING, WORKED, end_requested_by="me"), e.Recovering(evidence="x"), "is to end"),
        (life(S.PREPARING, machine()), e.Recovering(evidence="x", handed_to="r-back1"), "nothing ever ran"),
        (life(S.PREPARING, WORKED), e.Restored(source="v", name="s", step=1, files=1, bytes=1), "may have started"),
    ],
)  # fmt: skip
def test_what_cannot_have_happened_is_refused(before: Run, event: e.RunEvent, why: str) -> None:
    with pytest.raises(Impossible, match=why):
        evolve(before, event, AT)


@pytest.mark.parametrize(
    ("on", "exists", "at_risk"),
    [
        (None, False, False),
        (CHOSEN, False, False),
        (SENT, True, False),
        (LOOKED_FOR, True, False),
        (machine(), True, False),
        (machine(create=Phase.NONE), True, False),  # an id is enough, whatever the create says
        (WORKED, True, True),
        (msgspec.structs.replace(WORKED, gone_at=NOW), False, False),
    ],
)  # fmt: skip
def test_whether_a_machine_may_exist_and_hold_something(
    on: Machine | None, exists: bool, at_risk: bool
) -> None:
    probe = life(S.FAILED, on)
    assert (probe.exists, probe.data_at_risk) == (exists, at_risk)


def test_which_hold_was_removed() -> None:
    assert life(S.RUNNING, WORKED, released=(PIN,)).has_released("pin")
    assert not life(S.RUNNING, WORKED, released=(PIN,)).has_released("ssh-session")
