"""Rows of the Vast API: arithmetic, types and words that clients rely on."""

from __future__ import annotations

import json

import pytest

from gpucloudsim.engine import lifecycle
from gpucloudsim.engine.market import HOUR, MARKET_EPOCH, SECOND
from gpucloudsim.engine.model import BootPlan, Instance, Phase, Quirks, RentRequest, Want, World
from gpucloudsim.faces.vast.rows import instance_row, offer_row, status

PLAIN = Quirks()
NOW = MARKET_EPOCH + 300 * 24 * HOUR


def made(quirks: Quirks = PLAIN, **request: object) -> tuple[World, Instance]:
    world = World(1, NOW, 25_000_000, clock_us=NOW)
    offer = lifecycle.offers(world, NOW)[0]
    return world, lifecycle.rent(world, offer.offer_id, RentRequest("a/b:c", 20.0, **request), quirks, NOW)  # type: ignore[arg-type]


def row_of(world: World, instance: Instance, now: int = NOW) -> dict[str, object]:
    machine = lifecycle.the_market(world).machines[instance.machine_index]
    return instance_row(instance, machine, now, (22001, 22002), None, None, 1.0)


def test_prices_of_an_offer_add_up_as_in_recorded_data() -> None:
    for offer in lifecycle.offers(World(1, NOW, 0), NOW):
        for bid in (False, True):
            row = offer_row(offer, bid, 50.0, NOW)
            disk = row["storage_cost"] * 50 / 720
            assert row["search"]["diskHour"] == pytest.approx(disk)
            assert row["dph_total"] == pytest.approx(row["dph_base"] + disk)
            assert row["dph_total_adj"] == pytest.approx(
                row["dph_total"] + row["inet_up_cost"] + row["inet_down_cost"]
            )
            assert row["id"] == row["ask_contract_id"]
            assert row["dph_base"] == pytest.approx(row["min_bid"]) or not bid
            json.dumps(row)


@pytest.mark.parametrize(
    ("phase", "want", "boots", "expected"),
    [
        (Phase.CREATED, Want.RUNNING, 0, (None, "running", "running")),
        (Phase.RUNNING, Want.RUNNING, 1, ("running", "running", "running")),
        (Phase.STOPPING, Want.STOPPED, 1, ("running", "stopped", "stopped")),
        (Phase.STOPPED, Want.STOPPED, 1, ("exited", "stopped", "stopped")),
        (Phase.STOPPED, Want.STOPPED, 0, (None, "stopped", "stopped")),
        (Phase.RESUMING, Want.RUNNING, 1, ("exited", "running", "running")),
        (Phase.OUTBID, Want.RUNNING, 1, ("exited", "stopped", "stopped")),
        (Phase.FAILED, Want.STOPPED, 0, ("loading", "stopped", "stopped")),
    ],
)
def test_each_phase_has_the_words_that_were_observed(
    phase: Phase, want: Want, boots: int, expected: tuple[str | None, str, str]
) -> None:
    _, instance = made()
    instance.phase, instance.want, instance.boots = phase, want, boots
    words = status(instance, NOW)
    assert (words["actual_status"], words["intended_status"], words["cur_state"]) == expected
    assert words["next_state"] == words["intended_status"]


def test_an_oci_failure_is_created_and_stopped_with_the_daemons_text() -> None:
    world, instance = made(Quirks(boot=BootPlan.OCI_ERROR))
    lifecycle.advance(world, NOW + 10 * SECOND)
    words = status(instance, NOW)
    assert (words["actual_status"], words["intended_status"]) == ("created", "stopped")
    assert "OCI runtime create failed" in str(words["status_msg"])


def test_ports_are_null_then_empty_then_filled_with_strings() -> None:
    world, instance = made(
        runtype="ssh_direc ssh_proxy", env={"-p 8080:9090": "1", "-p 70001:70001/udp": "1", "A": "b"}
    )
    assert row_of(world, instance)["ports"] is None
    lifecycle.advance(world, NOW + SECOND)
    assert row_of(world, instance)["ports"] == {}
    lifecycle.advance(world, NOW + 3 * SECOND)
    row = row_of(world, instance)
    ports = row["ports"]
    assert isinstance(ports, dict)
    assert set(ports) == {"22/tcp", "9090/tcp", "70001/udp"}
    assert ports["22/tcp"][0] == {"HostIp": "0.0.0.0", "HostPort": "22001"}
    assert row["ssh_port"] == 22002


def test_jupyter_reports_the_proxy_port_one_too_low_and_a_plain_proxy_has_no_direct_port() -> None:
    world, instance = made(runtype="jupyter_direc ssh_direc ssh_proxy")
    lifecycle.advance(world, NOW + 3 * SECOND)
    assert row_of(world, instance)["ssh_port"] == 22001
    world, instance = made(runtype="ssh_proxy")
    lifecycle.advance(world, NOW + 3 * SECOND)
    assert "22/tcp" not in row_of(world, instance)["ports"]  # type: ignore[operator]
