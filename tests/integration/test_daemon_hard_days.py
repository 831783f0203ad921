"""What happens to machines, the market and the account by itself: what the user sees, and that nothing is lost, leaked or doubled."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuwatch.client import wire
from integration.test_daemon_runpod import MODEL, RUNPOD, running
from integration.world import World, world

pytestmark = pytest.mark.slow

WAITS = (
    "echo work > model.bin; sync; touch started; while [ ! -e go ]; do sleep 0.1; done; echo done > model.bin"
)
NOTHING = 'artifacts = "none"'


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("hard")) as made:
        yield made


@pytest.fixture
def here(shared: World) -> Iterator[World]:
    """The shared world, from which every test leaves without a machine and without a switch."""
    yield shared
    shared.sim("DELETE", "/_sim/faults")
    assert shared.living() == []
    assert all(not shared.box(machine).exists() for machine in shared.machines())


def let_go(here: World) -> None:
    """Let the job that waits come to its end."""
    next(here.box(here.living()[0]).glob("workspace/*/started")).with_name("go").touch()


def says(here: World, run: str, text: str) -> wire.RunRow:
    """The row once its reason holds `text`."""
    return here.wait_row(run, lambda row: text in (row.reason or ""))


def test_a_host_that_is_lost_for_a_while_is_said_and_the_job_goes_on(here: World) -> None:
    run = here.script(WAITS, name="hosts", rest=MODEL, key="hosts")
    here.wait_event(run, "job-started")
    before = len(here.machines())
    here.fault("host_loss=4*1")
    says(here, run, "host as offline")
    here.wait_row(run, lambda row: row.reason is None and (row.telemetry_age or 99) < 5)
    let_go(here)
    row = here.wait_end(run)
    assert (row.state, row.exit_code) == ("gone", 0)
    assert here.file(run, "model.bin").read_text() == "done\n"
    assert here.living() == []
    assert len(here.machines()) == before, "it was waited for, nothing else was rented"


def test_credit_that_ends_stops_machines_and_their_files_are_collected_after_a_top_up(here: World) -> None:
    run = here.script(WAITS, name="broke", rest=MODEL, key="broke")
    here.wait_event(run, "job-started")
    number = here.living()[0]["id"]
    here.fault("credit_gone*1")
    says(here, run, "lists the machine as stopped")
    assert here.living()[0]["phase"] == "stopped"
    here.sim("POST", "/_sim/credit", {"amount": 20.0})
    order = urllib.request.Request(
        f"{here.url}/api/v0/instances/{number}/", data=b'{"state": "running"}', method="PUT"
    )
    order.add_header("Authorization", f"Bearer {here.key}")
    order.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(order, timeout=20) as answer:
        assert json.loads(answer.read())["success"] is True
    assert here.wait_end(run).state == "gone"
    assert here.file(run, "model.bin").read_text() == "work\n"
    assert "model.bin" in here.assert_receipt_holds(run)


def test_stock_that_goes_between_list_and_create_costs_a_try_and_no_machine(here: World) -> None:
    before = len(here.machines())
    here.fault("stock_gone*1")
    run = here.script("true", name="empty", top=NOTHING, key="empty")
    row = here.wait_end(run)
    assert row.state == "failed"
    assert "no offer of 1 × RTX 4090 now" in (row.reason or "")
    assert len(here.machines()) == before
    here.fault("stock_gone*1@2")  # the search finds offers, the create does not
    run = here.script("true", name="stock", top=NOTHING, key="stock")
    assert here.wait_end(run).state == "gone"
    assert here.kinds(run).count("offer-chosen") == 2
    assert len(here.machines()) == before + 1


def test_a_price_that_rises_behind_the_list_is_refused_before_anything_runs(here: World) -> None:
    before = len(here.machines())
    here.fault("market_jump=1.5*1")
    run = here.script("true", name="dear", top=NOTHING, key="dear")
    assert here.wait_end(run).state == "gone"
    (dud,) = (e for e in here.events(run) if e.kind == "dud")
    assert "was offered at" in dud.text
    first, second = (e.data["price"] for e in here.events(run) if e.kind == "offer-chosen")
    assert second > first * 1.2, "the second was chosen at the new price"
    assert len(here.machines()) == before + 2


def test_a_box_that_is_slow_shy_full_and_moves_is_used_all_the_same(here: World) -> None:
    before = len(here.machines())
    for fault in ("boot_slow=4*1", "boot_strange*1", "ssh_refused=2*1", "ssh_denied=2*1", "port_change*1", "disk_full=3000000*1",
                  "slow=list:1*2", "refuse=list*1", "empty_array=list*1", "truncate=list*1"):  # fmt: skip
        here.fault(fault)
    job = "head -c 9000000 /dev/zero > big || { rm -f big; echo no room > model.bin; }"
    run = here.script(job, name="shy", rest=MODEL, key="shy")
    assert here.wait_end(run).state == "gone"
    assert here.file(run, "model.bin").read_text() == "no room\n"
    here.assert_receipt_holds(run)
    assert len(here.machines()) == before + 1


def test_a_spot_machine_that_is_outbid_and_comes_back_is_collected_and_the_run_goes_on_elsewhere(
    here: World,
) -> None:
    job = "mkdir -p ckpt; [ -e ckpt/step-1.bin ] || { head -c 1000 /dev/urandom > ckpt/step-1.bin; sleep 600; }; touch model.bin"
    run = here.launch(
        f'name = "spot"\ndisk = "10GB"\n[gpu]\nname = "RTX 4090"\nspot = true\n[job]\ncommand = {json.dumps(job)}\n'
        f'[checkpoints]\npath = "ckpt"\n{MODEL}',
        key="spot",
    )
    here.wait_event(run, "checkpoint-home")
    before = len(here.machines())
    here.fault("preempt=3*1")
    here.wait_event(run, "recovering")
    here.wait_event(run, "restored")
    assert here.wait_end(run).state == "gone"
    here.assert_receipt_holds(run)
    here.wait_end(f"{run}-back1")
    here.assert_receipt_holds(f"{run}-back1")
    assert len(here.machines()) == before + 1


def test_a_container_that_crashes_over_and_over_is_collected_and_ended(tmp_path: Path) -> None:
    with running(tmp_path) as pods:
        pods.fault("crash_loop=25*1")
        run = pods.script("echo work > model.bin; sync; sleep 600", top=RUNPOD, rest=MODEL)
        row = pods.wait_end(run)
        assert (row.state, row.exit_code) == ("gone", None)
        assert "the box restarted" in next(e.text for e in pods.events(run) if e.kind == "job-ended")
        assert "model.bin" in pods.assert_receipt_holds(run)
        pods.assert_one_machine_and_none_left()
