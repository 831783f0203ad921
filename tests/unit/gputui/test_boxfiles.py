"""The listing of a run's folder: real find's output read, hostile output survived, nothing unpromised overlooked."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from ui.scenario import NOW, small_fleet

from gputui import boxfiles

HEAD = b"motd of the box\n\0gputui files\0"


def test_what_the_real_find_prints_is_read_with_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    (folder / "ckpt").mkdir(parents=True)
    names = ["ckpt/step-1.pt", "two\nlines", " space ", "-dash", "\x1b[31mred"]
    for size, name in enumerate(names):
        (folder / name).write_bytes(b"x" * size)
    (folder / "link").symlink_to("/etc/passwd")
    said = subprocess.run(["sh", "-c", boxfiles.command(str(folder))], capture_output=True, check=True).stdout
    found = boxfiles.read(said, {"ckpt/step-1.pt": "verified"})
    assert found is not None
    assert [(f.path, f.size) for f in found.files] == [(n, i) for i, n in reversed(list(enumerate(names)))]
    assert {f.path for f in found.files if f.state == "unpromised"} == set(names[1:])
    assert (found.cut, found.odd) == (False, 0)
    assert boxfiles.unpromised(found.files) == (4, 10)


def test_a_cut_list_says_so_and_what_is_no_entry_is_counted() -> None:
    entries = b"5 1790000000.5 a\0x y z\0-1 0 b\0" + b"9" * 30 + b" 0 c\0" + b"5 nan d\0" + b"7 17"
    found = boxfiles.read(HEAD + entries, {})
    assert found is not None
    assert [f.path for f in found.files] == ["a"]
    assert (found.cut, found.odd) == (True, 4)
    assert boxfiles.read(b"find: unknown option -- printf", {}) is None


@given(st.binary(max_size=400))
def test_no_output_of_a_box_trips_it(junk: bytes) -> None:
    found = boxfiles.read(HEAD + junk, {})
    assert found is not None
    assert all(f.size >= 0 and f.path for f in found.files)


def test_the_folder_is_the_newest_workspace_that_the_ledger_names() -> None:
    world = small_fleet()
    run = world.runs[2]
    detail = world.detail(run)
    assert boxfiles.folder_of(detail) is None
    seen = [
        msgspec.structs.replace(world.events[0], seq=100 + i, time=NOW, data={"workspace": place})
        for i, place in enumerate(("/old", "/workspace/", 7, "relative"))
    ]
    assert boxfiles.folder_of(msgspec.structs.replace(detail, events=seen)) == f"/workspace/{run.id}"
