"""Custody letter by letter: globs, limits, and which waiver frees what. Most rows are here because a mutant got away."""

from __future__ import annotations

import pytest
from core_lives import BOOT, INSTANCE, NOW, run
from test_core_custody_rules import FILE, OUT, copies, copy, file, listing, names, spec

from gpuwatch.custody import holds
from gpuwatch.custody.complete import STILL_REPORTS
from gpuwatch.custody.facts import BoxFile, Copy, Inventory
from gpuwatch.custody.rules import assess, is_safe, matches, promised_globs, waivable
from gpuwatch.custody.scrub import DAY, RETRY, Policy, due
from gpuwatch.lifecycle.run import PlacedHold
from gpuwatch.spec.model import Artifact

YES = [
    ("a.x", "[ab].x"), ("b", "[a-c]"), ("-", "[a-]"), ("a", "[a-]"), ("b", "[!a]"), ("b", "[^a]"), ("[!]", "[!]"),
    ("]", "[]a]"), ("a", "[]a]"), ("b", "[!]a]"), ("^", "[^]"), ("a", "[a!]"), ("!", "[a!]"), ("c", "[!ab]"), ("a", "[a-a]"),
    ("x", "[a-cx]"), ("b", "[abc]"), ("z", "[!b-a]"), ("ab", "*b"), ("ab", "?b"), ("aXb", "a**b"), ("aX/Y/b", "a**/b"),
    ("x/b", "**/b"), ("x/y/b", "**/b"), ("b", "**/b"), ("ab]", "ab]"), ("[a", "[a"), ("abc", "[a]bc"), ("a/x", "[a]"),
    ("a.b", "a.b"), ("a**b", "a[*][*]b"),
]  # fmt: skip
NO = [
    ("c.x", "[ab].x"), ("d", "[a-c]"), ("b", "[a-]"), ("a", "[!a]"), ("!", "[!]"), ("a", "[!]"), ("]", "[!]a]"), ("a", "[^]"),
    ("a", "[!ab]"), ("b", "[!ab]"), ("b", "[acz]"), ("a", "[b-a]"), ("b", "[b-a]"), ("/", "[!a]"), (".a", "[.]a"), ("ac", "*b"),
    ("ac", "?b"), ("aXc", "a**b"), ("ab", "a**/b"), ("x/c", "**/b"), (".x/b", "**/b"), ("ac", "[a]bc"), ("axb", "a.b"), ("a/b", "a?b"),
]  # fmt: skip


@pytest.mark.timeout(10)  # a glob that is not read to its end is read for ever
@pytest.mark.parametrize(("path", "glob"), YES)
def test_what_a_glob_means(path: str, glob: str) -> None:
    assert matches(path, glob)


@pytest.mark.timeout(10)
@pytest.mark.parametrize(("path", "glob"), NO)
def test_what_a_glob_does_not_mean(path: str, glob: str) -> None:
    assert not matches(path, glob)


@pytest.mark.timeout(10)
def test_many_stars_are_as_quick_as_one() -> None:
    assert not matches("/".join(["a"] * 200) + "/b", "**/" * 12 + "c")


def test_the_numbers_that_the_documents_name() -> None:
    assert STILL_REPORTS == 3
    assert RETRY == 6 * 3600


# --- what is promised, what is safe --------------------------------------------------------------


def test_checkpoints_and_artifacts_are_both_promised() -> None:
    assert promised_globs(spec(Artifact(path="x"), Artifact(path="x"), ckpt="ckpt")) == ("x", "ckpt")
    assert promised_globs(spec(ckpt="ckpt")) == ("ckpt",)


def test_a_copy_that_contradicts_itself_proves_nothing() -> None:
    torn = Copy(FILE.path, FILE.size - 1, "0" * 64, FILE.identity, BOOT, NOW)
    assert not is_safe(FILE, torn)
    assert is_safe(FILE, copy(FILE))
    assert not is_safe(FILE, None)


def test_a_file_that_nobody_writes_is_the_usual_case() -> None:
    assert BoxFile("a", 1, 1, 1, 1).writer is False
    assert Inventory(INSTANCE, BOOT, NOW, ()).problems == ()


# --- what holds ----------------------------------------------------------------------------------


def test_checkpoints_that_were_never_made_hold_unless_the_job_failed_and_promised_more() -> None:
    only, both = spec(ckpt="ckpt"), spec(Artifact(path="out"), ckpt="ckpt")
    made = file("ckpt/step-1.pt")
    assert names(only, listing(), {}) == ["missing"]
    assert names(both, listing(FILE), copies(FILE)) == ["missing"]
    assert assess(both, listing(FILE, made), copies(FILE, made)).clear
    assert assess(both, listing(FILE), copies(FILE), ["ckpt"]).clear
    assert assess(both, listing(FILE), copies(FILE), job_succeeded=False).clear
    failed = assess(only, listing(), {}, job_succeeded=False)
    assert [h.name for h in failed.holds] == ["missing"], "a failed job that has nothing at all"
    assert assess(OUT, listing(FILE), copies(FILE)).clear, "no checkpoints were promised"


