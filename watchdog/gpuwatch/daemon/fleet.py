"""One provider account, watched: the newest complete listing, the newest account, what failed.

One list call per interval serves every run. A failed or short answer changes nothing
but `problem`: the last good listing stays, with its age (I3). While no run needs it the
account is still listed, less often: orphans and machines that come back are found so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from gpuproviders.errors import ProviderError, Throttled, Unavailable
from gpuproviders.model import Account, Instance, Listing, Provider
from gpuwatch.lifecycle.absence import Absence, Policy

log = structlog.get_logger()

IDLE_INTERVAL = 600.0
"""Seconds between two listings of an account that no run needs."""


class Fleet:
    """The account behind one provider. Run `watch` as a task; everything else only reads or asks.

    `stranger` says why an account's listings do not count, None when they do.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        interval: float,
        idle: float = IDLE_INTERVAL,
        stranger: Callable[[Account], str | None] = lambda _: None,
    ) -> None:
        self.provider = provider
        self._interval = interval
        self._idle = idle
        self._stranger = stranger
        self._changed = asyncio.Event()
        self._hurry = asyncio.Event()
        self.listing: Listing | None = None
        self.listed_at: float | None = None
        """Event-loop time of `listing`."""
        self.account: Account | None = None
        self.problem: str | None = None
        self.failure: ProviderError | None = None
        """Why the newest attempt did not count, as it was raised; None when it did."""
        self._wanted = 0

    async def watch(self) -> None:
        """List for ever: every `interval` while some run needs it, else every `idle`."""
        loop = asyncio.get_running_loop()
        delay = self._interval
        while True:
            try:
                account = await self.provider.account()
                listing = await self.provider.instances()
            except ProviderError as error:
                self.problem, self.failure = str(error), error
                delay = min(60.0, max(delay * 2, self._interval))
                if isinstance(error, Throttled) and error.retry_after is not None:
                    delay = max(delay, min(error.retry_after, 300.0))
                log.warning(
                    "listing failed", provider=self.provider.name, kind=error.kind, problem=self.problem
                )
            else:
                delay = self._interval
                self.problem = self._stranger(account)
                if self.problem is None:
                    self.account, self.listing, self.listed_at = account, listing, loop.time()
                    self.failure = None
                else:
                    self.failure = Unavailable(self.problem, provider=self.provider.name, code="stranger")
                    log.warning("another account", provider=self.provider.name, problem=self.problem)
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()
            self._hurry.clear()
            try:
                async with asyncio.timeout(delay if self._wanted else max(delay, self._idle)):
                    await self._hurry.wait()
            except TimeoutError:
                continue

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

    async def looked(self) -> Listing | None:
        """Wait for the next attempt, whenever it is; the listing, None when it failed."""
        await self._changed.wait()
        return self.listing if self.problem is None else None

    async def next_listing(self) -> Listing | None:
        """List now; None when the attempt failed."""
        self._hurry.set()
        return await self.looked()

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
