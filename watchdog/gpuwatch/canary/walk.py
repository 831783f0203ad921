"""The walk: launch through the daemon, look on with the vendor's reads, start what has stopped itself, end it.

The daemon rents and destroys; this only asks it, reads, and starts a machine that has stopped itself. Whatever goes
wrong, the daemon is asked to end the run, at last with a waiver of its worthless files, and keeps at it after we are gone.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar
from uuid import uuid4

from gpuproviders.errors import ProviderError
from gpuproviders.model import Power, Provider
from gpuwatch.canary import job
from gpuwatch.canary.judge import Seen
from gpuwatch.clean import clean
from gpuwatch.client import wire
from gpuwatch.client.blocking import Client
from gpuwatch.client.errors import CallFailed, DaemonUnreachable

R = TypeVar("R", bound=wire.Struct)
_ADDRESS: Final = re.compile(
    r"\b\d{1,3}(?:\.\d{1,3}){3}\b|\[[0-9a-fA-F:]{6,}\]|\b[\w-]+(?:\.[\w-]+)*\.(?:vast\.ai|runpod\.\w+)\b"
)
"""Addresses of machines: the report goes to strangers."""
REST_SECONDS: Final = 5.0
"""How long a machine that stopped itself is left so: whatever ran on it has ended by then."""
OVER: Final = frozenset({"gone", "lost"})
CALL_SECONDS: Final = 120.0
END_SECONDS: Final = 600.0
"""How long the end is waited for before the files are waived; then as long again."""


class TooDear(Exception):
    """No offer is cheap enough for what may be spent."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to walk. Money in micro-dollars, times in seconds."""

    vendor: str
    max_cost: int
    image: str = job.IMAGE
    query: str = ""
    stop: bool = True
    """Whether the box shall stop itself on the way."""
    interval: float = 5.0
    """Between two looks; the vendors' quotas allow that."""
    seconds: float = 2400.0
    """When the walk is broken off and everything ended."""


