"""Every trap of RunPod's API as a switch: what a client meets, and what was or was not done."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cloudsim_fixtures import SshUser
    from runpod_fixtures import RunpodSimulator

pytest_plugins = ["cloudsim_fixtures", "runpod_fixtures"]


@pytest.fixture(autouse=True)
def _clean(clean_runpod: RunpodSimulator) -> None:
    """Every test of this file starts from the same cloud."""


def create(runpod: RunpodSimulator) -> tuple[int, object]:
    return runpod.call("POST", "/v2/pods", runpod.pod_body(name="intent-1"))


def names(runpod: RunpodSimulator) -> list[str]:
    return [pod["name"] for pod in runpod.pods()]


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ("create_500_after", 500),
        ("create_502_after", 502),
        ("create_truncated", 201),
        ("empty_object=create", 200),
    ],
)
def test_an_answer_that_says_nothing_may_hide_a_pod(runpod: RunpodSimulator, fault: str, status: int) -> None:
    runpod.fault(f"{fault}*1")
    runpod.kept = False
    assert create(runpod)[0] == status
    assert names(runpod) == ([] if fault.startswith("empty") else ["intent-1"])


def test_a_create_that_hangs_or_is_cut_has_placed_the_pod(runpod: RunpodSimulator) -> None:
    runpod.fault("create_hang_after*1")
    request = urllib.request.Request(
        f"{runpod.url}/v2/pods", json.dumps(runpod.pod_body(name="hung")).encode()
    )
    request.add_header("Authorization", f"Bearer {runpod.key}")
    with pytest.raises(TimeoutError):
        urllib.request.urlopen(request, timeout=0.5)
    runpod.fault("create_reset_after*1")
    with pytest.raises((urllib.error.URLError, http.client.HTTPException, ConnectionError)):
        create(runpod)
    assert names(runpod) == ["intent-1", "hung"]


@pytest.mark.parametrize(
    ("fault", "status", "text"),
    [("create_capacity", 400, "no longer any instances"), ("create_402", 402, "Insufficient balance"),
     ("forbidden=create", 403, "access denied"), ("auth_error=create", 401, "invalid bearer token"),
     ("throttle=create", 429, "minute window"), ("create_429_text", 429, "1015"), ("create_500_before", 500, "nginx")],
)  # fmt: skip
def test_refusals_place_nothing(runpod: RunpodSimulator, fault: str, status: int, text: str) -> None:
    runpod.fault(f"{fault}*1")
    runpod.kept = False
    got, body = create(runpod)
    assert got == status
    assert text in json.dumps(body)
    assert names(runpod) == []


def test_cmd_is_an_unknown_field_of_older_deployments(runpod: RunpodSimulator) -> None:
    runpod.fault("no_cmd_field*1")
    status, body = runpod.call("POST", "/v2/pods", runpod.pod_body(cmd=["true"]))
    assert (status, body["errors"]) == (422, ["$: additional properties 'cmd' not allowed"])


def test_args_may_be_text_or_json_with_a_command(runpod: RunpodSimulator) -> None:
    both = json.dumps(
        {"entrypoint": ["bash", "-c"], "cmd": ["echo ran > /workspace/json; exec sleep infinity"]}
    )
    for args, name in ((both, "json"), ("echo ran > /workspace/text; exec sleep infinity", "text")):
        pod = runpod.call("POST", "/v2/pods", runpod.pod_body(args=args))[1]
        runpod.until(pod["id"], "running")
        made = runpod.box(runpod.number(pod["id"])) / "workspace" / name
        while not made.exists():
            runpod.until(pod["id"], "running")
        assert made.read_text() == "ran\n"


# --- lists and reads -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "status", "shown"),
    [("list_null", 200, {"pods": None}), ("list_empty_object", 200, {}), ("list_empty_array", 200, []),
     ("list_retired", 410, None), ("list_html", 200, None), ("list_empty", 200, None), ("forbidden=list", 403, None)],
)  # fmt: skip
def test_a_list_that_cannot_be_trusted(
    runpod: RunpodSimulator, fault: str, status: int, shown: object
) -> None:
    create(runpod)
    runpod.fault("no_pagination*1")
    runpod.fault(f"{fault}*1")
    runpod.kept = False
    got, body = runpod.call("GET", "/v2/pods")
    assert got == status
    if shown is not None:
        assert body == shown
    assert names(runpod) == ["intent-1"]


def test_pages_are_short_end_early_or_fail(runpod: RunpodSimulator) -> None:
    for _ in range(3):
        create(runpod)
    runpod.fault("list_short_pages*1")
    page = runpod.call("GET", "/v2/pods?limit=2")[1]
    assert (len(page["pods"]), page["pagination"]["hasNextPage"]) == (1, True)
    runpod.fault("list_short*1")
    assert runpod.call("GET", "/v2/pods?limit=2")[1]["pagination"]["hasNextPage"] is False
    runpod.fault("list_page_error*1")
    assert runpod.call("GET", f"/v2/pods?limit=1&cursor={page['pagination']['nextCursor']}")[0] == 500
    runpod.fault("no_pagination*1")
    assert "pagination" not in runpod.call("GET", "/v2/pods")[1]


def test_reads_lag_behind_creation_and_termination(runpod: RunpodSimulator) -> None:
    runpod.fault("lag_create=2*1")
    pod = runpod.call("POST", "/v2/pods", runpod.pod_body())[1]["id"]
    assert [runpod.call("GET", f"/v2/pods/{pod}")[0], len(runpod.pods()), len(runpod.pods())] == [404, 0, 1]
    runpod.fault("lag_destroy=1*1")
    runpod.call("DELETE", f"/v2/pods/{pod}")
    assert [len(runpod.pods()), len(runpod.pods())] == [1, 0]
    runpod.fault("show_terminated*1")
    assert runpod.call("GET", f"/v2/pods/{pod}")[1]["status"] == "TERMINATED"


def test_fields_arrive_null_mistyped_or_unknown(runpod: RunpodSimulator) -> None:
    create(runpod)
    runpod.kept = False
    runpod.fault("fields_null*1")
    assert runpod.pods()[0]["ssh"] is None
    runpod.fault("fields_wrong_type*1")
    assert runpod.pods()[0]["gpu"] == "one"
    runpod.fault("fields_extra*1")
    assert "flux_rating" in runpod.pods()[0]
    runpod.fault("status_unknown=MIGRATING*1")
    assert runpod.pods()[0]["status"] == "MIGRATING"
    runpod.fault("show_null*1")
    assert runpod.call("GET", f"/v2/pods/{runpod.pods()[0]['id']}")[0] == 404


def test_a_stopped_pod_may_show_its_last_runtime(runpod: RunpodSimulator) -> None:
    pod = runpod.make()
    runpod.call("POST", f"/v2/pods/{pod['id']}/action", {"action": "stop"})
    runpod.until(pod["id"], "stopped")
    runpod.fault("stale_runtime*1")
    shown = runpod.pods()[0]
    assert (shown["status"], shown["runtime"]["ports"][0]["private"]) == ("EXITED", 22)


# --- starts and boots ----------------------------------------------------------------------------


def test_a_start_is_refused_comes_without_gpus_or_does_nothing(runpod: RunpodSimulator) -> None:
    pod = runpod.make()["id"]
    act = f"/v2/pods/{pod}/action"
    runpod.fault("action_noop*1")
    assert runpod.call("POST", act, {"action": "stop"})[1]["status"] == "RUNNING"
    runpod.fault("action_204*1")
    assert runpod.call("POST", act, {"action": "stop"})[0] == 204
    runpod.until(pod, "stopped")
    runpod.kept = False
    runpod.fault("start_refused*1")
    assert runpod.call("POST", act, {"action": "start"}) == (
        400,
        {"error": "not enough free GPUs on the host machine"},
    )
    runpod.fault("start_zero_gpus*1")
    assert runpod.call("POST", act, {"action": "start"})[1]["gpu"]["count"] == 0


@pytest.mark.parametrize(
    ("fault", "phase", "status"),
    [("boot_image_missing", "failed", "ERROR"), ("boot_stuck", "loading", "STARTING")],
)
def test_a_boot_that_fails_or_hangs(runpod: RunpodSimulator, fault: str, phase: str, status: str) -> None:
    runpod.fault(f"{fault}*1")
    pod = runpod.call("POST", "/v2/pods", runpod.pod_body())[1]["id"]
    runpod.until(pod, phase)
    assert runpod.call("GET", f"/v2/pods/{pod}")[1]["status"] == status


def test_a_pod_may_never_get_a_public_port(runpod: RunpodSimulator) -> None:
    runpod.fault("no_direct_ssh*1")
    pod = runpod.call("POST", "/v2/pods", runpod.pod_body())[1]["id"]
    runpod.until(pod, "running")
    shown = runpod.call("GET", f"/v2/pods/{pod}")[1]
    assert (shown["status"], shown["ssh"]["direct"]) == ("RUNNING", None)
    assert shown["ssh"]["proxy"]["host"] == "ssh.runpod.io"


def test_at_the_end_of_the_credit_pods_may_be_terminated(runpod: RunpodSimulator) -> None:
    pod = runpod.make()
    number = runpod.number(pod["id"])
    runpod.fault("balance_terminates")
    runpod.pods()
    runpod.call("POST", "/_sim/credit", {"set": 0.0})
    assert runpod.known(number)["destroyed_by"] == "credit exhausted"
    assert runpod.pods() == []


def test_host_loss_and_an_unknown_catalog(runpod: RunpodSimulator, ssh_user: SshUser) -> None:
    pod = runpod.make(env={"PUBLIC_KEY": ssh_user.public})
    runpod.call("POST", f"/_sim/instances/{runpod.number(pod['id'])}/offline")
    shown = runpod.call("GET", f"/v2/pods/{pod['id']}")[1]
    assert (shown["status"], shown["runtime"]) == ("RUNNING", None)
    assert ssh_user.run(pod["ssh"]["direct"]["port"], "true").returncode == 255
    runpod.fault("catalog_top_none*1")
    rows = runpod.call("GET", "/v2/catalog/gpus?include=AVAILABILITY&product=POD")[1]["gpus"]
    assert {row["availability"] for row in rows} == {"NONE"}
    assert any(row.get("dataCenters") for row in rows)


def test_logs_break_off_and_billing_is_null(runpod: RunpodSimulator) -> None:
    pod = runpod.make()
    runpod.fault("logs_cut*1")
    request = urllib.request.Request(f"{runpod.url}/v2/pods/{pod['id']}/logs")
    request.add_header("Authorization", f"Bearer {runpod.key}")
    with (
        urllib.request.urlopen(request, timeout=10) as stream,
        pytest.raises((http.client.HTTPException, ConnectionError)),
    ):
        stream.read()
    runpod.kept = False
    runpod.fault("billing_null*1")
    assert runpod.call("GET", "/v2/billing/pods")[1]["records"] is None
