"""Alarms: each with the situation that raises it and its nearest neighbour that must not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuwatch.telemetry import alarms
from gpuwatch.telemetry.alarms import Severity
from gpuwatch.telemetry.history import Point
from gpuwatch.telemetry.sample import (
    Gpus,
    GpuSample,
    JobProgress,
    Processes,
    SmiProblem,
    Throttle,
    Vitals,
    Xid,
)
from gpuwatch.telemetry.watching import Watching

GB = 10**9


def gpu(index: int = 0, **changes: object) -> GpuSample:
    row = GpuSample(
        index=index, uuid=f"GPU-{index}", name="H100", utilisation=95.0, memory_used=70 * GB, memory_total=80 * GB, power=690.0,
        power_limit=700.0, temperature=64.0, clock=1980.0, clock_max=1980.0, throttle=Throttle(0), ecc_errors=0, mig=False,
        lost=False, age=0.5,
    )  # fmt: skip
    return replace(row, **changes)  # type: ignore[arg-type]


def minutes(values: list[float], *, start: float = 0.0, spread: float = 0.0) -> list[Point]:
    return [Point(start + 60.0 * i, 60.0, v - spread, v, v + spread) for i, v in enumerate(values)]


def test_a_machine_that_answers_whole_has_no_gpu_alarm() -> None:
    assert alarms.gpu_alarms(Gpus(rows=(gpu(0), gpu(1)), expected=2), 2) == []


def test_a_gpu_that_vanishes_without_a_word_is_an_alarm() -> None:
    (alarm,) = alarms.gpu_alarms(Gpus(rows=(gpu(0),), expected=1), 2)
    assert (alarm.name, alarm.severity) == ("gpu-lost", Severity.ALARM)
    assert "resume on another machine" in alarm.text


def test_a_lost_gpu_and_a_driver_mismatch_say_what_helps() -> None:
    (lost,) = alarms.gpu_alarms(Gpus(problem=SmiProblem.LOST, detail="GPU 3: no answer for 40 s"), 8)
    (mismatch,) = alarms.gpu_alarms(
        Gpus(problem=SmiProblem.MISMATCH, detail="Driver/library version mismatch"), 8
    )
    assert lost.name == "gpu-lost"
    assert "restart" in mismatch.text


def test_a_box_that_has_not_answered_yet_is_no_alarm() -> None:
    assert alarms.gpu_alarms(Gpus(problem=SmiProblem.NOT_YET), 0) == []


def test_memory_errors_name_the_gpu() -> None:
    (alarm,) = alarms.gpu_alarms(Gpus(rows=(gpu(0), gpu(5, ecc_errors=3))), 2)
    assert (alarm.name, alarm.subject) == ("ecc", "gpu 5")


@pytest.mark.parametrize(
    ("share", "throttle", "raised"),
    [
        (0.5, Throttle.SW_THERMAL, True), (1.0, Throttle.HW_THERMAL | Throttle.POWER_CAP, True),
        (0.1, Throttle.SW_THERMAL, False), (0.9, Throttle.POWER_CAP, False), (None, Throttle.HW_THERMAL, False), (0.9, None, False),
    ],
)  # fmt: skip
def test_heat_is_an_alarm_when_it_lasts_and_a_power_cap_is_none(
    share: float | None, throttle: Throttle | None, raised: bool
) -> None:
    assert (alarms.thermal(0, share, throttle, 88.0) is not None) is raised


def test_hardware_xids_are_alarms_and_the_programs_own_are_warnings() -> None:
    found = alarms.xid_alarms(
        [Xid("0000:01:00", 79), Xid("0000:01:00", 31), Xid("0000:01:00", 79), Xid("0000:02:00", 999)]
    )
    assert [(a.severity, a.subject.split()[1]) for a in found] == [
        (Severity.ALARM, "79"), (Severity.WARN, "31"), (Severity.ALARM, "999"),
    ]  # fmt: skip
    assert "fallen off the bus" in found[0].text


def test_a_disk_that_fills_says_when_it_is_full() -> None:
    free = [50.0 * GB - 1.2 * GB * i for i in range(12)]
    alarm = alarms.disk(int(free[-1]), 150 * GB, minutes(free))
    assert alarm is not None
    assert alarm.text.startswith("the disk is full in 28 min at this rate (1.20 GB a minute")


def test_a_disk_that_swings_with_checkpoints_and_retention_is_no_forecast() -> None:
    swing = [60.0 * GB if i % 2 else 45.0 * GB for i in range(20)]
    assert alarms.disk(45 * GB, 150 * GB, minutes(swing)) is None


def test_a_fall_that_ended_is_no_forecast() -> None:
    free = [90.0 * GB, 70.0 * GB] + [50.0 * GB] * 18
    assert alarms.disk(50 * GB, 150 * GB, minutes(free)) is None


def test_a_full_disk_is_an_alarm_at_once_and_an_unknown_one_is_none() -> None:
    full = alarms.disk(GB, 150 * GB, [])
    assert full is not None
    assert full.severity is Severity.ALARM
    assert alarms.disk(None, None, []) is None
    assert alarms.inodes(10, 1_000_000) is not None
    assert alarms.inodes(900_000, 1_000_000) is None


@given(st.lists(st.floats(0, 1e12), max_size=40), st.integers(0, 10**12))
def test_a_forecast_is_never_made_of_nothing(free: list[float], now: int) -> None:
    alarm = alarms.disk(now, 10**12, minutes(free))
    if alarm is not None and now >= 10**12 * alarms.DISK_LEAST:
        assert len(free) >= 11


def test_memory_near_the_containers_limit_warns() -> None:
    assert alarms.memory(Vitals(memory_used=99 * GB, memory_limit=100 * GB)) is not None
    assert alarms.memory(Vitals(memory_used=90 * GB, memory_limit=100 * GB)) is None
    assert alarms.memory(Vitals(memory_used=99 * GB)) is None


@pytest.mark.parametrize(
    ("progress", "unchanged", "pace", "raised"),
    [
        (JobProgress(step=5, phase="training", last_step_age=300.0, step_seconds=2.0), None, None, True),
        (JobProgress(step=5, phase="training", last_step_age=100.0, step_seconds=2.0), None, None, False),
        (JobProgress(step=5, phase="training", last_step_age=300.0, step_seconds=30.0), None, None, False),
        (JobProgress(step=5, phase="compiling", last_step_age=900.0, step_seconds=2.0), None, None, False),
        (JobProgress(step=5, phase="evaluating", last_step_age=3600.0), None, None, False),
        (JobProgress(step=5), 700.0, 2.0, True),
        (JobProgress(step=5), 500.0, 2.0, False),
        (JobProgress(step=5), 700.0, 60.0, False),
        (JobProgress(), 9000.0, None, False),
    ],
    ids=["stuck", "slow", "slow steps", "compiling", "evaluating", "plain stuck", "plain waiting", "plain slow", "no steps at all"],
)  # fmt: skip
def test_a_stalled_step_is_told_from_a_slow_one(
    progress: JobProgress, unchanged: float | None, pace: float | None, raised: bool
) -> None:
    assert (alarms.stalled(progress, running=True, unchanged=unchanged, pace=pace) is not None) is raised
    assert alarms.stalled(progress, running=False, unchanged=unchanged, pace=pace) is None


def test_half_the_speed_is_an_alarm_and_a_slow_eval_minute_is_none() -> None:
    before = minutes([10_000.0] * 60)
    assert alarms.slowed(minutes([4000.0] * 5), before) is not None
    assert alarms.slowed(minutes([9000.0, 2000.0, 9500.0, 9000.0, 9000.0]), before) is None
    assert alarms.slowed(minutes([4000.0] * 5), before[:5]) is None


def test_a_loss_that_is_no_number_is_an_alarm() -> None:
    assert alarms.diverged(JobProgress(step=7, diverged=True)) is not None
    assert alarms.diverged(JobProgress(step=7, loss=None)) is None


@pytest.mark.parametrize(
    ("busiest", "cpu", "phase", "raised"),
    [(40.0, 15.5, "training", True), (40.0, 3.0, "training", False), (95.0, 15.5, "training", False),
     (0.0, 15.5, "training", False), (40.0, 15.5, "compiling", False), (None, 15.5, None, False)],
)  # fmt: skip
def test_the_data_loader_is_named_when_cpus_are_full_and_gpus_wait(
    busiest: float | None, cpu: float, phase: str | None, raised: bool
) -> None:
    found = alarms.loader_bound(JobProgress(step=9, phase=phase), busiest, cpu, 16.0)
    assert (found is not None) is raised


# --- folding samples -----------------------------------------------------------------------------


def fold(
    watching: Watching, start: float, count: int, vitals: Vitals, progress: JobProgress = JobProgress(step=1)
) -> float:
    at = start
    for _ in range(count):
        at += 2.0
        watching.observe(at, vitals, progress, cpu=50.0, running=True)
    return at


def names(watching: Watching) -> set[str]:
    return {a.name for a in watching.alarms}


def test_a_gpu_that_falls_off_the_bus_is_seen_and_its_return_ends_the_alarm() -> None:
    watching = Watching()
    both = Vitals(gpus=Gpus(rows=(gpu(0), gpu(1)), expected=2))
    at = fold(watching, 0, 20, both)
    assert names(watching) == set()
    at = fold(watching, at, 20, Vitals(gpus=Gpus(rows=(gpu(0),), expected=1)))
    assert names(watching) == {"gpu-lost"}
    fold(watching, at, 20, both)
    assert names(watching) == set()


def test_xids_from_before_we_came_are_somebody_elses() -> None:
    watching = Watching()
    old, new = Xid("01:00", 79), Xid("01:00", 48)
    at = fold(watching, 0, 10, Vitals(xids=(old,)))
    assert names(watching) == set()
    fold(watching, at, 10, Vitals(xids=(old, new)))
    assert [a.subject for a in watching.alarms] == ["01:00 48"]


def test_heat_over_minutes_is_raised_from_the_history() -> None:
    watching = Watching()
    fold(watching, 0, 200, Vitals(gpus=Gpus(rows=(gpu(0, throttle=Throttle.HW_THERMAL, temperature=91.0),))))
    assert names(watching) == {"thermal"}


def test_a_job_without_heartbeat_stalls_only_after_it_was_watched_standing_still() -> None:
    watching = Watching()
    at = 0.0
    for step in range(1, 40):
        at = fold(watching, at, 5, Vitals(), JobProgress(step=step))
    assert names(watching) == set()
    fold(watching, at, 400, Vitals(), JobProgress(step=39))
    assert names(watching) == {"stalled"}


def test_the_loader_is_found_from_means_over_minutes() -> None:
    watching = Watching()
    vitals = Vitals(
        gpus=Gpus(rows=(gpu(0, utilisation=35.0),)), processes=Processes(count=9, cpu=7.9), cores=8.0
    )
    at = 0.0
    for step in range(1, 40):
        at = fold(watching, at, 5, vitals, JobProgress(step=step))
    assert names(watching) == {"loader-bound"}
