"""RunPod's JSON, well-formed and hostile, as our types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuproviders import keys
from gpuproviders.checked import Malformed, rfc3339
from gpuproviders.model import GB, Account, Power, Stock, Trouble
from gpuproviders.runpod import balance, command, parse, quota
from gpuproviders.runpod.transport import BadAddress, checked_url

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=6),
    max_leaves=20,
)
POD: dict[str, Any] = {
    "id": "7h9k2m4n6p", "name": "gputui-run-1-ab", "image": "runpod/pytorch:1.0.2", "env": {"A": "b"}, "status": "RUNNING",
    "mounts": {"persistent": {"size": 20, "path": "/workspace"}}, "gpu": {"id": "NVIDIA GeForce RTX 4090", "count": 1},
    "ssh": {"proxy": {"host": "ssh.runpod.io", "port": 22, "username": "x-64", "command": "…"},
            "direct": {"host": "195.26.233.3", "port": 34446, "username": "root", "command": "…"}},
    "cost": 0.44, "runtime": {"uptime": 3600}, "createdAt": "2026-06-01T12:00:00Z", "startedAt": "2026-06-01T12:02:00Z",
}  # fmt: skip
ROW: dict[str, Any] = {
    "id": "NVIDIA GeForce RTX 4090", "name": "RTX 4090", "pool": "ADA_24", "manufacturer": "NVIDIA", "memory": 24,
    "secure": True, "community": True, "price": {"secure": 0.44, "community": 0.31}, "maxCount": {"secure": 8, "community": 4},
    "availability": "HIGH", "dataCenters": [{"id": "US-KS-2", "name": "US Kansas 2", "availability": "LOW"},
                                            {"id": "EU-RO-1", "name": "EU Romania 1", "availability": "NONE"}],
    "cudaVersions": [{"version": "12.4", "available": True}, {"version": "12.8", "available": True}, {"version": "13.0", "available": False}],
}  # fmt: skip


def offers(row: object, *, secure: bool = True, count: int = 1) -> list[Any]:
    return list(parse.offers(row, secure=secure, count=count, disk=100 * GB))


def test_the_vendors_own_example_is_read_whole() -> None:
    pod = parse.instance(POD)
    assert (pod.instance_id, pod.label, pod.power, pod.gpu_name, pod.gpu_count) == (
        "7h9k2m4n6p",
        "gputui-run-1-ab",
        Power.RUNNING,
        "RTX 4090",
        1,
    )
    assert (pod.endpoints[0].host, pod.endpoints[0].port, pod.endpoints[0].user) == (
        "195.26.233.3",
        34446,
        "root",
    )
    assert (pod.price, pod.trouble, pod.wanted) == (440_000, None, None)
    (offer,) = offers(ROW)
    assert (offer.offer_id, offer.region, offer.stock, offer.cuda) == (
        "secure.US-KS-2.1.NVIDIA_GeForce_RTX_4090",
        "US-KS-2",
        Stock.LOW,
        "12.8",
    )
    assert (offer.price, offer.disk_price) == (440_000 + 120 * 100_000 // 720, 100 * 200_000 // 720)
    assert parse.chosen(offer.offer_id) == (True, "US-KS-2", 1, "NVIDIA GeForce RTX 4090")


@pytest.mark.parametrize(
    ("change", "power", "trouble", "ports"),
    [({"status": "PROVISIONING", "runtime": {}}, Power.STARTING, None, 0), ({"status": "STARTING"}, Power.STARTING, None, 0),
     ({"runtime": None}, Power.STARTING, None, 0), ({"runtime": {}}, Power.STARTING, None, 0),
     ({"ssh": {"proxy": None, "direct": None}}, Power.RUNNING, None, 0), ({"status": "EXITED"}, Power.STOPPED, Trouble.GAVE_UP, 0),
     ({"status": "ERROR"}, Power.STOPPED, Trouble.CONTAINER, 0), ({"status": "MIGRATING"}, Power.UNKNOWN, None, 0),
     ({"status": 7}, Power.UNKNOWN, None, 0), ({"ssh": {"direct": {"host": "a b", "port": 22}}}, Power.RUNNING, None, 0),
     ({"ssh": {"direct": {"host": "1.2.3.4", "port": "22", "username": "x; rm"}}}, Power.RUNNING, None, 1)],
)  # fmt: skip
def test_a_pod_is_running_only_with_a_runtime_and_has_ssh_only_then(
    change: dict[str, Any], power: Power, trouble: Trouble | None, ports: int
) -> None:
    pod = parse.instance(POD | change)
    assert (pod.power, pod.trouble, len(pod.endpoints)) == (power, trouble, ports)
    assert all(at.user == "root" for at in pod.endpoints)


def test_the_label_in_the_environment_outlives_a_renaming() -> None:
    assert parse.instance(POD | {"name": "renamed", "env": {parse.LABEL: "gputui-x"}}).label == "gputui-x"
    assert parse.instance(POD | {"name": 17, "env": None}).label is None


@pytest.mark.parametrize("value", [None, [], {}, {"id": ""}, {"id": 3}, {"id": "../other"}, {"id": "a" * 65}])
def test_a_pod_without_a_proper_id_is_malformed(value: object) -> None:
    with pytest.raises(Malformed):
        parse.instance(value)


@pytest.mark.parametrize(
    ("change", "count", "found"),
    [({"id": "unknown", "memory": 0}, 1, 0), ({"secure": False}, 1, 0), ({"price": {"secure": 0}}, 1, 0), ({"price": None}, 1, 0),
     ({}, 16, 0), ({"maxCount": None}, 16, 1), ({"availability": "NONE"}, 1, 1), ({"dataCenters": []}, 1, 1),
     ({"dataCenters": None, "availability": "NONE"}, 1, 0), ({"id": "a_b"}, 1, 0), ({"memory": "24"}, 1, 1),
     ({"dataCenters": [{"id": "../x", "availability": "HIGH"}], "availability": None}, 1, 0)],
)  # fmt: skip
def test_flags_decide_what_is_sold_and_data_centres_what_there_is(
    change: dict[str, Any], count: int, found: int
) -> None:
    assert len(offers(ROW | change, count=count)) == found


@pytest.mark.parametrize(
    "text",
    ["", "secure", "secure.US.1", "secure.US.x.GPU", "other.US.1.GPU", "secure.US.1.GPU name", "123456"],
)
def test_an_offer_id_of_somebody_else_is_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        parse.chosen(text)


@pytest.mark.parametrize(
    "body",
    [None, [], {}, {"pods": None}, {"pods": {}}, {"pods": [], "pagination": {}}, {"pods": [], "pagination": []},
     {"pods": [], "pagination": {"hasNextPage": True, "nextCursor": None}}, {"pods": [], "pagination": {"hasNextPage": "no"}}],
)  # fmt: skip
def test_what_is_no_page_is_never_an_empty_one(body: object) -> None:
    with pytest.raises(Malformed):
        parse.page(body)


def test_pages() -> None:
    assert parse.page({"pods": [1]}) == ([1], None)
    assert parse.page({"pods": [1], "pagination": {"hasNextPage": False, "nextCursor": "x"}}) == ([1], None)
    assert parse.page({"pods": [1], "pagination": {"hasNextPage": True, "nextCursor": "x"}}) == ([1], "x")


@given(JSON)
def test_no_json_breaks_a_parser(value: Any) -> None:
    for read in (parse.instance, parse.page, lambda v: offers(v), parse.keeps_data, parse.terminated):
        try:
            read(value)
        except Malformed:
            continue
    for name in ("ssh", "gpu", "runtime", "env", "mounts", "cost", "status", "startedAt", "name"):
        assert parse.instance(POD | {name: value}).instance_id == "7h9k2m4n6p"
    for name in ROW:
        offers(ROW | {name: value})
    if isinstance(value, dict):
        balance.read(value)
    assert isinstance(balance.read({"myself": value}), balance.Money)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_log_reader(data: bytes) -> None:
    line = parse.log_line(b"data:" + data)
    assert line is None or all(c.isprintable() for c in line)


def test_log_lines() -> None:
    assert parse.log_line(b'data: {"ts":"x","source":"container","line":"a\\u001b[31mb"}') == "a?[31mb"
    assert (
        parse.log_line(b'data: {"source":"system","line":"create container IMG"}')
        == "[host] create container IMG"
    )
    assert parse.log_line(b"id: 2026") is None


# --- quotas --------------------------------------------------------------------------------------


def test_every_empty_window_is_waited_for() -> None:
    known = quota.windows('"minute";r=12;t=44, "hour";r=0;t=1724, "day";r=31839;t=23324', 100.0)
    assert [(w.name, w.left, w.ends) for w in known] == [
        ("minute", 12, 144.0),
        ("hour", 0, 1824.0),
        ("day", 31839, 23424.0),
    ]
    assert quota.pause(known, 100.0) == 1724.0
    assert quota.pause(known, 1824.0) == 0.0
    assert quota.retry_after({"Retry-After": "44"}, known, 100.0) == 1724.0
    assert quota.retry_after({"Retry-After": "soon"}, (), 100.0) is None
    assert quota.retry_after({"Retry-After": "-5"}, (), 100.0) is None


def test_reads_leave_the_last_of_the_minute_to_writes() -> None:
    known = quota.windows('"minute";r=10;t=30', 0.0)
    assert quota.pause(known, 0.0) == 0.0
    assert quota.pause(known, 0.0, reserve=quota.RESERVE) == 30.0


@given(st.text(max_size=600), st.floats(0, 1e6))
def test_no_header_breaks_the_quota(header: str, now: float) -> None:
    assert quota.pause(quota.windows(header, now), now) >= 0


# --- the rest ------------------------------------------------------------------------------------


def test_the_command_keeps_sshd_and_leaves_official_images_alone() -> None:
    assert command.command("runpod/pytorch:1", None) is None
    for image, onstart in (("runpod/pytorch:1", "echo {x}"), ("ubuntu", None)):
        made = command.command(image, onstart)
        assert made is not None
        script = made[1][0]
        assert "exec /start.sh" in script
        assert "sshd" in script.splitlines()[-3]
        assert (onstart or "") in script


@pytest.mark.parametrize(
    ("value", "ok"), [("https://api.runpod.io/", True), ("http://127.0.0.1:9", True), ("http://localhost", True),
                      ("http://api.runpod.io", False), ("ftp://x", False), ("http://127.0.0.1.evil.org", False), ("", False)],
)  # fmt: skip
def test_a_key_never_travels_in_the_clear(value: str, ok: bool) -> None:
    if ok:
        assert checked_url(value) == value.rstrip("/")
    else:
        with pytest.raises(BadAddress):
            checked_url(value)


def test_an_account_is_the_same_only_when_that_is_sure() -> None:
    one = Account("runpod", None, None, key_id="a")
    assert one.same_as(Account("runpod", "user_1", None, key_id="a"))
    assert not one.same_as(Account("runpod", None, None, key_id="b"))
    assert not one.same_as(Account("runpod", "user_1", None, key_id="b"))
    assert Account("vast", "7", None).same_as(Account("vast", "7", None))
    assert not Account("vast", None, None).same_as(Account("vast", None, None))


@pytest.mark.parametrize(
    ("value", "year"),
    [
        ("2026-06-01T12:00:00Z", 2026),
        ("2026-06-01T12:00:00", 2026),
        ("later", None),
        (7, None),
        ("0001-01-01T00:00:00+14:00", None),
    ],
)
def test_times_are_utc_or_unknown(value: object, year: int | None) -> None:
    found = rfc3339(value)
    assert (found.year if found else None) == year


def test_the_key_is_found_where_each_tool_leaves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUNPOD_API_KEY", "VAST_API_KEY", "GPUTUI_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / ".config"))
    assert keys.runpod() is None
    file = tmp_path / ".runpod" / "config.toml"
    file.parent.mkdir()
    for text, found in (('apikey = "from-ctl"', "from-ctl"), ('[default]\napi_key = "from-sdk"', "from-sdk"),
                        ("[default]\n", None), ("not toml [", None), ("[default]\napi_key = 7", None)):  # fmt: skip
        file.write_text(text)
        assert keys.runpod() == found
    path = keys.store("runpod", "from-login")
    assert path.stat().st_mode & 0o777 == 0o600
    assert keys.runpod() == "from-login"
    path.chmod(0o644)
    assert keys.runpod() is None, "a file that others can read is not used"
    monkeypatch.setenv("RUNPOD_API_KEY", " from-env ")
    assert keys.runpod() == "from-env"
    assert json.dumps(keys.fingerprint("from-env")).count("from") == 0
