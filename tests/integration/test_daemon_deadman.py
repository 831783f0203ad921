"""The dead-man switch on the simulated Vast: the daemon dies or falls silent, the box stops itself, nothing is lost."""

from __future__ import annotations

import signal
from pathlib import Path
from urllib.error import HTTPError

import pytest

from gpuwatch.client import wire
from integration.world import World, world

pytestmark = pytest.mark.slow

SPEC = """
[[artifacts]]
path = "out"
[idle]
after = "10h"
[deadman]
after = "1m"
"""


@pytest.fixture
def here(tmp_path: Path):
    with world(tmp_path) as made:
        yield made


TERM = 90
"""Seconds: a term of the lease and a half."""


def until_stopped(here: World, seconds: float = 300) -> None:
    """Until the only machine is stopped. Raises HTTPError (408) when it is not in time."""
    number = here.living()[0]["id"]
    here.sim("GET", f"/_sim/instances/{number}/wait?phase=stopped&limit={seconds}", seconds=seconds + 20)


def test_a_dead_daemon_costs_storage_only_and_finds_its_machine_again(here: World) -> None:
    run = here.script("echo result > out", rest=SPEC)
    here.wait_event(run, "receipt-written")
    here.kill_daemon()
    until_stopped(here)
    out = here.box(here.living()[0]) / "workspace" / run / "out"
    assert out.read_text() == "result\n", "stopped, not destroyed: the disk is there"
    here.start_daemon()
    here.wait_row(run, lambda row: row.telemetry_age is not None and row.telemetry_age < 10)
    told = here.call("why", wire.RunRef(run=run), wire.Why).lines
    assert any(line.startswith("its dead-man switch acted: no word from gpuwatch") for line in told)
    here.call("destroy", wire.Destroy(run=run), wire.CustodyReport)
    assert here.wait_end(run).state == "gone"
    here.assert_receipt_holds(run)
    here.assert_one_machine_and_none_left()


def test_a_daemon_that_is_silent_on_an_open_connection_is_a_dead_one(here: World) -> None:
    run = here.script("echo result > out", rest=SPEC)
    here.wait_event(run, "receipt-written")
    assert here.daemon is not None
    here.daemon.send_signal(signal.SIGSTOP)
    until_stopped(here)
    here.daemon.send_signal(signal.SIGCONT)
    here.wait_row(run, lambda row: row.telemetry_age is not None and row.telemetry_age < 10)
    assert here.row(run).state == "verified"


def test_a_job_that_works_is_never_stopped(here: World) -> None:
    run = here.script("echo result > out; while [ ! -e ../go ]; do :; done", rest=SPEC)
    here.wait_event(run, "job-started")
    here.kill_daemon()
    with pytest.raises(HTTPError, match="408"):
        until_stopped(here, TERM)
    assert here.living()[0]["phase"] == "running"
    here.start_daemon()
    (here.box(here.living()[0]) / "workspace" / "go").touch()
    here.wait_event(run, "receipt-written")
