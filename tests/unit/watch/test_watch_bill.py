"""The vendor's bill beside our own cost: what is known, what differs, and why it cannot be told."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gpuproviders.checked import Malformed
from gpuproviders.model import Charge, added_up
from gpuproviders.money import MicroUsd
from gpuproviders.runpod import parse as runpod
from gpuproviders.vast import parse as vast
from gputui.verbs.money import billed
from gpuwatch.budget.bill import SETTLED, compare, shared_machines
from gpuwatch.client import wire
from gpuwatch.lifecycle.run import Machine, Run, State

HOUR = 3600.0
NOW = 100 * HOUR


def machine(number: str = "7", *, gone: float | None = HOUR, **more: Any) -> Machine:
    return Machine(
        label=f"l{number}", provider="vast", offer_id="1", machine_id="2", gpu="H100", gpu_count=1, gpu_memory=1, price=2_000_000,
        disk_price=100_000, chosen_at=0.0, rented_at=0.0, gone_at=gone, instance_id=number, **more,
    )  # fmt: skip


def run(current: Machine | None, *past: Machine, name: str = "r") -> Run:
    made = Run(
        id=name, name=name, state=State.GONE, spec="", file="", base="", key="", created_at=0.0, since=0.0
    )
    return msgspec.structs.replace(made, machine=current, past=past)


def told(**amounts: int) -> dict[str, dict[str, Charge] | str]:
    return {"vast": {n[1:]: Charge(n[1:], MicroUsd(a)) for n, a in amounts.items()}}


def test_what_was_charged_is_compared_to_the_micro_dollar_over_all_machines_of_a_run() -> None:
    bill = compare(run(machine("8"), machine("7")), told(i7=2_000_000, i8=1_900_000), (), NOW)
    assert (bill.billed, bill.difference, bill.note) == (3_900_000, -100_000, "")


@pytest.mark.parametrize(
    ("of", "charges", "shared", "billed_", "why"),
    [
        (run(None), told(), (), None, "no machine was rented"),
        (run(machine()), {}, (), None, "tells no charges"),
        (run(machine()), {"vast": "vast does not tell its charges: 500"}, (), None, "does not tell its charges: 500"),
        (run(machine()), told(i9=1), (), None, "not on the bill yet"),
        (run(machine("8"), machine("7")), told(i7=5), (), None, "instance 8 is not on the bill yet"),
        (run(machine(gone=None)), told(i7=5), (), 5, "still running"),
        (run(machine()), told(i7=5), ("vast:7",), 5, "another run"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_unknown_and_says_why(
    of: Run, charges: Any, shared: Any, billed_: int | None, why: str
) -> None:
    bill = compare(of, charges, shared, NOW)
    assert (bill.billed, bill.difference) == (billed_, None)
    assert why in bill.note


def test_traffic_of_unknown_price_is_no_difference_and_a_young_end_may_still_grow() -> None:
    brought = msgspec.structs.replace(run(machine(transfer_price=None)), verified_bytes=10**9)
    assert compare(brought, told(i7=5), (), NOW).difference is None
    young = compare(run(machine()), told(i7=2_000_000), (), HOUR + SETTLED - 1)
    assert (young.difference, "may still grow" in young.note) == (0, True)


def test_a_machine_that_two_runs_had_in_turn_is_known() -> None:
    runs = [run(machine("8"), machine("7")), run(machine("7"), name="r-back1"), run(machine("9"), name="x")]
    assert shared_machines(runs) == {"vast:7"}


def test_rows_of_one_instance_are_added_up() -> None:
    rows = [Charge("7", MicroUsd(2), 10.0), Charge("8", MicroUsd(1)), Charge("7", MicroUsd(3), 5.0)]
    assert added_up(rows) == (Charge("7", MicroUsd(5), 10.0), Charge("8", MicroUsd(1)))


ROW = {"source": "instance-7", "amount": 1.25, "end": 5.0}


def test_a_page_of_vasts_charges() -> None:
    page = {"success": True, "results": [ROW, {"source": "volume-3", "amount": 9}], "next_token": "t"}
    assert vast.charges(page) == ([Charge("7", MicroUsd(1_250_000), 5.0)], "t")


@pytest.mark.parametrize(
    "body",
    [None, [], {}, {"success": False, "results": [], "next_token": None}, {"success": True, "results": None, "next_token": None},
     {"success": True, "results": [1], "next_token": None}, {"success": True, "results": [ROW | {"amount": "x"}], "next_token": None},
     {"success": True, "results": [ROW | {"source": "instance-../x"}], "next_token": None}, {"success": True, "results": [], "next_token": 3}],
)  # fmt: skip
def test_what_is_no_page_of_charges_is_malformed_and_not_nothing(body: Any) -> None:
    with pytest.raises(Malformed):
        vast.charges(body)


def test_the_records_of_runpods_billing() -> None:
    record = {"podId": "abc123", "totalAmount": 0.5, "endTime": "2026-11-20T00:00:00Z"}
    (charge,) = runpod.charges({"records": [record]})
    assert (charge.instance_id, charge.amount) == ("abc123", 500_000)
    assert charge.until is not None
    for body in (
        {"records": None},
        {"records": [{"podId": "abc123"}]},
        {"records": [{"totalAmount": 1}]},
        [],
        None,
    ):
        with pytest.raises(Malformed):
            runpod.charges(body)


@pytest.mark.parametrize(
    ("billed_", "difference", "note", "said"),
    [(None, None, "x", "unknown"), (500_000, None, "still running: so far", "$0.50 so far"), (500_000, 9_000, "", "$0.50 (same)"),
     (500_000, -100_000, "", "$0.50 (-$0.10)"), (500_000, 100_000, "", "$0.50 (+$0.10)")],
)  # fmt: skip
def test_the_bill_in_a_cell(billed_: int | None, difference: int | None, note: str, said: str) -> None:
    row = wire.CostRow(
        run="r", name="r", state="gone", machines=1, gpu=1, disk=1, traffic=0, total=2, burn=0, ceiling=None, more=None, seconds=None,
        billed=billed_, difference=difference, bill_note=note,
    )  # fmt: skip
    assert billed(row) == said
