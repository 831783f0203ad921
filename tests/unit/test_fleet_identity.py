"""A listing counts only for the account that the machines are of (I3)."""

from __future__ import annotations

import asyncio
from typing import Any

from gpuproviders.model import Account, Instance, Listing, Power
from gpuwatch.daemon.fleet import Fleet
from gpuwatch.lifecycle.events import AccountSeen
from gpuwatch.lifecycle.reconcile import stranger
from gpuwatch.lifecycle.register import Entry


class TwoAccounts:
    """A provider whose key is exchanged for somebody else's."""

    name = "vast"

    def __init__(self) -> None:
        self.user = "1"

    async def account(self) -> Account:
        return Account("vast", self.user, None)

    async def instances(self) -> Listing:
        mine = Instance(provider="vast", instance_id="7", label="L", power=Power.RUNNING)
        return Listing((mine,) if self.user == "1" else ())


async def test_another_accounts_empty_list_does_not_make_our_machine_gone() -> None:
    provider: Any = TwoAccounts()
    known = AccountSeen(provider="vast", user="1")
    ours = Entry(label="L", run="r", provider="vast", at=0.0, sent_at=1.0, instance_id="7")
    fleet = Fleet(provider, interval=60, stranger=lambda a: stranger(a, known, [ours]))
    fleet.need()
    task = asyncio.create_task(fleet.watch())
    assert await fleet.next_listing() is not None
    provider.user = "2"
    assert await fleet.next_listing() is None
    assert "another account" in (fleet.problem or "")
    assert fleet.instance("7") is not None
    provider.user = "1"
    assert await fleet.next_listing() is not None
    task.cancel()
    await asyncio.wait({task})
