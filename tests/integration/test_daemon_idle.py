"""Idle timers with real processes: what keeps a simulated machine, and what ends it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuwatch.client import wire
from integration.world import World, world

pytestmark = pytest.mark.slow

PROMISE = """
[[artifacts]]
path = "model.bin"
[idle]
after = "1m"
"""


@pytest.fixture
def here(tmp_path: Path):
    with world(tmp_path) as made:
        yield made


def test_a_machine_whose_job_is_over_stays_for_the_timer_and_goes_with_a_receipt(here: World) -> None:
    run = here.script("echo done > model.bin", rest=PROMISE)
    here.wait_event(run, "receipt-written")
    soon = here.wait_row(run, lambda row: "in " in row.next and "job ended" in row.next)
    assert soon.state == "verified"
    assert len(here.living()) == 1, "verified, and kept until it has been idle for a minute"
    why = here.call("why", wire.RunRef(run=run), wire.Why)
    assert any(line.startswith("  gpu: quiet") for line in why.lines)
    asked = here.wait_event(run, "end-requested")
    assert asked.data["by"] == "idle"
    assert "job ended" in asked.data["reason"]
    assert "GPU 0 %" in asked.data["reason"]
    assert here.wait_end(run).state == "gone"
    here.assert_receipt_holds(run)
    here.assert_one_machine_and_none_left()


def test_a_process_that_the_job_left_behind_keeps_the_machine(here: World) -> None:
    run = here.script(
        "(setsid sh -c 'while [ ! -e ../stop ]; do :; done' &) ; echo done > model.bin", rest=PROMISE
    )
    here.wait_event(run, "receipt-written")
    row = here.wait_row(
        run, lambda row: "not idle" in row.next and ("cores" in row.next or "GPU" in row.next)
    )
    assert row.state == "verified"
    (here.box(here.living()[0]) / "workspace" / "stop").touch()
    assert here.wait_event(run, "end-requested").data["by"] == "idle"
    assert here.wait_end(run).state == "gone"
