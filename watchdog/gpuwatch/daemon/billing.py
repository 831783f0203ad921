"""The vendors' own charges, asked for when somebody looks at costs, and remembered for a while. Nothing acts upon them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping

from gpuproviders.errors import ProviderError
from gpuproviders.model import Billing, Charge
from gpuwatch.budget.cost import machines_of
from gpuwatch.clean import clean
from gpuwatch.daemon.context import Context
from gpuwatch.lifecycle.run import Run

FRESH = 600.0
"""Seconds for which charges are good: vendors book by the hour or the day."""
PATIENCE = 8.0
"""Seconds that a look at costs waits for a vendor; what comes later is there at the next look."""


class Bills:
    """What each vendor has charged, as far as it was asked."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._known: dict[str, Mapping[str, Charge] | str] = {}
        self._asked: dict[str, float] = {}
        self._since: dict[str, float] = {}

    async def of(self, runs: Collection[Run]) -> Mapping[str, Mapping[str, Charge] | str]:
        """Provider → its charges by instance id since the first of these runs' machines, or why there are none."""
        wanted: dict[str, float] = {}
        for run in runs:
            for machine in machines_of(run):
                if machine.rented_at is not None:
                    first = wanted.get(machine.provider, machine.rented_at)
                    wanted[machine.provider] = min(first, machine.rented_at)
        clock = asyncio.get_running_loop().time()
        due = [
            name for name, since in wanted.items()
            if clock - self._asked.get(name, float("-inf")) > FRESH or since < self._since.get(name, since)
        ]  # fmt: skip
        await asyncio.gather(*(self._ask(name, wanted[name]) for name in self._possible(due)))
        return self._known

    def _possible(self, names: Iterable[str]) -> Iterable[str]:
        for name in names:
            fleet = self._ctx.fleets.get(name)
            if fleet is None:
                self._known[name] = f"{name} is not configured, so it cannot be asked"
            elif not isinstance(fleet.provider, Billing):
                self._known[name] = "no bill: own machines, or a provider that tells none"
            else:
                yield name

    async def _ask(self, name: str, since: float) -> None:
        provider = self._ctx.fleets[name].provider
        if not isinstance(provider, Billing):
            raise TypeError(f"{name} tells no charges")
        try:
            async with asyncio.timeout(PATIENCE):
                found = await provider.charges(since - 86_400)
        except TimeoutError:
            self._fail(name, f"{name} has not told its charges yet")
        except ProviderError as error:
            self._fail(name, f"{name} does not tell its charges: {clean(str(error), 120)}")
        else:
            self._known[name] = {charge.instance_id: charge for charge in found}
            self._asked[name], self._since[name] = asyncio.get_running_loop().time(), since

    def _fail(self, name: str, why: str) -> None:
        """Charges that were told before stay: they only grow."""
        if isinstance(self._known.get(name, ""), str):
            self._known[name] = why
