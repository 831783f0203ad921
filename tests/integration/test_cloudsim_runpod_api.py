"""The RunPod face over HTTP on good days; each answer is checked against the published OpenAPI file."""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from cloudsim_fixtures import SshUser
    from runpod_fixtures import RunpodSimulator

pytest_plugins = ["cloudsim_fixtures", "runpod_fixtures"]

GPU = "NVIDIA GeForce RTX 4090"
GPUS = "/v2/catalog/gpus"
STOCK = f"{GPUS}?include=AVAILABILITY&product=POD"


@pytest.fixture(autouse=True)
def _clean(clean_runpod: RunpodSimulator) -> None:
    """Every test of this file starts from the same cloud."""


def test_a_key_is_asked_for_before_everything(runpod: RunpodSimulator) -> None:
    status, body = runpod.call("GET", "/v2/pods", key=None)
    assert (status, body["detail"]) == (401, "missing bearer token")
    assert runpod.call("GET", "/v2/pods/none", key="wrong")[0] == 401
    assert "x-request-id" in runpod.headers


def test_v1_is_retired_and_a_strange_path_is_not_found(runpod: RunpodSimulator) -> None:
    assert runpod.call("GET", "/v1/pods")[0] == 410
    runpod.kept = False  # the file has no such path to check against
    assert runpod.call("GET", "/v2/nonsense")[1]["title"] == "Not Found"


def test_every_answer_tells_what_is_left_of_three_windows(runpod: RunpodSimulator) -> None:
    runpod.call("GET", "/v2/pods")
    assert [part.split(";")[0] for part in runpod.headers["ratelimit"].split(", ")] == [
        '"minute"',
        '"hour"',
        '"day"',
    ]
    first = int(runpod.headers["ratelimit"].partition("r=")[2].partition(";")[0])
    runpod.call("GET", "/v2/pods")
    assert int(runpod.headers["ratelimit"].partition("r=")[2].partition(";")[0]) == first - 1


def test_limits_reject_the_sixty_first_request_when_asked_to(tmp_path: Path, runpod: RunpodSimulator) -> None:
    strict = type(runpod)(tmp_path / "strict", "--rate-limits").start()
    try:
        assert [strict.call("GET", "/v2/network-volumes")[0] for _ in range(60)] == [200] * 60
        status, body = strict.call("GET", "/v2/network-volumes")
        assert (status, body["detail"]) == (429, "rate limit exceeded for the minute window")
        assert strict.headers["ratelimit"].startswith('"minute";r=0;t=')
        assert 0 < int(strict.headers["retry-after"]) <= 60
    finally:
        strict.end()


# --- catalog -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "status"),
    [("", 200), ("?include=AVAILABILITY", 400), ("?product=POD", 400), ("?count=2", 400),
     ("?include=AVAILABILITY&product=POD&minCudaVersion=12.1&cudaVersions=12.8", 400),
     ("?include=AVAILABILITY&product=POD&minCudaVersion=new", 422),
     ("?include=AVAILABILITY&product=POD&countryCodes=Francia", 422),
     ("?include=AVAILABILITY&product=POD&count=2&cloud=COMMUNITY", 200)],
)  # fmt: skip
def test_filters_of_the_catalog_need_each_other(runpod: RunpodSimulator, query: str, status: int) -> None:
    assert runpod.call("GET", GPUS + query)[0] == status


def test_the_catalog_has_stock_per_data_centre_only_in_the_secure_cloud(runpod: RunpodSimulator) -> None:
    secure = {row["id"]: row for row in runpod.call("GET", STOCK)[1]["gpus"]}
    stocked = [row for row in secure.values() if row.get("dataCenters")]
    assert stocked
    assert all(row["availability"] != "NONE" and row["secure"] for row in stocked)
    community = runpod.call("GET", f"{STOCK}&cloud=COMMUNITY")[1]["gpus"]
    assert any(row["availability"] != "NONE" for row in community)
    assert not any("dataCenters" in row for row in community)
    assert "availability" not in runpod.call("GET", GPUS)[1]["gpus"][0]


