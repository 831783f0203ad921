"""When a machine counts as gone: the account's listings one after the other, and a look-up between two of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gpuproviders.errors import Unavailable
from gpuproviders.model import Account, Instance, Listing, Power
from gpuwatch.daemon.fleet import Fleet
from gpuwatch.lifecycle.absence import Policy

OURS = Instance(provider="vast", instance_id="7", label="L", power=Power.RUNNING)
SOON = Policy(listings=2, seconds=0.0)


class Told:
    """A provider that gives these listings in turn (True: our machine is in it, None: no answer), the last for ever."""

    name = "vast"

    def __init__(self, *listings: bool | None, looked_up: bool | None = False) -> None:
        self._listings = list(listings)
        self._looked_up = looked_up
        self.asked = 0

    async def account(self) -> Account:
        return Account("vast", "1", None)

    async def instances(self) -> Listing:
        shown = self._listings.pop(0) if len(self._listings) > 1 else self._listings[0]
        if shown is None:
            raise Unavailable("no answer")
        return Listing((OURS,) if shown else ())

    async def instance(self, _instance_id: str) -> Instance | None:
        self.asked += 1
        if self._looked_up is None:
            raise Unavailable("no answer")
        return OURS if self._looked_up else None


async def verdict(provider: Any, monkeypatch: pytest.MonkeyPatch, *, rounds: int = 200) -> str | None:
    """What `await_absence` says; it must say something within so many rounds without waiting."""
    turns = 0
    real = asyncio.sleep

    async def at_once(_seconds: float) -> None:
        nonlocal turns
        turns += 1
        assert turns < rounds, "it waits for something that will not come"
        await real(0)

    monkeypatch.setattr("gpuwatch.daemon.fleet.asyncio.sleep", at_once)
    fleet = Fleet(provider, interval=0.001)
    fleet.need()
    watching = asyncio.create_task(fleet.watch())
    try:
        async with asyncio.timeout(20):
            return await fleet.await_absence("7", SOON)
    finally:
        watching.cancel()
        await asyncio.wait({watching})


async def test_two_listings_without_it_a_look_up_and_one_more_listing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    provider = Told(False)
    assert "complete listings without it" in (await verdict(provider, monkeypatch) or "")
    assert provider.asked == 1


async def test_a_machine_that_is_listed_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = Told(True)
    assert await verdict(provider, monkeypatch) is None
    assert provider.asked == 0


async def test_a_machine_that_is_listed_again_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = Told(False, True, False)
    assert await verdict(provider, monkeypatch) is None
    assert provider.asked == 0


async def test_a_machine_that_a_look_up_shows_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await verdict(Told(False, looked_up=True), monkeypatch) is None


async def test_a_machine_that_the_listing_after_the_look_up_shows_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    provider = Told(False, False, True)
    assert await verdict(provider, monkeypatch) is None
    assert provider.asked <= 1


async def test_answers_that_do_not_come_count_neither_way(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await verdict(Told(None, False, None, False, None, False), monkeypatch) is not None
    with pytest.raises(AssertionError, match="will not come"):
        await verdict(Told(False, looked_up=None), monkeypatch)
    with pytest.raises(AssertionError, match="will not come"):
        await verdict(Told(None), monkeypatch)
