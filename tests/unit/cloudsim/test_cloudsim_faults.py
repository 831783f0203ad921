"""Fault switches: parsing, counting, choosing the call they hit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucloudsim.engine.model import BootPlan, Quirks
from gpucloudsim.faults import KINDS, Fault, Faults, UnknownFaultError, parse


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("boot_stuck", Fault("boot_stuck")),
        ("lag_create=3", Fault("lag_create", "3")),
        ("create_hang_after*1", Fault("create_hang_after", count=1)),
        ("create_hang_after*1@2", Fault("create_hang_after", count=1, skip=1)),
        ("throttle=list:json:5*2~0.5", Fault("throttle", "list:json:5", count=2, probability=0.5)),
        ("hang_after=*", Fault("hang_after", "*")),
    ],
)
def test_a_setting_is_parsed(text: str, fault: Fault) -> None:
    assert parse(text) == fault


def test_an_unknown_switch_is_named() -> None:
    with pytest.raises(UnknownFaultError, match="boot_stukc"):
        parse("boot_stukc")


def test_every_switch_is_explained_and_shorthands_lead_to_real_ones() -> None:
    for name, kind in KINDS.items():
        assert kind.doc, name
        assert not kind.base or kind.base in KINDS, name


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 20))
def test_a_fault_hits_so_many_calls_from_the_kth_on(skip: int, count: int, calls: int) -> None:
    faults = Faults(1, [Fault("list_empty", count=count, skip=skip)])
    hits = [faults.take("list_empty") is not None for _ in range(calls)]
    assert hits == [skip <= i < skip + count for i in range(calls)]


def test_a_probability_hits_some_calls_and_the_same_ones_for_a_seed() -> None:
    def run() -> list[bool]:
        faults = Faults(3, [Fault("list_empty", probability=0.5)])
        return [faults.take("list_empty") is not None for _ in range(200)]

    assert 60 < sum(run()) < 140
    assert run() == run()


def test_a_general_switch_hits_only_its_endpoint_and_a_shorthand_is_the_same_thing() -> None:
    faults = Faults(1, [Fault("status_after", "list:503"), Fault("create_502_after")])
    assert faults.take("status_after", "show") is None
    assert faults.take("status_after", "list") == "503"
    assert faults.take("status_after", "create") == "502"
    assert Faults(1, [Fault("hang_after", "*")]).take("hang_after", "anything") == ""


def test_box_switches_are_drawn_into_quirks_and_used_up() -> None:
    faults = Faults(
        1, [parse("boot_oci_error*1"), parse("smi=na*1"), parse("disk_full=1000"), parse("ssh_denied=0")]
    )
    first, second = faults.draw_quirks(), faults.draw_quirks()
    assert (first.boot, first.smi, first.quota_bytes, first.ssh_denied) == (BootPlan.OCI_ERROR, "na", 1000, 0)
    assert (second.boot, second.smi, second.quota_bytes) == (BootPlan.NORMAL, "", 1000)
    assert Faults(1).draw_quirks() == Quirks()
