"""Vast's rows, as recorded and as nobody should ever send them."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuproviders.model import Endpoint, Instance, Offer, Power, Trouble
from gpuproviders.vast import parse

FIXTURES = Path(__file__).parents[2] / "fixtures" / "vast"

# As published by Vast's users: a machine of 2026-05 while it ran.
RUNNING: dict[str, Any] = {
    "actual_status": "running", "intended_status": "running", "cur_state": "running", "id": 36717044,
    "machine_id": 33307, "public_ipaddr": "140.228.20.111\n", "ssh_host": "ssh7.vast.ai", "ssh_port": 37044,
    "label": "gputui-x", "extra_env": [["-p 9100:9100", "1"]],
    "ports": {
        "22/tcp": [{"HostIp": "0.0.0.0", "HostPort": "30022"}, {"HostIp": "::", "HostPort": "30022"}],
        "9100/tcp": [{"HostIp": "0.0.0.0", "HostPort": "40713"}],
    },
    "image_runtype": "ssh_direc ssh_proxy", "gpu_name": "RTX 4090", "num_gpus": 1, "is_bid": False,
    "dph_total": 0.3518518518518518, "start_date": 1761008618.225083, "end_date": 2034617753,
    "status_msg": "success, running vastai/base-image_cuda-12.4.1-cudnn-devel-ubuntu22.04/ssh",
}  # fmt: skip
OFFER: dict[str, Any] = {
    "id": 7, "ask_contract_id": 7, "machine_id": 12, "gpu_name": "RTX 4090", "num_gpus": 2, "gpu_ram": 24564,
    "dph_total": 0.8, "storage_total_cost": 0.01, "reliability2": 0.99, "verification": "verified", "hosting_type": 1,
    "geolocation": "Texas, US", "cpu_cores_effective": 16.0, "cpu_ram": 128000, "disk_space": 500.5,
    "inet_up": 800.0, "inet_down": 900.0, "inet_up_cost": 0.002, "cuda_max_good": 12.8, "direct_port_count": 4,
    "end_date": 1799999999.5,
}  # fmt: skip
# the row of Vast's own documentation
DOCUMENTED: dict[str, Any] = json.loads((FIXTURES / "instance_full_docs_example_883.json").read_text())[
    "instances"
]


def test_a_running_machine_is_read_whole() -> None:
    row = parse.instance(RUNNING)
    assert (row.instance_id, row.label, row.power, row.wanted) == (
        "36717044",
        "gputui-x",
        Power.RUNNING,
        Power.RUNNING,
    )
    assert row.endpoints == (
        Endpoint("140.228.20.111", 30022, kind="direct"),
        Endpoint("ssh7.vast.ai", 37044, kind="proxy"),
    )
    assert row.price == 351_852
    assert row.started_at == datetime.fromtimestamp(1761008618.225083, UTC)
    assert row.trouble is None


def test_the_documented_example_is_read_although_its_ports_are_wrong() -> None:
    row = parse.instance(DOCUMENTED)
    assert row.instance_id == "883"
    assert row.endpoints == (Endpoint("ssh2281.vast.ai", 10882, kind="proxy"),)
    assert row.gpu_name == "RTX A5000"
    assert row.price == 1_002_074
    assert row.power is Power.UNKNOWN, "it does not say a word about its status"


def test_an_offer_is_read_whole() -> None:
    offer = parse.offer(OFFER, spot=False)
    assert offer is not None
    assert (offer.offer_id, offer.machine_id, offer.gpu_name, offer.gpu_count) == ("7", "12", "RTX 4090", 2)
    assert (offer.price, offer.disk_price, offer.transfer_price) == (800_000, 10_000, 2_000)
    assert offer.gpu_memory == 24 * 10**9
    assert (offer.memory, offer.disk) == (128_000 * 10**6, 500_500_000_000)
    assert (offer.upload_speed, offer.download_speed) == (800e6, 900e6)
    assert offer.verified
    assert offer.datacenter
    assert offer.direct_ssh
    assert offer.cuda == "12.8"


@pytest.mark.parametrize("field", ["gpu_name", "num_gpus", "dph_total"])
@pytest.mark.parametrize("value", [None, "", -1, [], {}, float("nan"), True])
def test_an_offer_that_lacks_what_renting_needs_is_no_offer(field: str, value: object) -> None:
    assert parse.offer(OFFER | {field: value}, spot=False) is None


def test_the_id_is_taken_from_whichever_name_has_one() -> None:
    assert parse.offer({k: v for k, v in OFFER.items() if k != "ask_contract_id"}, spot=False) is not None
    assert parse.offer(OFFER | {"ask_contract_id": None}, spot=False) is not None
    assert parse.offer(OFFER | {"ask_contract_id": None, "id": None}, spot=False) is None


def test_negative_prices_are_unknown() -> None:
    offer = parse.offer(OFFER | {"storage_total_cost": -5, "inet_up_cost": -1}, spot=False)
    assert offer is not None
    assert offer.disk_price == 0
    assert offer.transfer_price is None
    assert parse.instance(RUNNING | {"dph_total": -0.5}).price is None


S = Power.STARTING
R = Power.RUNNING
X = Power.STOPPED


@pytest.mark.parametrize(
    ("phase", "actual", "intended", "message", "power", "trouble"),
    [
        ("just created", None, "running", None, S, None),
        ("pulling", "loading", "running", "4c7d45f7c63c: Download complete", S, None),
        ("pulling, retry", "loading", "running", "0d30c18b26f8: Retrying in 5 seconds", S, None),
        ("building", "created", "running", "pulling image", S, None),
        ("building", "loading", "running", "echo 'V220614a: error during apt-get update!'", S, None),
        ("running", "running", "running", "success, running a_b/ssh", R, None),
        ("running", "running", "running", "success, running me/unauthorized-nvidia-container-cli", R, None),
        ("stopped by you", "exited", "stopped", None, X, Trouble.GAVE_UP),
        ("stopped by you", "stopped", "stopped", None, X, Trouble.GAVE_UP),
        ("restarting", "exited", "running", None, X, None),
        ("outbid", "loading", "stopped", None, S, Trouble.GAVE_UP),
        ("image missing", "loading", "running", "Error response from daemon: manifest for x:y not found", S, Trouble.IMAGE),
        ("image missing", "loading", "running", "manifest unknown: manifest unknown", S, Trouble.IMAGE),
        ("image denied", "created", "running", "pull access denied for x, repository does not exist", S, Trouble.IMAGE),
        ("image limit", "created", "running", "toomanyrequests: You have reached your pull rate limit", S, Trouble.IMAGE),
        ("image denied", "created", "running", "unauthorized: authentication required", S, Trouble.IMAGE),
        (
            "container", "created", "stopped",
            "OCI runtime create failed: could not apply: failed to inject CDI devices: unresolvable CDI devices",
            S, Trouble.CONTAINER,
        ),
        ("container", "created", "stopped", "failed to create shim task: nope", S, Trouble.CONTAINER),
        ("container", "created", "running", "nvidia-container-cli: initialization error", S, Trouble.CONTAINER),
        ("disk", "created", "running", "write /x: no space left on device", S, Trouble.DISK),
        ("scheduling failed", None, "stopped", None, S, Trouble.GAVE_UP),
        ("host lost", "offline", "running", None, Power.OFFLINE, None),
        ("host lost", "unknown", "running", None, Power.UNKNOWN, None),
        ("reboot", "rebooting", "running", None, S, None),
        ("recycle", "recycling", "running", None, S, None),
        ("frozen", "frozen", None, None, R, None),
        ("expired", "exited", "stopped", None, X, Trouble.GAVE_UP),
        ("new word", "quiescing", "running", None, Power.UNKNOWN, None),
        ("nonsense", ["running"], {"a": 1}, 7, Power.UNKNOWN, None),
    ],
)  # fmt: skip
def test_each_phase_of_a_machine_is_told_apart(
    phase: str, actual: Any, intended: Any, message: Any, power: Power, trouble: Trouble | None
) -> None:
    row = RUNNING | {"actual_status": actual, "intended_status": intended, "status_msg": message}
    found = parse.instance(row)
    assert (found.power, found.trouble) == (power, trouble), phase


def test_stopped_in_cur_state_during_a_pull_is_no_trouble() -> None:
    row = RUNNING | {"actual_status": "loading", "cur_state": "stopped", "status_msg": "pulling image"}
    assert parse.instance(row).trouble is None


@pytest.mark.parametrize(
    ("ports", "direct"),
    [
        (None, None), ({}, None), ([8080, 8081], None), ("22", None), ({"22/tcp": None}, None), ({"22/tcp": []}, None),
        ({"22/tcp": [{"HostPort": "0"}]}, None), ({"22/tcp": [{"HostPort": "65536"}]}, None),
        ({"22/tcp": [{"HostPort": "-4"}]}, None), ({"22/tcp": [{"HostPort": "22; rm"}]}, None),
        ({"22/tcp": ["30022"]}, None), ({"22/tcp": [{"HostPort": "x"}, {"HostPort": " 30022 "}]}, 30022),
        ({"22/tcp": [{"HostPort": 30022}]}, 30022), ({"22/udp": [{"HostPort": "30022"}]}, None),
    ],
)  # fmt: skip
def test_ports_are_strings_and_often_not_there_yet(ports: object, direct: int | None) -> None:
    found = [e.port for e in parse.instance(RUNNING | {"ports": ports}).endpoints if e.kind == "direct"]
    assert found == ([] if direct is None else [direct])


@pytest.mark.parametrize("address", [" 1.2.3.4 ", "1.2.3.4\n", "\t1.2.3.4"])
def test_addresses_lose_their_white_space(address: str) -> None:
    assert parse.instance(RUNNING | {"public_ipaddr": address}).endpoints[0].host == "1.2.3.4"


@pytest.mark.parametrize(
    "address", ["-oProxyCommand=x", "a b", "", "a;b", "$(id)", "a\nb", "x" * 300, None, 5]
)
def test_an_address_that_could_be_more_than_an_address_is_none(address: object) -> None:
    hosts = {
        e.host for e in parse.instance(RUNNING | {"public_ipaddr": address, "ssh_host": address}).endpoints
    }
    assert hosts == set()


def test_jupyter_runtypes_answer_one_port_up() -> None:
    row = RUNNING | {"image_runtype": "jupyter_direc ssh_direc ssh_proxy", "ports": None}
    assert [e.port for e in parse.instance(row).endpoints] == [37045]
    assert [e.port for e in parse.instance(row | {"ssh_port": 65535}).endpoints] == [65535]


def test_a_proxy_equal_to_the_direct_address_is_not_tried_twice() -> None:
    row = RUNNING | {"ssh_host": "140.228.20.111", "ssh_port": 30022}
    assert len(parse.instance(row).endpoints) == 1


@pytest.mark.parametrize("value", [0, -1, True, None, 1.0, "", "x", "1 ", "１", "9" * 19, 10**400, [1]])
def test_what_is_no_id_is_malformed(value: object) -> None:
    with pytest.raises(parse.Malformed):
        parse.identifier(value, "id")


@pytest.mark.parametrize(("value", "text"), [(7, "7"), ("7", "7"), ("007", "7"), (10**17, str(10**17))])
def test_one_id_has_one_spelling(value: object, text: str) -> None:
    assert parse.identifier(value, "id") == text


# --- anything at all -----------------------------------------------------------------------------

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
    st.sampled_from(["running", "stopped", "22", "\x1b[31m", "\ud800", 10**400, -(10**400), "nan", 1e308, 2**63]),
)  # fmt: skip
JSON = st.recursive(
    SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=6,
)  # fmt: skip


def assert_typed(value: Instance | Offer) -> None:
    """Every field has its declared type, numbers fit the wire, and texts hold nothing that a terminal obeys."""
    assert msgspec.convert(value, type(value), from_attributes=True) == value
    for field in dataclasses.fields(value):
        content = getattr(value, field.name)
        if isinstance(content, int) and not isinstance(content, bool):
            assert -(2**63) <= content < 2**63, field.name
        if isinstance(content, str) and field.name != "label":
            assert content.isprintable(), field.name
            assert len(content) <= 500


@given(st.sampled_from(sorted(RUNNING)), JSON)
def test_any_json_in_any_field_of_an_instance_is_read_or_malformed(field: str, value: object) -> None:
    try:
        row = parse.instance(RUNNING | {field: value})
    except parse.Malformed:
        assert field == "id"
    else:
        assert_typed(row)


@given(st.sampled_from(sorted(OFFER)), JSON)
def test_any_json_in_any_field_of_an_offer_is_read_or_no_offer(field: str, value: object) -> None:
    offer = parse.offer(OFFER | {field: value}, spot=True)
    if offer is not None:
        assert_typed(offer)


@given(JSON)
def test_any_json_instead_of_a_row_is_malformed_or_nearly_empty(value: object) -> None:
    for read in (parse.instance, parse.account):
        with pytest.raises(parse.Malformed):
            read(value)


def test_the_account_has_an_id_and_maybe_money() -> None:
    assert parse.account({"id": 5, "credit": 12.5}).credit == 12_500_000
    assert parse.account({"id": 5, "credit": "soon"}).credit is None
