"""What every place has: header, banner, keys, a filter, and the actions on the run under the cursor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any, ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.css.query import NoMatches
from textual.screen import Screen
from textual.widgets import Input

from gpuproviders.query import Field
from gputui import possible
from gputui.app import GpuTui
from gputui.filtering import completion, values_in
from gputui.fleet import Fleet
from gputui.guard import run_guarded
from gputui.possible import why_no_box, why_no_destroy, why_no_undo
from gputui.screens.place_keys import KEYS
from gputui.widgets.bars import Banner, KeyBar, TopBar
from gputui.widgets.filterentry import FilterEntry
from gputui.widgets.lines import Lines
from gputui.widgets.vtable import VTable
from gpuwatch.client import wire

_WHY_NOT: dict[str, Callable[[wire.RunRow | None], str | None]] = {
    "retry": possible.why_no_retry,
    "recover": possible.why_no_recover,
    "accept_key": possible.why_no_key,
    "stop": possible.why_no_stop,
}


ACTS = frozenset({
    "launch", "destroy", "undo", "pin", "holds", "retry", "recover", "accept_key", "stop", "evacuate", "shell", "forward", "forward_other",
    "command", "avoid", "forgive", "answer",
})  # fmt: skip


class Place(Screen[None]):
    """A full screen on the fleet. Subclasses yield their middle in `body` and redraw in `fleet_changed`."""

    PLACE = ""
    ACTS: ClassVar[frozenset[str]] = ACTS
    """Actions that an app which only looks does not have."""
    AUTO_FOCUS = "VTable"
    BINDINGS: ClassVar[list[BindingType]] = KEYS

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

    def reason(self, action: str) -> str | None:
        """Why an action is not possible now, in this app at all or by `why_not`."""
        if self.tui.read_only and action in self.ACTS:
            return "this app only looks (--read-only)"
        return self.why_not(action)

    def why_not(self, action: str) -> str | None:
        """Why an action is not possible now; the key stays visible and says this."""
        run = self.current_run()
        if action == "destroy":
            return why_no_destroy(run)
        if action == "undo":
            return why_no_undo(run)
        if action in {"shell", "copy_ssh", "forward", "forward_other", "command"}:
            return why_no_box(run)
        if action in {"pin", "holds"} and why_no_destroy(run) is not None:
            return why_no_destroy(run)
        if action in _WHY_NOT:
            return _WHY_NOT[action](run)
        if action in {"why", "open"} and run is None:
            return "there is no run here"
        if action == "evacuate" and not self._living():
            return "no machine is rented"
        return None

    def _living(self) -> list[wire.RunRow]:
        runs = self.tui.fleet.runs
        return [] if runs is None else [run for run in runs.runs if why_no_destroy(run) is None]

    def selected(self) -> list[wire.RunRow]:
        """The runs that are selected, none when actions are about the one under the cursor."""
        table = self.filtered()
        if table is None or not table.marked:
            return []
        return [
            run
            for key in table.model.order
            if key in table.marked and (run := self.tui.fleet.find(key)) is not None
        ]

    def refuse(self, action: str) -> bool:
        """Tell why `action` is not possible; False when it is."""
        reason = self.reason(action)
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
        if self.refuse("launch"):
            return
        from gputui.screens.launch import LaunchDialog

        def launched(answer: wire.Launched | None) -> None:
            if answer is not None:
                self.notify(f"{answer.name} was launched.", title="Launched")
                self.tui.open_run(answer.run)

        self.app.push_screen(LaunchDialog(offer), launched)

    def action_destroy(self) -> None:
        """Open the custody dialog."""
        run = self.current_run()
        if many := [] if self.tui.read_only else self.selected():
            self._end_all([run for run in many if why_no_destroy(run) is None], everything=False)
            return
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
        current = self.current_run()
        many = [run for run in self.selected() if why_no_undo(run) is None and not self.tui.read_only]
        if not many and (self.refuse("undo") or current is None):
            return

        async def undo() -> None:
            for run in many or ([current] if current is not None else []):
                await self.tui.link.call("destroy.cancel", wire.Cancel(run=run.id), wire.Empty)
                self.notify(f"The machine of {run.name} stays.", title="Taken back")

        run_guarded(self, undo(), what="Undo destroy", group="undo")

    def action_why(self) -> None:
        """Why the run's machine exists."""
        run = self.current_run()
        if self.refuse("why") or run is None:
            return
        from gputui.screens.why import WhyDialog

        self.app.push_screen(WhyDialog(run))

    def action_pin(self) -> None:
        """Hold the machine, or hold it no longer."""
        run = self.current_run()
        if self.refuse("pin") or run is None:
            return

        async def toggle() -> None:
            if any(hold.name == "pin" for hold in run.holds):
                order = wire.HoldRelease(run=run.id, by=self.tui.person)
                await self.tui.link.call("hold.release", order, wire.CustodyReport)
                self.notify(f"{run.name} may go when its work is done.", title="Not pinned any more")
            else:
                await self.tui.link.call("hold", wire.HoldPlace(run=run.id, by=self.tui.person), wire.Empty)
                self.notify(f"{run.name} stays, and costs, until P again.", title="Pinned")

        run_guarded(self, toggle(), what="Pin", group="pin")

    def action_holds(self) -> None:
        """What keeps the run's machine."""
        run = self.current_run()
        if self.refuse("holds") or run is None:
            return
        from gputui.screens.holds import HoldsDialog

        self.app.push_screen(HoldsDialog(run))

    def _mend(self, action: str) -> None:
        run = self.current_run()
        if not self.refuse(action) and run is not None:
            from gputui.screens import mending

            mending.ACTIONS[action](self, run)

    def action_retry(self) -> None:
        """Try a failed run once more."""
        self._mend("retry")

    def action_stop(self) -> None:
        """Stop the machine, or start it again."""
        self._mend("stop")

    def action_recover(self) -> None:
        """Go on elsewhere."""
        self._mend("recover")

    def action_accept_key(self) -> None:
        """Take the host key that the box shows now for its own."""
        self._mend("accept_key")

    def action_evacuate(self) -> None:
        """End everything, with nothing lost."""
        if not self.refuse("evacuate"):
            self._end_all(self._living(), everything=True)

    def _end_all(self, runs: list[wire.RunRow], *, everything: bool) -> None:
        if not runs:
            self.notify("None of what is selected has a machine to destroy.", severity="warning")
            return
        from gputui.screens.bulk import BulkDialog

        def asked(number: int | None) -> None:
            if number:
                self.notify(f"Asked for {number}; u takes it back until it is sent.", title="Destroy")
                if (table := self.filtered()) is not None:
                    table.unmark()

        self.app.push_screen(BulkDialog(runs, everything=everything), asked)

    def _reach(self, action: str) -> None:
        run = self.current_run()
        if not self.refuse(action) and run is not None:
            from gputui.screens import reach

            {
                "shell": reach.shell,
                "copy_ssh": reach.copy_command,
                "forward": reach.forward,
                "forward_other": reach.forward_other,
                "command": reach.command,
            }[action](self, run)

    def action_shell(self) -> None:
        """A shell on the box."""
        self._reach("shell")

    def action_copy_ssh(self) -> None:
        """The command for one."""
        self._reach("copy_ssh")

    def action_forward(self) -> None:
        """A port of the box here."""
        self._reach("forward")

    def action_forward_other(self) -> None:
        """Another port of the box here."""
        self._reach("forward_other")

    def action_command(self) -> None:
        """One command on the box."""
        self._reach("command")

    # --- the filter ------------------------------------------------------------------------------

    def filtered(self) -> VTable[Any] | None:
        """The table that `/` filters."""
        return next(iter(self.query(VTable)), None)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """`/` comes before everything, so that what is typed right after it is not taken for keys; but not while typing."""
        if action == "filter" and isinstance(self.focused, Input):
            return False
        return super().check_action(action, parameters)

    async def action_filter(self) -> None:
        """Open the filter. The keys after this one wait until it is there."""
        for found in self.query("#filter").results(Input):
            found.focus()
            return
        if (table := self.filtered()) is not None:
            table.model.prepare()
        told, values = Lines(id="proposals"), cache(self._values)
        entry = FilterEntry(
            kept=self._filter_kept,
            propose=lambda text, cursor: completion(text, cursor, self._fields, values),
            told=told,
            placeholder="words, !word, price<2.5 …  (tab completes, enter keeps it, esc ends it)",
        )
        await self.mount(told, entry, before=self.query_one(KeyBar))
        self.set_focus(entry)

    @on(Input.Changed, "#filter")
    def _filter_changed(self, event: Input.Changed) -> None:
        if (table := self.filtered()) is not None:
            understood = table.filter(event.value)
            event.input.set_class(bool(understood.unknown), "-invalid")
        if isinstance(event.input, FilterEntry):
            event.input.tell()

    @property
    def _fields(self) -> Mapping[str, Any]:
        table = self.filtered()
        return {} if table is None else table.model.fields

    def _values(self, one: Field[Any]) -> list[str]:
        """The values of a field that occur in the table; looked up once for each filter that is opened."""
        table = self.filtered()
        return [] if table is None else values_in(table.model.rows.values(), one)

    def _filter_kept(self) -> None:
        self.query_one("#proposals", Lines).set_lines([])
        if (table := self.filtered()) is not None:
            self.set_focus(table)

    def action_back(self) -> None:
        """Close what is open: the filter first, then the selection, then the screen."""
        entries = list(self.query("#filter").results(Input))
        if entries:
            if (table := self.filtered()) is not None:
                table.filter("")
                table.focus()
            entries[0].remove()
            self.query("#proposals").remove()
        elif (table := self.filtered()) is not None and table.marked:
            table.unmark()
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
