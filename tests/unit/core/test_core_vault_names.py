"""Names that the vault cannot keep are told one by one, and never make trouble for the others."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuwatch.vault.batch import Batch, Landed, Outcome, Refused
from gpuwatch.vault.layout import MARKER
from gpuwatch.vault.names import refusals
from gpuwatch.vault.room import make_way


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "a\0b", "x" * 256, "job.log", ".partial/x", "a//b", "\ud800"]
)
@pytest.mark.parametrize("folds", [True, False])
def test_a_hostile_name_is_refused_and_the_others_are_kept(path: str, folds: bool) -> None:
    assert set(refusals(["good", path, "a/also good"], folds=folds)) == {path}


def test_names_that_differ_only_in_case_collide_where_the_disk_folds_case() -> None:
    names = ["Model.bin", "model.bin", "DATA/x", "data/x", "data/y"]
    assert refusals(names, folds=False) == {}
    refused = refusals(names, folds=True)
    assert set(refused) == {"model.bin", "data/x"}
    assert "'Model.bin' only in case" in refused["model.bin"]


def test_two_spellings_of_one_accent_collide_there_too() -> None:
    assert set(refusals(["caf\u00e9", "cafe\u0301"], folds=True)) == {"caf\u00e9"}
    assert refusals(["caf\u00e9", "cafe\u0301"], folds=False) == {}


def test_a_listing_where_one_name_is_file_and_folder_at_once_keeps_one_of_them() -> None:
    """No file system has that, but a box can say it; without this each would push the other aside for ever."""
    assert "is a file" in refusals(["a", "a/x", "b"], folds=False)["a/x"]
    assert set(refusals(["A", "a/x"], folds=True)) == {"a/x"}
    assert "makes it a folder" in refusals(["A/x", "a"], folds=True)["a"]
    assert refusals(["a.txt", "a/x"], folds=False) == {}


NAMES = st.lists(
    st.lists(st.sampled_from("aAbé.") | st.text(max_size=3), min_size=1, max_size=4).map("/".join),
    max_size=20,
)


@given(NAMES, st.booleans())
def test_what_is_kept_never_collides(paths: list[str], folds: bool) -> None:
    kept = set(paths) - set(refusals(paths, folds=folds))
    assert refusals(kept, folds=folds) == {}, "what was kept stays when it is asked again"


def prove(run: Path, files: dict[str, bytes]) -> dict[str, Outcome]:
    """Small files through a batch; what became of each."""
    (run.parent / MARKER).touch()
    names = list(files)
    told: dict[int, Outcome] = {}
    batch = Batch(run / ".partial", told.update, most=1 << 20)
    try:
        for key, name in enumerate(names):
            data = files[name]
            batch.add(key, run / name, memoryview(data), hashlib.sha256(data).hexdigest(), 10**18)
        batch.flush()
    finally:
        batch.close()
    return {names[key]: outcome for key, outcome in told.items()}


def test_a_file_that_became_a_folder_makes_way_and_is_kept(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert isinstance(prove(run, {"a": b"old"})["a"], Landed)
    assert isinstance(prove(run, {"a/x/y": b"new"})["a/x/y"], Landed)
    assert (run / "a/x/y").read_bytes() == b"new"
    assert (run / ".replaced/1/a").read_bytes() == b"old", "what was proved is never deleted"
    assert isinstance(prove(run, {"a": b"newest"})["a"], Landed)
    assert (run / "a").read_bytes() == b"newest"
    assert (run / ".replaced/2/a/x/y").read_bytes() == b"new"
    assert sorted(p.name for p in run.iterdir()) == [".partial", ".replaced", "a"]
    assert list((run / ".partial").iterdir()) == []


def test_making_way_touches_nothing_that_is_not_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_text("x")
    make_way(tmp_path, tmp_path / "a" / "b" / "c")
    make_way(tmp_path, tmp_path / "a" / "new" / "d")
    assert (tmp_path / "a" / "b" / "c").read_text() == "x"
    assert not (tmp_path / ".replaced").exists()


def test_a_name_that_this_disk_refuses_is_final_and_the_rest_of_the_batch_comes_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.rename

    def picky(source: str, target: str, **where: int) -> None:
        if ":" in str(target):
            raise OSError(22, "Invalid argument")
        real(source, target, **where)

    monkeypatch.setattr(os, "rename", picky)
    found = prove(tmp_path / "run", {"good": b"1", "no:colons": b"2", "fine": b"3"})
    assert found["no:colons"] == Refused("this disk cannot keep it: Invalid argument", final=True)
    assert isinstance(found["good"], Landed)
    assert isinstance(found["fine"], Landed)
    assert not list((tmp_path / "run" / ".partial").iterdir())
