"""What every place has: header, banner, keys, a filter, and the actions on the run under the cursor."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.css.query import NoMatches
from textual.screen import Screen
from textual.widgets import Input

from gputui import wording as say
from gputui.app import GpuTui
from gputui.fleet import Fleet, why_no_destroy, why_no_undo
from gputui.guard import run_guarded
from gputui.widgets.bars import Banner, KeyBar, TopBar
from gputui.widgets.vtable import VTable
from gpuwatch.client import wire


class Place(Screen[None]):
    """A full screen on the fleet. Subclasses yield their middle in `body` and redraw in `fleet_changed`."""

    PLACE = ""
    AUTO_FOCUS = "VTable"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Open", id="open"),
        Binding("l", "launch", "Launch", id="launch", tooltip="Start a run from a spec"),
        Binding("d", "destroy", "Destroy", id="destroy", tooltip="Collect, verify, then destroy"),
        Binding("u", "undo", "Undo destroy", show=False, id="undo"),
        Binding("P", "pin", "Pin", show=False, id="pin", tooltip="Hold the machine, or let it go again"),
        Binding("w", "why", "Why", id="why", tooltip="Why does this machine exist?"),
        Binding("slash", "filter", "Filter", id="filter"),
        Binding("escape", "back", "Back", show=False, id="back"),
    ]

    def compose(self) -> ComposeResult:
        """Header, banner, the place itself, keys."""
        yield TopBar(self.PLACE)
        yield Banner(classes="panel")
        yield from self.body()
        yield KeyBar()

    def body(self) -> ComposeResult:
        """The middle of the screen."""
        raise NotImplementedError

    @property
    def tui(self) -> GpuTui:
        """The app, by its own type."""
        return cast("GpuTui", self.app)

    def on_mount(self) -> None:
        """Draw what is known, then on every change."""
        self.tui.fleet_changed.subscribe(self, self._fleet_changed, immediate=True)
        self._fleet_changed(self.tui.fleet)

    def on_screen_resume(self) -> None:
        """While another screen was in front nothing was drawn."""
        self._fleet_changed(self.tui.fleet)

    def _fleet_changed(self, fleet: Fleet) -> None:
        if self.is_mounted and (self.is_current or not self.tui.screen_stack):
            # a screen that is being taken down still hears of changes while its children are gone
            with suppress(NoMatches), self.app.batch_update():
                self.tick()
                self.fleet_changed(fleet)

    def fleet_changed(self, fleet: Fleet) -> None:
        """Show the newest snapshot."""

    def tick(self) -> None:
        """A second has passed: ages grow, and data may have become stale."""
        fleet, now = self.tui.fleet, self.tui.clock()
        self.set_class(fleet.stale(now), "-stale")
        self.query_one(TopBar).show(fleet, now)
        self.query_one(Banner).show(fleet, now)

    # --- actions on a run ------------------------------------------------------------------------

    def current_run(self) -> wire.RunRow | None:
        """The run that actions are about."""
        return None

    def why_not(self, action: str) -> str | None:
        """Why an action is not possible now; the key stays visible and says this."""
        run = self.current_run()
        if action == "destroy":
            return why_no_destroy(run)
        if action == "undo":
            return why_no_undo(run)
        if action in {"why", "open", "pin"} and run is None:
            return "there is no run here"
        if action == "pin" and run is not None and run.state in say.ENDED:
            return f"{run.name} has no machine any more"
        return None

    def refuse(self, action: str) -> bool:
        """Tell why `action` is not possible; False when it is."""
        reason = self.why_not(action)
        if reason is not None:
            self.notify(reason[0].upper() + reason[1:] + ".", severity="warning", timeout=4)
        return reason is not None

    def action_open(self) -> None:
        """Open the run under the cursor."""
        run = self.current_run()
        if not self.refuse("open") and run is not None:
            self.tui.open_run(run.id)

    def action_launch(self) -> None:
        """Start a run from a spec."""
        self.launch(None)

    def launch(self, offer: wire.OfferRow | None) -> None:
        """Ask for a spec; open the new run."""
        from gputui.screens.launch import LaunchDialog

        def launched(answer: wire.Launched | None) -> None:
            if answer is not None:
                self.notify(f"{answer.name} was launched.", title="Launched")
                self.tui.open_run(answer.run)

        self.app.push_screen(LaunchDialog(offer), launched)

    def action_destroy(self) -> None:
        """Open the custody dialog."""
        run = self.current_run()
        if self.refuse("destroy") or run is None:
            return
        from gputui.screens.destroy import DestroyDialog

        def asked(report: wire.CustodyReport | None) -> None:
            if report is not None:
                text = (
                    report.summary
                    if report.allowed
                    else f"{report.summary} First everything is brought home."
                )
                self.notify(text, title=f"{run.name}: destroy asked (u takes it back)")

        self.app.push_screen(DestroyDialog(run), asked)

    def action_undo(self) -> None:
        """Take back a destroy that has not been sent."""
        run = self.current_run()
        if self.refuse("undo") or run is None:
            return

        async def undo() -> None:
            await self.tui.link.call("destroy.cancel", wire.Cancel(run=run.id), wire.Empty)
            self.notify(f"The machine of {run.name} stays.", title="Taken back")

        run_guarded(self, undo(), what="Undo destroy", group="undo")

    def action_pin(self) -> None:
        """Hold the run's machine against every destroy, or let it go again."""
        run = self.current_run()
        if self.refuse("pin") or run is None:
            return
        pinned = any(hold.name == "pin" for hold in run.holds)

        async def pin() -> None:
            if pinned:
                order = wire.HoldRelease(run=run.id, by="a person (app)")
                await self.tui.link.call("hold.release", order, wire.CustodyReport)
                self.notify(f"{run.name} may end like any other run.", title="Unpinned")
            else:
                order_ = wire.HoldPlace(run=run.id, by="a person (app)")
                await self.tui.link.call("hold", order_, wire.Empty)
                self.notify(
                    f"The machine of {run.name} stays, and costs, until P is pressed again.", title="Pinned"
                )

        run_guarded(self, pin(), what="Pin", group="pin")

    def action_why(self) -> None:
        """Why the run's machine exists."""
        run = self.current_run()
        if self.refuse("why") or run is None:
            return
        from gputui.screens.why import WhyDialog

        self.app.push_screen(WhyDialog(run))

    # --- the filter ------------------------------------------------------------------------------

    def filtered(self) -> VTable[Any] | None:
        """The table that `/` filters."""
        return next(iter(self.query(VTable)), None)

    def action_filter(self) -> None:
        """Open the filter."""
        for found in self.query("#filter").results(Input):
            found.focus()
            return
        if (table := self.filtered()) is not None:
            table.model.prepare()
        entry = Input(
            placeholder="words, !word, price<2.5 …  (enter keeps it, esc ends it)", id="filter", compact=True
        )
        self.mount(entry, before=self.query_one(KeyBar))
        entry.focus()

    @on(Input.Changed, "#filter")
    def _filter_changed(self, event: Input.Changed) -> None:
        if (table := self.filtered()) is not None:
            understood = table.filter(event.value)
            event.input.set_class(bool(understood.unknown), "-invalid")

    @on(Input.Submitted, "#filter")
    def _filter_kept(self) -> None:
        if (table := self.filtered()) is not None:
            table.focus()

    def action_back(self) -> None:
        """Close what is open: the filter first, then the screen."""
        entries = list(self.query("#filter").results(Input))
        if entries:
            if (table := self.filtered()) is not None:
                table.filter("")
                table.focus()
            entries[0].remove()
        elif len(self.app.screen_stack) > 1:
            self.app.pop_screen()

    @on(VTable.Moved)
    def _cursor_moved(self) -> None:
        self.query_one(KeyBar).changed()
        self.cursor_moved()

    def cursor_moved(self) -> None:
        """Another row is under the cursor."""

    @on(VTable.Chosen)
    def _chosen(self) -> None:
        self.action_open()
