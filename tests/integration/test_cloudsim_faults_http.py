"""Every fault switch does over HTTP, and to boxes, what its name says."""

from __future__ import annotations

import http.client
import subprocess
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cloudsim_fixtures import Simulator, SshUser

pytest_plugins = ["cloudsim_fixtures"]

CREATE = {"image": "x", "disk": 10, "label": "intent-1", "target_state": "stopped"}


@pytest.fixture(autouse=True)
def clean(simulator: Simulator) -> Iterator[None]:
    """Each test starts without faults (SSH opens at once) and leaves no instances."""
    simulator.call("DELETE", "/_sim/faults")
    for setting in ("ssh_denied=0", "ssh_refused=0.01"):
        simulator.fault(setting)
    yield
    for row in simulator.rows():
        simulator.call("DELETE", f"/api/v0/instances/{row['id']}/")


def labels(simulator: Simulator) -> list[str]:
    return [row["label"] for row in simulator.rows()]


def create(simulator: Simulator) -> tuple[int, object]:
    return simulator.call("PUT", f"/api/v0/asks/{simulator.offer()['id']}/", CREATE)


@pytest.mark.parametrize(("fault", "status"), [("create_502_after", 502), ("create_500_after", 500)])
def test_an_error_after_the_deed_leaves_a_machine_under_the_label(
    simulator: Simulator, fault: str, status: int
) -> None:
    simulator.fault(f"{fault}*1")
    got, body = create(simulator)
    assert got == status
    assert "<html>" in str(body)
    assert labels(simulator) == ["intent-1"]


def test_a_hang_after_the_deed_leaves_a_machine_under_the_label(simulator: Simulator) -> None:
    simulator.fault("create_hang_after*1")
    offer = simulator.offer()["id"]
    request = urllib.request.Request(
        f"{simulator.url}/api/v0/asks/{offer}/", data=b'{"image":"x","disk":10,"label":"hung"}', method="PUT"
    )
    request.add_header("Authorization", f"Bearer {simulator.key}")
    with pytest.raises(TimeoutError):
        urllib.request.urlopen(request, timeout=0.5)
    assert labels(simulator) == ["hung"]
    assert simulator.call("GET", "/_sim/state")[1]["calls"]["create"] >= 1


def test_a_cut_connection_after_the_deed_leaves_a_machine(simulator: Simulator) -> None:
    simulator.fault("create_reset_after*1")
    with pytest.raises((urllib.error.URLError, http.client.HTTPException, ConnectionError)):
        create(simulator)
    assert labels(simulator) == ["intent-1"]


def test_a_truncated_answer_leaves_a_machine(simulator: Simulator) -> None:
    simulator.fault("create_truncated*1")
    status, body = create(simulator)
    assert status == 200
    assert isinstance(body, str)
    assert labels(simulator) == ["intent-1"]


def test_success_false_with_a_contract_is_a_machine_that_bills(simulator: Simulator) -> None:
    simulator.fault("create_false_with_contract*1")
    status, body = create(simulator)
    assert status == 200
    assert isinstance(body, dict)
    assert body["success"] is False
    assert simulator.row(body["new_contract"]) is not None


@pytest.mark.parametrize(
    ("fault", "status", "error"),
    [
        ("create_false_without_contract", 200, "resources_unavailable"),
        ("create_insufficient_credit", 200, "insufficient_credit"),
        ("create_insufficient_credit=402", 402, "insufficient_credit"),
        ("create_no_such_ask", 410, "no_such_ask"),
        ("create_no_such_ask=400", 400, "no_such_ask"),
        ("create_no_such_ask=404", 404, "invalid_args"),
        ("create_429_json", 429, "rate_limit_exceeded"),
        ("auth_error=create", 404, "auth_error"),
    ],
)
def test_refusals_take_nothing(simulator: Simulator, fault: str, status: int, error: str) -> None:
    simulator.fault(f"{fault}*1")
    got, body = create(simulator)
    assert isinstance(body, dict)
    assert (got, body["error"]) == (status, error)
    assert labels(simulator) == []
    assert create(simulator)[0] == 200