@dataclass(slots=True)
class Walk:
    """One walk. `url` and `mark` are the vendor's address and the fingerprint of the account's key."""

    order: Order
    connect: Callable[[], Client]
    """A new connection to the daemon, not yet opened."""
    provider: Provider
    url: str
    mark: str
    say: Callable[[str], None]
    now: Callable[[], float] = time.monotonic
    seen: Seen = field(init=False)
    welcome: wire.Welcome | None = None
    timeline: list[str] = field(default_factory=list)
    _began: float = 0.0
    _run: str = ""
    _label: str | None = None
    _instance: str | None = None
    _since: int = 0

    def __post_init__(self) -> None:
        self.seen = Seen(self.order.vendor)

    async def go(self) -> Seen:
        """Everything. Raises CallFailed, DaemonUnreachable, TooDear before anything was rented; afterwards nothing."""
        self._began = self.now()
        self.welcome = await self._call("hello", wire.Hello(client="canary"), wire.Welcome)
        self.seen.version = self.welcome.version
        self.seen.credit_before = await self._credit()
        offer, rate = await self._offer()
        with tempfile.TemporaryDirectory(prefix="gputui-canary-") as folder:
            (Path(folder) / job.FILE).write_text(job.PROGRAM, encoding="utf-8")
            await self._launch(offer, rate, folder)
            try:
                async with asyncio.timeout(self.order.seconds):
                    await self._follow(until=OVER | {"failed"})
            except (CallFailed, OSError, ProviderError, TimeoutError) as error:
                self._trouble(f"the walk was broken off: {type(error).__name__} {error}")
            finally:
                await self._end()
        await self._afterwards()
        return self.seen

    # --- before --------------------------------------------------------------------------------------

    async def _offer(self) -> tuple[wire.OfferRow, int]:
        """The cheapest suitable offer, and what an hour of it costs with everything."""
        query = wire.OffersQuery(
            query=f"provider={self.order.vendor} {self.order.query}", disk=10 * 10**9, limit=5
        )
        answer = await self._call("offers", query, wire.Offers)
        if not answer.offers:
            why = "; ".join(answer.problems) or "try another --query"
            raise TooDear(f"{self.order.vendor} has no offer that fits {query.query!r}; {why}")
        offer = answer.offers[0]
        rate = offer.price if offer.all_in is None else offer.all_in
        # a walk takes a quarter of an hour on a slow day, and the end must be paid too
        if rate / 4 > self.order.max_cost:
            raise TooDear(
                f"the cheapest offer costs ${rate / 1e6:.2f}/h, and a quarter of an hour is more than --max-cost allows; "
                f"raise it to {rate / 4e6:.2f}"
            )
        return offer, rate

    async def _launch(self, offer: wire.OfferRow, rate: int, folder: str) -> None:
        self.seen.offer, self.seen.gpu, self.seen.price = offer.offer_id, offer.gpu, offer.price
        text = job.spec(
            name=f"canary-{self.order.vendor}", vendor=self.order.vendor, image=self.order.image, url=self.url, mark=self.mark,
            max_cost=self.order.max_cost * 0.8 / 1e6, stop=self.order.stop,
        )  # fmt: skip
        spec = wire.SpecText(text=text, file="canary.toml", base=folder)
        launch = wire.Launch(spec=spec, key=uuid4().hex, provider=self.order.vendor, offer_id=offer.offer_id)
        self._run = (await self._call("launch", launch, wire.Launched)).run
        self._note(f"launched {self._run} on {offer.gpu} at ${rate / 1e6:.3f}/h all-in")

    # --- on the way ----------------------------------------------------------------------------------

    async def _follow(self, until: frozenset[str]) -> None:
        while True:
            await self._look()
            try:
                await self._events()
                detail = await self._call("run", wire.RunRef(run=self._run), wire.RunDetail)
            except DaemonUnreachable as error:
                # it may be restarting; the walk's own deadline ends this
                self._trouble(f"the daemon does not answer: {error}")
                await asyncio.sleep(self.order.interval)
                continue
            row = detail.run
            self.seen.state, self.seen.cost = row.state, row.cost
            self.seen.receipt = self.seen.receipt or detail.custody.receipt is not None
            if row.reason:
                self._trouble(f"the daemon: {row.reason}")
            if (
                self.seen.started_at is not None
                and self.seen.back_at is None
                and row.telemetry_age is not None
                and row.telemetry_age < self._at() - self.seen.started_at
            ):
                self.seen.back_at = self._at()
            if row.state in until:
                return
            await asyncio.sleep(self.order.interval)

    async def _events(self) -> None:
        found = await self._call("events", wire.EventsRead(run=self._run, since=self._since), wire.Events)
        self._since = found.next
        for event in found.events:
            self._note(f"{event.kind}: {event.text}")
            match event.kind:
                case "offer-chosen":
                    self._label, self._instance = str(event.data.get("label")), None
                    self.seen.gpu, self.seen.price = str(event.data.get("gpu")), event.data.get("price")
                case "rented":
                    self._instance, self.seen.rented_at = str(event.data.get("instance_id")), self._at()
                case "booted":
                    self.seen.booted_after = event.data.get("seconds")
                case "destroy-sent":
                    self.seen.destroy_sent_at = self.seen.destroy_sent_at or self._at()
                case "gone":
                    self.seen.gone_at = self._at()
                case _:
                    pass

    async def _look(self) -> None:
        """One complete list by our own eyes."""
        if self._label is None:
            return
        try:
            listing = await self.provider.instances()
        except ProviderError as error:
            self._trouble(f"list: {error}")
            return
        known = None if self._instance is None else listing.by_id(self._instance)
        ours = next(iter(listing.by_label(self._label)), known)
        if ours is None:
            if self.seen.destroy_sent_at is not None and self.seen.unlisted_at is None:
                self.seen.unlisted_at = self._at()
            return
        if self.seen.listed_at is None:
            self.seen.listed_at, self.seen.labelled = self._at(), ours.label == self._label
        self.seen.statuses[clean(ours.status or "(none)", 120)] = ours.power.value
        if ours.power is Power.UNKNOWN:
            self.seen.unknown.add(clean(ours.status or "(none)", 120))
        self.seen.endpoints |= {endpoint.kind for endpoint in ours.endpoints}
        if ours.power is Power.RUNNING and self.seen.listed_price is None:
            self.seen.listed_price = ours.price
        if self.seen.looked_up is None and self._instance is not None:
            await self._look_up(self._instance)
        # its own wish to stop is granted when the vendor says so twice, or says "stopped" once and wants that
        if (
            ours.power is Power.STOPPED
            and self.seen.booted_after is not None
            and self.seen.destroy_sent_at is None
        ):
            await self._restart(ours.instance_id, ours.price)

    async def _look_up(self, instance_id: str) -> None:
        try:
            self.seen.looked_up = await self.provider.instance(instance_id) is not None
        except ProviderError as error:
            self._trouble(f"look-up: {error}")

    async def _restart(self, instance_id: str, price: int | None) -> None:
        if self.seen.stopped_at is None:
            self.seen.stopped_at, self.seen.stopped_price = self._at(), price
            self._note("it has stopped itself")
        if self._at() - self.seen.stopped_at < REST_SECONDS:
            return
        try:
            await self.provider.start(instance_id)
        except ProviderError as error:
            self._trouble(f"start: {error}")
        else:
            if self.seen.started_at is None:
                self.seen.started_at = self._at()
                self._note("asked it to start again")

    # --- the end -------------------------------------------------------------------------------------

    async def _end(self) -> None:
        """Until the daemon says that it is gone: at first with its files, then without them."""
        for waive in ([], ["*"]):
            if self.seen.state in OVER:
                return
            order = wire.Destroy(
                run=self._run, waive=waive, by="canary", confirm=f"canary-{self.order.vendor}" if waive else "",
                reason="the canary's files are worth nothing" if waive else "",
            )  # fmt: skip
            try:
                await self._call("destroy", order, wire.CustodyReport)
                async with asyncio.timeout(END_SECONDS):
                    await self._follow(until=OVER)
            except (CallFailed, OSError, ProviderError, TimeoutError) as error:
                self._trouble(f"ending it: {type(error).__name__} {error}")

    async def _afterwards(self) -> None:
        """What came home, and what the vendor says of the grave."""
        if self.welcome is not None:
            home = Path(self.welcome.vault) / self._run
            self.seen.box, self.seen.payload = await asyncio.to_thread(_read_home, home)
        if self._instance is not None:
            try:
                self.seen.lookup_after = (
                    "none" if await self.provider.instance(self._instance) is None else "still there"
                )
            except ProviderError as error:
                self.seen.lookup_after = f"error: {clean(str(error), 120)}"
        self.seen.credit_after = await self._credit()

    async def _credit(self) -> int | None:
        try:
            return (await self.provider.account()).credit
        except ProviderError as error:
            self._trouble(f"account: {error}")
            return None

    # --- small things --------------------------------------------------------------------------------

    async def _call(self, method: str, params: wire.Struct, result: type[R]) -> R:
        def act() -> R:
            with self.connect() as client:
                return client.call(method, params, result)

        return await asyncio.to_thread(act)

    def _at(self) -> float:
        return self.now() - self._began

    def _note(self, text: str) -> None:
        line = f"{self._at():6.0f} s  {clean(_ADDRESS.sub('(address)', text), 200)}"
        self.timeline.append(line)
        self.say(line)

    def _trouble(self, text: str) -> None:
        line = clean(_ADDRESS.sub("(address)", text), 300)
        if line not in self.seen.trouble:
            self.seen.trouble.append(line)
            self.say(f"  △ {line}")


def _read_home(home: Path) -> tuple[dict[str, object], str | None]:
    """`canary.json` and the hash of `payload.bin` as they lie in the vault; nothing for what is not there."""
    facts: dict[str, object] = {}
    try:
        read = json.loads((home / "canary.json").read_bytes()[:65536])
        facts = read if isinstance(read, dict) else {}
    except (OSError, ValueError):
        pass
    try:
        payload = hashlib.sha256((home / "payload.bin").read_bytes()).hexdigest()
    except OSError:
        payload = None
    return facts, payload
