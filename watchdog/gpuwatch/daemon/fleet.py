"""One provider account, watched: the newest complete listing, the newest account, what failed.

One list call per interval serves every run. A failed or short answer changes nothing
but `problem`: the last good listing stays, with its age (I3).
"""

from __future__ import annotations

import asyncio

import structlog

from gpuproviders.errors import ProviderError, Throttled
from gpuproviders.model import Account, Instance, Listing, Provider
from gpuwatch.lifecycle.absence import Absence, Policy

log = structlog.get_logger()


class Fleet:
    """The account behind one provider. Run `watch` as a task; everything else only reads or asks."""

    def __init__(self, provider: Provider, *, interval: float) -> None:
        self.provider = provider
        self._interval = interval
        self._changed = asyncio.Event()
        self._hurry = asyncio.Event()
        self.listing: Listing | None = None
        self.listed_at: float | None = None
        """Event-loop time of `listing`."""
        self.account: Account | None = None
        self.problem: str | None = None
        self._wanted = 0

    async def watch(self) -> None:
        """List for ever. While no run needs it, the account is asked once and then left alone."""
        loop = asyncio.get_running_loop()
        delay = self._interval
        while True:
            try:
                account = await self.provider.account()
                listing = await self.provider.instances()
            except ProviderError as error:
                self.problem = str(error)
                delay = min(60.0, max(delay * 2, self._interval))
                if isinstance(error, Throttled) and error.retry_after is not None:
                    delay = max(delay, min(error.retry_after, 300.0))
                log.warning(
                    "listing failed", provider=self.provider.name, kind=error.kind, problem=self.problem
                )
            else:
                delay = self._interval
                if self._stranger(account):
                    # another account lists other machines: that ours are not among them says nothing (I3)
                    self.problem = f"the key belongs to another account than the one these machines are of ({account.user_id})"
                    log.warning("another account", provider=self.provider.name)
                else:
                    self.account, self.listing, self.listed_at, self.problem = (
                        account,
                        listing,
                        loop.time(),
                        None,
                    )
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()
            self._hurry.clear()
            try:
                async with asyncio.timeout(delay if self._wanted else None):
                    await self._hurry.wait()
            except TimeoutError:
                continue

    def _stranger(self, account: Account) -> bool:
        return self._wanted > 0 and self.account is not None and not self.account.same_as(account)

    def need(self) -> None:
        """Some run has a machine here (or may have): keep listing."""
        self._wanted += 1
        self._hurry.set()

    def release(self) -> None:
        """That run's machine is gone."""
        self._wanted = max(0, self._wanted - 1)

    def hurry(self) -> None:
        """List again now."""
        self._hurry.set()

    async def next_listing(self) -> Listing | None:
        """The listing after this moment; None when that attempt failed."""
        self._hurry.set()
        await self._changed.wait()
        return self.listing if self.problem is None else None

    def instance(self, instance_id: str) -> Instance | None:
        """What the newest complete listing says of it."""
        return self.listing.by_id(instance_id) if self.listing is not None else None

    async def await_absence(self, instance_id: str, policy: Policy) -> str | None:
        """Watch until the machine is surely gone (returns the evidence) or seen again (returns None).

        Failed listings and look-ups count neither way.
        """
        absence = Absence()
        while True:
            listing = await self.next_listing()
            if listing is None or self.listed_at is None:
                await asyncio.sleep(self._interval)
                continue
            present = listing.by_id(instance_id) is not None
            absence.observe(self.listed_at, listed=present)
            if present:
                return None
            if absence.enough(policy):
                try:
                    found = await self.provider.instance(instance_id)
                except ProviderError as error:
                    log.warning("look-up failed", instance=instance_id, problem=str(error))
                else:
                    if found is not None:
                        return None
                    # the look-up says nothing of whose account it asked: a listing after it has to agree
                    after = await self.next_listing()
                    if after is not None:
                        if after.by_id(instance_id) is not None:
                            return None
                        return (
                            f"{absence.count} complete listings without it, and a look-up that finds nothing"
                        )
            await asyncio.sleep(max(1.0, policy.seconds / policy.listings))

    @property
    def age(self) -> float | None:
        """Seconds since the newest complete listing."""
        return None if self.listed_at is None else asyncio.get_running_loop().time() - self.listed_at
