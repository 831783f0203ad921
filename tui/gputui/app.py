"""The app: modes, the line to the daemon, the newest fleet snapshot, and what every screen can do."""

from __future__ import annotations

import asyncio
import gc
import getpass
import logging
import os
import re
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from rich.segment import Segment
from textual.app import App
from textual.binding import Binding, BindingType
from textual.color import Color
from textual.command import Provider
from textual.css.query import NoMatches
from textual.filter import ANSIToTruecolor, LineFilter
from textual.notifications import SeverityLevel
from textual.screen import Screen
from textual.signal import Signal
from textual.widget import Widget

from gputui import theme
from gputui.boxes import Forwards, interactive
from gputui.clean import clean_lines
from gputui.fleet import Fleet, History, LinkStatus
from gputui.guard import run_guarded
from gputui.link import DaemonLink
from gpuwatch.client import wire
from gpuwatch.paths import Paths, discover

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class StripControl(LineFilter):
    """The last gate before the terminal: whatever slipped through, no control character leaves here."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """Segments without control characters in their text."""
        if "".join([segment.text for segment in segments]).isprintable():
            return segments  # nearly always
        return [
            Segment(_CONTROL.sub("", segment.text), segment.style)
            if not segment.control and _CONTROL.search(segment.text)
            else segment
            for segment in segments
        ]


_STRIP_CONTROL = StripControl()
"""One object: Textual caches filtered lines by the filter's identity."""


def _runs() -> Screen[Any]:
    from gputui.screens.runs import RunsScreen

    return RunsScreen()


def _offers() -> Screen[Any]:
    from gputui.screens.offers import OffersScreen

    return OffersScreen()


def _alarms() -> Screen[Any]:
    from gputui.screens.alarms import AlarmsScreen

    return AlarmsScreen()


def _money() -> Screen[Any]:
    from gputui.screens.money import MoneyScreen

    return MoneyScreen()


def _commands() -> type[Provider]:
    from gputui.palette import Commands

    return Commands