def test_the_catalog_has_its_oddities(runpod: RunpodSimulator) -> None:
    rows = {row["id"]: row for row in runpod.call("GET", STOCK)[1]["gpus"]}
    assert rows["unknown"]["memory"] == 0
    assert any("MIG" in name for name in rows)
    assert any(not row["secure"] and row["price"]["secure"] == 0 for row in rows.values())
    assert (
        runpod.call("GET", f"{GPUS}/Tesla%20T4?include=AVAILABILITY&product=POD&countryCodes=FR")[1][
            "availability"
        ]
        == "NONE"
    )


def test_data_centres_show_what_they_have(runpod: RunpodSimulator) -> None:
    places = runpod.call("GET", "/v2/catalog/datacenters?include=GPU_AVAILABILITY&regions=EUROPE")[1][
        "dataCenters"
    ]
    assert {place["region"] for place in places} == {"EUROPE"}
    assert any(place["gpuAvailability"] for place in places)


# --- the life of a pod ---------------------------------------------------------------------------


def test_a_pod_is_provisioned_started_and_runs_with_direct_ssh(
    runpod: RunpodSimulator, ssh_user: SshUser
) -> None:
    status, pod = runpod.call(
        "POST", "/v2/pods", runpod.pod_body(env={"PUBLIC_KEY": ssh_user.public, "SAY": "hi"})
    )
    assert status == 201
    assert (pod["status"], pod["runtime"], pod["ssh"]["direct"]) == ("PROVISIONING", {}, None)
    runpod.until(pod["id"], "running", ssh=True)
    pod = runpod.call("GET", f"/v2/pods/{pod['id']}")[1]
    assert (pod["status"], pod["actions"]) == ("RUNNING", ["stop", "restart", "terminate"])
    at = pod["ssh"]["direct"]
    assert {"private": 22, "public": at["port"], "type": "tcp", "ip": at["host"]} in pod["runtime"]["ports"]
    inside = ssh_user.run(at["port"], "echo $SAY$RUNPOD_POD_ID; nvidia-smi -L")
    assert inside.stdout.startswith(b"\nGPU 0"), "the pod's environment reaches process 1 only"
    assert f"RUNPOD_POD_ID={pod['id']}" in ssh_user.run(at["port"], "cat ~/.container_env").stdout.decode()


def test_stop_loses_the_container_disk_and_keeps_the_volume(
    runpod: RunpodSimulator, ssh_user: SshUser
) -> None:
    pod = runpod.make(env={"PUBLIC_KEY": ssh_user.public})
    first = pod["ssh"]["direct"]["port"]
    ssh_user.run(first, "echo lost > ~/file; echo kept > $WORKSPACE/file")
    act = f"/v2/pods/{pod['id']}/action"
    assert runpod.call("POST", act, {"action": "stop"})[0] == 200
    runpod.until(pod["id"], "stopped")
    stopped = runpod.call("GET", f"/v2/pods/{pod['id']}")[1]
    assert (stopped["status"], stopped["cost"], stopped["runtime"], stopped["actions"]) == (
        "EXITED",
        0.0,
        None,
        ["start", "terminate"],
    )
    assert runpod.call("POST", act, {"action": "stop"})[0] == 409
    assert runpod.call("POST", act, {"action": "start"})[1]["status"] == "STARTING"
    runpod.until(pod["id"], "running", ssh=True)
    again = runpod.call("GET", f"/v2/pods/{pod['id']}")[1]["ssh"]["direct"]["port"]
    assert again != first, "external ports change at each start"
    done = ssh_user.run(again, "cat ~/file; cat $WORKSPACE/file")
    assert done.stdout == b"kept\n"


def test_terminate_deletes_and_a_second_time_is_not_found(runpod: RunpodSimulator) -> None:
    pod = runpod.make()
    box = runpod.box(runpod.number(pod["id"]))
    assert box.exists()
    assert runpod.call("DELETE", f"/v2/pods/{pod['id']}")[0] == 204
    assert not box.exists()
    for method in ("GET", "DELETE"):
        assert runpod.call(method, f"/v2/pods/{pod['id']}")[0] == 404
    assert runpod.pods() == []
    other = runpod.make()
    assert runpod.call("POST", f"/v2/pods/{other['id']}/action", {"action": "terminate"})[0] == 204


