"""What an offer is worth: all-in, per TFLOP-hour, per billion tokens; and the GPU table with its sources."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuproviders import worth
from gpuproviders.gpus import GPUS, canonical, resolve, tflops
from gpuproviders.model import GB, Offer
from gpuproviders.money import MicroUsd
from gputrain import hardware

OFFER = Offer(
    provider="vast", offer_id="1", machine_id="2", gpu_name="H100 SXM", gpu_count=2, gpu_memory=80 * GB, price=MicroUsd(4_000_000),
    disk_price=MicroUsd(10_000), transfer_price=MicroUsd(3_000), receive_price=MicroUsd(2_000),
)  # fmt: skip


def test_all_in_is_the_bill_plus_the_transfer_that_is_expected_each_way() -> None:
    assert worth.all_in(OFFER) == 4_005_000
    assert worth.all_in(OFFER, 0) == OFFER.price
    assert worth.all_in(OFFER, 20 * GB) == 4_100_000
    assert worth.all_in(OFFER, 1) == 4_000_001


@pytest.mark.parametrize("unknown", ["transfer_price", "receive_price"])
def test_a_vendor_that_does_not_tell_a_price_per_gb_has_no_all_in_price(unknown: str) -> None:
    dumb = replace(OFFER, **{unknown: None})
    assert worth.all_in(dumb) is None
    assert worth.compared(dumb) == OFFER.price


def test_the_price_of_a_tflop_hour_and_of_a_billion_tokens() -> None:
    assert worth.per_tflop(4_000_000, "H100 SXM", 2) == 2021  # $4 / (2 × 989.5)
    assert worth.per_tflop(4_000_000, "Tesla T4", 1) is None
    assert worth.per_tflop(4_000_000, "a card of tomorrow", 1) is None
    assert worth.per_billion_tokens(3_600_000, 1_000_000.0) == 1_000_000
    for nothing in (None, 0.0, -1.0, float("nan"), float("inf")):
        assert worth.per_billion_tokens(1, nothing) is None


@given(st.integers(0, 10**9), st.integers(0, 10**7), st.integers(0, 10**7), st.integers(0, 10**14))
def test_all_in_is_never_below_the_bill(price: int, out: int, into: int, transfer: int) -> None:
    made = replace(OFFER, price=MicroUsd(price), transfer_price=MicroUsd(out), receive_price=MicroUsd(into))
    whole = worth.all_in(made, transfer)
    assert whole is not None
    assert 0 <= (whole - price) * GB - (out + into) * transfer < GB


def test_every_gpu_names_the_makers_document() -> None:
    for facts in GPUS.values():
        source = urlsplit(facts.source)
        assert source.scheme == "https", facts.name
        assert source.netloc.endswith(("nvidia.com", "amd.com", "aws.amazon.com")), facts.name
        assert canonical(facts.name) == facts.name
        assert facts.name in resolve(facts.name)
        assert 8 <= facts.memory_gb <= 300
        assert facts.tflops is None or 20 <= facts.tflops <= 3000
        # a figure that the source does not print says how it follows, or there is none
        assert facts.how in {
            "",
            "sparse / 2",
            "sparse FP8 / 4",
            "FP32 x 2",
            "8 GPUs sparse / 16",
            "as A100",
            "no bfloat16",
        }
        assert (facts.how == "no bfloat16") <= (facts.tflops is None)


DRIVER = {
    "B200": "NVIDIA B200", "H200": "NVIDIA H200", "H100 NVL": "NVIDIA H100 NVL", "H100 PCIE": "NVIDIA H100 PCIe", "H100 SXM": "NVIDIA H100 80GB HBM3",
    "A100 SXM4": "NVIDIA A100-SXM4-80GB", "A100 PCIE": "NVIDIA A100 80GB PCIe", "L40S": "NVIDIA L40S", "A40": "NVIDIA A40",
    "RTX 6000Ada": "NVIDIA RTX 6000 Ada Generation", "RTX A6000": "NVIDIA RTX A6000", "RTX 5090": "NVIDIA GeForce RTX 5090",
    "RTX 4090": "NVIDIA GeForce RTX 4090", "RTX 3090": "NVIDIA GeForce RTX 3090", "A10G": "NVIDIA A10G", "L4": "NVIDIA L4",
}  # fmt: skip


def test_the_trainer_reckons_with_the_same_peaks() -> None:
    """The trainer is shipped without the rest, so it has a table of its own; this keeps both the same."""
    for name, driver in DRIVER.items():
        assert canonical(driver) == name
        theirs, ours = hardware.peak_flops(driver), tflops(name)
        assert theirs is not None, name
        assert ours is not None, name
        assert theirs == pytest.approx(ours * 1e12, rel=1e-3), name
    assert {hardware.find_gpu(driver).name for driver in DRIVER.values()} >= {
        g.name for g in hardware.GPUS
    } - {"A100"}