def test_throttling_comes_in_three_bodies_and_with_a_retry_after(simulator: Simulator) -> None:
    simulator.fault("create_429*1")
    assert create(simulator) == (429, {"detail": "API requests too frequent endpoint threshold=4.5"})
    simulator.fault("create_429_text*1")
    assert create(simulator) == (429, "API requests too frequent")
    simulator.fault("throttle=list:json:7*1")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{simulator.url}/api/v1/instances/", timeout=5)
    with refused.value as answer:
        assert answer.headers["Retry-After"] == "7"


@pytest.mark.parametrize(
    ("fault", "status", "check"),
    [
        ("list_empty_object", 200, lambda body: body == {}),
        ("list_empty_array", 200, lambda body: body == []),
        ("list_refused", 200, lambda body: body["success"] is False and "instances" not in body),
        ("list_html", 200, lambda body: body.startswith("<!doctype html>")),
        ("list_truncated", 200, lambda body: isinstance(body, str)),
        ("list_retired", 410, lambda body: body["error"] == "deprecated_endpoint"),
        ("list_empty", 200, lambda body: body["success"] is True and body["instances"] == []),
        ("list_bad_total", 200, lambda body: body["total_instances"] > len(body["instances"])),
    ],
)
def test_a_list_that_cannot_be_trusted(simulator: Simulator, fault: str, status: int, check: object) -> None:
    create(simulator)
    simulator.fault(f"{fault}*1")
    got, body = simulator.call("GET", "/api/v1/instances/")
    assert got == status
    assert check(body)  # type: ignore[operator]
    assert labels(simulator) == ["intent-1"]


def test_pages_that_end_early_or_fail(simulator: Simulator) -> None:
    for _ in range(2):
        create(simulator)
    page = "/api/v1/instances/?limit=1"
    simulator.fault("list_short*1")
    assert simulator.call("GET", page)[1]["next_token"] is None
    simulator.fault("list_page_error")
    token = simulator.call("GET", page)[1]["next_token"]
    assert simulator.call("GET", f"{page}&after_token={token}")[0] == 500


def test_reads_lag_behind_creation_and_destruction(simulator: Simulator) -> None:
    simulator.fault("lag_create=2*1")
    _, body = create(simulator)
    assert isinstance(body, dict)
    number = body["new_contract"]
    assert [simulator.row(number) is not None, bool(simulator.rows()), simulator.row(number) is not None] == [
        False,
        False,
        True,
    ]
    simulator.fault("lag_destroy=2*1")
    simulator.call("DELETE", f"/api/v0/instances/{number}/")
    assert [bool(simulator.rows()), simulator.row(number) is not None, bool(simulator.rows())] == [
        True,
        True,
        False,
    ]


def test_fields_arrive_null_mistyped_or_unknown(simulator: Simulator) -> None:
    create(simulator)
    simulator.fault("fields_null*1")
    row = simulator.rows()[0]
    assert (row["start_date"], row["extra_env"], row["ports"], row["label"]) == (None, None, None, None)
    simulator.fault("fields_wrong_type*1")
    row = simulator.rows()[0]
    assert (row["label"], type(row["dph_total"])) == (17, str)
    simulator.fault("fields_extra*1")
    assert "flux_rating" in simulator.rows()[0]
    simulator.fault("status_unknown=levitating*1")
    assert simulator.rows()[0]["actual_status"] == "levitating"
    simulator.fault("clock_skew=-7200*1")
    assert simulator.rows()[0]["start_date"] < time.time() - 7000
    simulator.fault("show_null*1")
    assert simulator.row(row["id"]) is None


def test_a_start_is_refused_and_reverts_or_queues(simulator: Simulator) -> None:
    _, body = create(simulator)
    assert isinstance(body, dict)
    number = body["new_contract"]
    for how, want in (("reverted", "stopped"), ("queued:0.1", "running")):
        simulator.fault(f"start_refused={how}*1")
        status, answer = simulator.call("PUT", f"/api/v0/instances/{number}/", {"state": "running"})
        assert (status, answer["success"], answer["error"]) == (200, False, "resources_unavailable")
        assert simulator.known(number)["want"] == want
    simulator.wait(number, "running")


