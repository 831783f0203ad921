"""Vaults on real disks that misbehave: one that is full, one that takes `A` and `a` for one name.

These mount filesystems, so they want root and `fusermount3`; they are of the slow tier (`make test-all`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuwatch.client import wire
from integration.world import World

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def over(vault: Path) -> Iterator[World]:
    """Simulator and daemon, with the vault on a disk that is mounted already."""
    made = World(vault.parent)
    try:
        made.start_simulator("--ephemeral")
        made.start_daemon()
        yield made
    finally:
        made.stop()


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def disk_that_folds_case(folder: Path, store: Path) -> Iterator[None]:
    """As macOS and Windows have them: rclone mounts a folder so."""
    folder.mkdir()
    store.mkdir()
    rclone = shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert rclone is not None
    options = ["--vfs-case-insensitive", "--vfs-cache-mode", "full", "--dir-cache-time", "1s", "--daemon"]
    options += ["--cache-dir", str(store.with_name("cache")), "--daemon-wait", "20s", "--vfs-write-back", "0"]
    subprocess.run([rclone, "mount", str(store), str(folder), *options], check=True)
    try:
        yield
    finally:
        subprocess.run(["fusermount3", "-u", str(folder)], check=True)


def test_a_disk_that_fills_up_loses_nothing_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    vault = tmp_path / "vault"
    with small_disk(vault, "24m"), over(vault) as here:
        ballast = vault / "ballast"
        ballast.write_bytes(bytes(18 << 20))
        run = here.script("head -c 9000000 /dev/urandom > big.bin", rest='[[artifacts]]\npath = "big.bin"')
        reason = here.wait_event(run, "collect-failed").data["reason"]
        assert "space" in reason
        assert not here.file(run, "big.bin").exists(), "never a truncated file under a final name"
        assert len(here.living()) == 1
        ballast.unlink()
        assert here.wait_end(run).state == "gone"
        assert "big.bin" in here.assert_receipt_holds(run)
        here.assert_one_machine_and_none_left()


def test_two_names_that_the_disk_takes_for_one_are_a_hold_and_the_first_is_home(tmp_path: Path) -> None:
    vault = tmp_path / "vault"
    job = "mkdir out; printf one > out/Model.bin; printf two > out/model.bin"
    with disk_that_folds_case(vault, tmp_path / "store"), over(vault) as here:
        run = here.script(job, rest='[[artifacts]]\npath = "out/**"')
        here.wait_event(run, "collect-blocked")
        report = here.detail(run).custody
        assert [row.path for row in report.verified if row.path.startswith("out/")] == ["out/Model.bin"]
        assert [row.path for row in report.unsafe] == ["out/model.bin"]
        assert any("only in case" in hold.reason for hold in report.holds)
        assert here.file(run, "out/Model.bin").read_text() == "one"
        assert len(here.living()) == 1, "the machine still has what this vault cannot keep"
        waive = wire.Destroy(
            run=run, waive=["out/model.bin"], confirm="job", reason="the other one is enough"
        )
        here.call("destroy", waive, wire.CustodyReport)
        assert here.wait_event(run, "gone")
        assert here.file(run, "out/Model.bin").read_text() == "one"
