"""One run: state and what comes next, GPUs and curves, the live log, its timeline, custody, its spec."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import aclosing
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, VerticalScroll
from textual.widgets import ContentSwitcher

from gputui import ansi, boxes, boxfiles, receipts
from gputui import wording as say
from gputui.clean import clean_lines
from gputui.fleet import Fleet, telemetry_age
from gputui.guard import run_guarded
from gputui.possible import why_no_box
from gputui.screens import run_asked
from gputui.screens.ask import Reading
from gputui.screens.place import Place
from gputui.screens.run_log import LogPane
from gputui.screens.run_parts import TABS, Meters, State, Tabs, artifacts, spec_line, timeline
from gputui.widgets.bars import KeyBar
from gputui.widgets.chart import Charts, curve, curves_of, interest
from gputui.widgets.lines import Line, Lines, Para, Paragraphs
from gputui.widgets.logview import LogView
from gputui.widgets.vtable import VTable
from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed

_SAMPLES = 2_000
_PANES = {"files": "files-tab"}
_HISTORY = 5.0
"""Seconds between two looks at the telemetry while its charts are open."""


class RunScreen(Place):
    """Pushed on top of a place; `esc` goes back there."""

    PLACE = "run"
    CSS_PATH = "run.tcss"
    AUTO_FOCUS = "LogView"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "ignore", show=False),
        Binding("l", "ignore", show=False),
        Binding("slash", "filter", "Search", id="search", priority=True),
        *(
            Binding(key, f"tab('{name}')", name.capitalize(), show=False, id=f"tab-{name}")
            for name, key in TABS
        ),
        Binding("tab,right_square_bracket", "next_tab(1)", "Next tab", show=False),
        Binding("shift+tab,left_square_bracket", "next_tab(-1)", "Previous tab", show=False),
        Binding("z", "zoom", "Zoom log", id="zoom"),
        Binding("r", "refresh", "Refresh", show=False, id="refresh-run"),
        Binding(
            "V",
            "receipts",
            "Receipts",
            show=False,
            id="receipts",
            tooltip="The proofs in the vault, and how to check them",
        ),
        Binding("escape", "back", "Back", id="back"),
    ]

    def __init__(self, ident: str) -> None:
        super().__init__()
        self.ident = ident
        """The run's id."""
        self.samples: deque[wire.Sample] = deque(maxlen=_SAMPLES)
        self.detail: wire.RunDetail | None = None
        self._seen: tuple[object, ...] = ()

    def body(self) -> ComposeResult:
        """State, tabs, and what the tab shows."""
        yield State(id="state")
        yield Tabs(id="tabs")
        with ContentSwitcher(initial="overview"):
            with Container(id="overview"):
                yield Meters(self.samples, id="meters")
                yield LogPane(self.ident, id="logbox")
            with VerticalScroll(id="metrics"):
                yield Charts(id="charts")
            yield VTable(timeline(), id="timeline", empty=["Nothing has happened yet."], top=True)
            with Container(id="custody"):
                yield Lines([[]], id="proof")
                yield VTable(artifacts(), id="files", empty=["No file is promised or known yet."], top=True)
            with Container(id="files-tab"):
                yield Paragraphs(id="listing")
                yield VTable(run_asked.files(), id="box-files")
            with VerticalScroll(id="spec"):
                yield Lines([[]], id="text")
            with VerticalScroll(id="cost"):
                yield run_asked.Bill(id="bill")

    @property
    def log_view(self) -> LogView:
        """The log."""
        return self.log_pane.view

    @property
    def log_pane(self) -> LogPane:
        """The log with its line."""
        return self.query_one(LogPane)

    def on_mount(self) -> None:
        """Read what there is, then follow it."""
        super().on_mount()
        run_guarded(self, self._follow_detail(), what="Run", group="detail")

    # --- data ------------------------------------------------------------------------------------

    async def _load(self) -> wire.RunDetail:
        detail = await self.tui.link.call("run", wire.RunRef(run=self.ident), wire.RunDetail)
        self.detail = detail
        self._show_detail(detail)
        return detail

    async def _follow_detail(self) -> None:
        detail = await self._load()
        self.log_pane.start(detail.log_path)
        self.samples.extend(detail.samples)
        self._show_meters()
        self.query_one("#timeline", VTable).load(reversed(detail.events))
        run_guarded(self, self._follow_telemetry(), what="Telemetry", group="telemetry")
        run_guarded(self, self._follow_events(detail.events), what="Timeline", group="events")

    async def _follow_telemetry(self) -> None:
        newest = self.samples[-1].time if self.samples else 0.0
        async with aclosing(self.tui.link.notices("telemetry", self.ident)) as stream:  # type: ignore[type-var]
            async for notice in stream:
                if notice.sample is not None and notice.sample.time > newest:
                    newest = notice.sample.time
                    self.samples.append(notice.sample)
                    self._show_meters()

    async def _follow_events(self, known: list[wire.EventRow]) -> None:
        events = {event.seq: event for event in known}
        since = max(events, default=0)
        async with aclosing(self.tui.link.notices("events", self.ident, since)) as stream:  # type: ignore[type-var]
            async for notice in stream:
                if notice.event is not None:
                    events[notice.event.seq] = notice.event
                    self.query_one("#timeline", VTable).load(
                        sorted(events.values(), key=lambda e: e.seq, reverse=True)
                    )

    def _ask_history(self) -> None:
        """The telemetry of the time that the charts show, at the resolution that reaches so far."""
        run_guarded(self, self._history(), what="Telemetry", group="history")

    async def _history(self) -> None:
        charts = self.query_one(Charts)
        while self.tab == "metrics":
            question = wire.SeriesRead(run=self.ident, seconds=charts.span)
            try:
                answer = await self.tui.link.call("telemetry.history", question, wire.SeriesOf)
                found = [
                    curve(one.name, [p[0] for p in one.points], [p[2] for p in one.points])
                    for one in answer.series
                ]
            except CallFailed:  # away, or a recording: what is here already
                found = curves_of(self.samples)
            found.sort(key=lambda one: interest(one.key))
            last = max(
                (one.times[-1] for one in found if one.times), default=self.tui.fleet.wall(self.tui.clock())
            )
            charts.show(found, last)
            await asyncio.sleep(_HISTORY)

    @on(Charts.Zoomed)
    def _zoomed(self) -> None:
        self._ask_history()

    # --- showing ---------------------------------------------------------------------------------

    def fleet_changed(self, fleet: Fleet) -> None:
        """The run's row moves; read the rest again when something that matters changed."""
        run = fleet.find(self.ident)
        if run is None:
            return
        self._show_state()
        self._show_meters()
        self.query_one(KeyBar).changed()
        key = (
            run.state,
            run.checkpoints,
            run.verified_bytes,
            run.holds,
            run.transfer and run.transfer.files_done,
        )
        if self.detail is not None and key != self._seen:
            self._seen = key
            run_guarded(self, self._reload(), what="Run", group="detail")

    async def _reload(self) -> None:
        await self._load()

    def tick(self) -> None:
        """Ages grow."""
        super().tick()
        self._show_state()

    def current_run(self) -> wire.RunRow | None:
        """The run of this screen."""
        return self.tui.fleet.find(self.ident) or (self.detail.run if self.detail is not None else None)

    def _show_state(self) -> None:
        run = self.current_run()
        age = telemetry_age(self.tui.fleet, run, self.tui.clock()) if run is not None else None
        self.query_one(State).show(run, age)

    def _show_meters(self) -> None:
        self.query_one(Meters).show(self.current_run(), tall=self.size.width >= 110)

    def _show_detail(self, detail: wire.RunDetail) -> None:
        run, custody = detail.run, detail.custody
        self._seen = (
            run.state,
            run.checkpoints,
            run.verified_bytes,
            run.holds,
            run.transfer and run.transfer.files_done,
        )
        self._show_state()
        held = sum(row.size for row in custody.verified)
        lines: list[Line] = [
            [(custody.summary, "good" if custody.allowed else "warn")],
            [("✓ ", "good"), (f"{say.plural(len(custody.verified), 'file')} verified here, {say.size(held)}", ""),
             (f"   receipt {custody.receipt[:16]}" if custody.receipt else "   no receipt yet", "dim")],
            *([("△ ", "warn"), (f"hold {hold.name}: ", "dim"), (hold.reason, "")] for hold in custody.holds),
        ]  # fmt: skip
        self.query_one("#proof", Lines).set_lines(lines)
        self.query_one("#files", VTable).load([*custody.unsafe, *custody.verified])
        spec: list[Line] = [spec_line(line) for line in clean_lines(detail.spec).expandtabs(4).splitlines()]
        if detail.ssh:
            spec = [[("# ssh  ", "dim"), (" ".join(detail.ssh), "")], [], *spec]
        self.query_one("#text", Lines).set_lines(spec)

    def on_resize(self) -> None:
        """The meters are drawn for their width."""
        self._show_meters()

    # --- keys ------------------------------------------------------------------------------------

    def why_not(self, action: str) -> str | None:
        """On other tabs the log's keys do nothing."""
        if action == "zoom" and self.tab != "overview":
            return "the log is on the overview tab (o)"
        return super().why_not(action)

    @property
    def tab(self) -> str:
        """The tab that is open."""
        return self.query_one(Tabs).current

    def action_tab(self, name: str) -> None:
        """Open a tab."""
        self.query_one(ContentSwitcher).current = _PANES.get(name, name)
        tabs = self.query_one(Tabs)
        tabs.current = name
        tabs.changed()
        targets = {
            "overview": "#log",
            "metrics": "#charts",
            "timeline": "#timeline",
            "custody": "#files",
            "files": "#box-files",
            "spec": "#spec",
            "cost": "#cost",
        }
        self.query_one(targets[name]).focus()
        if name == "metrics":
            self._ask_history()
        elif name in {"files", "cost"}:
            self.action_refresh()
        self.query_one(KeyBar).changed()

    def action_next_tab(self, by: int) -> None:
        """Open the tab beside."""
        names = [name for name, _ in TABS]
        self.action_tab(names[(names.index(self.tab) + by) % len(names)])

    def action_zoom(self) -> None:
        """Only the log, or the meters too."""
        if not self.refuse("zoom"):
            self.toggle_class("-zoom")

    def action_refresh(self) -> None:
        """Ask again for what the open tab shows."""
        ask = {"files": self._ask_files, "cost": self._ask_cost}.get(self.tab, self._reload)
        run_guarded(self, ask(), what="Run", group="detail" if ask == self._reload else self.tab)

    async def _ask_files(self) -> None:
        """List the run's folder on the box over SSH; custody says what of it is promised."""
        said, table, run = (
            self.query_one("#listing", Paragraphs),
            self.query_one("#box-files", VTable),
            self.current_run(),
        )
        reason = why_no_box(run)
        detail = await self._load() if reason is None else None
        folder = boxfiles.folder_of(detail) if detail is not None else None
        if detail is None or folder is None or not detail.ssh:
            text = reason or "the machine is not ready yet"
            said.set_paras(
                [Para(f"{text[0].upper()}{text[1:]}. What was brought home is under custody (c).", "dim")]
            )
            table.load([])
            return
        said.set_paras([[(f"asking the box for {folder} …", "busy")]])
        answer = await boxes.execute(detail.ssh, boxfiles.command(folder), keep=boxfiles.MOST + 4096)
        found = boxfiles.read(answer.output, boxfiles.states(detail.custody))
        if found is None:
            last = ansi.strip(answer.output[-400:].decode("utf-8", "replace")).strip().splitlines()[-1:]
            said.set_paras(
                [
                    Para(
                        f"✗ the box did not list its files: {last[0] if last else 'it said nothing'} (r asks again)",
                        "bad",
                        "  ",
                    )
                ]
            )
            return
        said.set_paras(run_asked.listing_said(found))
        table.empty = ["The run's folder is empty."]
        table.load(found.files)

    async def _ask_cost(self) -> None:
        bill = self.query_one(run_asked.Bill)
        try:
            report = await self.tui.link.call("cost", wire.CostQuery(run=self.ident), wire.CostReport)
        except CallFailed as error:
            bill.show(self.current_run(), None, f"✗ {error} (r asks again)")
            return
        row = next((one for one in report.runs if one.run == self.ident), None)
        bill.show(
            self.current_run(),
            row,
            "" if row is not None else "the daemon keeps no costs of this run any more",
        )

    def action_receipts(self) -> None:
        """The proofs of this run that lie in the vault."""
        path = self.detail.log_path if self.detail is not None else None
        if path is None:
            self.notify("The vault is not on this machine.", severity="warning", timeout=4)
            return

        async def show() -> None:
            found = await asyncio.to_thread(receipts.of_run, path)
            run = self.current_run()
            self.app.push_screen(
                Reading(
                    f"Receipts of {run.name if run is not None else self.ident}", receipts.told(found, path)
                )
            )

        run_guarded(self, show(), what="Receipts", group="receipts")

    def action_ignore(self) -> None:
        """Keys of lists that mean nothing here."""

    def filtered(self) -> VTable[Any] | None:
        """The table of the open tab, if it has one."""
        return {
            "timeline": self.query_one("#timeline", VTable),
            "custody": self.query_one("#files", VTable),
            "files": self.query_one("#box-files", VTable),
        }.get(self.tab)

    async def action_filter(self) -> None:
        """Search the log, or filter the table of the tab."""
        if self.tab in {"timeline", "custody", "files"}:
            await super().action_filter()
            return
        if self.tab != "overview":
            self.action_tab("overview")
        await self.log_pane.open_search()

    def action_back(self) -> None:
        """End the search first, then leave."""
        if not (self.tab == "overview" and self.log_pane.close()):
            super().action_back()
