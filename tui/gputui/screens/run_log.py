"""The log of one run: where it comes from, the search line under it, saving it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from pathlib import Path
from typing import ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.widgets import Input

from gputui import wording as say
from gputui.app import GpuTui
from gputui.guard import run_guarded
from gputui.logs.pattern import TROUBLE, NotAPattern
from gputui.logs.save import save
from gputui.logs.store import FileLog, Gap, WindowLog
from gputui.widgets.entry import Entry
from gputui.widgets.lines import Line, Lines
from gputui.widgets.logview import LogView
from gpuwatch.client import wire
from gpuwatch.client.errors import CallFailed

_PAGE = 1 << 18
"""Bytes of log read at once when it comes over the socket."""
_LOOK = 0.1
"""Seconds between two looks at how long the captured file is."""
_ASK = 1.0
"""Seconds between two questions whether more will come."""


class LogPane(Container):
    """A LogView that follows one run's log, with a line that says how it stands."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "save", "Save log", show=False, id="log.save", tooltip="What is shown, as plain text, into a file"),
    ]  # fmt: skip
    DEFAULT_CSS = """
LogPane { height: 1fr; }
LogPane #logline { height: 1; padding: 0 1; dock: bottom; background: $surface; }
LogPane Input { dock: bottom; height: 1; margin-bottom: 1; border: none; padding: 0 1; background: $surface; }
LogPane Input:focus { border: none; }
"""

    def __init__(self, ident: str, *, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self.ident = ident
        """The run's id."""
        self.complete = False
        """Whether the job has ended and all of its log is here."""
        self._said = ""

    def compose(self) -> ComposeResult:
        """The log and its line."""
        yield LogView(id="log")
        yield Lines([[]], id="logline")

    @property
    def view(self) -> LogView:
        """The log."""
        return self.query_one("#log", LogView)

    @property
    def _tui(self) -> GpuTui:
        return cast("GpuTui", self.app)

    # --- where it comes from ---------------------------------------------------------------------

    def start(self, path: str | None) -> None:
        """Follow the captured file at `path`; over the socket when the daemon names none that can be read here."""
        follow = self._follow_socket() if path is None else self._follow_file(FileLog(Path(path)))
        run_guarded(self, follow, what="Log", group="log")

    async def _follow_file(self, log: FileLog) -> None:
        try:
            log.refresh()
        except OSError:  # another user's, or in a container
            await self._follow_socket()
            return
        self.view.attach(log)
        self.show()
        asked = -_ASK
        try:
            while not self.complete:
                if self._tui.clock() - asked >= _ASK:
                    asked = self._tui.clock()
                    with suppress(CallFailed):  # the daemon is away: the file is still here
                        end = await self._read(-1, 1)
                        self.complete = end.complete and log.end >= end.size
                if log.refresh():
                    self.view.grown()
                    asked = min(asked, self._tui.clock() - _ASK / 2)
                self.show()
                await asyncio.sleep(_LOOK)
            self.show()
            await asyncio.Event().wait()  # the file stays open for whoever scrolls
        finally:
            log.close()

    async def _follow_socket(self) -> None:
        """From the end: the last page at once, then what comes; older pages when scrolled to."""
        view, log = self.view, WindowLog()
        page = await self._read(-_PAGE)
        cut = page.data.find(b"\n") + 1 if page.offset > 0 else 0  # do not begin in the middle of a line
        log.reset(page.offset + cut)
        log.append(page.offset + cut, page.data[cut:])
        view.attach(log)
        self._ended(page.complete and log.end >= page.size)
        while not self.complete:
            async with aclosing(self._tui.link.notices("log", self.ident, log.end)) as stream:  # type: ignore[type-var]
                async for notice in stream:
                    if notice.log is None:
                        continue
                    try:
                        log.append(notice.log.offset, notice.log.data)
                    except Gap:
                        break  # subscribe again from where we really are
                    view.grown()
                    self.show()
                    if notice.log.complete and log.end >= notice.log.size:
                        self._ended(True)
                        break

    async def _read(self, offset: int, limit: int = _PAGE) -> wire.LogChunk:
        question = wire.LogRead(run=self.ident, offset=offset, limit=limit)
        return await self._tui.link.call("log.read", question, wire.LogChunk)

    @on(LogView.AtTop)
    def _older(self) -> None:
        log = self.view.store
        if not isinstance(log, WindowLog):
            return

        async def read() -> None:
            start = max(0, log.start - _PAGE)
            if log.start > 0:
                page = await self._read(start, log.start - start)
                if log.prepend(page.offset, page.data):
                    self.view.prepended()
                else:
                    self.show("older lines: gputui logs " + self.ident)

        run_guarded(self, read(), what="Older lines", group="older")

    def _ended(self, complete: bool) -> None:
        self.complete = complete
        self.show()

    # --- the line --------------------------------------------------------------------------------

    @on(LogView.Followed)
    def _followed(self) -> None:
        self.show()

    @on(LogView.Searched)
    def _searched(self, event: LogView.Searched) -> None:
        search = self.view.search
        if search is None:
            self.show()
            return
        looked = "" if event.done else f"  {event.share:.0%} searched, esc stops"
        if event.matches == 0:
            self.show("no match" if event.done else f"searching …{looked}")
        else:
            count = f"{event.matches:,}" + ("+" if search.full else "")
            what = "errors: " if search.finder.text == TROUBLE else ""
            keys = "   n next  N previous  & only these  esc ends" if event.done else ""
            self.show(f"{what}match {event.current:,} of {count}{looked}{keys}")

    def show(self, text: str = "") -> None:
        """How the log stands; `text` says something else for once."""
        view = self.view
        if text or view.search is not None:
            self._put([(text or self._said, "accent")], text or self._said)
            return
        size = view.store.end
        if view.unseen:
            new = "many new lines" if view.unseen < 0 else say.plural(view.unseen, "new line")
            line: Line = [(f"↓ {new}", "busy"), ("   G follows again", "dim")]
        elif not view.follow:
            share = (view.top - view.store.start) / max(1, size - view.store.start)
            line = [
                (f"standing still at {share:.0%} of {say.size(size)}", "dim"),
                ("   G follows again", "dim"),
            ]
        elif self.complete:
            line = [("end of the log", "dim"), (f"   {say.size(size)}", "dim")]
        else:
            line = [("● ", "good"), ("following", "dim"), (f"   {say.size(size)}", "dim")]
        self._put(line, "")

    def _put(self, line: Line, said: str) -> None:
        self._said = said
        self.query_one("#logline", Lines).set_lines([line])

    # --- search and save -------------------------------------------------------------------------

    async def open_search(self) -> None:
        """Ask what to find."""
        text = "regular expression  (enter keeps it, esc ends it)"
        await self._ask(Entry(kept=self._kept, placeholder=text, id="search"))

    async def action_save(self) -> None:
        """Ask where to."""
        if getattr(self.app, "read_only", False):
            self.notify("This app only looks (--read-only).", severity="warning", timeout=4)
            return
        await self._ask(Input(f"{self.ident}.log", placeholder="save to this file", id="save", compact=True))

    async def _ask(self, entry: Input) -> None:
        for found in self.query(f"#{entry.id}").results(Input):
            found.focus()
            return
        await self.mount(entry)
        self.screen.set_focus(entry)

    def close(self) -> bool:
        """End what is open: the prompt, the search; False when nothing was."""
        entries = [*self.query("#search"), *self.query("#save")]
        for entry in entries:
            entry.remove()
        searching = self.view.search is not None
        if searching and not any(entry.id == "save" for entry in entries):
            self.view.find_text("")
            self.show()
        if entries or searching:
            self.view.focus()
        return bool(entries) or searching

    @on(Input.Changed, "#search")
    def _typed(self, event: Input.Changed) -> None:
        try:
            self.view.find_text(event.value)
        except NotAPattern as error:
            self.show(f"not a regular expression: {error}")

    def _kept(self) -> None:
        self.screen.set_focus(self.view)

    @on(Input.Submitted, "#save")
    def _save(self, event: Input.Submitted) -> None:
        path, view = Path(event.value.strip()), self.view
        event.input.remove()
        view.focus()
        lines = view.search.matches[:] if view.only and view.search is not None else None

        async def write() -> None:
            try:
                number = await asyncio.to_thread(save, view.store, path, lines)
            except FileExistsError:
                self.notify(f"There is a {path} already; nothing was written.", severity="warning")
            except OSError as error:
                self.notify(f"Cannot write {path}: {error.strerror}.", severity="error")
            else:
                self.notify(f"{say.plural(number, 'line')} in {path}.", title="Saved")

        run_guarded(self, write(), what="Save log", group="save")
