"""nvidia-smi's real answers as typed values; what it does not say is unknown, and unknown is never zero."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuwatch.telemetry.sample import Gpus, SmiProblem, Throttle
from gpuwatch.telemetry.smi import STALE, read_gpus

FIELDS = [
    "index", "uuid", "name", "utilization.gpu", "memory.used", "memory.total", "power.draw", "enforced.power.limit",
    "temperature.gpu", "clocks.sm", "clocks.max.sm", "clocks_event_reasons.active", "ecc.errors.uncorrected.volatile.total",
    "mig.mode.current", "driver_version", "count",
]  # fmt: skip
H100 = ["0", "GPU-5b", "NVIDIA H100 80GB HBM3", "97", "70123", "81559", "689.12", "700.00", "64", "1980", "1980",
        "0x0000000000000000", "0", "Disabled", "570.124.06", "1"]  # fmt: skip
RTX4090 = ["0", "GPU-1c", "NVIDIA GeForce RTX 4090", "100", "20110", "24564", "441.90", "450.00", "71", "2520", "3105",
           "0x0000000000000004", "[N/A]", "[N/A]", "550.90.07", "1"]  # fmt: skip
# a MIG parent as a container without privileges sees it (StableSwarmUI#388)
MIG = ["0", "GPU-aa", "NVIDIA A100-SXM4-80GB", "[N/A]", "[Insufficient Permissions]", "[Insufficient Permissions]", "91.20",
       "400.00", "47", "1410", "1410", "0x0000000000000001", "0", "Enabled", "535.161.08", "1"]  # fmt: skip
HUNG = ["0", "GPU-1c", "NVIDIA GeForce RTX 3090", "[Unknown Error]", "[Unknown Error]", "24576", "ERR!", "[Unknown Error]",
        "[Unknown Error]", "[Unknown Error]", "[Unknown Error]", "[Unknown Error]", "[N/A]", "[N/A]", "535.183.01", "1"]  # fmt: skip
OLD_CARD = ["0", "GPU-0f", "Tesla K80", "[Not Supported]", "11", "11441", "[Not Supported]", "[Not Supported]", "38",
            "[Not Supported]", "875", "[Not Supported]", "0", "[N/A]", "470.42.01", "1"]  # fmt: skip


def answer(
    *rows: list[str], age: float = 0.5, problem: str | None = None, fields: list[str] = FIELDS, apps: Any = ()
) -> Gpus:
    return read_gpus(
        {"fields": fields, "rows": [[age, row] for row in rows], "apps": list(apps), "problem": problem}
    )


def many(count: int, **changed: str) -> list[list[str]]:
    rows = []
    for index in range(count):
        row = (
            dict(zip(FIELDS, H100, strict=True))
            | {"index": str(index), "uuid": f"GPU-{index}", "count": str(count)}
            | changed
        )
        rows.append([row[f] for f in FIELDS])
    return rows


def test_an_h100_is_read_in_base_units() -> None:
    gpus = answer(H100, apps=[["GPU-5b", "4711", "70000", "python3 -m train, --fast"]])
    (row,) = gpus.rows
    assert gpus.whole
    assert (row.utilisation, row.memory_used, row.power, row.power_limit) == (
        97.0,
        70123 << 20,
        689.12,
        700.0,
    )
    assert (row.clock, row.clock_max, row.throttle, row.ecc_errors, row.mig) == (
        1980.0,
        1980.0,
        Throttle(0),
        0,
        False,
    )
    assert (gpus.expected, gpus.driver, gpus.problem) == (1, "570.124.06", None)
    assert [(p.pid, p.memory, p.name) for p in gpus.processes] == [
        (4711, 70000 << 20, "python3 -m train, --fast")
    ]


def test_a_consumer_card_has_no_ecc_and_says_so() -> None:
    (row,) = answer(RTX4090).rows
    assert (row.ecc_errors, row.throttle) == (None, Throttle.POWER_CAP)


@pytest.mark.parametrize("row", [MIG, HUNG, OLD_CARD], ids=["mig", "hung", "old"])
def test_a_gpu_that_does_not_tell_its_load_is_unknown_and_not_idle(row: list[str]) -> None:
    gpus = answer(row)
    assert gpus.rows[0].utilisation is None
    assert not gpus.whole


def test_a_mig_parent_is_marked() -> None:
    (row,) = answer(MIG).rows
    assert row.mig
    assert (row.memory_used, row.memory_total) == (None, None)


@pytest.mark.parametrize("count", [1, 2, 8, 16])
def test_all_gpus_of_a_machine_are_read(count: int) -> None:
    gpus = answer(*many(count))
    assert gpus.whole
    assert [row.index for row in gpus.rows] == list(range(count))


def test_seven_of_eight_are_not_the_whole_machine() -> None:
    gpus = answer(*many(8)[:7])
    assert (len(gpus.rows), gpus.expected, gpus.whole) == (7, 8, False)


def test_a_row_that_is_no_longer_renewed_is_a_lost_gpu() -> None:
    rows = many(8)
    raw = [[0.4, row] for row in rows[:7]] + [[STALE + 20, rows[7]]]
    gpus = read_gpus({"fields": FIELDS, "rows": raw, "apps": [], "problem": None})
    assert gpus.problem is SmiProblem.LOST
    assert "GPU 7" in gpus.detail
    assert not gpus.whole


def test_an_nvidia_smi_that_hangs_says_nothing_about_now() -> None:
    gpus = answer(H100, age=STALE + 1)
    assert (gpus.rows, gpus.problem, gpus.whole) == ((), SmiProblem.OTHER, False)


def test_a_gpu_that_the_driver_calls_lost_is_one() -> None:
    row = list(H100)
    row[3] = row[8] = "[GPU is lost]"
    gpus = answer(row)
    assert gpus.problem is SmiProblem.LOST
    assert not gpus.whole


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("nvidia-smi: No such file or directory", SmiProblem.NO_BINARY),
        ("Failed to initialize NVML: Driver/library version mismatch / NVML library version: 570.124 (exit 18)", SmiProblem.MISMATCH),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that …", SmiProblem.NO_DRIVER),
        ("No devices were found (exit 6)", SmiProblem.NO_DEVICES),
        ("Unable to determine the device handle for GPU0000:41:00.0: Unknown Error (exit 255)", SmiProblem.LOST),
        ("Unable to determine the device handle for GPU 0000:01:00.0: GPU is lost.  Reboot the system to recover this GPU", SmiProblem.LOST),
        ("no answer yet", SmiProblem.NOT_YET),
        ("Failed to initialize NVML: Unknown Error (exit 255)", SmiProblem.OTHER),
    ],
)  # fmt: skip
def test_sentences_instead_of_a_table_are_told_apart(text: str, problem: SmiProblem) -> None:
    gpus = answer(problem=text)
    assert (gpus.problem, gpus.rows, gpus.whole) == (problem, (), False)


def test_old_drivers_name_the_same_field_differently() -> None:
    fields = ["clocks_throttle_reasons.active" if f == "clocks_event_reasons.active" else f for f in FIELDS]
    row = list(H100)
    row[11] = "0x0000000000000060"
    assert answer(row, fields=fields).rows[0].throttle == Throttle.SW_THERMAL | Throttle.HW_THERMAL


def test_a_field_that_the_driver_does_not_know_is_unknown() -> None:
    keep = [i for i, f in enumerate(FIELDS) if not f.startswith(("clocks", "ecc", "mig"))]
    gpus = answer([H100[i] for i in keep], fields=[FIELDS[i] for i in keep])
    (row,) = gpus.rows
    assert (row.utilisation, row.clock, row.throttle, row.ecc_errors) == (97.0, None, None, None)


CELL = st.one_of(
    st.sampled_from(["[N/A]", "[Not Supported]", "ERR!", "[GPU is lost]", "", "nan", "inf", "-1", "1e400", "٣", "0x", "0xzz", "99" * 40]),
    st.text(max_size=12), st.integers().map(str), st.floats().map(str),
)  # fmt: skip


@given(st.lists(st.dictionaries(st.sampled_from(FIELDS), CELL, max_size=4), max_size=3))
def test_any_cells_are_typed_or_unknown(changes: list[dict[str, str]]) -> None:
    plain = dict(zip(FIELDS, H100, strict=True))
    gpus = answer(*[[(plain | change)[f] for f in FIELDS] for change in changes])
    assert len({row.index for row in gpus.rows}) == len(gpus.rows)
    for row in gpus.rows:
        assert row.utilisation is None or 0 <= row.utilisation <= 100
        for number in (row.power, row.temperature, row.clock):
            assert number is None or 0 <= number <= 1e5
        assert row.memory_used is None or (type(row.memory_used) is int and row.memory_used >= 0)
        assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs") for c in row.name)


ANY = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(["fields", "rows", "apps", "problem"]), inner)),
    max_leaves=12,
)  # fmt: skip


@given(ANY)
def test_anything_at_all_is_read_without_harm(value: object) -> None:
    assert read_gpus(value).rows == ()