def test_a_command_without_sshd_has_no_ssh_and_one_that_ends_is_started_again(
    runpod: RunpodSimulator, ssh_user: SshUser
) -> None:
    pod = runpod.make(cmd=["bash", "-c", "echo once more; sleep 0.1"], env={"PUBLIC_KEY": ssh_user.public})
    text = _log(runpod, pod["id"], "source=container", lambda seen: seen.count("once more") >= 2)
    assert "once more" in text
    assert runpod.call("GET", f"/v2/pods/{pod['id']}")[1]["status"] == "RUNNING", "and it bills all the while"
    assert ssh_user.run(pod["ssh"]["direct"]["port"], "true").returncode == 255


def test_a_command_that_ends_in_the_start_script_has_ssh(runpod: RunpodSimulator, ssh_user: SshUser) -> None:
    status, pod = runpod.call(
        "POST", "/v2/pods",
        runpod.pod_body(cmd=["bash", "-c", "touch /workspace/mine; exec /start.sh"], env={"PUBLIC_KEY": ssh_user.public}),
    )  # fmt: skip
    assert status == 201
    runpod.kept = False  # cmd is newer than the file
    runpod.until(pod["id"], "running", ssh=True)
    port = runpod.call("GET", f"/v2/pods/{pod['id']}")[1]["ssh"]["direct"]["port"]
    assert ssh_user.run(port, "ls $WORKSPACE").stdout == b"mine\n"


@pytest.mark.parametrize(
    ("change", "status", "text"),
    [({"name": None}, 422, "missing properties 'name'"), ({"image": None}, 422, "missing properties 'image'"),
     ({"bogus": 1}, 422, "$: additional properties 'bogus' not allowed"), ({"disk": 0}, 422, "minimum"),
     ({"mounts": {"persistent": {"size": 5, "path": "/w"}}}, 422, "minimum"),
     ({"disk": None}, 400, "You must either provide a template id"),
     ({"gpu": {"id": GPU}}, 400, "no longer any instances"),
     ({"gpu": {"id": "NVIDIA GeForce RTX 9090", "count": 1}}, 400, "no longer any instances"),
     ({"gpu": {"id": GPU, "count": 1, "minCudaVersion": "12.1", "allowedCudaVersions": ["12.4"]}}, 400, "mutually"),
     ({"gpu": {"id": GPU, "count": 1, "minCudaVersion": "99.0"}}, 400, "no longer any instances"),
     ({"gpu": None}, 400, "exactly one of gpu or cpu"),
     ({"dataCenterIds": ["US-KS-2"]}, 400, "no longer any instances"),
     ({"mounts": {"persistent": {"size": 10, "path": "/w"}, "network": [{"volumeId": "v", "path": "/w"}]}}, 400, "mutually")],
)  # fmt: skip
def test_a_create_that_breaks_a_rule_buys_nothing(
    runpod: RunpodSimulator, change: dict[str, object], status: int, text: str
) -> None:
    got, body = runpod.call("POST", "/v2/pods", runpod.pod_body(**change))
    assert got == status
    assert text in json.dumps(body)
    assert runpod.pods() == []


def test_a_body_that_is_too_large_is_refused_unread(runpod: RunpodSimulator) -> None:
    assert runpod.call("POST", "/v2/pods", runpod.pod_body(env={"A": "x" * 110_000}))[0] == 413


def test_the_list_comes_newest_first_in_pages_and_ignores_what_it_does_not_know(
    runpod: RunpodSimulator,
) -> None:
    made = [runpod.call("POST", "/v2/pods", runpod.pod_body(name=f"p{i}"))[1]["id"] for i in range(3)]
    assert [pod["id"] for pod in runpod.pods("?nonsense=1")] == made[::-1]
    first = runpod.call("GET", "/v2/pods?limit=2")[1]
    assert first["pagination"]["hasNextPage"] is True
    last = runpod.call("GET", f"/v2/pods?limit=2&cursor={first['pagination']['nextCursor']}")[1]
    assert [pod["id"] for pod in first["pods"] + last["pods"]] == made[::-1]
    assert last["pagination"] == {"nextCursor": None, "hasNextPage": False}
    assert runpod.call("GET", "/v2/pods?cursor=nonsense")[0] == 422


