"""Money is exact and hostile amounts are no amounts; GPU names have one spelling."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuproviders.gpus import MEMORY_GB, UnknownGpu, canonical, nominal_memory, resolve
from gpuproviders.money import accrue, format_usd, parse_usd, usd

MICROS = st.integers(min_value=-(10**15), max_value=10**15)
RATES = st.integers(min_value=0, max_value=10**9)


# --- money ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "micros"),
    [
        (0.1, 100_000),
        ("0.1", 100_000),
        (" 2.50 ", 2_500_000),
        (3, 3_000_000),
        (Decimal("0.0000005"), 0),  # half to even
        (Decimal("0.0000015"), 2),
        (0.3518518518518518, 351_852),
        (-1.25, -1_250_000),
        (1_000_000_000, 10**15),
        ("1e-9999999", 0),
    ],
)
def test_dollars_become_micro_dollars(value: object, micros: int) -> None:
    assert parse_usd(value) == micros


@pytest.mark.parametrize(
    "value",
    [
        None, True, False, float("nan"), float("inf"), -float("inf"), "NaN", "sNaN", "Infinity", "", "free", "$1",
        "1e9999999", "-1e999999999999", 1e10, pytest.param(10**5000, id="5001 digits"), [], {}, b"1", object(), "0x10", "1,5",
    ],
)  # fmt: skip
def test_what_is_no_amount_is_unknown_and_never_zero(value: object) -> None:
    assert parse_usd(value) is None


@given(MICROS)
def test_an_amount_survives_the_round_trip_through_dollars(amount: int) -> None:
    assert parse_usd(usd(amount)) == amount
    assert parse_usd(str(usd(amount))) == amount


@given(st.one_of(st.none(), st.booleans(), st.floats(), st.text(), st.binary(), st.decimals(), st.integers()))
def test_no_value_at_all_raises(value: object) -> None:
    amount = parse_usd(value)
    assert amount is None or (isinstance(amount, int) and abs(amount) <= 10**15)


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "$0.00"), (1_234_567, "$1.23"), (4_200, "$0.0042"), (-3_000_000, "-$3.00"), (10_000, "$0.01")],
)
def test_money_reads_as_people_write_it(amount: int, text: str) -> None:
    assert format_usd(amount) == text


@given(MICROS)
def test_formatted_money_is_within_half_a_digit(amount: int) -> None:
    shown = Decimal(format_usd(amount).replace("$", ""))
    assert abs(shown - usd(amount)) <= Decimal("0.005")


@given(RATES, st.floats(min_value=0, max_value=1e8), st.floats(min_value=0, max_value=1e8))
def test_cost_never_falls_with_time(rate: int, a: float, b: float) -> None:
    early, late = sorted((a, b))
    assert 0 <= accrue(rate, early) <= accrue(rate, late)


@given(RATES, st.floats(min_value=0, max_value=1e7), st.floats(min_value=0, max_value=1e7))
def test_cost_of_parts_is_never_below_the_cost_of_the_whole(rate: int, a: float, b: float) -> None:
    assert accrue(rate, a) + accrue(rate, b) >= accrue(rate, a + b) - 1


@given(RATES)
def test_an_hour_costs_the_rate(rate: int) -> None:
    assert accrue(rate, 3600) == rate
    assert accrue(rate, 0) == accrue(rate, -5) == 0


# --- GPUs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MEMORY_GB)
def test_every_known_name_stands_for_itself(name: str) -> None:
    assert canonical(name) == name
    assert canonical(name.replace(" ", "_").lower()) == name
    assert name in resolve(name)


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("h100", ("H100 SXM", "H100 PCIE", "H100 NVL")),
        ("rtx_4090", ("RTX 4090",)),
        ("4090", ("RTX 4090",)),
        ("NVIDIA GeForce RTX 4090", ("RTX 4090",)),
        ("NVIDIA A100-SXM4-80GB", ("A100 SXM4",)),
        ("a100", ("A100 SXM4", "A100 PCIE")),
        ("Tesla T4", ("Tesla T4",)),
        ("t4", ("Tesla T4",)),
        ("RTX 6000 Ada Generation", ("RTX 6000Ada",)),
        ("A4000", ("RTX A4000",)),
        ("h100 pcie", ("H100 PCIE",)),
    ],
)
def test_people_and_vendors_write_names_in_many_ways(typed: str, names: tuple[str, ...]) -> None:
    assert resolve(typed) == names


def test_an_unknown_gpu_names_the_nearest() -> None:
    with pytest.raises(UnknownGpu, match="did you mean") as caught:
        resolve("RTX 4009")
    assert "RTX 4090" in caught.value.near or "RTX 4000Ada" in caught.value.near
    assert len(caught.value.near) <= 3
    with pytest.raises(UnknownGpu) as far:
        resolve("toaster")
    assert all(n in MEMORY_GB for n in far.value.near)


@given(st.text(max_size=60))
def test_a_name_resolves_to_known_names_or_says_that_it_does_not(text: str) -> None:
    try:
        names = resolve(text)
    except UnknownGpu as error:
        assert all(n in MEMORY_GB for n in error.near)
    else:
        assert names
        assert all(n in MEMORY_GB for n in names)


@given(st.text(max_size=60))
def test_the_canonical_spelling_is_its_own(text: str) -> None:
    assert canonical(canonical(text)) == canonical(text)


@pytest.mark.parametrize(
    ("name", "mib", "size"),
    [
        ("RTX 4090", 24_564, 24 * 10**9),
        ("H100 SXM", 81_559, 80 * 10**9),
        ("H200", 143_771, 141 * 10**9),
        ("A100 SXM4", 40_960, 40_960 * 2**20),  # the 40 GB card keeps what it reported
        ("Mystery", 1_000, 1_000 * 2**20),
    ],
)
def test_memory_snaps_to_the_data_sheet_when_close(name: str, mib: int, size: int) -> None:
    assert nominal_memory(name, mib * 2**20) == size
