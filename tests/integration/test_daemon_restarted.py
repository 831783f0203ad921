"""A machine that stopped and started again under a run: found again behind new ports and a new host key, or held."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed
from integration.test_daemon_runpod import MODEL, RUNPOD, running
from integration.world import World, world

WAKES = '[deadman]\nafter = "10m"\n'
"""With it the daemon starts a machine that it finds stopped."""
STOPS_ITSELF = """
echo work > model.bin; sync
python3 -c 'import os, urllib.request as u; e = os.environ
r = u.Request("{url}/v2/pods/" + e["RUNPOD_POD_ID"] + "/action", data=b"{{\\"action\\": \\"stop\\"}}", method="POST")
r.add_header("Authorization", "Bearer " + e["RUNPOD_API_KEY"]); r.add_header("Content-Type", "application/json"); u.urlopen(r)'
sleep 600
"""


def stop(here: World) -> None:
    """Somebody stops the only machine in Vast's console."""
    url = f"{here.url}/api/v0/instances/{here.living()[0]['id']}/"
    order = urllib.request.Request(url, data=b'{"state": "stopped"}', method="PUT")
    order.add_header("Authorization", f"Bearer {here.key}")
    order.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(order, timeout=20) as answer:
        assert json.loads(answer.read())["success"] is True


def test_a_pod_that_stopped_itself_is_started_and_its_work_comes_home(tmp_path: Path) -> None:
    with running(tmp_path) as here:
        here.fault("env_in_ssh")  # where the pod's own key is
        job = STOPS_ITSELF.format(url=here.url)
        run = here.launch(
            f'name = "job"\ndisk = "10GB"\n{RUNPOD}\n[gpu]\nname = "RTX 4090"\n[job]\ncommand = {json.dumps(job)}\n{MODEL}{WAKES}'
        )
        row = here.wait_end(run)
        assert (row.state, row.exit_code) == ("gone", None)
        (ended,) = (e for e in here.events(run) if e.kind == "job-ended")
        assert "the box restarted" in ended.text
        assert here.machines()[0]["boots"] == 2
        assert here.file(run, "model.bin").read_text() == "work\n"
        assert "model.bin" in here.assert_receipt_holds(run)
        here.assert_one_machine_and_none_left()
        assert "a new container, a new host key" in here.daemon_log()


@pytest.fixture
def changed(tmp_path: Path) -> Iterator[tuple[World, str]]:
    """A run on Vast, where a stop keeps the container, whose machine came back with another host key."""
    with world(tmp_path) as here:
        here.fault("host_key_change")
        run = here.script("echo work > model.bin; sync; sleep 600", rest=MODEL + WAKES)
        here.wait_event(run, "job-started")
        stop(here)
        here.wait_row(run, lambda row: any(hold.name == "host-key" for hold in row.holds))
        yield here, run


def test_another_host_key_is_refused_explained_and_accepted_with_one_command(
    changed: tuple[World, str],
) -> None:
    here, run = changed
    row = here.row(run)
    assert row.state == "running"
    assert "shows another host key (SHA256:" in (row.reason or "")
    assert f"gputui release {run} host-key" in (row.reason or "")
    assert here.machines()[0]["ssh"]["connections"] == 0, "nobody has logged in"
    order = wire.HoldRelease(run=run, hold="host-key", reason="it was me")
    here.call("hold.release", order, wire.CustodyReport)
    assert here.wait_end(run).state == "gone"
    (released,) = (e for e in here.events(run) if e.kind == "hold-released")
    assert "SHA256:" in released.text
    assert "it was me" in released.text
    assert here.file(run, "model.bin").read_text() == "work\n"
    here.assert_one_machine_and_none_left()
    with pytest.raises(CallFailed, match="no hold"):
        here.call("hold.release", wire.HoldRelease(run=run, hold="host-key"), wire.CustodyReport)


@pytest.mark.slow
def test_a_pod_that_was_put_to_sleep_is_heard_again_behind_its_new_host_key(tmp_path: Path) -> None:
    with running(tmp_path) as here:
        rest = MODEL + '[idle]\naction = "notify"\n'
        run = here.script("echo work > model.bin; sync", top=RUNPOD, rest=rest)
        here.wait_event(run, "receipt-written")
        here.call("run.stop", wire.Stop(run=run), wire.Retried)
        here.wait_event(run, "paused")
        assert here.living()[0]["phase"] == "stopped"
        here.call("destroy", wire.Destroy(run=run), wire.CustodyReport)
        assert here.wait_end(run).state == "gone"
        assert "a new container, a new host key" in here.daemon_log()
        assert here.file(run, "model.bin").read_text() == "work\n"
        here.assert_one_machine_and_none_left()