def test_a_pods_own_key_may_end_its_own_pod_and_nothing_else(
    runpod: RunpodSimulator, ssh_user: SshUser
) -> None:
    pod, other = runpod.make(env={"PUBLIC_KEY": ssh_user.public}), runpod.make()
    found = ssh_user.run(pod["ssh"]["direct"]["port"], "grep ^RUNPOD_API_KEY= ~/.container_env | cut -d= -f2")
    key = found.stdout.decode().strip()
    assert key
    assert key != runpod.key
    assert runpod.call("GET", "/v2/pods", key=key)[0] == 403
    assert runpod.call("DELETE", f"/v2/pods/{other['id']}", key=key)[0] == 403
    assert runpod.call("POST", f"/v2/pods/{pod['id']}/action", {"action": "stop"}, key=key)[0] == 200


def test_account_keys_are_replaced_as_a_whole_and_injected_only_when_asked(
    runpod: RunpodSimulator, ssh_user: SshUser
) -> None:
    assert runpod.call("PUT", "/v2/account/ssh-keys", {"keys": ["not a key"]})[0] == 422
    other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILXGDN other"
    runpod.call("PUT", "/v2/account/ssh-keys", {"keys": [other]})
    runpod.call("PUT", "/v2/account/ssh-keys", {"keys": [ssh_user.public]})
    assert runpod.call("GET", "/v2/account/ssh-keys")[1] == {"keys": [ssh_user.public]}
    assert runpod.call("POST", "/v2/pods", runpod.pod_body(startSsh=True))[1]["env"] == {
        "PUBLIC_KEY": ssh_user.public
    }
    assert runpod.call("POST", "/v2/pods", runpod.pod_body())[1]["env"] == {}
    runpod.call("PUT", "/v2/account/ssh-keys", {"keys": []})


def test_a_network_volume_lives_in_one_data_centre_and_outlives_its_pods(
    runpod: RunpodSimulator, ssh_user: SshUser
) -> None:
    stock = next(r for r in runpod.call("GET", STOCK)[1]["gpus"] if r.get("dataCenters"))
    place = stock["dataCenters"][0]["id"]
    assert runpod.call("POST", "/v2/network-volumes", {"name": "v", "size": 5, "dataCenter": place})[0] == 422
    assert runpod.call("POST", "/v2/network-volumes", {"name": "v", "size": 50, "dataCenter": "XX"})[0] == 400
    volume = runpod.call("POST", "/v2/network-volumes", {"name": "v", "size": 50, "dataCenter": place})[1]
    mount = {"network": [{"volumeId": volume["id"], "path": "/workspace"}]}
    asked: dict[str, Any] = {"cloud": "SECURE", "gpu": {"id": stock["id"], "count": 1}, "mounts": mount}
    pod = runpod.make(env={"PUBLIC_KEY": ssh_user.public}, **asked)
    assert pod["dataCenterId"] == place
    ssh_user.run(pod["ssh"]["direct"]["port"], "echo kept > $WORKSPACE/file")
    assert runpod.call("DELETE", f"/v2/network-volumes/{volume['id']}")[0] == 400
    runpod.call("DELETE", f"/v2/pods/{pod['id']}")
    assert (runpod.state / "volumes" / volume["id"] / "file").read_text() == "kept\n"
    assert runpod.call("PATCH", f"/v2/network-volumes/{volume['id']}", {"size": 60})[1]["size"] == 60
    assert runpod.call("DELETE", f"/v2/network-volumes/{volume['id']}")[0] == 204
    assert runpod.call("GET", f"/v2/network-volumes/{volume['id']}")[0] == 404