def test_a_job_counts_as_having_succeeded_unless_it_is_said_otherwise() -> None:
    assert "failed" not in assess(OUT, listing(), {}).holds[0].reason


def test_a_run_that_promises_nothing_and_does_not_say_so_holds() -> None:
    assert names(spec(), listing(), {}) == ["empty"]
    assert names(spec(), listing(FILE), {}, ["out/a"]) == ["empty"], (
        "there is nothing that a waiver could name"
    )


def test_a_file_that_is_given_up_may_be_written_to_the_end() -> None:
    busy = file("out/a", writer=True)
    assert assess(OUT, listing(busy), {}, ["out/a"]).clear
    assert names(OUT, listing(busy, file("out/b")), copies(file("out/b")), ["out/b"]) == [
        "artifacts",
        "writing",
    ]


def test_three_names_are_told_and_the_rest_is_hinted_at() -> None:
    files = [file(f"out/{n}") for n in "abcd"]
    three, four = assess(OUT, listing(*files[:3]), {}), assess(OUT, listing(*files), {})
    assert three.holds[0].reason == "3 files (30 B) not verified at home: out/a, out/b, out/c"
    assert four.holds[0].reason == "4 files (40 B) not verified at home: out/a, out/b, out/c, …"
    assert assess(OUT, listing(files[0]), {}).holds[0].reason == "1 file (10 B) not verified at home: out/a"


@pytest.mark.parametrize(
    ("artifact", "files"),
    [
        (Artifact(path="out", required=False), ()),
        (Artifact(path="out", min_size=11), (FILE,)),
        (Artifact(path="out"), ()),
    ],
    ids=["empty", "too-small", "missing"],
)
def test_what_falls_short_of_a_promise_can_be_given_up_by_its_pattern(
    artifact: Artifact, files: tuple[BoxFile, ...]
) -> None:
    promise = spec(artifact)
    verdict = assess(promise, listing(*files), copies(*files))
    assert not verdict.clear
    assert waivable(verdict, promise) == ("out",)
    assert assess(promise, listing(*files), copies(*files), ["out"]).clear


def test_what_is_well_needs_no_waiver() -> None:
    assert waivable(assess(OUT, listing(FILE), copies(FILE)), OUT) == ()


# --- reading old files again ---------------------------------------------------------------------

POLICY = Policy(every=30 * DAY, per_day=10**9)


def old(path: str, at: float) -> Copy:
    return Copy(path, 1, "0" * 64, (1, 1, 1, 1), BOOT, at)


def test_a_proof_a_day_ahead_is_a_clock_that_is_off_and_more_is_no_proof() -> None:
    ahead = {"r": {"a": old("a", NOW + DAY)}}
    assert due(ahead, {}, POLICY, now=NOW) == []
    (found,) = due({"r": {"a": old("a", NOW + DAY + 1)}}, {}, POLICY, now=NOW)
    assert found.since == 0.0


def test_a_batch_has_256_files() -> None:
    files = {f"{n:03}": old(f"{n:03}", NOW - 40 * DAY) for n in range(300)}
    assert len(due({"r": files}, {}, POLICY, now=NOW)) == 256


# --- the named holds -----------------------------------------------------------------------------

REMOVED_BY = {
    "waive": {"artifacts", "missing", "too-small", "empty", "writing", "transfer"},
    "waive-all": {"unknown-state"},
    "release": {"inventory", "pin", "ssh-session", "downloading", "host-key"},
    "itself": {"job", "receipt", "no-machine"},
}


def test_every_hold_that_facts_make_is_known_and_goes_in_one_way() -> None:
    known = {name: kind.removal.value for name, kind in holds.KINDS.items()}
    expected = {name: how for how, named in REMOVED_BY.items() for name in named}
    assert {name: known.get(name) for name in expected} == expected
    assert all(kind.name == name and kind.meaning for name, kind in holds.KINDS.items())
    assert {"ssh-session", "downloading"} <= holds.WAIT


def test_a_hold_that_a_person_placed_says_why_also_when_she_did_not() -> None:
    pins = (PlacedHold(name="pin", by="me", at=NOW), PlacedHold(name="x", by="you", at=NOW, reason="look"))
    plain, said = holds.placed(run(pins=pins))
    assert (plain.name, plain.reason, plain.by, plain.at) == ("pin", "a person pinned the machine", "me", NOW)
    assert (said.name, said.reason, said.by) == ("x", "look", "you")
