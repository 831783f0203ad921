"""The market: a pure function of seed and time."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpucloudsim.engine.market import (
    HOUR,
    MARKET_EPOCH,
    OFFER_GRACE,
    OFFER_LIFE,
    SECOND,
    STOCKED_US,
    market,
    moment_of,
)

MARKET = market(1)
times = st.integers(0, 5 * 365 * 24 * 3600).map(lambda s: MARKET_EPOCH + s * SECOND)


def test_there_are_about_150_offers_of_many_models_and_sizes() -> None:
    offers = MARKET.listed(MARKET_EPOCH + HOUR, {}, {})
    assert 130 <= len(offers) <= 192
    names = Counter(offer.machine.gpu.name for offer in offers)
    assert {"H100 SXM", "H100 PCIE", "H200", "A100 SXM4", "RTX 4090", "RTX 5090"} <= names.keys()
    assert len(names) >= 20
    assert {1, 2, 4, 8} <= {offer.num_gpus for offer in offers}


@given(times)
@settings(max_examples=12, deadline=None)
def test_every_listed_offer_can_be_taken_and_its_id_is_its_own(now: int) -> None:
    offers = MARKET.listed(now, {}, {})
    assert len({offer.offer_id for offer in offers}) == len(offers)
    for offer in offers:
        slot = MARKET.resolve(offer.offer_id, now, {}, {})
        assert slot is not None
        assert (slot.machine, slot.num_gpus) == (offer.machine, offer.num_gpus)


@given(times)
@settings(max_examples=12, deadline=None)
def test_an_offer_read_a_moment_ago_is_honoured_and_an_old_one_is_not(now: int) -> None:
    for offer in MARKET.listed(now, {}, {})[:20]:
        assert MARKET.resolve(offer.offer_id, now + OFFER_GRACE // 2, {}, {}) is not None
        assert MARKET.resolve(offer.offer_id, now + OFFER_LIFE + 2 * OFFER_GRACE, {}, {}) is None


@given(times)
@settings(max_examples=12, deadline=None)
def test_prices_stay_near_the_model_and_move_slowly(now: int) -> None:
    for slot in MARKET.slots:
        price, later = MARKET.price(slot, now), MARKET.price(slot, now + 60 * SECOND)
        mean = slot.machine.price_micro * slot.num_gpus
        assert 0.9 * mean <= price <= 1.1 * mean
        assert abs(later - price) <= 0.01 * mean
        assert 0 < MARKET.min_bid(slot, now) < price


def test_what_we_hold_is_not_offered_again() -> None:
    now = MARKET_EPOCH + HOUR
    offer = next(o for o in MARKET.listed(now, {}, {}) if o.num_gpus == o.machine.num_gpus)
    held = {offer.machine.index: offer.num_gpus}
    assert offer.machine not in [other.machine for other in MARKET.listed(now, held, {})]
    assert MARKET.resolve(offer.offer_id, now, held, {}) is None


def test_machines_come_from_the_seed_alone() -> None:
    assert market(7).machines == market.__wrapped__(7).machines
    assert market(7).machines != market(8).machines


def test_a_market_that_stands_still_has_the_same_stock_and_prices_at_any_hour() -> None:
    still = market(1, moment_of("stocked"))
    seen = [
        [(o.offer_id, o.num_gpus, o.price_micro, o.min_bid_micro) for o in still.listed(now, {}, {})]
        for now in (MARKET_EPOCH, MARKET_EPOCH + 999 * HOUR)
    ]
    assert seen[0] == seen[1]
    assert len(seen[0]) >= len(still.slots) - 1
    assert seen[0][0][2] == MARKET.listed(STOCKED_US, {}, {})[0].price_micro


@pytest.mark.parametrize("text", ["", "noon", "nan", "inf", "-1", "1e12"])
def test_a_moment_that_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        moment_of(text)
