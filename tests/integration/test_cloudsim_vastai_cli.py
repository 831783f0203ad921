"""The vendor's own CLI (vastai, as released) takes the simulator for the real service."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cloudsim_fixtures import Simulator

pytest_plugins = ["cloudsim_fixtures"]


@pytest.fixture(scope="module")
def instance(simulator: Simulator) -> int:
    """One instance made by the CLI itself."""
    offers = simulator.vastai("search", "offers", "gpu_name=RTX_4090 num_gpus=1 reliability>0.9", "-o", "dph")
    assert offers
    made = simulator.vastai(
        "create", "instance", str(offers[0]["id"]), "--image", "pytorch/pytorch", "--disk", "20", "--ssh", "--direct",
        "--label", "from-the-cli", "--env", "-e NAME=value -p 8080:8080", "--onstart-cmd", "echo hello $NAME",
    )  # fmt: skip
    assert made["success"] is True
    assert len(made["instance_api_key"]) == 64
    simulator.wait(made["new_contract"], "running", ssh=True)
    return int(made["new_contract"])


def test_search_returns_priced_offers_in_the_order_asked(simulator: Simulator) -> None:
    offers = simulator.vastai("search", "offers", "num_gpus=1 gpu_ram>=23", "-o", "dph", "--storage", "100")
    prices = [offer["dph_total"] for offer in offers]
    assert prices == sorted(prices)
    assert 20 < len(offers) <= 64
    first = offers[0]
    assert first["gpu_ram"] >= 23_000
    assert first["dph_total"] == pytest.approx(first["dph_base"] + first["storage_cost"] * 100 / 720)


def test_created_instance_is_shown_by_both_reads(simulator: Simulator, instance: int) -> None:
    listed = simulator.vastai("show", "instances")
    shown = simulator.vastai("show", "instance", str(instance))
    assert [row["id"] for row in listed] == [instance]
    for row in (listed[0], shown):
        assert row["actual_status"] == "running"
        assert row["label"] == "from-the-cli"
        assert row["extra_env"] == {"NAME": "value", "-p 8080:8080": "1"}
        assert row["ports"]["22/tcp"][0]["HostPort"].isdigit()


def test_label_is_changed_and_can_be_filtered(simulator: Simulator, instance: int) -> None:
    simulator.vastai("label", "instance", str(instance), "renamed")
    assert [row["id"] for row in simulator.vastai("show", "instances", "--label", "renamed")] == [instance]
    assert simulator.vastai("show", "instances", "--label", "from-the-cli") == []


def test_ssh_url_leads_to_the_box(simulator: Simulator, instance: int) -> None:
    assert (
        str(simulator.vastai("ssh-url", str(instance))).strip()
        == f"ssh://root@127.0.0.1:{simulator.port(instance)}"
    )


def test_logs_come_from_the_result_url_once_it_is_uploaded(simulator: Simulator, instance: int) -> None:
    assert "hello value" in simulator.vastai("logs", str(instance))


def test_credit_is_shown_without_the_key(simulator: Simulator, instance: int) -> None:
    user = simulator.vastai("show", "user")
    assert 24 < user["credit"] < 25
    assert "api_key" not in user


def test_stop_and_start_keep_the_instance(simulator: Simulator, instance: int) -> None:
    assert "stopping instance" in simulator.vastai("stop", "instance", str(instance))
    simulator.wait(instance, "stopped")
    assert simulator.vastai("show", "instance", str(instance))["actual_status"] == "exited"
    assert "starting instance" in simulator.vastai("start", "instance", str(instance))
    simulator.wait(instance, "running", ssh=True)


def test_destroy_ends_it_and_a_missing_instance_is_null(simulator: Simulator, instance: int) -> None:
    simulator.vastai("destroy", "instance", str(instance), "-y")
    assert simulator.vastai("show", "instances") == []
    assert simulator.vastai("show", "instance", str(instance), check=False) == {"instances": None}
    charges = simulator.vastai("show", "invoices-v1", "--charges")
    assert f"instance-{instance}" in str(charges)


def test_a_taken_offer_and_a_wrong_key_are_reported_by_the_cli(simulator: Simulator) -> None:
    offer = simulator.offer("RTX 3090")["id"]
    _, made = simulator.call("PUT", f"/api/v0/asks/{offer}/", {"image": "x", "disk": 10})
    again = simulator.vastai("create", "instance", str(offer), "--image", "x", "--disk", "10", check=False)
    assert again["status_code"] == 410
    assert "no_such_ask" in again["msg"]
    simulator.call("DELETE", f"/api/v0/instances/{made['new_contract']}/")
    refused = simulator.vastai("show", "user", "--api-key", "wrong", check=False)
    assert refused["status_code"] == 404
    assert refused["msg"] == "Invalid user key"


def test_a_bid_is_changed_and_the_market_decides(simulator: Simulator) -> None:
    offers = simulator.vastai("search", "offers", "gpu_name=RTX_3090 num_gpus=1", "--type", "bid")
    high = str(round(offers[0]["min_bid"] * 3, 4))
    made = simulator.vastai(
        "create",
        "instance",
        str(offers[0]["id"]),
        "--image",
        "x",
        "--disk",
        "10",
        "--ssh",
        "--bid_price",
        high,
    )
    number = made["new_contract"]
    simulator.wait(number, "running")
    simulator.vastai("change", "bid", str(number), "--price", "0.001")
    simulator.wait(number, "outbid")
    row = simulator.vastai("show", "instance", str(number))
    assert (row["is_bid"], row["intended_status"], row["min_bid"]) == (True, "stopped", 0.001)
    simulator.vastai("change", "bid", str(number), "--price", high)
    simulator.wait(number, "running")
    simulator.vastai("destroy", "instance", str(number), "-y")


def test_money_is_shown_as_charges_and_as_invoices(simulator: Simulator) -> None:
    assert "stripe_payments" in str(simulator.vastai("show", "invoices-v1", "--invoices"))
    assert simulator.vastai("show", "user")["credit"] < 25
