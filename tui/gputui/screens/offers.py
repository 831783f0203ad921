"""Offers: what can be rented now, cheapest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from gpuproviders.listing import FIELDS, text_of, worth
from gputui import wording as say
from gputui.guard import run_guarded
from gputui.screens.place import Place
from gputui.table import Cell, Column, Piece, TableModel
from gputui.widgets.lines import Lines
from gputui.widgets.vtable import VTable
from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed

LIMIT = 20_000
"""Offers asked for at once."""
_TIMEOUT = 120.0


def _key(row: wire.OfferRow) -> str:
    return f"{row.provider}:{row.offer_id}"


def _kind(row: wire.OfferRow) -> Cell:
    return ("spot", "warn") if row.spot else ("on-demand", "")


def _trust(row: wire.OfferRow) -> Cell:
    text = say.percent(row.reliability)
    return (f"△ {text}", "warn") if not row.verified else (text, "" if row.reliability is not None else "dim")


COLUMNS: Sequence[Column[wire.OfferRow]] = (
    Column("gpu", "GPU", 14, lambda o: (say.gpus(o.gpu, o.gpu_count), "bold"), lambda o: o.gpu.lower(), flex=2),
    Column("memory", "VRAM", 5, lambda o: say.gigabytes(o.gpu_memory), lambda o: o.gpu_memory, right=True, descending=True),
    Column("price", "PRICE", 9, lambda o: (say.rate(worth(o)), "good"), worth, right=True),
    Column(
        "each", "PER GPU", 9, lambda o: say.rate(worth(o) // max(1, o.gpu_count)), lambda o: worth(o) / max(1, o.gpu_count),
        right=True, wide=100,
    ),
    Column("tflop", "/TFLOPh", 8, lambda o: say.small(o.tflop_price), lambda o: o.tflop_price, right=True, wide=150),
    Column("tokens", "/1e9 TOK", 8, lambda o: say.money(o.token_price), lambda o: o.token_price, right=True, wide=150),
    Column("kind", "KIND", 9, _kind, lambda o: o.spot),
    Column("reliable", "RELIABLE", 8, _trust, lambda o: o.reliability, right=True, descending=True),
    Column("down", "DOWN", 5, lambda o: say.network(o.download_speed), lambda o: o.download_speed, right=True, descending=True),
    Column("up", "UP", 5, lambda o: say.network(o.upload_speed), lambda o: o.upload_speed, right=True, wide=120, descending=True),
    Column("disk", "DISK", 6, lambda o: say.gigabytes(o.disk), lambda o: o.disk, right=True, descending=True),
    Column("cpu", "CPU", 4, lambda o: say.count(o.cpu_cores), lambda o: o.cpu_cores, right=True, wide=128, descending=True),
    Column("ram", "RAM", 5, lambda o: say.gigabytes(o.memory), lambda o: o.memory, right=True, wide=128, descending=True),
    Column("cuda", "CUDA", 5, lambda o: o.cuda or (say.UNKNOWN, "dim"), lambda o: o.cuda, wide=100),
    Column("region", "REGION", 8, lambda o: (o.region or say.UNKNOWN, "dim"), lambda o: o.region, flex=1),
    Column("offer", "OFFER", 16, lambda o: (_key(o), "dim"), _key, wide=110),
)  # fmt: skip


def model() -> TableModel[wire.OfferRow]:
    """Offers as a table."""
    return TableModel(columns=COLUMNS, key=_key, text=text_of, fields={one.name: one for one in FIELDS})


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
        Binding("d,w,u,x,y,f,P,exclamation_mark", "no_run", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.question = wire.OffersQuery(limit=LIMIT)
        self.answer: wire.Offers | None = None
        self.asked_at = 0.0

    def body(self) -> ComposeResult:
        """What was asked, the table, the offer under the cursor."""
        yield Lines(id="asked")
        yield VTable(model(), id="offers")
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
            self.cursor_moved()
            self.tick()

        run_guarded(self, ask(), what="Offers", group="offers")

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
        return super().why_not(action)

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
        panel.set_lines(
            [
                [(say.gpus(offer.gpu, offer.gpu_count), "bold"), (f"  {say.rate(offer.price)}", "good"),
                 (f"  {offer.provider} {offer.offer_id}{machine}", "dim")],
                [("stopped ", "dim"), (say.rate(offer.disk_price), ""), ("   bringing home ", "dim"), (carry, ""),
                 ("   available for ", "dim"), (ends, ""), (f"   {checked} {where}", "dim")],
            ]
        )  # fmt: skip
