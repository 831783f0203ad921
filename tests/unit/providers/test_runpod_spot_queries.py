"""Spot queries are GraphQL whatever the texts in them hold, and offers without stock or bid are none. Pure."""

from __future__ import annotations

import json

import pytest
from graphql import parse as graphql
from graphql import value_from_ast_untyped
from hypothesis import given
from hypothesis import strategies as st

from gpuproviders.checked import Malformed
from gpuproviders.model import GB, Offer, Order
from gpuproviders.money import MicroUsd
from gpuproviders.runpod import parse, spot

WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def offer(offer_id: str) -> Offer:
    return Offer(
        provider="runpod", offer_id=offer_id, machine_id=None, gpu_name="RTX 4090", gpu_count=2, gpu_memory=24 * GB,
        price=MicroUsd(1), disk_price=MicroUsd(1), spot=True,
    )  # fmt: skip


@given(label=WORDS, image=WORDS, name=WORDS, value=WORDS)
def test_no_text_leaves_its_string(label: str, image: str, name: str, value: str) -> None:
    wanted = spot.offer_id(secure=True, bid=MicroUsd(210_000), count=2, gpu="NVIDIA GeForce RTX 4090")
    order = Order(
        label=label, offer=offer(wanted), image=image, disk=30 * GB, env={name: value}, onstart=value
    )
    (operation,) = graphql(spot.rent_mutation(order)).definitions
    (field,) = operation.selection_set.selections  # type: ignore[attr-defined]
    assert (operation.operation.value, field.name.value) == ("mutation", "podRentInterruptable")  # type: ignore[attr-defined]
    (argument,) = field.arguments
    given_ = value_from_ast_untyped(argument.value)
    assert (given_["name"], given_["imageName"], given_["bidPerGpu"], given_["gpuCount"]) == (
        label,
        image,
        0.21,
        2,
    )
    env = {pair["key"]: pair["value"] for pair in given_["env"]}
    assert env == {name: value} | {parse.LABEL: label, parse.BID: "210000"}
    assert json.loads(given_["dockerArgs"])["entrypoint"] == ["/bin/sh", "-c"]


@pytest.mark.parametrize(
    "text", ["", "secure.any.1.NVIDIA", "spot-secure.x.1.NVIDIA", "spot-else.1.1.N", "spot-secure.1.1. N"]
)
def test_what_is_no_spot_offer_is_not_bid_for(text: str) -> None:
    with pytest.raises(Malformed):
        spot.chosen(text)


def test_a_price_without_stock_is_a_phantom_and_a_cloud_that_does_not_sell_sells_nothing() -> None:
    row = {
        "id": "NVIDIA GeForce RTX 4090", "memoryInGb": 24, "secureCloud": True, "communityCloud": False,
        "s1": {"minimumBidPrice": 0.2, "stockStatus": "High"}, "s2": {"minimumBidPrice": 0.2, "stockStatus": None},
        "s4": {"minimumBidPrice": None, "stockStatus": "Low"}, "s8": "?", "c1": {"minimumBidPrice": 0.1, "stockStatus": "High"},
    }  # fmt: skip
    (found,) = spot.offers(row, (1, 2, 4, 8), disk=30 * GB, verified_only=False)
    assert spot.chosen(found.offer_id) == (True, 200_000, 1, "NVIDIA GeForce RTX 4090")
    assert found.spot
    assert found.price == 200_000 + parse.disk_prices(30 * GB)[0]
    for odd in (None, [], {"id": "unknown"}, {"id": 4}, {"id": "A_B", "secureCloud": True}):
        assert list(spot.offers(odd, (1,), disk=GB, verified_only=False)) == []


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"env": None},
        {"env": {parse.BID: 7}},
        {"env": {parse.BID: "-1"}},
        {"env": {parse.BID: "1" * 40}},
    ],
)
def test_a_pod_without_a_readable_bid_is_no_spot_pod(value: object) -> None:
    assert parse.bid(value) is None
    assert parse.bid({"env": {parse.BID: "210000"}}) == 210_000
