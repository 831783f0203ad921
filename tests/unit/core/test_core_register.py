"""The register of machines and what a listing says against it: orphans, returns, burials, caps (I2, I3)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from core_lives import EVENTS, INSTANCE, LABEL, NOW, REGISTER
from hypothesis import given
from hypothesis import strategies as st
from test_core_ledger import opened

from gpuproviders.model import Account, Instance, Power
from gpuwatch.lifecycle import events as e
from gpuwatch.lifecycle import reconcile as r
from gpuwatch.lifecycle.register import Alarm, Entry, enter, label_of

HOUR = 3600.0


def entry(**fields: Any) -> Entry:
    """A machine that was ordered, rented and listed."""
    known: dict[str, Any] = {
        "label": LABEL, "run": "r1", "provider": "vast", "at": NOW, "sent_at": NOW, "rented_at": NOW,
        "listed_at": NOW, "instance_id": INSTANCE,
    }  # fmt: skip
    return Entry(**(known | fields))


def listed(label: str | None = LABEL, instance_id: str = INSTANCE) -> Instance:
    return Instance(provider="vast", instance_id=instance_id, label=label, power=Power.RUNNING)


def judged(*instances: Instance, entries: tuple[Entry, ...] = ()) -> list[r.Finding]:
    return r.judge(instances, {x.label: x for x in entries})


# --- what a listed machine is --------------------------------------------------------------------


def test_strangers_are_counted_and_never_more() -> None:
    for label in (None, "", "somebody-else", "gputu", "x-gputui-r1"):
        assert judged(listed(label, "9")) == [r.Foreign(listed(label, "9"))]


def test_a_machine_that_its_run_drives_is_no_finding() -> None:
    assert judged(listed(), entries=(entry(),)) == []
    assert judged(listed(), entries=(entry(instance_id=None, listed_at=None),)) == [], "its run looks for it"


def test_our_label_that_no_ledger_knows_is_an_orphan() -> None:
    (orphan,) = judged(listed("gputui-old-abcd-1-ff", "9"))
    assert isinstance(orphan, r.Orphan)
    assert "in no run of this ledger" in orphan.why
    assert "9" in str(orphan)


def test_a_second_machine_under_one_label_is_an_orphan() -> None:
    (orphan,) = judged(listed(), listed(instance_id="78"), entries=(entry(),))
    assert isinstance(orphan, r.Orphan)
    assert (orphan.instance_id, "second machine" in orphan.why) == ("78", True)


def test_a_number_of_ours_under_another_label_is_nobodys_and_stays_untouched() -> None:
    gone = entry(gone_at=NOW)
    assert judged(listed(None), entries=(gone,)) == [r.Back(gone, listed(None))]
    for label in ("renamed", "gputui-other-1-aa"):
        (orphan,) = judged(listed(label), entries=(gone,))
        assert isinstance(orphan, r.Orphan)
        assert "has the number of" in orphan.why
        assert judged(listed(label), entries=(entry(),)) == [], "its run sees to it"


def test_the_first_sight_of_a_machine_is_noted_once() -> None:
    unseen = entry(listed_at=None)
    assert judged(listed(), entries=(unseen,)) == [r.Sighted(unseen, listed())]
    seen = enter(unseen, e.MachineListed(label=LABEL, instance_id=INSTANCE), NOW)
    assert judged(listed(), entries=(seen,)) == []


def test_what_was_gone_and_is_listed_came_back_also_when_it_was_never_known_to_exist() -> None:
    for gone in (entry(gone_at=NOW), entry(gone_at=NOW, instance_id=None), entry(gone_at=NOW, buried_at=NOW)):
        assert judged(listed(), entries=(gone,)) == [r.Back(gone, listed())]


# --- created, and not to be seen -----------------------------------------------------------------


def test_only_machines_that_the_vendor_said_it_made_can_be_missing() -> None:
    unseen = entry(listed_at=None)
    others = [
        entry(),
        entry(listed_at=None, instance_id=None),
        entry(listed_at=None, gone_at=NOW),
        entry(listed_at=None, alarm=Alarm.UNSEEN),
    ]
    assert r.unlisted([unseen, *others], []) == [unseen]
    assert r.unlisted([unseen], [listed()]) == []


def test_an_unseen_machine_caps_its_account_until_it_is_seen_or_answered_for() -> None:
    unseen = enter(entry(listed_at=None), e.MachineUnseen(label=LABEL, evidence="3 listings"), NOW)
    assert r.caps([unseen], "vast") == [unseen]
    assert r.caps([unseen], "runpod") == []
    assert "gputui resolve" in r.cap_reason(unseen)
    for answer in (
        e.MachineListed(label=LABEL, instance_id=INSTANCE),
        e.AlarmResolved(label=LABEL, by="me", reason="not there"),
    ):
        assert r.caps([enter(unseen, answer, NOW)], "vast") == []


def test_the_cap_outlives_the_machines_end() -> None:
    unseen = enter(entry(listed_at=None), e.MachineUnseen(label=LABEL, evidence="x"), NOW)
    over = enter(enter(unseen, e.DudGone(evidence="x"), NOW), e.Buried(label=LABEL, evidence="x"), NOW)
    assert over.open
    assert r.caps([over], "vast") == [over]


def test_ending_says_nothing_about_where_an_unseen_machine_was_and_all_about_a_returned_one() -> None:
    over = e.DudGone(evidence="x")
    assert enter(entry(listed_at=None), over, NOW + HOUR).alarm is None, "not listed is no evidence by itself"
    assert enter(entry(listed_at=None, alarm=Alarm.UNSEEN), over, NOW).alarm is Alarm.UNSEEN
    assert enter(entry(alarm=Alarm.RETURNED), over, NOW).alarm is None


# --- after the end -------------------------------------------------------------------------------


def test_a_machine_is_checked_again_after_a_minute_ten_and_an_hour_and_then_buried() -> None:
    gone = enter(entry(), e.Gone(evidence="x"), NOW)
    assert (gone.open, gone.gone_at) == (True, NOW)
    assert [r.next_check([gone], NOW + t) for t in (0, 60, 600, 3600)] == [60.0, 540.0, 3000.0, None]
    assert r.to_bury([gone], [], NOW + HOUR - 1) == []
    assert r.to_bury([gone], [], NOW + HOUR) == [gone]
    assert r.to_bury([gone], [listed()], NOW + HOUR) == []
    assert r.to_bury([gone], [listed("renamed")], NOW + HOUR) == []
    buried = enter(gone, e.Buried(label=LABEL, evidence="x"), NOW + HOUR)
    assert not buried.open


def test_what_the_vendor_refused_is_over_and_what_never_showed_up_is_watched_on() -> None:
    sent = entry(instance_id=None, listed_at=None, rented_at=None)
    assert not enter(sent, e.CreateRefused(label=LABEL, reason="no"), NOW).open
    absent = enter(sent, e.CreateRefused(label=LABEL, reason="lost", absent=True), NOW)
    assert (absent.open, absent.gone_at) == (True, NOW)


def test_only_a_machine_that_nothing_ran_on_is_a_stray() -> None:
    back = e.MachineReturned(label=LABEL, instance_id=INSTANCE)
    stray = enter(entry(gone_at=NOW), back, NOW)
    assert r.strays([stray]) == [stray]
    assert r.strays([enter(entry(gone_at=NOW, job_at=NOW), back, NOW)]) == []
    ended = enter(stray, e.StrayGone(label=LABEL, evidence="x"), NOW)
    assert (r.strays([ended]), ended.alarm, ended.open) == ([], None, True)


def test_every_alarm_says_what_to_do() -> None:
    assert r.alarm_of(entry()) is None
    unseen = entry(alarm=Alarm.UNSEEN)
    assert "gputui resolve" in (r.alarm_of(unseen) or "")
    back = entry(alarm=Alarm.RETURNED)
    assert "destroyed again" in (r.alarm_of(back) or "")
    assert "gputui why r1" in (r.alarm_of(entry(alarm=Alarm.RETURNED, job_at=NOW)) or "")


@given(st.lists(st.sampled_from([*EVENTS.values(), *REGISTER]), max_size=30))
def test_no_order_of_events_forgets_that_a_job_ran_or_closes_a_machine_that_may_exist(
    events: list[e.AnyEvent],
) -> None:
    known = Entry(label=LABEL, run="r1", provider="vast", at=NOW)
    ran = False
    for n, event in enumerate(events):
        known = enter(known, event, NOW + n)
        ran = ran or isinstance(event, e.StartSent | e.JobStarted)
        assert (known.job_at is not None) == ran
        if known.gone_at is None and not any(isinstance(x, e.Buried) for x in events):
            assert known.open


def test_which_machine_an_event_is_about() -> None:
    for event in REGISTER:
        assert label_of(event, None, None) == getattr(event, "label", None)
    assert label_of(EVENTS[e.CollectStarted], None, None) is None


# --- whose account it is -------------------------------------------------------------------------


def seen(user: str | None, key_id: str | None = None) -> e.AccountSeen:
    return e.AccountSeen(provider="vast", user=user, key_id=key_id)


def test_another_account_counts_only_when_nothing_of_the_old_one_is_open() -> None:
    two = Account("vast", "2", None)
    assert r.stranger(two, None, [entry()]) is None, "nobody was known before"
    assert r.stranger(two, seen("2"), [entry()]) is None
    assert r.stranger(two, seen("1"), []) is None
    assert r.stranger(two, seen("1"), [entry(provider="runpod")]) is None
    assert r.stranger(two, seen("1"), [entry(sent_at=None)]) is None, "chosen, never ordered"
    assert LABEL in (r.stranger(two, seen("1"), [entry()]) or "")
    assert "and 1 more" in (r.stranger(two, seen("1"), [entry(), entry(gone_at=NOW)]) or "")


def test_the_same_key_is_the_same_account_and_what_cannot_be_told_is_not() -> None:
    unnamed = Account("vast", None, None, key_id="aa")
    assert r.stranger(unnamed, seen("1", "aa"), [entry()]) is None
    assert r.stranger(unnamed, seen("1", "bb"), [entry()]) is not None
    assert r.stranger(Account("vast", None, None), seen(None), [entry()]) is not None


async def test_the_account_is_remembered_across_restarts(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    async with opened(path) as ledger:
        await ledger.know_account(seen("4711", "aa"))
    async with opened(path) as again:
        assert again.accounts == {"vast": seen("4711", "aa")}
        assert [s.event for s in await again.events()] == [seen("4711", "aa")]


# --- on the disk ---------------------------------------------------------------------------------


async def test_the_register_is_there_after_a_restart_and_closed_entries_only_on_the_disk(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ledger.db"
    async with opened(path) as ledger:
        await ledger.create("r1", e.Requested(name="r1", spec="", file="", base="", key="k"))
        for kind in (e.OfferChosen, e.CreateSent, e.Rented):
            await ledger.append("r1", EVENTS[kind])
        await ledger.note(e.MachineUnseen(label=LABEL, evidence="3 listings"))
        before = dict(ledger.register)
        assert before[LABEL].alarm is Alarm.UNSEEN
    async with opened(path) as again:
        assert again.register == before
        for kind in (e.Dud, e.DestroySent, e.DestroyAccepted, e.DudGone):
            await again.append("r1", EVENTS[kind])
        await again.note(e.AlarmResolved(label=LABEL, by="me", reason="not there"))
        await again.note(e.Buried(label=LABEL, evidence="x"))
        assert again.register == {}
        closed = await again.entry(LABEL)
        assert closed is not None
        assert (closed.buried_at, closed.alarm, closed.instance_id) == (NOW, None, INSTANCE)
    async with opened(path) as third:
        assert third.register == {}
        kinds = [e.kind_of(s.event) for s in await third.events(run="r1")]
        assert kinds[-2:] == ["alarm-resolved", "buried"], "they stand in the run's timeline"


async def test_notes_of_one_turn_are_all_kept(tmp_path: Path) -> None:
    async with opened(tmp_path / "ledger.db") as ledger:
        await ledger.create("r1", e.Requested(name="r1", spec="", file="", base="", key="k"))
        for kind in (e.OfferChosen, e.CreateSent, e.Rented):
            await ledger.append("r1", EVENTS[kind])
        async with asyncio.TaskGroup() as group:
            group.create_task(ledger.note(e.MachineListed(label=LABEL, instance_id=INSTANCE)))
            group.create_task(ledger.append("r1", EVENTS[e.Booted]))
            group.create_task(ledger.note(e.MachineUnseen(label=LABEL, evidence="x")))
        known = await ledger.entry(LABEL)
    async with opened(tmp_path / "ledger.db") as again:
        assert again.register[LABEL] == known
        assert (again.register[LABEL].listed_at, again.register[LABEL].alarm) == (NOW, Alarm.UNSEEN)
