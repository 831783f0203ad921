"""The main job through every room: rent, run, mirror, verify, destroy; and what ends differently."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed
from integration.world import World, world

CHECKPOINTS = """
mkdir -p ckpt
for i in 1 2 3; do head -c 400000 /dev/urandom > ckpt/.tmp-$i; mv ckpt/.tmp-$i ckpt/step-$i.bin; echo "step $i"; sleep 1.5; done
head -c 100000 /dev/urandom > model.bin
"""
PROMISE = """
[checkpoints]
path = "ckpt"
[[artifacts]]
path = "model.bin"
min_size = "100kB"
"""


@pytest.fixture
def here(tmp_path: Path):
    with world(tmp_path) as made:
        yield made


def test_a_job_is_rented_run_mirrored_verified_and_destroyed(here: World) -> None:
    run = here.script(CHECKPOINTS, rest=PROMISE)
    here.wait_event(run, "job-started")
    box = here.box(here.living()[0])
    here.wait_event(run, "receipt-written")
    row = here.wait_end(run)
    assert (row.state, row.exit_code, row.exposure.files) == ("gone", 0, 0)
    files = here.assert_receipt_holds(run)
    assert set(files) == {"ckpt/step-1.bin", "ckpt/step-2.bin", "ckpt/step-3.bin", "model.bin", "job.log"}
    assert here.file(run, "job.log").read_text() == "step 1\nstep 2\nstep 3\n"
    here.assert_one_machine_and_none_left()
    assert not box.exists()


def test_a_checkpoint_is_home_before_the_job_ends(here: World) -> None:
    run = here.script(CHECKPOINTS + "\nwhile [ ! -e ../go ]; do sleep 0.1; done", rest=PROMISE)
    event = here.wait_event(run, "files-verified")
    assert event.data["step"] in (1, 2, 3)
    on_box = here.box(here.living()[0]) / "workspace" / run / event.data["path"]
    at_home = here.file(run, event.data["path"])
    assert hashlib.sha256(at_home.read_bytes()).digest() == hashlib.sha256(on_box.read_bytes()).digest()
    assert "job-ended" not in here.kinds(run)
    (on_box.parents[2] / "go").touch()
    assert here.wait_end(run).state == "gone"


def test_a_failed_job_is_collected_and_held_until_a_person_waives(here: World) -> None:
    run = here.script("mkdir ckpt; echo half > ckpt/step-7.bin; echo oops >&2; exit 3", rest=PROMISE)
    row = here.wait_end(run)
    assert (row.state, row.exit_code, row.attention) == ("failed", 3, "alarm")
    assert any(h.name == "missing" and "model.bin" in h.reason for h in row.holds)
    assert here.file(run, "ckpt/step-7.bin").read_text() == "half\n"
    assert here.file(run, "job.log").read_text() == "oops\n"
    assert len(here.living()) == 1, "held: the machine must still exist"

    with pytest.raises(CallFailed, match="needs the run's name"):
        here.call(
            "destroy",
            wire.Destroy(run=run, waive=["model.bin"], confirm="no", reason="x"),
            wire.CustodyReport,
        )
    with pytest.raises(CallFailed, match="needs a reason"):
        here.call(
            "destroy",
            wire.Destroy(run=run, waive=["model.bin"], confirm="job", reason=" "),
            wire.CustodyReport,
        )
    with pytest.raises(CallFailed, match="not among what is unsafe"):
        here.call(
            "destroy", wire.Destroy(run=run, waive=["other"], confirm="job", reason="x"), wire.CustodyReport
        )
    assert len(here.living()) == 1

    waiver = wire.Destroy(
        run=run, waive=["model.bin"], confirm="job", reason="the job failed, nothing to keep"
    )
    here.call("destroy", waiver, wire.CustodyReport)
    here.wait_event(run, "gone")
    assert [e.data["reason"] for e in here.events(run) if e.kind == "waived"] == [
        "the job failed, nothing to keep"
    ]
    here.assert_one_machine_and_none_left()


def test_a_name_that_the_vault_cannot_keep_is_a_hold_with_a_way_out_and_all_else_comes_home(
    here: World,
) -> None:
    run = here.script(
        "echo good > good.bin; echo mine > job.log; ln -s /etc/hostname stray.bin",
        rest='[[artifacts]]\npath = "*.bin"\n[[artifacts]]\npath = "job.log"',
    )
    row = here.wait_end(run)
    assert row.state == "failed"
    holds = {h.name: h.reason for h in row.holds}
    assert "job.log cannot be kept in the vault" in holds["name"]
    assert "--waive" in holds["name"]
    assert "stray.bin is a link to" in holds["link"]
    assert here.file(run, "good.bin").read_text() == "good\n"
    assert not here.file(run, "stray.bin").exists()
    assert len(here.living()) == 1
    waiver = wire.Destroy(run=run, waive=["job.log", "stray.bin"], confirm="job", reason="named by mistake")
    here.call("destroy", waiver, wire.CustodyReport)
    here.wait_event(run, "gone")
    here.assert_receipt_holds(run)


def test_destroy_of_a_running_job_stops_it_and_brings_everything_home_first(here: World) -> None:
    run = here.script(
        "mkdir ckpt; trap 'echo last > ckpt/step-9.bin; exit 75' TERM; echo first > ckpt/step-1.bin; "
        "while :; do sleep 0.1; done",
        rest='[checkpoints]\npath = "ckpt"',
    )
    here.wait_event(run, "files-verified")
    report = here.call("destroy", wire.Destroy(run=run, preview=True), wire.CustodyReport)
    assert not report.allowed
    assert any(h.name == "job" for h in report.holds)
    assert len(here.living()) == 1, "a preview changes nothing"
    here.call("destroy", wire.Destroy(run=run), wire.CustodyReport)
    row = here.wait_end(run)
    assert (row.state, row.exit_code) == ("gone", 75)
    assert here.file(run, "ckpt/step-9.bin").read_text() == "last\n", (
        "what SIGTERM made the job save came home"
    )
    here.assert_receipt_holds(run)
    here.assert_one_machine_and_none_left()


def test_a_file_that_goes_on_changing_is_collected_in_its_last_version(here: World) -> None:
    writer = "echo 0 > out.txt; (for i in 1 2 3 4 5 6 7 8; do echo $i >> out.txt; sleep 0.5; done) &"
    run = here.script(writer, rest='[[artifacts]]\npath = "out.txt"')
    row = here.wait_end(run)
    assert row.state == "gone"
    here.assert_receipt_holds(run)
    # whatever was written before the machine went is home: the receipt was for the last listing
    assert here.file(run, "out.txt").read_text().startswith("0\n1\n")


def test_the_same_launch_key_rents_only_once(here: World) -> None:
    first = here.script("true", rest='[[artifacts]]\npath = "x"\nrequired = false', top="", key="same")
    again = here.script("true", rest='[[artifacts]]\npath = "x"\nrequired = false', top="", key="same")
    assert first == again
    here.wait_end(first)
    assert len(here.machines()) == 1


def test_nothing_promised_and_nothing_found_holds_the_machine(here: World) -> None:
    run = here.script("true", rest='[[artifacts]]\npath = "results/*"\nrequired = false')
    row = here.wait_end(run)
    assert row.state == "failed"
    assert [h.name for h in row.holds] == ["empty"]


def test_a_run_that_promises_nothing_by_name_ends_at_once(here: World) -> None:
    run = here.script("echo hello", top='artifacts = "none"')
    assert here.wait_end(run).state == "gone"
    assert here.file(run, "job.log").read_text() == "hello\n"


def test_a_copy_that_was_removed_from_the_vault_is_none_and_comes_home_again(here: World) -> None:
    run = here.script(
        "mkdir ckpt; echo one > ckpt/step-1.bin; while [ ! -e ../go ]; do sleep 0.1; done",
        rest='[checkpoints]\npath = "ckpt"',
    )
    here.wait_event(run, "files-verified")
    box = here.box(here.living()[0])
    here.file(run, "ckpt/step-1.bin").unlink()
    (box / "workspace" / "go").touch()
    assert here.wait_end(run).state == "gone"
    assert here.file(run, "ckpt/step-1.bin").read_text() == "one\n"
    here.assert_receipt_holds(run)
