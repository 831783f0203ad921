"""A machine that is stopped and kept, with real processes: stop, the disk's bill, start under the same run, the end through the gate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuwatch.client import wire
from integration.world import World, world

pytestmark = pytest.mark.slow

PROMISE = """
[[artifacts]]
path = "model.bin"
[idle]
action = "stop"
"""


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


def test_a_machine_is_stopped_at_its_jobs_end_started_by_a_person_and_ended_with_a_new_receipt(
    here: World,
) -> None:
    run = here.script("echo done > model.bin", rest=PROMISE)
    paused = here.wait_event(run, "paused")
    here.assert_receipt_holds(run)
    row = here.wait_row(run, lambda row: row.state == "paused" and "disk costs" in row.next)
    assert len(here.living()) == 1
    cost = here.call("cost", wire.CostQuery(run=run), wire.CostReport)
    assert 0 < cost.runs[0].burn < (row.price or 0), "only its disk bills"
    # a daemon that dies meanwhile knows of it
    here.kill_daemon()
    here.start_daemon()
    here.wait_row(run, lambda row: row.state == "paused")
    said = here.call("run.start", wire.Start(run=run, by="me"), wire.Retried)
    assert "idle timers begin anew" in said.text
    here.wait_event(run, "woken", after=paused.seq)
    again = here.wait_event(run, "receipt-written", after=paused.seq)
    assert here.wait_row(run, lambda row: row.state == "verified").instance_id == row.instance_id
    here.call("run.stop", wire.Stop(run=run, by="me"), wire.Retried)
    second = here.wait_event(run, "paused", after=again.seq)
    here.call("destroy", wire.Destroy(run=run), wire.CustodyReport)
    here.wait_event(run, "receipt-written", after=second.seq)
    assert here.wait_end(run).state == "gone"
    here.assert_receipt_holds(run)
    here.assert_one_machine_and_none_left()