@pytest.mark.parametrize(
    ("fault", "phase", "intended", "text"),
    [
        ("boot_oci_error", "failed", "stopped", "OCI runtime"),
        ("boot_image_missing", "failed", "stopped", "manifest for"),
    ],
)
def test_a_boot_that_fails(simulator: Simulator, fault: str, phase: str, intended: str, text: str) -> None:
    simulator.fault(f"{fault}*1")
    made = simulator.call("PUT", f"/api/v0/asks/{simulator.offer()['id']}/", {"image": "x", "disk": 10})[1]
    simulator.wait(made["new_contract"], phase)
    row = simulator.row(made["new_contract"])
    assert row is not None
    assert row["intended_status"] == intended
    assert text in row["status_msg"]


def test_a_stuck_boot_stays_loading(simulator: Simulator) -> None:
    simulator.fault("boot_stuck*1")
    made = simulator.call("PUT", f"/api/v0/asks/{simulator.offer()['id']}/", {"image": "x", "disk": 10})[1]
    simulator.wait(made["new_contract"], "loading")
    assert (
        simulator.call("GET", f"/_sim/instances/{made['new_contract']}/wait?phase=running&limit=1")[0] == 408
    )


def test_ssh_refuses_then_denies_then_opens(simulator: Simulator, ssh_user: SshUser) -> None:
    simulator.call("DELETE", "/_sim/faults")
    simulator.fault("ssh_denied=2*1")
    simulator.fault("ssh_refused=3600*1")
    made = simulator.call(
        "PUT", f"/api/v0/asks/{simulator.offer()['id']}/", {"image": "x", "disk": 10, "runtype": "ssh_direc"}
    )[1]
    simulator.wait(made["new_contract"], "running")
    assert b"Connection refused" in ssh_user.run(simulator.port(made["new_contract"]), "true").stderr
    simulator.call("DELETE", f"/api/v0/instances/{made['new_contract']}/")
    simulator.fault("ssh_denied=2*1")
    instance = simulator.rent()
    port = simulator.port(instance)
    denied = [ssh_user.run(port, "true") for _ in range(3)]
    assert [done.returncode for done in denied] == [255, 255, 0]
    assert b"Permission denied (publickey)" in denied[0].stderr


def test_an_ssh_port_that_never_speaks(simulator: Simulator, ssh_user: SshUser) -> None:
    simulator.fault("ssh_never*1")
    port = simulator.port(simulator.rent())
    silent = ["ssh", "-o", "ConnectTimeout=1", *ssh_user.options(port), "root@127.0.0.1", "true"]
    done = subprocess.run(silent, capture_output=True, timeout=20)
    assert done.returncode == 255
    assert b"timed out" in done.stderr


def test_host_key_and_ports_change_at_a_restart(simulator: Simulator, ssh_user: SshUser) -> None:
    simulator.fault("host_key_change*1")
    simulator.fault("port_change*1")
    instance = simulator.rent()
    port = simulator.port(instance)
    key = (simulator.box(instance) / "var" / "host_key").read_bytes()
    simulator.call("PUT", f"/api/v0/instances/reboot/{instance}/", {})
    simulator.wait(instance, "running", ssh=True)
    assert simulator.port(instance) != port
    assert (simulator.box(instance) / "var" / "host_key").read_bytes() != key
    assert ssh_user.run(simulator.port(instance), "true").returncode == 0


def test_a_box_without_python_a_gpu_tool_or_room(simulator: Simulator, ssh_user: SshUser) -> None:
    for setting in ("no_python*1", "smi=missing*1", "disk_full=200000*1", "env_in_ssh*1"):
        simulator.fault(setting)
    instance = simulator.rent(env={"FROM_CREATE": "yes"})
    port = simulator.port(instance)
    assert ssh_user.run(port, "command -v python3 python nvidia-smi").returncode != 0
    assert ssh_user.run(port, "ls / | head -1; echo $FROM_CREATE").stdout.endswith(b"yes\n")
    written = ssh_user.run(port, "head -c 900000 /dev/zero > big; echo rc $?; wc -c < big").stdout.split()
    assert written[1] != b"0"
    assert int(written[2]) <= 200_000
    assert ssh_user.sftp(port, "put /bin/bash more").returncode != 0


