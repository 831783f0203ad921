"""Retention: what may go, from where, and what never does; the facts that this is decided from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuwatch.custody.facts import BoxFile, Copy
from gpuwatch.mirror.known import Known, Past, metric_of
from gpuwatch.mirror.proof import Stands
from gpuwatch.mirror.retention import (
    BOX,
    EVERYWHERE,
    NEWEST,
    VAULT,
    Checkpoint,
    Policy,
    Why,
    decide,
    short_of,
)
from gpuwatch.spec import SpecError, read_spec

REMOTE, OTHER = "gdrive:research/runs", "s3:b"
BOTH = frozenset({VAULT, REMOTE})
PLACES = (VAULT, BOX, REMOTE, OTHER)
NOTHING = Policy(0, 0, 0, 0)


def made(
    step: int,
    hours: float = 0.0,
    metric: float | None = None,
    places: frozenset[str] = BOTH,
    held: Mapping[str, str] | None = None,
) -> Checkpoint:
    return Checkpoint(f"step-{step}", step, 1_000_000 * 3600 + hours * 3600, metric, places, 10, held or {})


# --- what may go ---------------------------------------------------------------------------------


def test_the_last_hourly_daily_and_best_stay() -> None:
    rows = [made(n, n / 12, metric=5.0 if n != 7 else 1.0) for n in range(120)]  # every 5 minutes, ten hours
    policy = Policy(keep_last=3, keep_milestones=4, keep_days=0, keep_best=1)
    gone = {r.name for r in decide(rows, {VAULT: policy}).go}
    assert {r.step for r in rows} - {int(name[5:]) for name in gone} == {117, 118, 119, 7, 72, 84, 96, 108}


def test_days_stay_too() -> None:
    rows = [made(n, n * 6) for n in range(40)]  # every 6 hours, ten days
    kept = {r.name for r in rows} - {r.name for r in decide(rows, {VAULT: Policy(2, 0, 3, 0)}).go}
    assert kept == {"step-38", "step-39", "step-34", "step-30"}


def test_a_checkpoint_that_stands_nowhere_else_never_goes_and_is_said_to_stay() -> None:
    rows = [made(n, n, places=frozenset({VAULT})) for n in range(50)]
    decision = decide(rows, {VAULT: NOTHING})
    assert decision.go == ()
    assert [s.why for s in decision.stays] == [Why.ONLY] * 48


def test_it_leaves_one_of_two_places_and_not_the_other() -> None:
    rows = [made(n) for n in range(5)]
    gone = decide(rows, {VAULT: NOTHING, REMOTE: NOTHING}).go
    assert [(r.place, r.name, r.stands) for r in gone] == [(REMOTE, f"step-{n}", (VAULT,)) for n in range(3)]


def test_a_box_is_no_place_where_anything_is_safe() -> None:
    rows = [made(n, places=frozenset({VAULT, BOX})) for n in range(5)]
    assert [r.place for r in decide(rows, {VAULT: NOTHING, BOX: NOTHING}).go] == [BOX] * 3


def test_from_a_box_goes_only_as_much_as_its_disk_is_short_of_oldest_first() -> None:
    rows = [made(n, places=frozenset({VAULT, BOX})) for n in range(9)]
    assert [r.name for r in decide(rows, {BOX: Policy(2, 0, 0, 0, need=15)}).go] == ["step-0", "step-1"]
    assert decide(rows, {BOX: Policy(2, 0, 0, 0, need=0)}).go == ()


@pytest.mark.parametrize(
    ("free", "total", "checkpoint", "short"),
    [
        (None, 100, 1, 0),
        (5, None, 1, 0),
        (50, 100, 1, 0),
        (5, 100, 1, 5),
        (20, 100, 30, 40),
        (0, 100, 900, 100),
    ],
)
def test_a_disk_is_short_below_a_tenth_or_two_checkpoints(
    free: int | None, total: int | None, checkpoint: int, short: int
) -> None:
    assert short_of(free, total, checkpoint) == short


CHECKPOINTS = st.lists(
    st.builds(
        made, st.integers(0, 500), st.floats(0, 2000), st.one_of(st.none(), st.floats(0, 9)),
        st.frozensets(st.sampled_from(PLACES)),
        st.one_of(st.just({}), st.sampled_from([*PLACES, EVERYWHERE]).map(lambda place: {place: "why"})),
    ),
    unique_by=lambda c: c.name, max_size=40,
)  # fmt: skip
POLICIES = st.dictionaries(
    st.sampled_from(PLACES),
    st.builds(
        Policy, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 3),
        st.one_of(st.none(), st.integers(0, 100)),
    ),
)  # fmt: skip


@given(CHECKPOINTS, POLICIES)
def test_whenever_the_removals_are_cut_off_no_checkpoint_has_lost_its_only_verified_copy(
    rows: list[Checkpoint], policies: dict[str, Policy]
) -> None:
    stands = {c.name: set(c.places) for c in rows}
    for removal in decide(rows, policies).go:
        assert removal.place in stands[removal.name]
        stands[removal.name].discard(removal.place)
        assert set(removal.stands) == stands[removal.name] - {BOX}
        for c in rows:  # after each step, whoever stood anywhere that lasts still does
            assert stands[c.name] - {BOX} or not c.places - {BOX}
        # what stays can be proved: on a remote when it leaves the vault, else in the vault
        assert (removal.place == VAULT) == (VAULT not in stands[removal.name])


@given(CHECKPOINTS, POLICIES)
def test_the_newest_two_of_each_place_and_what_is_held_stay_and_a_second_look_finds_nothing_more(
    rows: list[Checkpoint], policies: dict[str, Policy]
) -> None:
    gone = {(r.place, r.name) for r in decide(rows, policies).go}
    for place in PLACES:
        here = sorted((c for c in rows if place in c.places), key=lambda c: (c.step, c.made_at, c.name))
        assert not {(place, c.name) for c in here[-NEWEST:]} & gone
        assert not {(place, c.name) for c in here if place in c.held or EVERYWHERE in c.held} & gone
    left = [
        Checkpoint(c.name, c.step, c.made_at, c.metric, frozenset(p for p in c.places if (p, c.name) not in gone), 10, c.held)
        for c in rows
    ]  # fmt: skip
    again = decide(left, {p: policy for p, policy in policies.items() if policy.need is None})
    assert again.go == ()


# --- the facts -----------------------------------------------------------------------------------


def copy(path: str, mark: str = "a", size: int = 10, at: float = 5.0) -> Copy:
    return Copy(path, size, mark * 64, (size, 1, 1, 1), "b", at)


def stands(*copies: Copy) -> dict[str, Stands]:
    return {c.path: Stands(sha256=c.sha256, bytes=c.size, how="hash", at=1.0) for c in copies}


ONE, TWO = copy("ckpt/step-1/m", "a"), copy("ckpt/step-1/MANIFEST.json", "b", at=7.0)
THREE = copy("ckpt/step-2/m", "c")


def known(**changes: Any) -> Known:
    facts: dict[str, Any] = {
        "folder": "ckpt", "copies": {c.path: c for c in (ONE, TWO, THREE)},
        "good": frozenset({ONE.path, TWO.path, THREE.path}), "remotes": {REMOTE: stands(ONE, TWO, THREE)},
    }  # fmt: skip
    return Known(**facts | changes)


def row(name: str, **changes: Any) -> Checkpoint:
    return next(c for c in known(**changes).checkpoints() if c.name == name)


def test_a_checkpoint_stands_where_every_file_of_it_does() -> None:
    first = row("step-1")
    assert (first.step, first.places, first.made_at, first.bytes, first.held) == (1, BOTH, 5.0, 20, {})
    assert row("step-1", good=frozenset({ONE.path})).places == {REMOTE}
    assert row("step-1", remotes={REMOTE: stands(ONE)}).places == {VAULT}
    assert row("step-1", remotes={REMOTE: stands(ONE, copy(TWO.path, "f"))}).places == {VAULT}


def test_a_copy_that_has_gone_bad_is_part_of_the_checkpoint_and_so_it_stands_there_no_more() -> None:
    assert row("step-1", good=frozenset({TWO.path, THREE.path})).places == {REMOTE}


def test_names_without_a_step_are_no_checkpoints() -> None:
    odd = copy("ckpt/latest.json")
    assert {c.name for c in known(copies={odd.path: odd, ONE.path: ONE}).checkpoints()} == {"step-1"}


def test_while_its_machine_has_it_or_nobody_knows_what_that_has_nothing_goes_from_what_lasts() -> None:
    on_box = (BoxFile(ONE.path, 10, 1, 1, 1), BoxFile(TWO.path, 10, 1, 1, 1))
    listed = row("step-1", machine=True, box=on_box)
    assert listed.places == BOTH | {BOX}
    assert set(listed.held) == {VAULT, REMOTE}
    assert row("step-2", machine=True, box=on_box).held == {}
    assert set(row("step-2", machine=True, box=None).held) == {VAULT, REMOTE}


def test_what_the_box_has_in_another_version_or_more_of_stands_nowhere() -> None:
    newer = (BoxFile(ONE.path, 11, 2, 2, 1), BoxFile(TWO.path, 10, 1, 1, 1))
    more = (
        BoxFile(ONE.path, 10, 1, 1, 1),
        BoxFile(TWO.path, 10, 1, 1, 1),
        BoxFile("ckpt/step-1/n", 1, 1, 1, 2),
    )
    for box in (newer, more):
        assert row("step-1", machine=True, box=box).places == frozenset()


def test_the_vault_keeps_what_a_remote_has_not_got_yet_unless_retention_let_it_go_there() -> None:
    remotes = {REMOTE: stands(ONE, TWO), OTHER: {}}
    assert "has not got it yet" in row("step-1", remotes=remotes).held[VAULT]
    past = [Past(OTHER, c, removed=True) for c in (ONE, TWO)]
    assert row("step-1", remotes=remotes, past=past).held == {}
    assert VAULT in row("step-1", remotes=remotes, past=past[:1]).held


def test_what_left_the_vault_is_still_known_by_what_it_was() -> None:
    past = [Past(VAULT, c, removed=True) for c in (ONE, TWO)]
    left = row("step-1", copies={THREE.path: THREE}, good=frozenset({THREE.path}), past=past)
    assert (left.places, left.bytes) == ({REMOTE}, 20)


def test_what_the_machine_began_from_stays_on_it_and_other_holds_are_taken_over() -> None:
    held = {"step-1": {EVERYWHERE: "a run begins from it"}, EVERYWHERE: {REMOTE: "x"}}
    assert row("step-1", restored="step-1", held=held).held == {
        BOX: "its machine began from it", EVERYWHERE: "a run begins from it", REMOTE: "x",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("manifest", "value"),
    [({"val": {"loss": 2.5}}, 2.5), ({"val": None}, None), ({"val": {"loss": "x"}}, None), ({"val": {"loss": True}}, None),
     ({"val": {"loss": float("nan")}}, None), ([1], None), ({"val": [1]}, None)],
)  # fmt: skip
def test_the_metric_of_a_manifest_is_a_number_or_nothing(manifest: Any, value: float | None) -> None:
    text = json.dumps(manifest).encode()
    assert metric_of(text, "loss", highest=False) == value
    assert metric_of(text, "loss", highest=True) == (None if value is None else -value)
    assert metric_of(b"[" * 100_000, "loss", highest=False) is None


# --- the spec ------------------------------------------------------------------------------------

SPEC = (
    'name = "r"\n[job]\ncommand = "true"\n[checkpoints]\npath = "ckpt"\nprune = {}\n[mirror]\nremotes = {}\n'
)


def test_a_spec_names_the_places_where_retention_acts_and_none_by_default() -> None:
    read = read_spec(SPEC.format('["box", "vault", "g:x"]', '["g:x"]'), file="r.toml").checkpoints
    assert read is not None
    assert read.prune == ("box", "vault", "g:x")
    plain = read_spec(SPEC.format("[]", "[]"), file="r.toml").checkpoints
    assert plain is not None
    assert plain.prune == ()


@pytest.mark.parametrize(
    ("prune", "remotes", "expected"),
    [
        ('["vault"]', "[]", "the vault holds the only verified copies"),
        ('["g:y"]', '["g:x"]', "one of mirror.remotes"),
    ],
)
def test_a_spec_that_would_prune_the_only_copies_is_refused(prune: str, remotes: str, expected: str) -> None:
    with pytest.raises(SpecError, match=expected):
        read_spec(SPEC.format(prune, remotes), file="r.toml")
