"""The daemon mirrors behind a real rclone: newest first, verified, required before the machine goes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gputui.verbs.mirrors import retention_line
from gpuwatch.client import wire
from integration.rclone_servers import Server, serving
from integration.world import World, world

JOB = """
mkdir -p ckpt
for i in 1 2; do mkdir ckpt/step-$i; head -c 300000 /dev/urandom > ckpt/step-$i/model.bin; echo {} > ckpt/step-$i/MANIFEST.json; done
echo result > model.txt
"""
SPEC = """
[checkpoints]
path = "ckpt"
[[artifacts]]
path = "model.txt"
[mirror]
remotes = ["sim:bucket/research"]
require = ["vault", "sim:bucket/research"]
"""


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[Server]:
    with serving("s3", tmp_path / "remote") as made:
        yield made


@pytest.fixture
def here(tmp_path: Path, remote: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("RCLONE_CONFIG", remote.environment["RCLONE_CONFIG"])
    (tmp_path / "home").mkdir()
    with world(tmp_path / "home") as made:
        yield made


def status(here: World) -> wire.MirrorRow:
    (row,) = here.call("mirror.status", wire.MirrorQuery(), wire.MirrorStatus).mirrors
    return row


def test_everything_stands_verified_on_the_remote_before_the_machine_goes(
    here: World, remote: Server
) -> None:
    run = here.script(JOB, rest=SPEC)
    here.wait_event(run, "receipt-written")
    root = f"research/runs/{run}"
    for name in ("step-1/model.bin", "step-2/model.bin", "step-2/MANIFEST.json"):
        assert (
            remote.file(f"{root}/checkpoints/{name}").read_bytes()
            == here.file(run, f"ckpt/{name}").read_bytes()
        )
    assert remote.file(f"{root}/model.txt").read_text() == "result\n"
    assert remote.file(f"{root}/job.log").exists()
    assert here.wait_end(run).state == "gone"
    row = status(here)
    assert (row.behind_files, row.problem, row.required) == (0, None, True)
    pointer = json.loads(remote.file(f"{root}/checkpoints/latest.json").read_text())
    assert (pointer["step"], pointer["dir"]) == (2, "step-2")
    here.assert_one_machine_and_none_left()


def test_a_remote_that_is_away_holds_the_machine_and_says_so_and_goes_on_when_it_is_back(
    here: World, remote: Server
) -> None:
    remote.stop()
    run = here.script(JOB, rest=SPEC)
    failed = here.wait_event(run, "collect-failed")
    assert "not verified on sim:bucket/research yet" in failed.data["reason"]
    assert len(here.living()) == 1
    while status(here).problem is None:
        time.sleep(0.1)  # the daemon tells nobody about its tries
    assert any(
        "sim:bucket/research" in a for a in here.call("status", wire.Empty(), wire.DaemonStatus).alarms
    )
    remote.start()
    here.wait_event(run, "receipt-written")
    assert here.wait_end(run).state == "gone"
    assert remote.file(f"research/runs/{run}/checkpoints/step-1/model.bin").exists()


def test_a_strangers_file_under_the_same_name_is_kept_and_holds_nothing_else_up(
    here: World, remote: Server
) -> None:
    run = here.script(JOB, rest=SPEC)
    stranger = remote.file(f"research/runs/{run}/checkpoints/step-2/model.bin")
    stranger.parent.mkdir(parents=True)
    stranger.write_text("somebody else's")
    here.wait_event(run, "collect-failed")
    while (row := status(here)).problem is None or row.files < 4:
        time.sleep(0.1)
    assert "not overwritten" in row.problem
    assert stranger.read_text() == "somebody else's"
    assert remote.file(f"research/runs/{run}/checkpoints/step-1/model.bin").exists()
    assert len(here.living()) == 1


def test_a_mirror_goes_on_over_a_killed_daemon_and_copies_nothing_twice(here: World, remote: Server) -> None:
    run = here.script(JOB + "while [ ! -e ../go ]; do sleep 0.1; done", rest=SPEC)
    here.wait_event(run, "files-verified")
    while status(here).files < 4:
        time.sleep(0.1)
    marked = remote.file(f"research/runs/{run}/checkpoints/step-1/model.bin")
    before = marked.stat().st_mtime_ns, marked.stat().st_ino
    here.kill_daemon()
    here.start_daemon()
    (here.box(here.living()[0]) / "workspace" / "go").touch()
    here.wait_event(run, "receipt-written")
    assert (status(here).behind_files, here.wait_end(run).state) == (0, "gone")
    assert (marked.stat().st_mtime_ns, marked.stat().st_ino) == before


@pytest.mark.slow
def test_retention_lets_old_checkpoints_go_once_the_remote_has_them_and_status_and_verify_say_so(
    here: World, remote: Server
) -> None:
    old = SPEC.replace(
        'path = "ckpt"\n',
        'path = "ckpt"\nkeep_last = 2\nkeep_milestones = 0\nkeep_days = 0\nprune = ["vault"]\n',
    )
    run = here.script(JOB.replace("1 2", "1 2 3 4"), rest=old)
    assert here.wait_end(run).state == "gone"
    first = here.wait_event(run, "let-go")
    here.wait_event(run, "let-go", after=first.seq)
    while status_of(here).going:
        time.sleep(0.1)  # what is written down goes a moment later
    row = status_of(here)
    assert (row.kept, row.let_go, row.problem) == (2, 4, None)
    assert "vault keeps 2 checkpoints" in retention_line(row)
    assert not here.file(run, "ckpt/step-1").exists()
    assert remote.file(f"research/runs/{run}/checkpoints/step-1/model.bin").exists()
    verified = subprocess.run(
        [sys.executable, "-m", "gpuwatch", "verify", str(here.vault)],
        env=here.environment,
        capture_output=True,
        text=True,
    )
    assert (verified.returncode, "let go     4 files" in verified.stdout) == (0, True), verified.stdout


def status_of(here: World) -> wire.RetentionRow:
    (row,) = here.call("mirror.status", wire.MirrorQuery(), wire.MirrorStatus).retention
    return row
