"""kill -9 at any instant, then restart: the same final outcome (I4)."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from integration.world import World, world

JOB = """
mkdir -p ckpt
for i in 1 2 3 4; do head -c 300000 /dev/urandom > ckpt/.t; mv ckpt/.t ckpt/step-$i.bin; echo "step $i"; sleep 1; done
head -c 2000000 /dev/urandom > model.bin
"""
PROMISE = '[checkpoints]\npath = "ckpt"\n[[artifacts]]\npath = "model.bin"\nmin_size = "2MB"'
PHASES = (
    "requested", "offer-chosen", "create-sent", "rented", "booted", "box-checked", "job-started", "files-verified",
    "job-ended", "collect-started", "receipt-written", "destroy-sent", "destroy-accepted",
)  # fmt: skip


@pytest.fixture
def here(tmp_path: Path):
    with world(tmp_path) as made:
        yield made


def assert_ended_well(here: World, run: str) -> None:
    row = here.row(run)
    assert (row.state, row.exit_code) == ("gone", 0)
    files = here.assert_receipt_holds(run)
    assert {"model.bin", "job.log", *(f"ckpt/step-{i}.bin" for i in range(1, 5))} == set(files)
    assert here.file(run, "job.log").read_text() == "step 1\nstep 2\nstep 3\nstep 4\n"
    here.assert_one_machine_and_none_left()
    labels = [e.data["label"] for e in here.events(run) if e.kind == "create-sent"]
    assert len(labels) == len(set(labels)), "no create is ever sent twice"


def test_killed_in_every_phase_of_one_run_it_still_ends_with_one_machine_rented_and_none_left(
    here: World,
) -> None:
    """Each phase once, in whatever order this machine's speed brings them."""
    run = here.script(JOB, rest=PROMISE)
    to_come, seen = set(PHASES), 0
    while to_come:
        event = here.wait_event(run, *to_come, after=seen)
        to_come.remove(event.kind)
        seen = event.seq
        here.kill_daemon()
        here.start_daemon()
    here.wait_event(run, "gone")
    assert_ended_well(here, run)


@pytest.mark.parametrize("seed", [int(os.environ.get("GPUTUI_KILL_SEED", "1")), 2, 3])
def test_killed_after_a_random_number_of_events_it_ends_the_same(here: World, seed: int) -> None:
    """The moment is drawn in events of the ledger and bytes of the log, so that it does not depend on the clock."""
    draw = random.Random(seed)
    run = here.script(JOB, rest=PROMISE)
    for _ in range(3):
        after = len(here.events(run)) + draw.randint(0, 4)
        moving = draw.random() < 0.2
        here.wait_row(
            run,
            lambda row, after=after, moving=moving: (
                row.state == "gone"
                or (
                    row.transfer is not None or row.state in ("destroying", "verified")
                    if moving
                    else len(here.events(run)) > after
                )
            ),
        )
        if here.row(run).state == "gone":
            break
        here.kill_daemon()
        here.start_daemon()
    here.wait_event(run, "gone")
    assert_ended_well(here, run)


def test_a_big_download_that_is_cut_by_a_kill_goes_on_where_it_was(here: World) -> None:
    run = here.script(
        "head -c 400000000 /dev/zero | tr '\\0' 'x' > big.bin", rest='[[artifacts]]\npath = "big.bin"'
    )
    here.wait_row(run, lambda row: row.transfer is not None and row.transfer.bytes_done > 100_000_000)
    here.kill_daemon()
    parts = list((here.vault / run / ".partial").glob("*.part"))
    assert len(parts) == 1
    note = json.loads(parts[0].with_suffix(".json").read_text())
    kept = sum(end - start for start, end in note["have"])
    assert 0 < kept < 400_000_000
    sent_before = here.machines()[0]["bytes_from_box"]
    here.start_daemon()
    here.wait_event(run, "gone")
    here.assert_receipt_holds(run)
    assert here.file(run, "big.bin").stat().st_size == 400_000_000
    sent_after = here.machines()[0]["bytes_from_box"] - sent_before
    assert sent_after < 400_000_000 - kept * 0.9, "what was home was not sent again"
    here.assert_one_machine_and_none_left()


def test_the_simulated_cloud_and_the_daemon_may_both_die(tmp_path: Path) -> None:
    here = World(tmp_path)
    try:
        here.start_simulator()
        here.start_daemon()
        run = here.script(JOB, rest=PROMISE)
        here.wait_event(run, "job-started")
        here.kill_daemon()
        assert here.simulator is not None
        here.simulator.kill()
        here.simulator.communicate()
        here.start_simulator()
        here.start_daemon()
        here.wait_event(run, "gone")
        assert_ended_well(here, run)
    finally:
        here.stop()
