"""Vast cuts every search at 64 rows; the adapter goes on where it was cut off."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gpuproviders.model import GB, OfferQuery
from gpuproviders.vast import VastProvider

if TYPE_CHECKING:
    from cloudsim_fixtures import Simulator

pytest_plugins = ["cloudsim_fixtures"]

KEY = "account-key-of-the-tests"


@pytest.mark.parametrize(("limit", "searches"), [(40, 1), (100, 2), (500, 4)])
async def test_the_cheapest_are_found_with_as_few_searches_as_they_need(
    simulator: Simulator, limit: int, searches: int
) -> None:
    provider = VastProvider(key=lambda: KEY, url=simulator.url, paced=False)
    before = simulator.call("GET", "/_sim/state")[1]["calls"].get("search", 0)
    try:
        found = await provider.offers(OfferQuery(verified_only=False, limit=limit, disk=10 * GB))
    finally:
        await provider.close()
    state = simulator.call("GET", "/_sim/state")[1]
    assert state["calls"]["search"] - before == searches
    everything: dict[int, float] = {}
    floor = 0.0
    while rows := simulator.call(
        "POST", "/api/v0/bundles/",
        {"dph_total": {"gt": floor}, "order": [["dph_total", "asc"]], "allocated_storage": 10, "rentable": {"eq": True}},
    )[1]["offers"]:  # fmt: skip
        everything.update({row["id"]: row["dph_total"] for row in rows})
        floor = rows[-1]["dph_total"]
    cheapest = sorted(everything.values())[:limit]
    assert len(found) == min(limit, len(everything))
    assert [offer.price / 1e6 for offer in found] == pytest.approx(cheapest, abs=0.02)
