"""The simulated disk keeps what POSIX promises and nothing else: the judge believes it, so it is judged itself."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from simulation.clock import Time
from simulation.database import Database
from simulation.disk import Disk
from simulation.faults import Faults

from gpuwatch.vault.layout import fsync_folder

TRIES = 60


def after_cuts(tmp_path: Path, act: object, path: str) -> set[bytes | None]:
    """What a file may hold after a power cut, over many draws."""
    found: set[bytes | None] = set()
    for seed in range(TRIES):
        root = tmp_path / f"{seed}"
        disk = Disk(root, random.Random(seed))
        with disk.installed():
            act(root)
            disk.power_cut()
        target = root / path
        found.add(target.read_bytes() if target.exists() else None)
    return found


def synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def test_a_file_that_was_only_written_may_be_there_torn_empty_or_not_at_all(tmp_path: Path) -> None:
    found = after_cuts(tmp_path, lambda root: (root / "f").write_bytes(b"abcdef"), "f")
    assert found >= {None, b"", b"abcdef", bytes(6)}
    assert any(0 < len(f) < 6 for f in found if f), "torn"


def test_synced_content_under_a_name_that_is_not_may_be_gone_but_never_torn(tmp_path: Path) -> None:
    assert after_cuts(tmp_path, lambda root: synced(root / "f", b"abc"), "f") == {None, b"abc"}


def test_content_and_name_synced_is_there(tmp_path: Path) -> None:
    def act(root: Path) -> None:
        synced(root / "f", b"abc")
        fsync_folder(root)

    assert after_cuts(tmp_path, act, "f") == {b"abc"}


def test_a_replaced_file_is_the_old_or_the_new_one_and_never_missing(tmp_path: Path) -> None:
    def act(root: Path) -> None:
        synced(root / "f", b"old")
        fsync_folder(root)
        synced(root / "f.tmp", b"new")
        (root / "f.tmp").replace(root / "f")

    assert after_cuts(tmp_path, act, "f") == {b"old", b"new"}


def test_a_rename_between_folders_never_loses_the_file(tmp_path: Path) -> None:
    """However few of its two folders were synced."""
    for seed in range(TRIES):
        root = tmp_path / f"{seed}"
        disk = Disk(root, random.Random(seed))
        with disk.installed():
            for folder in (root / "a", root / "b"):
                folder.mkdir()
            fsync_folder(root)
            synced(root / "a" / "f", b"x")
            fsync_folder(root / "a")
            (root / "a" / "f").replace(root / "b" / "f")
            if seed % 2:
                fsync_folder(root / "a")
            disk.power_cut()
        assert [p.read_bytes() for p in root.glob("*/f")] in ([b"x"], [b"x", b"x"])


def test_a_folder_that_was_not_synced_takes_all_that_is_in_it_along(tmp_path: Path) -> None:
    def act(root: Path) -> None:
        (root / "run").mkdir()
        synced(root / "run" / "f", b"x")
        fsync_folder(root / "run")

    assert after_cuts(tmp_path, act, "run/f") == {None, b"x"}


@pytest.mark.parametrize("sure", [True, False])
def test_sure_is_what_every_cut_would_leave(sure: bool, tmp_path: Path) -> None:
    disk = Disk(tmp_path / "d", random.Random(1))
    with disk.installed():
        path = disk.root / "f"
        synced(path, b"abc")
        if sure:
            fsync_folder(disk.root)
        assert disk.surely(path) == (b"abc" if sure else None)
        with path.open("ab") as file:
            file.write(b"more")
        assert disk.surely(path) is None


@pytest.mark.parametrize(("synchronous", "left"), [("FULL", {2}), ("NORMAL", {0, 1, 2})])
async def test_a_commit_survives_a_power_cut_as_its_setting_says(synchronous: str, left: set[int]) -> None:
    found = set()
    for seed in range(TRIES):
        database = Database(Faults(Time(), random.Random(seed)))
        for statement in (
            "CREATE TABLE t (x)", f"PRAGMA synchronous={synchronous}", "BEGIN", "INSERT INTO t VALUES (1)", "COMMIT",
            "BEGIN", "INSERT INTO t VALUES (2)", "COMMIT", "BEGIN", "INSERT INTO t VALUES (3)",
        ):  # fmt: skip
            await database.execute(statement)
        database.crash(power_cut=True)
        found.add(database.connection.execute("SELECT COUNT(*) FROM t").fetchone()[0])
        database.dispose()
    assert found == left