class GpuTui(App[None]):
    """`socket` is where the daemon listens; `spawn` starts one when none does (None: never).

    `toured` is a file that remembers that the tour was shown; without one it is not shown by itself.
    """

    TITLE = "gputui"
    MODES = {"runs": _runs, "offers": _offers, "alarms": _alarms, "money": _money}  # noqa: RUF012 - Textual's own declaration
    DEFAULT_MODE = "runs"
    COMMANDS = {_commands}  # noqa: RUF012
    COMMAND_PALETTE_BINDING = "ctrl+p"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]  # noqa: RUF012
    CSS_PATH = "app.tcss"
    PAUSE_GC_ON_SCROLL = True
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "place('runs')", "Runs", show=False, id="place-runs"),
        Binding("2", "place('offers')", "Offers", show=False, id="place-offers"),
        Binding("3", "place('alarms')", "Alarms", show=False, id="place-alarms"),
        Binding("4", "place('money')", "Money", show=False, id="place-money"),
        Binding("question_mark", "help", "Help", id="help"),
        Binding("colon", "command_palette", "Commands", key_display=":", id="commands"),
        Binding(
            "ctrl+o",
            "jump",
            "Jump",
            show=False,
            id="jump",
            tooltip="A letter on everything that can be focused",
        ),
        Binding("R", "reconnect", "Call the daemon now", show=False, id="reconnect"),
        Binding("q", "quit", "Quit", id="quit", tooltip="The daemon goes on"),
    ]

    def __init__(
        self,
        socket: Path,
        *,
        spawn: Callable[[], Awaitable[None]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        heartbeat: float = 4.0,
        keys: Path | None = None,
        toured: Path | None = None,
        read_only: bool = False,
    ) -> None:
        super().__init__()
        self.read_only = read_only
        """Whether this app looks and does not act: its keys say so, and its line to the daemon sends nothing else."""
        self._keys = keys
        self._toured = toured
        self.clock = clock
        """Monotonic seconds; ages on screen are counted with it."""
        self.fleet = Fleet()
        """The newest snapshot; replaced, never changed."""
        self.history = History()
        self.person = "a person (app)"
        """Who asks, for the ledger."""
        self.wants_demo = False
        """Whether the person left by the end of the tour."""
        self.forwards = Forwards()
        """Ports of boxes that are open here."""
        self.shell: Callable[[list[str]], int] = interactive
        """Runs a program in the terminal that the suspended app has lent."""
        self.fleet_changed: Signal[Fleet] = Signal(self, "fleet")
        self.link = DaemonLink(
            socket,
            on_state=self._link_state,
            on_runs=self._runs_arrived,
            on_heard=self._heard,
            spawn=spawn,
            heartbeat=heartbeat,
            read_only=read_only,
        )
        for one in (*theme.THEMES, theme.SIXTEEN):
            self.register_theme(one)
        wanted = os.environ.get("GPUTUI_THEME", "")
        self.theme = wanted if wanted in self.available_themes else theme.DARK.name
        self.ansi_theme_dark = theme.ANSI

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """Our colour names for themes that do not have them."""
        return theme.VARIABLES

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Ours comes last. Colours by number occur only in logs, where they are resolved when drawn."""
        theirs = [one for one in super().get_line_filters() if not isinstance(one, ANSIToTruecolor)]
        return [*theirs, _STRIP_CONTROL]

    def on_mount(self) -> None:
        """Call the daemon before the first frame is drawn, so that it has data."""
        run_guarded(self, self.link.serve(), what="The line to gpuwatch", group="link")
        self.set_interval(1.0, self._tick)
        if self._keys is not None:
            run_guarded(self, self._remap(self._keys), what="Keys", group="keys")

    async def on_unmount(self) -> None:
        """Forwarded ports end with the app."""
        await self.forwards.close()

    def on_ready(self) -> None:
        """What start-up made stays: the collector need not look at it again and again."""
        if not gc.isenabled():
            gc.freeze()
            gc.enable()

    # --- what the daemon says --------------------------------------------------------------------

    def _link_state(self, status: LinkStatus, text: str, retry_in: float | None) -> None:
        now = self.clock()
        link = replace(
            self.fleet.link,
            status=status,
            reason="" if status is LinkStatus.UP else text,
            version=text if status is LinkStatus.UP else self.fleet.link.version,
            since=now,
            heard=now if status is LinkStatus.UP else self.fleet.link.heard,
            retry_at=None if retry_in is None else now + retry_in,
        )
        self._publish(replace(self.fleet, link=link))

    def _runs_arrived(self, runs: wire.Runs) -> None:
        self.history.add(runs)
        first = self.fleet.runs is None
        self._publish(replace(self.fleet, runs=runs, received=self.clock()))
        if first and not runs.runs and not runs.accounts and self._toured is not None:
            run_guarded(self, self._first_tour(self._toured), what="Tour", group="tour")

    def _heard(self) -> None:
        self.fleet = self.fleet.with_link(heard=self.clock())

    def _publish(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.fleet_changed.publish(fleet)

    def _tick(self) -> None:
        """Ages grow although nothing arrives."""
        from gputui.screens.place import Place

        for screen in self.screen_stack:
            if isinstance(screen, Place) and screen.is_current:
                with suppress(NoMatches):  # it is being taken down
                    screen.tick()

    # --- what every screen can do ----------------------------------------------------------------

    def notify(
        self,
        message: str,
        *,
        title: str = "",
        severity: SeverityLevel = "information",
        timeout: float | None = None,
        markup: bool = False,
    ) -> None:
        """A toast; its text may come from anywhere, so it is cleaned and never parsed."""
        super().notify(
            clean_lines(message, 600), title=title, severity=severity, timeout=timeout, markup=False
        )

    async def action_place(self, mode: str) -> None:
        """Go to a place, and to its first screen."""
        if self.current_mode != mode:
            await self.switch_mode(mode)
        while len(self.screen_stack) > 1:
            await self.pop_screen()

    def action_reconnect(self) -> None:
        """Do not wait for the next attempt to reach the daemon."""
        self.link.retry_now()

    def action_jump(self) -> None:
        """Focus by letter."""
        from gputui.screens.jump import Jump, targets

        def chosen(widget: Widget | None) -> None:
            if widget is not None and widget.is_attached:
                widget.focus()

        self.push_screen(Jump(targets(self.screen)), chosen)

    async def _remap(self, path: Path) -> None:
        """Take the person's own keys from `path`; what is wrong with them becomes a toast."""
        from gputui import keymap

        wanted, problems = await asyncio.to_thread(keymap.read, path)
        if wanted:
            from gputui.keys import contexts

            good, more = keymap.resolve(wanted, contexts())
            self.set_keymap(good)
            problems += more
        for problem in problems:
            self.notify(problem, title="Keys", severity="warning", timeout=12)

    async def action_help(self) -> None:
        """The keys of what is focused now."""
        from gputui.screens.help import HelpDialog, sections

        await self.push_screen(HelpDialog(sections(self.screen)))

    async def _first_tour(self, mark: Path) -> None:
        """Once, for somebody who has no account and no run: there is nothing else to see."""
        if not await asyncio.to_thread(_touch, mark):
            self.action_tour()

    def action_tour(self) -> None:
        """Show the tour; when its end is reached, leave for the demo."""
        from gputui.screens.tour import TourDialog

        def ended(demo: bool | None) -> None:
            if demo:
                self.wants_demo = True
                self.exit()

        self.push_screen(TourDialog(), ended)

    def open_run(self, ident: str) -> None:
        """Show one run."""
        from gputui.screens.run import RunScreen

        if isinstance(self.screen, RunScreen) and self.screen.ident == ident:
            return
        self.push_screen(RunScreen(ident))


def _touch(mark: Path) -> bool:
    """Make the file `mark`; whether it was there (or cannot be written: then do not ask again and again)."""
    try:
        mark.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        mark.touch(exist_ok=False)
    except OSError:
        return True
    return False


def _log_to(paths: Paths) -> None:
    """Our own log; the terminal is taken."""
    try:
        paths.logs.mkdir(parents=True, exist_ok=True, mode=0o700)
        handler = logging.FileHandler(paths.logs / "gputui.log", delay=True)
    except OSError:
        return  # no log is no reason to have no app
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger("gputui").addHandler(handler)


def run_app(*, read_only: bool = False) -> int:
    """Open the app on the user's daemon; returns the exit status. `read_only`: it starts no daemon and changes nothing."""
    served = "TEXTUAL_DRIVER" in os.environ
    """In a browser: `gputui serve` holds the other end."""
    if not served and not (sys.stdin.isatty() and sys.stdout.isatty()):
        sys.stderr.write(
            "gputui: the app needs a terminal; for scripts there are commands, see gputui --help\n"
        )
        return 2
    paths = discover()
    _log_to(paths)

    async def spawn() -> None:
        from gputui.spawn import start_daemon

        await asyncio.to_thread(start_daemon, paths)

    app = GpuTui(
        paths.socket,
        spawn=None if read_only else spawn,
        keys=paths.config / "keys.toml",
        toured=None if read_only else paths.state / "toured",
        read_only=read_only,
    )
    if "GPUTUI_THEME" not in os.environ and app.console.color_system == "standard":
        app.theme = theme.SIXTEEN.name  # our colours, brought down to sixteen, would be grey in grey
    with suppress(KeyError, OSError):  # a user without a name is a person
        app.person = f"{getpass.getuser()} (app)"
    app.run()
    if app.wants_demo and not served:
        from gputui.demo import main as demo

        return demo([])
    return app.return_code or 0
