"""Which checkpoints are whole, and when a machine counts as gone."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuwatch.custody.complete import STILL_REPORTS, Group, Stillness, complete, groups
from gpuwatch.custody.facts import BoxFile
from gpuwatch.lifecycle.absence import AFTER_DESTROY, OUT_OF_THE_BLUE, Absence, Policy


def file(path: str, size: int = 1, mtime: int = 1, *, writer: bool = False) -> BoxFile:
    return BoxFile(path, size, mtime, mtime, 1, writer)


def contract(step: int, *, manifest: bool = True, writer: bool = False) -> list[BoxFile]:
    files = [file(f"ckpt/step-{step}/model.bin", writer=writer)]
    return files + ([file(f"ckpt/step-{step}/MANIFEST.json")] if manifest else [])


def whole(*files: BoxFile, reports: int = 10) -> list[str]:
    still = Stillness()
    entries = groups(files, "ckpt")
    counts = {}
    for _ in range(reports):
        counts = dict(still.observe(entries))
    return [g.name for g in complete(entries, counts)]


def test_a_directory_of_the_contract_is_whole_with_its_manifest_at_once() -> None:
    assert whole(*contract(5), reports=1) == ["step-5"]
    assert whole(*contract(5, manifest=False), *contract(4)) == ["step-4"], (
        "without one it does not exist for us"
    )


def test_a_manifest_deeper_down_is_not_the_directorys_own() -> None:
    files = [*contract(5), file("ckpt/step-9/inner/MANIFEST.json"), file("ckpt/step-9/x")]
    assert whole(*files) == ["step-5"]


def test_names_with_a_dot_are_never_looked_at() -> None:
    assert groups([file("ckpt/.tmp-5/MANIFEST.json"), file("ckpt/.hidden")], "ckpt") == ()


def test_what_lies_elsewhere_is_no_checkpoint() -> None:
    assert groups([file("ckpts/a"), file("ckpt"), file("x/ckpt/a")], "ckpt/") == ()


def test_newest_first() -> None:
    files = [f for n in (3, 100, 20) for f in contract(n)]
    assert whole(*files) == ["step-100", "step-20", "step-3"]
    assert whole(file("ckpt/best.pt"), file("ckpt/e7.pt")) == ["e7.pt", "best.pt"]


def test_files_without_contract_are_whole_after_standing_still() -> None:
    assert whole(file("ckpt/a.pt"), reports=STILL_REPORTS) == []
    assert whole(file("ckpt/a.pt"), reports=STILL_REPORTS + 1) == ["a.pt"]


def test_nothing_is_whole_while_someone_writes_it() -> None:
    assert whole(file("ckpt/a.pt", writer=True)) == []
    assert whole(*contract(5, writer=True)) == []


@pytest.mark.parametrize("field", ["size", "mtime_ns", "ctime_ns", "inode", "writer"])
def test_any_change_starts_the_count_again(field: str) -> None:
    still, first = Stillness(), file("ckpt/a")
    later = dataclasses.replace(first, **{field: (not first.writer) if field == "writer" else 9})
    assert still.observe(groups([first], "ckpt")) == {"a": 0}
    assert still.observe(groups([first], "ckpt")) == {"a": 1}
    assert still.observe(groups([later], "ckpt")) == {"a": 0}
    assert still.observe(groups([], "ckpt")) == {}
    assert still.observe(groups([later], "ckpt")) == {"a": 0}


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12))
def test_stillness_is_the_number_of_equal_reports_in_a_row(contents: list[str]) -> None:
    still, run = Stillness(), 0
    for i, content in enumerate(contents):
        run = run + 1 if i and contents[i - 1] == content else 0
        assert still.observe(groups([file("ckpt/x", ord(content))], "ckpt"))["x"] == run


@pytest.mark.parametrize(
    ("name", "step"), [("step-5", 5), ("epoch3-step42.pt", 42), ("best", None), ("s" + "9" * 400, 10**15 - 1)]
)
def test_steps_are_read_from_names(name: str, step: int | None) -> None:
    assert Group(name, ()).step == step


# --- absence -------------------------------------------------------------------------------------


def seen(policy: Policy, *observations: tuple[float, bool]) -> bool:
    absence = Absence()
    for at, listed in observations:
        absence.observe(at, listed=listed)
    return absence.enough(policy)


def test_no_observation_is_no_absence() -> None:
    assert not seen(AFTER_DESTROY)
    assert not seen(Policy(0, 0.0))


def test_after_a_destroy_two_listings_some_seconds_apart_are_enough() -> None:
    assert not seen(AFTER_DESTROY, (0, False))
    assert not seen(AFTER_DESTROY, (0, False), (3.9, False))
    assert seen(AFTER_DESTROY, (0, False), (4, False))


def test_out_of_the_blue_it_takes_three_over_five_minutes() -> None:
    assert not seen(OUT_OF_THE_BLUE, (0, False), (300, False))
    assert not seen(OUT_OF_THE_BLUE, (0, False), (1, False), (299, False))
    assert seen(OUT_OF_THE_BLUE, (0, False), (1, False), (300, False))


def test_one_listing_that_has_it_starts_the_row_again() -> None:
    assert not seen(
        OUT_OF_THE_BLUE, (0, False), (200, False), (250, True), (300, False), (400, False), (599, False)
    )
    assert seen(OUT_OF_THE_BLUE, (0, False), (250, True), (300, False), (400, False), (600, False))
    assert not seen(OUT_OF_THE_BLUE, (0, False), (1, False), (2, True), (3, False), (400, False))


def test_the_same_listing_read_often_counts_once() -> None:
    assert not seen(AFTER_DESTROY, *[(7.0, False)] * 50)
    assert not seen(OUT_OF_THE_BLUE, (0, False), (0, False), (300, False))
    assert not seen(AFTER_DESTROY, (9.0, False), (1.0, False), (2.0, False)), "time does not run backwards"


@given(st.lists(st.tuples(st.floats(0, 1000), st.booleans()), max_size=12))
def test_enough_means_an_unbroken_row_at_the_end(observations: list[tuple[float, bool]]) -> None:
    observations.sort(key=lambda o: o[0])
    last_seen = max((i for i, (_, listed) in enumerate(observations) if listed), default=-1)
    row = sorted({at for at, _ in observations[last_seen + 1 :]})
    expected = len(row) >= 3 and row[-1] - row[0] >= 300
    assert seen(OUT_OF_THE_BLUE, *observations) == expected