@pytest.mark.parametrize(
    ("smi", "text"), [("mismatch", "version mismatch"), ("na", "[N/A]"), ("nodriver", "NVIDIA driver")]
)
def test_a_broken_nvidia_smi(simulator: Simulator, ssh_user: SshUser, smi: str, text: str) -> None:
    simulator.fault(f"smi={smi}*1")
    done = ssh_user.run(
        simulator.port(simulator.rent()), "nvidia-smi --query-gpu=utilization.gpu --format=csv,noheader"
    )
    assert text in done.stdout.decode()


def test_acts_of_the_host_and_the_market(simulator: Simulator, ssh_user: SshUser) -> None:
    instance = simulator.rent(price=5.0)
    port = simulator.port(instance)
    ssh_user.run(port, "echo kept > file; setsid sleep 300 >/dev/null 2>&1 </dev/null & echo $! > pid")
    pid = int((simulator.box(instance) / "root" / "pid").read_text())
    simulator.call("POST", f"/_sim/instances/{instance}/offline")
    row = simulator.row(instance)
    assert row is not None
    assert row["actual_status"] == "offline"
    assert ssh_user.run(port, "true").returncode == 255
    assert simulator.alive(pid)
    simulator.call("POST", f"/_sim/instances/{instance}/online")
    simulator.wait(instance, "running", ssh=True)
    simulator.call("POST", f"/_sim/instances/{instance}/outbid")
    row = simulator.row(instance)
    assert row is not None
    assert (row["actual_status"], row["intended_status"]) == ("exited", "stopped")
    assert not simulator.alive(pid)
    simulator.call("POST", f"/_sim/instances/{instance}/win")
    simulator.wait(instance, "running", ssh=True)
    assert ssh_user.run(simulator.port(instance), "cat file").stdout == b"kept\n"
    simulator.call("POST", "/_sim/credit", {"set": 0.0})
    simulator.wait(instance, "stopped")
    started = simulator.call("PUT", f"/api/v0/instances/{instance}/", {"state": "running"})[1]
    assert started["error"] == "insufficient_credit"
    simulator.call("POST", "/_sim/credit", {"set": 25.0})


def test_the_market_can_be_let_go_and_stopped_again(simulator: Simulator) -> None:
    stocked = simulator.call("GET", "/_sim/state")[1]["offers"]
    assert simulator.call("POST", "/_sim/market", {"at": None}) == (200, {"at": None})
    assert simulator.call("POST", "/_sim/market", {"at": "yesterday"})[0] == 400
    assert simulator.call("POST", "/_sim/credit", {"amount": "much"})[0] == 400
    assert simulator.call("POST", "/_sim/credit", ["no object"])[0] == 400
    assert simulator.call("POST", "/_sim/market", {"at": "stocked"})[0] == 200
    assert simulator.call("GET", "/_sim/state")[1]["offers"] == stocked


def test_recycling_empties_the_disk(simulator: Simulator, ssh_user: SshUser) -> None:
    instance = simulator.rent()
    ssh_user.run(simulator.port(instance), "echo x > file")
    simulator.call("PUT", f"/api/v0/instances/recycle/{instance}/", {})
    simulator.wait(instance, "running", ssh=True)
    assert ssh_user.run(simulator.port(instance), "cat file").returncode == 1


def test_an_unknown_switch_is_refused_by_name(simulator: Simulator) -> None:
    status, body = simulator.call("POST", "/_sim/faults", {"name": "no_such_switch"})
    assert status == 400
    assert "no_such_switch" in body["error"]
    assert "create_hang_after" in simulator.call("GET", "/_sim/faults")[1]["kinds"]