def test_a_change_renames_quietly_and_recreates_for_anything_else(
    runpod: RunpodSimulator, ssh_user: SshUser
) -> None:
    pod = runpod.make(env={"PUBLIC_KEY": ssh_user.public})
    ssh_user.run(pod["ssh"]["direct"]["port"], "echo lost > ~/file")
    assert runpod.call("PATCH", f"/v2/pods/{pod['id']}", {"name": "renamed"})[1]["name"] == "renamed"
    assert ssh_user.run(pod["ssh"]["direct"]["port"], "cat ~/file").stdout == b"lost\n"
    runpod.call("PATCH", f"/v2/pods/{pod['id']}", {"env": {"PUBLIC_KEY": ssh_user.public, "NEW": "1"}})
    runpod.until(pod["id"], "running", ssh=True)
    port = runpod.call("GET", f"/v2/pods/{pod['id']}")[1]["ssh"]["direct"]["port"]
    assert ssh_user.run(port, "cat ~/file").returncode == 1


# --- logs, money ---------------------------------------------------------------------------------


def _log(runpod: RunpodSimulator, pod: str, query: str, enough: Any, last: str | None = None) -> str:
    """What a log stream says until `enough`."""
    request = urllib.request.Request(f"{runpod.url}/v2/pods/{pod}/logs?{query}")
    request.add_header("Authorization", f"Bearer {runpod.key}")
    if last is not None:
        request.add_header("Last-Event-ID", last)
    seen = ""
    with urllib.request.urlopen(request, timeout=20) as stream:
        assert stream.headers["Content-Type"] == "text/event-stream"
        while not enough(seen):
            line = stream.readline().decode()
            assert line, "the stream ended"
            seen += line
    return seen


def test_logs_stream_what_the_host_and_the_container_say_and_resume(runpod: RunpodSimulator) -> None:
    pod = runpod.make(image="alpine", cmd=["sh", "-c", "echo one; echo two; exec sleep infinity"])
    text = _log(runpod, pod["id"], "tail=50", lambda seen: "two" in seen)
    rows = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    assert "create 20GB volume" in [row["line"] for row in rows if row["source"] == "system"]
    assert [row["line"] for row in rows if row["source"] == "container"] == ["one", "two"]
    event = next(line[4:] for line in text.splitlines() if line.startswith("id: ") and line.endswith("0"))
    resumed = _log(runpod, pod["id"], "tail=0", lambda seen: "two" in seen, last=event)
    assert resumed.count("data: ") < text.count("data: ")
    for wrong in ("tail=9999", "source=kernel", "since=yesterday"):
        assert runpod.call("GET", f"/v2/pods/{pod['id']}/logs?{wrong}")[0] == 422


def test_pods_bill_by_the_type_while_running_and_their_volume_while_stopped(runpod: RunpodSimulator) -> None:
    pod = runpod.make()
    price = next(r for r in runpod.call("GET", GPUS)[1]["gpus"] if r["id"] == GPU)["price"]["community"]
    assert pod["cost"] == price
    assert runpod.call("GET", "/_sim/state")[1]["burn_per_hour"] == pytest.approx(
        price + 40 * 0.1 / 720, abs=1e-5
    )
    runpod.call("POST", f"/v2/pods/{pod['id']}/action", {"action": "stop"})
    runpod.until(pod["id"], "stopped")
    assert runpod.call("GET", "/_sim/state")[1]["burn_per_hour"] == pytest.approx(20 * 0.2 / 720, abs=1e-5)
    record = runpod.call("GET", f"/v2/billing/pods?podId={pod['id']}")[1]["records"][0]
    assert record["totalAmount"] == pytest.approx(runpod.known(runpod.number(pod["id"]))["cost"], abs=1e-4)


def test_an_hour_of_credit_is_needed_and_at_the_end_of_it_pods_stop(runpod: RunpodSimulator) -> None:
    pod = runpod.make()
    runpod.call("POST", "/_sim/credit", {"set": 0.1})
    runpod.kept = False  # 402 is not in the published file
    assert runpod.call("POST", "/v2/pods", runpod.pod_body())[0] == 402
    runpod.call("POST", "/_sim/credit", {"set": 0.0})
    runpod.until(pod["id"], "stopped")
    assert runpod.call("POST", f"/v2/pods/{pod['id']}/action", {"action": "start"})[0] == 402
