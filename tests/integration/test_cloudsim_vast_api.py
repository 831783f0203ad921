"""The Vast face over HTTP: what clients meet on good days."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from cloudsim_fixtures import Simulator, SshUser

pytest_plugins = ["cloudsim_fixtures"]


def query(**values: object) -> str:
    return "?" + urllib.parse.urlencode(
        {name: v if isinstance(v, str) else json.dumps(v) for name, v in values.items()}
    )


def test_keys_are_checked_as_the_service_checks_them(simulator: Simulator) -> None:
    wrong = simulator.call("GET", "/api/v0/users/current", key="wrong")
    assert wrong == (404, {"success": False, "error": "auth_error", "msg": "Invalid user key"})
    status, body = simulator.call("GET", "/api/v0/users/current", key=None)
    assert (status, body["msg"]) == (403, "This action requires login.")
    assert simulator.call("POST", "/api/v0/bundles/", {}, key=None)[0] == 200


def test_search_is_capped_at_64_whatever_the_limit(simulator: Simulator) -> None:
    for limit in (64, 500):
        assert len(simulator.call("POST", "/api/v0/bundles/", {"limit": limit})[1]["offers"]) == 64
    assert len(simulator.call("POST", "/api/v0/bundles/", {"limit": 3})[1]["offers"]) == 3
    seen: dict[int, Any] = {}
    floor = 0.0
    while page := simulator.call(
        "POST", "/api/v0/bundles/", {"order": [["dph_total", "asc"]], "dph_total": {"gt": floor}}
    )[1]["offers"]:
        seen.update({row["id"]: row for row in page})
        floor = page[-1]["dph_total"]
    assert len(seen) > 120


def test_a_bare_value_is_a_bad_request(simulator: Simulator) -> None:
    status, body = simulator.call("POST", "/api/v0/bundles/", {"gpu_name": "RTX 4090"})
    assert (status, body["error"]) == (400, "bad_request")
    assert body["msg"] == "q.gpu_name: Input should be a valid dictionary"


def test_storage_and_bids_are_priced_into_offers(simulator: Simulator) -> None:
    def one(**more: object) -> dict[str, Any]:
        found = simulator.call(
            "POST",
            "/api/v0/bundles/",
            {"gpu_name": {"eq": "H100 SXM"}, "order": [["machine_id", "asc"]], **more},
        )
        first: dict[str, Any] = found[1]["offers"][0]
        return first

    small, large, bid = (
        one(allocated_storage=10),
        one(allocated_storage=100),
        one(type="bid", allocated_storage=10),
    )
    assert large["dph_total"] - small["dph_total"] == pytest.approx(small["storage_cost"] * 90 / 720)
    assert bid["is_bid"] is True
    assert bid["dph_total"] < small["dph_total"]


def test_an_offer_id_works_once_and_an_unknown_one_never(simulator: Simulator) -> None:
    offer = simulator.offer("RTX A6000")["id"]
    status, made = simulator.call("PUT", f"/api/v0/asks/{offer}/", {"image": "x", "disk": 10})
    assert (status, made["success"]) == (200, True)
    status, body = simulator.call("PUT", f"/api/v0/asks/{offer}/", {"image": "x", "disk": 10})
    assert (status, body["error"], body["ask_id"]) == (410, "no_such_ask", offer)
    status, body = simulator.call("PUT", "/api/v0/asks/17/", {"image": "x", "disk": 10})
    assert status == 404
    assert "no_such_ask" in body["msg"]
    simulator.call("DELETE", f"/api/v0/instances/{made['new_contract']}/")


@pytest.mark.parametrize(
    ("body", "code"),
    [({}, "invalid_args"), ({"image": "x", "disk": 1}, "invalid_args"), ({"image": "x", "price": 1000}, "invalid_price"),
     ({"image": "x", "label": "l" * 300}, "invalid_args"), ({"image": "x", "disk": "many"}, "invalid_args")],
)  # fmt: skip
def test_a_malformed_create_is_refused_and_takes_nothing(
    simulator: Simulator, body: dict[str, object], code: str
) -> None:
    offer = simulator.offer()["id"]
    status, answer = simulator.call("PUT", f"/api/v0/asks/{offer}/", body)
    assert (status, answer["error"]) == (400, code)
    assert simulator.offer()["id"] == offer


def test_a_bid_under_the_market_is_refused_in_words_and_made_in_deed(simulator: Simulator) -> None:
    offer = simulator.offer("RTX 3060")["id"]
    status, made = simulator.call("PUT", f"/api/v0/asks/{offer}/", {"image": "x", "disk": 10, "price": 0.001})
    assert (status, made["success"]) == (200, False)
    row = simulator.row(made["new_contract"])
    assert row is not None
    assert (row["is_bid"], row["intended_status"], row["cur_state"]) == (True, "stopped", "stopped")
    assert (
        simulator.call(
            "PUT", f"/api/v0/instances/bid_price/{row['id']}/", {"client_id": "me", "price": None}
        )[0]
        == 200
    )
    simulator.wait(row["id"], "running")
    simulator.call("DELETE", f"/api/v0/instances/{row['id']}/")
    cancelled = simulator.call(
        "PUT",
        f"/api/v0/asks/{simulator.offer('RTX 3060')['id']}/",
        {"image": "x", "disk": 10, "price": 0.001, "cancel_unavail": True},
    )[1]
    assert cancelled["success"] is False
    assert "new_contract" not in cancelled


def test_the_list_is_paged_at_25_filtered_by_label_and_the_old_one_is_gone(
    tmp_path: Path, simulator: Simulator
) -> None:
    made: list[int] = []
    offers = simulator.call(
        "POST", "/api/v0/bundles/", {"num_gpus": {"eq": 1}, "order": [["dph_total", "asc"]]}
    )[1]["offers"]
    for offer in offers:
        if len(made) == 27:
            break
        body = {"image": "x", "disk": 10, "label": f"bulk-{len(made) % 3}", "target_state": "stopped"}
        status, answer = simulator.call("PUT", f"/api/v0/asks/{offer['id']}/", body)
        if status == 200:
            made.append(answer["new_contract"])
    assert len(made) == 27
    first = simulator.call("GET", f"/api/v1/instances/{query(limit=100)}")[1]
    assert (len(first["instances"]), first["total_instances"], first["success"]) == (25, 27, True)
    second = simulator.call("GET", f"/api/v1/instances/{query(after_token=first['next_token'])}")[1]
    assert second["next_token"] is None
    assert [row["id"] for row in first["instances"] + second["instances"]] == sorted(made)
    labelled = simulator.rows(
        query(select_filters={"label": {"eq": "bulk-1"}}, order_by=[{"col": "id", "dir": "desc"}])
    )
    assert [row["id"] for row in labelled] == sorted(made[1::3], reverse=True)
    assert first["label_counts"] == {"bulk-0": 9, "bulk-1": 9, "bulk-2": 9}
    few = simulator.rows(query(select_cols=["label", "no_such_column"], limit=1))
    assert few == [{"id": made[0], "label": "bulk-0", "no_such_column": None}]
    assert (
        simulator.call("GET", f"/api/v1/instances/{query(select_filters={'dph_total': {'gt': 1}})}")[1][
            "error"
        ]
        == "invalid_request"
    )
    assert (
        simulator.call("GET", f"/api/v1/instances/{query(after_token='nonsense')}")[1]["error"]
        == "invalid_token"
    )
    status, old = simulator.call("GET", "/api/v0/instances/?owner=me")
    assert (status, old["error"]) == (410, "deprecated_endpoint")
    gone, shown = made[3], {row["id"] for row in first["instances"]}
    simulator.call("DELETE", f"/api/v0/instances/{gone}/")
    again = simulator.call("GET", f"/api/v1/instances/{query(after_token=first['next_token'])}")[1][
        "instances"
    ]
    assert {row["id"] for row in again} == set(made) - shown
    assert simulator.call("DELETE", "/api/v0/instances/", {"instance_ids": made})[0] == 200
    assert simulator.rows() == []


def test_the_instance_key_list_is_json_in_a_string_and_attached_keys_open_the_box(
    simulator: Simulator, ssh_user: SshUser, tmp_path: Path
) -> None:
    late = type(ssh_user)(tmp_path / "late")
    instance = simulator.rent()
    port = simulator.port(instance)
    assert late.run(port, "true").returncode == 255
    assert simulator.call("POST", f"/api/v0/instances/{instance}/ssh/", {"ssh_key": late.public})[0] == 200
    assert late.run(port, "echo in").stdout == b"in\n"
    keys = json.loads(simulator.call("GET", f"/api/v0/instances/{instance}/ssh/")[1]["ssh_keys"])
    assert {key["public_key"] for key in keys} == {ssh_user.public, late.public}
    late_id = next(key["id"] for key in keys if key["public_key"] == late.public)
    assert simulator.call("DELETE", f"/api/v0/instances/{instance}/ssh/{late_id}/")[0] == 200
    assert late.run(port, "true").returncode == 255
    simulator.call("DELETE", f"/api/v0/instances/{instance}/")


def test_an_account_without_keys_answers_404(own_simulator: Simulator) -> None:
    listed = own_simulator.call("GET", "/api/v0/ssh/")[1]
    assert own_simulator.call("DELETE", f"/api/v0/ssh/{listed[0]['id']}/")[0] == 200
    status, body = own_simulator.call("GET", "/api/v0/ssh/")
    assert (status, body["msg"]) == (404, "No SSH keys found for the user.")
    assert own_simulator.call("DELETE", "/api/v0/ssh/12345/")[1]["error"] == "no_ssh_key"


def test_logs_appear_on_another_origin_after_a_while_without_a_key(simulator: Simulator) -> None:
    instance = simulator.rent(onstart="for i in 1 2 3; do echo line $i; done; touch finished")
    finished = simulator.box(instance) / "root" / "finished"
    while not finished.exists():
        simulator.wait(instance, "running")
    url = simulator.call("PUT", f"/api/v0/instances/request_logs/{instance}/", {"tail": "2"})[1]["result_url"]
    assert not url.startswith(simulator.url)
    seen = []
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                text = response.read()
            break
        except urllib.error.HTTPError as missing:
            with missing:
                seen.append((missing.code, b"<Error>" in missing.read()))
    assert seen == [(404, True), (404, True)]
    assert text == b"line 2\nline 3\n"
    simulator.call("DELETE", f"/api/v0/instances/{instance}/")


def test_disk_commands_stay_inside_the_box(simulator: Simulator) -> None:
    instance = simulator.rent()
    path = f"/api/v0/instances/command/{instance}/"
    assert simulator.call("PUT", path, {"command": "ls -a /root/../../.."})[0] == 200
    assert simulator.call("PUT", path, {"command": "rm -rf ../../other"})[0] == 200
    assert simulator.call("PUT", path, {"command": "cat /etc/passwd"})[0] == 400
    assert (simulator.state / "cloud.json").exists()
    simulator.call("DELETE", f"/api/v0/instances/{instance}/")


def test_credit_falls_and_charges_say_for_what(simulator: Simulator) -> None:
    instance = simulator.rent(disk=100)
    first = simulator.call("GET", "/api/v0/users/current")[1]["credit"]
    while (now := simulator.call("GET", "/api/v0/users/current")[1]["credit"]) == first:
        continue
    assert now < first
    simulator.call("DELETE", f"/api/v0/instances/{instance}/")
    day = {"gte": 0, "lte": 4102444800}
    answer = simulator.call("GET", f"/api/v0/charges/{query(select_filters={'day': day}, limit=100)}")[1]
    charge = next(row for row in answer["results"] if row["source"] == f"instance-{instance}")
    assert {item["type"] for item in charge["items"]} == {"gpu", "disk", "bwu", "bwd"}
    assert charge["amount"] == pytest.approx(simulator.known(instance)["cost"], abs=1e-5)


def test_paces_are_kept_only_when_asked(tmp_path: Path, simulator: Simulator) -> None:
    strict = type(simulator)(tmp_path / "strict", "--rate-limits").start()
    try:
        assert strict.call("GET", "/api/v1/instances/")[0] == 200
        status, body = strict.call("GET", "/api/v1/instances/")
        assert (status, body["error"]) == (429, "rate_limit_exceeded")
        assert body["msg"] == "API requests too frequent endpoint threshold=1.0"
    finally:
        strict.end()
    assert [simulator.call("GET", "/api/v1/instances/")[0] for _ in range(3)] == [200, 200, 200]
