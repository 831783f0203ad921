"""Costs to the micro-dollar, forecasts from steps, and a runway that leaves time for the copies."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuwatch.budget.cost import Cost, day_start, of_machine, of_run, spent_since, stopped_price
from gpuwatch.budget.forecast import RESERVE, SLOW_COPY, forecast, runway, seconds_left
from gpuwatch.lifecycle.run import Machine, Pause, Run, State
from gpuwatch.telemetry.history import Point
from gpuwatch.telemetry.sample import JobProgress

HOUR = 3600.0
USD = 1_000_000


def machine(rented: float | None = 0.0, gone: float | None = None, **more: Any) -> Machine:
    return Machine(
        label="l", provider="vast", offer_id="1", machine_id="2", gpu="H100", gpu_count=1, gpu_memory=1, price=2_500_000,
        disk_price=100_000, chosen_at=0.0, rented_at=rented, gone_at=gone, **more,
    )  # fmt: skip


def run(current: Machine | None, *past: Machine, **more: Any) -> Run:
    made = Run(
        id="r", name="r", state=State.RUNNING, spec="", file="", base="", key="", created_at=0.0, since=0.0
    )
    return msgspec.structs.replace(made, machine=current, past=past, **more)


# --- costs ---------------------------------------------------------------------------------------


def test_gpu_and_disk_are_told_apart_and_add_up_to_the_price() -> None:
    cost = of_machine(machine(), 0.0, 2 * HOUR)
    assert (cost.gpu, cost.disk, cost.total) == (4_800_000, 200_000, 5_000_000)


def test_a_machine_costs_until_it_is_confirmed_gone() -> None:
    assert of_machine(machine(gone=HOUR), 0.0, 9 * HOUR).total == 2_500_000
    assert of_machine(machine(rented=None), 0.0, HOUR) == Cost()


def test_duds_and_lost_machines_are_part_of_a_run() -> None:
    assert of_run(run(machine(HOUR), machine(0.0, 0.5 * HOUR)), 2 * HOUR).total == 2_500_000 + 1_250_000


def test_traffic_is_counted_by_the_hosts_price_and_unknown_stays_unknown() -> None:
    assert of_run(run(machine(transfer_price=20_000), verified_bytes=12_500_000_000), 0.0).traffic == 250_000
    assert of_run(run(machine(), verified_bytes=12_500_000_000), 0.0).traffic is None
    assert of_run(run(machine()), 0.0).traffic == 0


def test_a_day_counts_only_its_own_hours() -> None:
    now = day_start(10_000_000.0) + 3 * HOUR
    runs = [
        run(machine(now - 30 * HOUR)),
        run(machine(now - HOUR)),
        run(machine(now - 40 * HOUR, now - 20 * HOUR)),
    ]
    assert spent_since(runs, day_start(now), now) == 3 * 2_500_000 + 2_500_000


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), max_size=5),
    st.floats(0, 1e6),
    st.floats(0, 1e6),
)
def test_parts_of_a_time_never_cost_less_than_the_whole(
    spans: list[tuple[float, float]], cut: float, now: float
) -> None:
    runs = [run(machine(min(a, b), max(a, b))) for a, b in spans]
    whole = spent_since(runs, 0.0, now)
    parts = spent_since(runs, 0.0, min(cut, now)) + spent_since(runs, min(cut, now), now)
    assert whole <= parts <= whole + 4 * len(runs)  # each part is rounded up


# --- forecast ------------------------------------------------------------------------------------


def steps(per_minute: float, count: int = 10) -> list[Point]:
    return [Point(60.0 * i, 60.0, v, v, v) for i in range(count) for v in [per_minute * i]]


def test_the_end_of_the_job_and_its_price() -> None:
    found = forecast(JobProgress(step=400, steps=1000), steps(10.0), 2_500_000, age=0.0)
    assert found is not None
    assert (round(found.seconds), found.cost) == (3600, 2_500_000)
    assert found.words() == "$2.50 more, done in 60 min"


@pytest.mark.parametrize(
    ("progress", "minutes", "left"),
    [
        (JobProgress(step=5), steps(10.0), None), (JobProgress(steps=5), steps(10.0), None),
        (JobProgress(step=9, steps=9), steps(10.0), 0.0), (JobProgress(step=5, steps=9), steps(10.0, 2), None),
        (JobProgress(step=5, steps=9), steps(0.0), None), (JobProgress(step=5, steps=9, eta=77.0), [], 77.0),
        (JobProgress(eta=77.0), [], 77.0),
    ],
    ids=["no end", "no step", "done", "too short", "stands still", "says so", "only says so"],
)  # fmt: skip
def test_no_end_is_made_up(progress: JobProgress, minutes: list[Point], left: float | None) -> None:
    assert seconds_left(progress, minutes) == left


# --- runway --------------------------------------------------------------------------------------


def test_the_runway_is_balance_over_burn_less_the_copies() -> None:
    found = runway(24 * USD, 4 * USD, [(40_000_000_000, 50_000_000.0), (0, None)])
    assert found is not None
    assert (found.seconds, found.copies) == (6 * HOUR, 1200.0)
    assert found.copy_in == 6 * HOUR - 1200 - RESERVE
    assert not found.alarming


def test_it_alarms_while_there_is_time_for_the_copies() -> None:
    found = runway(10 * USD, 4 * USD, [(60_000_000_000, None)])
    assert found is not None
    assert found.copies == 1.5 * 60e9 / SLOW_COPY
    assert found.alarming
    assert "too short" in found.words()


def test_unknown_exposure_is_not_nothing() -> None:
    found = runway(10 * USD, 4 * USD, [(None, None)])
    assert found is not None
    assert found.copies == HOUR


def test_without_balance_or_burn_there_is_no_runway() -> None:
    assert runway(None, 4 * USD, []) is None
    assert runway(10 * USD, 0, []) is None


def test_a_machine_that_is_stopped_costs_its_disk_only_and_twice_that_at_runpod() -> None:
    ran = machine(pauses=(Pause(since=HOUR, until=2 * HOUR), Pause(since=3 * HOUR)))
    cost = of_machine(ran, 0.0, 4 * HOUR)
    assert (cost.gpu, cost.disk) == (2 * 2_400_000, 4 * 100_000)
    assert of_machine(ran, HOUR, 2 * HOUR).gpu == 0
    pod = msgspec.structs.replace(ran, provider="runpod")
    assert (of_machine(pod, 0.0, 4 * HOUR).disk, stopped_price(pod)) == (6 * 100_000, 200_000)
