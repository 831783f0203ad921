"""Bad machines, bad answers, bad input: a clear word, nothing lost, nothing doubled, nothing left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed
from integration.world import World, world

NOTHING = 'artifacts = "none"'


@pytest.fixture
def here(tmp_path: Path):
    with world(tmp_path) as made:
        yield made


def test_an_offer_that_is_gone_leads_to_the_next_one(here: World) -> None:
    here.fault("create_no_such_ask=410*1")
    run = here.script("true", top=NOTHING)
    assert here.wait_end(run).state == "gone"
    chosen = [e.data["offer_id"] for e in here.events(run) if e.kind == "offer-chosen"]
    assert len(chosen) == 2 == len(set(chosen))
    here.assert_one_machine_and_none_left()


@pytest.mark.parametrize(
    "fault", ["create_hang_after*1", "create_500_after*1", "create_truncated*1", "create_reset_after*1"]
)
def test_a_create_whose_answer_was_lost_is_found_by_its_label_and_never_sent_again(
    here: World, fault: str
) -> None:
    here.fault(fault)
    run = here.script("true", top=NOTHING)
    assert here.wait_end(run).state == "gone"
    kinds = here.kinds(run)
    assert kinds.count("create-sent") == 1
    assert [e.data["adopted"] for e in here.events(run) if e.kind == "rented"] == [True]
    here.assert_one_machine_and_none_left()


def test_a_create_that_never_happened_is_given_up_after_long_absence(here: World) -> None:
    here.fault("create_500_before*1")
    run = here.script("true", top=NOTHING)
    assert here.wait_end(run).state == "gone"
    kinds = here.kinds(run)
    assert kinds.count("create-unknown") == 1 == kinds.count("create-refused")
    here.assert_one_machine_and_none_left()


def test_success_false_with_a_contract_is_a_machine(here: World) -> None:
    here.fault("create_false_with_contract*1")
    run = here.script("true", top=NOTHING, rest="[recover]\nattempts = 2", boot="5s")
    here.wait_end(run)
    assert next(e.data["adopted"] for e in here.events(run) if e.kind == "rented") is True
    assert here.living() == []


@pytest.mark.parametrize(
    "fault", ["boot_stuck", "boot_oci_error", "boot_image_missing", "ssh_never", "smi=missing"]
)
def test_a_machine_that_does_not_come_up_is_destroyed_and_the_next_one_tried(here: World, fault: str) -> None:
    here.fault(f"{fault}*1")
    run = here.script("true", top=NOTHING, boot="8s")
    assert here.wait_end(run).state == "gone"
    machines = here.machines()
    assert len(machines) == 2
    assert here.living() == []
    assert "dud" in here.kinds(run)
    assert len({e.data["machine_id"] for e in here.events(run) if e.kind == "offer-chosen"}) == 2, (
        "the dud is avoided"
    )


def test_after_so_many_duds_the_run_waits_and_nothing_is_left(here: World) -> None:
    here.fault("boot_oci_error")
    run = here.script("true", top=NOTHING, rest="[recover]\nattempts = 2")
    row = here.wait_end(run)
    assert row.state == "failed"
    assert "2 machines tried" in (row.reason or "")
    assert here.living() == []


def test_a_box_without_python_says_how_to_get_it(here: World) -> None:
    here.fault("no_python")
    run = here.script("true", top=NOTHING)
    here.wait_event(run, "gone")
    reason = next(e.data["reason"] for e in here.events(run) if e.kind == "prepare-failed")
    assert "python3" in reason
    assert "apt-get install" in reason
    here.assert_one_machine_and_none_left()


def test_a_setup_command_that_fails_costs_no_idle_machine_and_leaves_its_log(here: World) -> None:
    setup = "[setup]\ncommand = 'echo installing; echo no such package >&2; exit 9'"
    run = here.script("true", top=NOTHING, rest=setup)
    here.wait_event(run, "gone")
    reason = next(e.data["reason"] for e in here.events(run) if e.kind == "prepare-failed")
    assert "exited with 9" in reason
    assert "no such package" in here.file(run, "job.log").read_text()
    here.assert_one_machine_and_none_left()


def test_no_offer_at_this_price_says_so(here: World) -> None:
    text = (
        'name = "dear"\nartifacts = "none"\n[gpu]\nname = "H100"\nmax_price = 0.01\n[job]\ncommand = "true"\n'
    )
    row = here.wait_end(here.launch(text))
    assert row.state == "failed"
    assert "raise gpu.max_price" in (row.reason or "")
    assert here.machines() == []


def test_an_unknown_gpu_is_refused_with_the_nearest_names(here: World) -> None:
    with pytest.raises(CallFailed, match="H100 SXM") as caught:
        here.launch('name = "x1"\nartifacts = "none"\n[gpu]\nname = "H100 SMX"\n[job]\ncommand = "true"\n')
    assert caught.value.code == wire.Code.SPEC


def test_a_wrong_key_is_named_without_being_shown(tmp_path: Path) -> None:
    here = World(tmp_path)
    try:
        here.start_simulator("--ephemeral")
        here.key = "wrong-key-0123456789abcdef"
        here.start_daemon()
        with pytest.raises(CallFailed, match="API key") as caught:
            here.call("offers", wire.OffersQuery(), wire.Offers)
        assert here.key not in str(caught.value)
        row = here.wait_end(here.script("true", top=NOTHING))
        assert row.state == "failed"
        assert "API key" in (row.reason or "")
        ledger = b"".join(p.read_bytes() for p in (tmp_path / "state").rglob("*") if p.is_file())
        assert here.key.encode() not in ledger
        assert here.key not in here.daemon_log()
    finally:
        here.stop()


def test_a_second_daemon_is_refused_and_names_the_first(here: World) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "gpuwatch", "run"],
        env=here.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode == 4
    assert here.daemon is not None
    assert str(here.daemon.pid) in second.stderr
    assert here.call("hello", wire.Hello(), wire.Welcome).pid == here.daemon.pid


def test_a_full_vault_stops_nothing_but_the_copy_and_goes_on_when_space_returns(here: World) -> None:
    run = here.script("head -c 9000000 /dev/urandom > big.bin", rest='[[artifacts]]\npath = "big.bin"')
    here.wait_event(run, "job-started")
    here.limit_file_size(4_000_000)
    event = here.wait_event(run, "collect-failed")
    assert "vault" in event.data["reason"]
    assert not here.file(run, "big.bin").exists(), "never a truncated file under a final name"
    assert len(here.living()) == 1
    import resource

    here.limit_file_size(resource.RLIM_INFINITY)
    assert here.wait_end(run).state == "gone"
    here.assert_receipt_holds(run)


def test_a_failing_list_never_counts_as_gone(here: World) -> None:
    run = here.script("sleep 6; echo x > x", rest='[[artifacts]]\npath = "x"')
    here.wait_event(run, "job-started")
    here.fault("list_empty_object*3")
    here.fault("list_truncated*3")
    here.fault("list_refused*3")
    row = here.wait_end(run)
    assert row.state == "gone"
    assert "lost" not in here.kinds(run)
    here.assert_receipt_holds(run)


def test_a_machine_with_our_label_that_nobody_drives_is_an_alarm_and_is_not_touched(here: World) -> None:
    run = here.script("true", top=NOTHING)
    here.wait_end(run)
    vast = here.environment | {"VAST_URL": here.url}
    vastai = [str(Path(sys.executable).with_name("vastai"))]
    offers = subprocess.run(
        [*vastai, "search", "offers", "--raw"], env=vast, capture_output=True, text=True, check=True
    )
    offer = str(json.loads(offers.stdout)[0]["id"])
    create = [
        *vastai,
        "create",
        "instance",
        offer,
        "--image",
        "x",
        "--disk",
        "10",
        "--label",
        "gputui-lost-xxxx-1-00",
        "--raw",
    ]
    subprocess.run(create, env=vast, capture_output=True, check=True)
    here.kill_daemon()
    here.start_daemon()
    with here.client() as client:
        for _ in client.notices(wire.Subscribe(topic="runs")):
            status = client.call("status", wire.Empty(), wire.DaemonStatus)
            if status.accounts[0].age is not None:
                break
    assert any("gputui-lost-xxxx-1-00" in alarm for alarm in status.alarms), status.alarms
    assert len(here.living()) == 1, "looked at, never touched"
