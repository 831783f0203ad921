"""Offers: what can be rented now, cheapest first."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from gpuproviders.listing import FIELDS, text_of, worth
from gputui import myrun, spark
from gputui import wording as say
from gputui.fleet import Fleet
from gputui.guard import run_guarded
from gputui.screens.machines import KEYS as MACHINE_KEYS
from gputui.screens.machines import avoid, forgive, show
from gputui.screens.place import ACTS, Place
from gputui.table import Cell, Column, Piece, TableModel
from gputui.widgets.lines import Line, Lines
from gputui.widgets.vtable import VTable
from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed

LIMIT = 20_000
"""Offers asked for at once."""
_TIMEOUT = 120.0
_DAYS = 14
"""How far back prices are shown."""


def _key(row: wire.OfferRow) -> str:
    return f"{row.provider}:{row.offer_id}"


def _kind(row: wire.OfferRow) -> Cell:
    return ("spot", "warn") if row.spot else ("on-demand", "")


def _trust(row: wire.OfferRow) -> Cell:
    text = say.percent(row.reliability)
    return (f"△ {text}", "warn") if not row.verified else (text, "" if row.reliability is not None else "dim")


class Beside:
    """What the table shows beside the offers themselves: what prices were, and what a run of ours would cost."""

    def __init__(self) -> None:
        self.prices: dict[tuple[str, str, int], list[int]] = {}
        """Cheapest price of a kind each time somebody looked, oldest first, micro-dollars per hour."""
        self.mine: myrun.Mine | None = None
        self.tflops: float | None = None
        """Peak of the GPUs that `mine` is on."""

    def series(self, offer: wire.OfferRow) -> list[int]:
        """What was asked for this kind of machine before."""
        return self.prices.get((offer.provider, offer.gpu, offer.gpu_count), [])

    def estimate(self, offer: wire.OfferRow) -> myrun.Estimate | None:
        """What our run would cost on it."""
        return None if self.mine is None else myrun.estimate(self.mine, offer, self.tflops)

    def columns(self) -> Sequence[Column[wire.OfferRow]]:
        """Theirs, for the table."""

        def cost(offer: wire.OfferRow) -> Cell:
            found = self.estimate(offer)
            if found is None:
                return (say.UNKNOWN, "dim")
            return (("" if found.measured else "≈") + say.money(found.cost), "")

        def cost_of(offer: wire.OfferRow) -> int | None:
            found = self.estimate(offer)
            return None if found is None else found.cost

        return (
            Column("mine", "MY RUN", 8, cost, cost_of, right=True, wide=146),
            Column(
                "trend", "14 DAYS", 10, lambda o: (spark.sparkline(self.series(o), 10), "accent"), wide=176
            ),
        )


COLUMNS: Sequence[Column[wire.OfferRow]] = (
    Column("gpu", "GPU", 14, lambda o: (say.gpus(o.gpu, o.gpu_count), "bold"), lambda o: o.gpu.lower(), flex=2),
    Column("memory", "VRAM", 5, lambda o: say.gigabytes(o.gpu_memory), lambda o: o.gpu_memory, right=True, descending=True),
    Column("price", "PRICE", 9, lambda o: (say.rate(worth(o)), "good"), worth, right=True),
    Column(
        "each", "PER GPU", 9, lambda o: say.rate(worth(o) // max(1, o.gpu_count)), lambda o: worth(o) / max(1, o.gpu_count),
        right=True, wide=100,
    ),
    Column("tflop", "/TFLOPh", 8, lambda o: say.small(o.tflop_price), lambda o: o.tflop_price, right=True, wide=166),
    Column("tokens", "/1e9 TOK", 8, lambda o: say.money(o.token_price), lambda o: o.token_price, right=True, wide=166),
    Column("kind", "KIND", 9, _kind, lambda o: o.spot),
    Column("reliable", "RELIABLE", 8, _trust, lambda o: o.reliability, right=True, descending=True),
    Column("down", "DOWN", 5, lambda o: say.network(o.download_speed), lambda o: o.download_speed, right=True, descending=True),
    Column("up", "UP", 5, lambda o: say.network(o.upload_speed), lambda o: o.upload_speed, right=True, wide=120, descending=True),
    Column("disk", "DISK", 6, lambda o: say.gigabytes(o.disk), lambda o: o.disk, right=True, descending=True),
    Column("cpu", "CPU", 4, lambda o: say.count(o.cpu_cores), lambda o: o.cpu_cores, right=True, wide=133, descending=True),
    Column("ram", "RAM", 5, lambda o: say.gigabytes(o.memory), lambda o: o.memory, right=True, wide=133, descending=True),
    Column("cuda", "CUDA", 5, lambda o: o.cuda or (say.UNKNOWN, "dim"), lambda o: o.cuda, wide=100),
    Column("region", "REGION", 7, lambda o: (o.region or say.UNKNOWN, "dim"), lambda o: o.region, flex=1),
    Column("offer", "OFFER", 16, lambda o: (_key(o), "dim"), _key, wide=113),
)  # fmt: skip


def model(beside: Beside | None = None) -> TableModel[wire.OfferRow]:
    """Offers as a table."""
    more = (beside or Beside()).columns()
    return TableModel(
        columns=(*COLUMNS[:4], *more, *COLUMNS[4:]),
        key=_key,
        text=text_of,
        fields={one.name: one for one in FIELDS},
    )


class OffersScreen(Place):
    """The market."""

    PLACE = "offers"
    CSS_PATH = "offers.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Launch on this", id="launch-on"),
        Binding("r", "refresh", "Refresh", id="refresh"),
        Binding("i", "kind", "Spot/on-demand", id="spot", tooltip="Interruptible machines instead"),
        Binding(
            "v", "unverified", "Unverified", id="unverified", tooltip="Also hosts the vendor has not verified"
        ),
        Binding(
            "M",
            "my_run",
            "My run",
            show=False,
            id="my-run",
            tooltip="What another of your runs would cost here",
        ),
        Binding(
            "O",
            "machines",
            "Our machines",
            show=False,
            id="machines",
            tooltip="What we have seen of machines ourselves, and which are avoided",
        ),
        *(replace(key, show=False) for key in MACHINE_KEYS),
        Binding("d,w,u,x,y,f,F,P,H,A,C,K,Z,exclamation_mark", "no_run", show=False),
    ]

    ACTS: ClassVar[frozenset[str]] = ACTS | {"open"}

    def __init__(self) -> None:
        super().__init__()
        self.question = wire.OffersQuery(limit=LIMIT)
        self.answer: wire.Offers | None = None
        self.asked_at = 0.0
        self.beside = Beside()

    def body(self) -> ComposeResult:
        """What was asked, the table, the offer under the cursor."""
        yield Lines(id="asked")
        yield VTable(model(self.beside), id="offers")
        yield Lines(id="offer", classes="panel")

    @property
    def table(self) -> VTable[wire.OfferRow]:
        """The offers."""
        return self.query_one("#offers", VTable)

    def on_mount(self) -> None:
        """Ask at once."""
        super().on_mount()
        self.action_refresh()

    def action_refresh(self) -> None:
        """Ask again."""

        async def ask() -> None:
            self._say("asking the providers …", "busy")
            try:
                answer = await self.tui.link.call("offers", self.question, wire.Offers, timeout=_TIMEOUT)
            except CallFailed as error:
                self._say(f"✗ {error} (r asks again)", "warn")
                return
            self.answer, self.asked_at = answer, self.tui.clock()
            empty = "No offer fits. v also shows unverified hosts, i switches to spot."
            self.table.empty = [empty, *answer.problems]
            self.table.load(answer.offers)
            self._take_run()
            self.cursor_moved()
            self.tick()
            with suppress(CallFailed):  # a recording knows no prices
                await self._ask_prices()

        run_guarded(self, ask(), what="Offers", group="offers")

    async def _ask_prices(self) -> None:
        """What prices were when offers were listed before; no vendor is asked."""
        question = wire.PricesQuery(days=_DAYS, spot=self.question.spot)
        found = await self.tui.link.call("offers.history", question, wire.Prices)
        self.beside.prices = {
            (one.provider, one.gpu, one.gpu_count): [price for _, price, _ in one.points]
            for one in found.series
        }
        self.table.redraw()
        self.cursor_moved()

    # --- a run of ours ---------------------------------------------------------------------------

    def fleet_changed(self, fleet: Fleet) -> None:
        """A run may have shown its pace."""
        if self.beside.mine is None and self.answer is not None:
            self._take_run()

    def _mine(self) -> list[myrun.Mine]:
        fleet = self.tui.fleet
        return [] if fleet.runs is None else myrun.candidates(fleet.runs.runs, fleet.runs.now)

    def _take_run(self, which: int = 0) -> None:
        found, beside = self._mine(), self.beside
        beside.mine = found[which % len(found)] if found else None
        offers = self.answer.offers if self.answer is not None else []
        beside.tflops = myrun.peak(beside.mine, offers) if beside.mine is not None else None
        if self.table.model.sorted_by == "mine":
            self.table.sort("mine", reverse=self.table.model.reverse)
        self.table.redraw()

    def action_my_run(self) -> None:
        """Another run to compare with."""
        if self.refuse("my_run"):
            return
        found, now = self._mine(), self.beside.mine
        at = next((i for i, one in enumerate(found) if now is not None and one.run == now.run), -1)
        self._take_run(at + 1)
        self.cursor_moved()
        if self.beside.mine is not None:
            self.notify(f"MY RUN is {self.beside.mine.name} now.", timeout=3)

    def tick(self) -> None:
        """How old the answer is."""
        super().tick()
        if self.answer is None:
            return
        count = say.plural(len(self.answer.offers), "offer")
        age = say.ago(self.tui.clock() - self.asked_at)
        kind = "spot" if self.question.spot else "on-demand"
        hosts = "all hosts" if self.question.unverified else "verified hosts"
        disk = f"{say.gigabytes(self.question.disk)} disk in the price"
        self._say(f"{count} · {kind} · {hosts} · {disk} · asked {age}", "dim", self.answer.problems)

    def _say(self, text: str, tone: str, problems: Sequence[str] = ()) -> None:
        lines: list[list[Piece]] = [[(text, tone)]]
        lines += [[("△ ", "warn"), (problem, "warn")] for problem in problems[:3]]
        self.query_one("#asked", Lines).set_lines(lines)

    def action_kind(self) -> None:
        """Spot instead of on-demand, or back."""
        self._ask_for(spot=not self.question.spot)

    def action_unverified(self) -> None:
        """Also unverified hosts, or not."""
        self._ask_for(unverified=not self.question.unverified)

    def _ask_for(self, **changes: bool) -> None:
        import msgspec

        self.question = msgspec.structs.replace(self.question, **changes)
        self.action_refresh()

    def why_not(self, action: str) -> str | None:
        """Actions here are about the offer under the cursor."""
        if action == "open":
            return None if self.table.current is not None else "there is no offer here"
        if action in {"avoid", "forgive"}:
            return self._why_no_word(action)
        if action == "my_run" and not self._mine():
            return "no run has shown its pace yet: it needs its number of steps and a minute of work"
        return super().why_not(action)

    def _why_no_word(self, action: str) -> str | None:
        offer = self.table.current
        if offer is None:
            return "there is no offer here"
        seen = offer.seen
        if action == "forgive" and (seen is None or not (seen.duds or seen.avoided_until is not None)):
            return "nothing speaks against this machine"
        return None

    @property
    def _machine(self) -> str | None:
        """The machine of the offer under the cursor; where a vendor names none, the kind."""
        offer = self.table.current
        return None if offer is None else f"{offer.provider}:{offer.machine_id or offer.offer_id}"

    def action_avoid(self) -> None:
        """Rent this machine no more, for a time."""
        if not self.refuse("avoid") and (machine := self._machine) is not None:
            avoid(self, machine, self.action_refresh)

    def action_forgive(self) -> None:
        """Take it back."""
        if not self.refuse("forgive") and (machine := self._machine) is not None:
            forgive(self, machine, self.action_refresh)

    def action_machines(self) -> None:
        """All that we know of machines."""
        show(self.tui)

    def action_open(self) -> None:
        """Launch a run on exactly this offer."""
        if not self.refuse("open"):
            self.launch(self.table.current)

    def action_launch(self) -> None:
        """Launch on the offer under the cursor."""
        self.launch(self.table.current)

    def action_no_run(self) -> None:
        """Keys of runs."""
        self.notify("These are offers; runs are on 1.", severity="warning", timeout=4)

    def cursor_moved(self) -> None:
        """More of the offer under the cursor."""
        offer = self.table.current
        panel = self.query_one("#offer", Lines)
        panel.display = offer is not None
        if offer is None:
            return
        where = "datacenter" if offer.datacenter else "host"
        checked = "verified" if offer.verified else "not verified"
        machine = f", machine {offer.machine_id}" if offer.machine_id else ""
        ends = (
            say.UNKNOWN
            if offer.ends_at is None or self.tui.fleet.runs is None
            else say.duration(offer.ends_at - self.tui.fleet.wall(self.tui.clock()))
        )
        carry = say.UNKNOWN if offer.transfer_price is None else f"{say.money(offer.transfer_price)}/GB"
        more = [*self._experience(offer), *self._compare(offer)]
        panel.set_lines(
            [
                [(say.gpus(offer.gpu, offer.gpu_count), "bold"), (f"  {say.rate(offer.price)}", "good"),
                 (f"  {offer.provider} {offer.offer_id}{machine}", "dim")],
                [("stopped ", "dim"), (say.rate(offer.disk_price), ""), ("   bringing home ", "dim"), (carry, ""),
                 ("   available for ", "dim"), (ends, ""), (f"   {checked} {where}", "dim")],
                *more,
            ]
        )  # fmt: skip

    def _experience(self, offer: wire.OfferRow) -> list[Line]:
        """What we have seen of this machine ourselves."""
        seen = offer.seen
        if seen is None:
            return []
        times = "once" if seen.tries == 1 else f"{seen.tries} times"
        line: list[Piece] = [("ours    ", "dim"), (f"rented {times}", "")]
        if seen.duds:
            line.append((f", {seen.duds} of them no good", "warn"))
        if seen.boot_seconds is not None:
            line.append((f"   up in {say.duration(seen.boot_seconds)}", "dim"))
        if seen.download is not None:
            line.append((f"   brings home {say.speed(seen.download)}", "dim"))
        if seen.avoided_until is not None:
            line.append((f"   △ avoided by {seen.avoided_by or 'experience'}", "warn"))
        if seen.trouble:
            line.append((f"   {seen.trouble}", "dim"))
        return [line]

    def _compare(self, offer: wire.OfferRow) -> list[Line]:
        """What prices were, and what our run would cost here."""
        lines: list[Line] = []
        if len(series := self.beside.series(offer)) > 1:
            ends = f"  {say.rate(min(series))} … {say.rate(max(series))}"
            lines.append(
                [
                    (f"{_DAYS} days ", "dim"),
                    (spark.sparkline(series, min(32, len(series))), "accent"),
                    (ends, "dim"),
                ]
            )
        mine = self.beside.mine
        if mine is None:
            return lines
        found = self.beside.estimate(offer)
        if found is None:
            lines.append([("my run  ", "dim"), (f"{mine.name}: not known on this GPU", "dim")])
        else:
            about = "" if found.measured else "≈ "
            whole = f"all of {mine.name} {about}{say.money(found.cost)} in {say.duration(found.seconds)}"
            lines.append([("my run  ", "dim"), (whole, "bold"), (f"  {found.how}   M another run", "dim")])
        return lines
