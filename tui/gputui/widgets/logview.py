"""A log of any size: follows, stands still when you scroll up, finds, filters, colours, and obeys nothing in it.

Only the lines on screen are ever read. The position is a byte, not a line number, so nothing has to be
counted first; the bar on the right shows where in the log the screen is, and where matches are.
"""

from __future__ import annotations

import asyncio
import bisect
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from gputui.guard import run_guarded
from gputui.logs import rows
from gputui.logs.lens import Every, Lens, Matching
from gputui.logs.marks import Mark
from gputui.logs.pattern import TROUBLE, Finder
from gputui.logs.search import AT_ONCE, Search
from gputui.logs.store import LogStore, WindowLog, line_before
from gputui.widgets import tones
from gputui.widgets.logpaint import Painter

_COUNTED = 1 << 20
"""New bytes whose lines are counted while standing still; of more the size is told."""
_PAUSE = 0.2
"""Seconds without a key before a big log is searched for what was typed."""


class LogView(Widget, can_focus=True):
    """Shows a LogStore. `follow` is on at the end of the log and goes off when the person scrolls up."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "line(-1)", "Up", show=False, id="log.up"),
        Binding("down,j", "line(1)", "Down", show=False, id="log.down"),
        Binding("pageup,ctrl+u", "page(-1)", "Page up", show=False, id="log.page-up"),
        Binding("pagedown,ctrl+d,space", "page(1)", "Page down", show=False, id="log.page-down"),
        Binding("home,g", "top", "Top", show=False, id="log.top"),
        Binding("end,G", "follow", "Follow", show=False, id="log.follow"),
        Binding("left,h", "shift(-8)", "Left", show=False, id="log.left"),
        Binding("right", "shift(8)", "Right", show=False, id="log.right"),
        Binding("n", "next_match(1)", "Next match", show=False, id="log.next"),
        Binding("N", "next_match(-1)", "Previous match", show=False, id="log.previous"),
        Binding("ampersand", "only", "Only matches", show=False, id="log.only", tooltip="Show only the lines that match, or all again"),
        Binding("e", "trouble", "Errors", show=False, id="log.trouble", tooltip="Find tracebacks, OOM, NaN; n and N walk"),
        Binding("W", "wrap", "Wrap", show=False, id="log.wrap", tooltip="Long lines go on below, or out of sight"),
        Binding("T", "times", "Times", show=False, id="log.times", tooltip="When each line arrived here"),
    ]  # fmt: skip
    COMPONENT_CLASSES: ClassVar[set[str]] = {"log--match", "log--current", "log--bar", "log--thumb"}
    DEFAULT_CSS = """
LogView {
    height: 1fr;
    & > .log--match { background: $warn 35%; }
    & > .log--current { background: $warn; color: $background; text-style: bold; }
    & > .log--bar { color: $rule; }
    & > .log--thumb { color: $faint; }
    &:focus > .log--thumb { color: $accent; }
}
"""

    follow: reactive[bool] = reactive(True)
    """Whether new lines pull the view to the end."""
    unseen: reactive[int] = reactive(0)
    """Lines that came while not following; -1 when they are too many to count."""
    wrap: reactive[bool] = reactive(False)
    times: reactive[bool] = reactive(False)
    only: reactive[bool] = reactive(False)
    """Whether lines that do not match are left out."""

    @dataclass
    class Searched(Message):
        """The search has news: `current` counts from 1 (0: none), `share` of the log was looked at, `done` all of it."""

        matches: int
        current: int
        share: float
        done: bool

    @dataclass
    class AtTop(Message):
        """The oldest line held is on screen; who has older ones may `prepended` them."""

    class Followed(Message):
        """It follows, or it stands still: that has changed."""

    def __init__(self, store: LogStore | None = None, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self.store: LogStore = store or WindowLog()
        self.search: Search | None = None
        self.current: int | None = None
        """The match that was gone to, by the byte where its line begins."""
        self.top = 0
        """The line at the top of the screen."""
        self._skip = 0
        """Rows of it that are above the screen, when it is wrapped."""
        self._left = 0
        self._walked = False
        self._seen_end = 0
        self._painter = Painter(self)
        self._base = Style()
        self._screen: list[tuple[int, int]] = []

    # --- content ---------------------------------------------------------------------------------

    def attach(self, store: LogStore) -> None:
        """Show another log, from its end."""
        self.store = store
        self._painter.clear()
        self.follow = True
        self._to_end()

    def grown(self) -> None:
        """The store has newer bytes (and may have forgotten old ones)."""
        store = self.store
        if self._seen_end > store.start:
            self._painter.forget(line_before(store, min(self._seen_end, store.end)))  # it was unfinished
        if self.follow:
            self._to_end()
        else:
            self._count_unseen()
            self.top = max(self.top, store.start)
        if self.search is not None:
            self.search.drop_before(store.start)
            if self.search.done:
                run_guarded(self, self.search.more(), what="Search", group="search-more")
        self.refresh()

    def _count_unseen(self) -> None:
        store = self.store
        new = store.end - self._seen_end
        if self.unseen < 0 or new > _COUNTED:
            self.unseen = -1
        elif new > 0:
            self.unseen += store.read(self._seen_end, store.end).count(b"\n")
            self._seen_end = store.end

    def prepended(self) -> None:
        """The store has older bytes; what is on screen stays where it is."""
        if self.search is not None:
            self.find(self.search.finder)
        self.refresh()

    @property
    def lens(self) -> Lens:
        """The lines that are walked through."""
        if self.only and self.search is not None:
            search = self.search
            return Matching(lambda: search.matches)
        return Every(self.store)

    def watch_follow(self) -> None:
        """Tell whoever says so."""
        self.post_message(self.Followed())

    # --- moving ----------------------------------------------------------------------------------

    @property
    def text_width(self) -> int:
        """Cells for the text of a line: gutter and bar take the rest."""
        return max(1, self.size.width - 2 - (9 if self.times else 0) - 2)

    def _rows_of(self, line: int) -> int:
        if not self.wrap:
            return 1
        return max(1, -(-self._line(line)[1].cell_length // self.text_width))

    def _end_position(self) -> tuple[int, int]:
        """The position that shows the last rows."""
        store = self.store
        return rows.last(self.lens, store.start, store.end, self.size.height, self._rows_of)

    def _to_end(self) -> None:
        self.top, self._skip = self._end_position()
        self.unseen, self._seen_end = 0, self.store.end
        self.refresh()

    def _go(self, line: int, skip: int = 0) -> None:
        end = self._end_position()
        if (line, skip) >= end:
            self.top, self._skip = end
            self.follow = True
            self._to_end()
        else:
            if self.follow:
                self._seen_end = self.store.end
            self.follow = False
            self.top, self._skip = line, skip
        self.refresh()
        if self.top <= self.store.start and self.store.start > 0:
            self.post_message(self.AtTop())

    def action_line(self, by: int) -> None:
        """Scroll by rows."""
        if (found := rows.moved(self.lens, (self.top, self._skip), by, self._rows_of)) is not None:
            self._go(*found)

    def action_page(self, by: int) -> None:
        """Scroll by screens."""
        self.action_line(by * max(1, self.size.height - 1))

    def action_top(self) -> None:
        """To the oldest line."""
        line = self.lens.near(self.store.start)
        if line is not None:
            self._go(line)

    def action_follow(self) -> None:
        """To the end, and stay there."""
        self.follow = True
        self._to_end()

    def action_shift(self, by: int) -> None:
        """Sideways, for long lines."""
        self._left = 0 if self.wrap else max(0, self._left + by)
        self.refresh()

    def action_wrap(self) -> None:
        """Long lines go on in the next row, or out of sight."""
        self.wrap = not self.wrap
        self._left = self._skip = 0
        self._stay()

    def action_times(self) -> None:
        """Show when lines arrived."""
        self.times = not self.times
        self._skip = 0
        self._stay()

    def action_only(self) -> None:
        """Show only lines that match."""
        if self.search is not None:
            self.only = not self.only
            self._skip = 0
            if self.current is None:
                self._stay()
            else:
                self._centre(self.current)

    def _stay(self) -> None:
        """After the rows have changed: what was at the top stays near it."""
        line = self.lens.near(self.top)
        if self.follow or line is None:
            self._to_end()
        else:
            self.top, self._skip = min((line, 0), self._end_position())
            self.refresh()

    def _to_share(self, y: int) -> None:
        store, height = self.store, max(1, self.size.height - 1)
        line = self.lens.near(store.start + (store.end - store.start) * min(max(y, 0), height) // height)
        if line is not None:
            self._go(line)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """The wheel."""
        event.stop()
        self.action_line(-3)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """The wheel."""
        event.stop()
        self.action_line(3)

    def on_mouse_down(self, event: events.MouseDown) -> None:
        """On the bar: go there."""
        if event.x >= self.size.width - 1:
            self.capture_mouse()
            self._to_share(event.y)

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """Along the bar, as long as the button is down."""
        if self.app.mouse_captured is self:
            self._to_share(event.y)

    def on_mouse_up(self) -> None:
        """Let go of the bar."""
        self.release_mouse()

    # --- searching -------------------------------------------------------------------------------

    def find_text(self, text: str) -> None:
        """Find lines by a regular expression; an empty text ends the search. Raises pattern.NotAPattern."""
        if text:
            self.find(Finder(text))
        else:
            self.search, self.current, self.only = None, None, False
            self.workers.cancel_group(self, "search")
            self._painter.clear()
            self._stay()
            self.post_message(self.Searched(0, 0, 1.0, done=True))

    def find(self, finder: Finder) -> None:
        """Start looking."""
        self.search = Search(self.store, finder, self._news)
        self.current, self._walked = None, False
        self._painter.clear()
        self.refresh()
        run_guarded(self, self._run(self.search), what="Search", group="search")

    async def _run(self, search: Search) -> None:
        if self.store.end - self.store.start > AT_ONCE:
            await asyncio.sleep(_PAUSE)
        await search.run()

    def action_trouble(self) -> None:
        """Find what went wrong."""
        if self.search is not None and self.search.finder.text == TROUBLE:
            self.action_next_match(-1)
        else:
            self.find(Finder(TROUBLE))

    def _news(self) -> None:
        search = self.search
        if search is None:
            return
        if not self._walked and search.count:
            self._show_match(self._first_match(search))
        if self.only:
            self._stay()
        share = search.scanned / search.total if search.total else 1.0
        self.post_message(self.Searched(search.count, self._number(), min(1.0, share), search.done))

    def _first_match(self, search: Search) -> int:
        """The newest when following, else the first from here on."""
        matches = search.matches
        if self.current is None and not self.follow:
            at = bisect.bisect_left(matches, self.top)
            return matches[min(at, len(matches) - 1)]
        return matches[-1] if self.current is None or not search.done else self.current

    def _number(self) -> int:
        if self.search is None or self.current is None:
            return 0
        return bisect.bisect_right(self.search.matches, self.current)

    def action_next_match(self, by: int) -> None:
        """Go to the next or previous match; round at the ends."""
        if self.search is None or not self.search.count:
            return
        matches, self._walked = self.search.matches, True
        at = len(matches) - 1 if self.current is None else bisect.bisect_left(matches, self.current) + by
        self._show_match(matches[at % len(matches)])
        self._news()

    def _show_match(self, line: int) -> None:
        if line == self.current:
            return
        self.current = line
        self._painter.clear()
        if self.follow:
            self._seen_end = self.store.end
        self.follow = False  # a match stays put, also on the last screen
        self._centre(line)

    def _centre(self, line: int) -> None:
        middle = rows.centred(self.lens, line, self.size.height)
        self.top, self._skip = min(middle, self._end_position())
        self.refresh()

    # --- drawing ---------------------------------------------------------------------------------

    def on_resize(self) -> None:
        """Keep the end in view when following."""
        if self.follow:
            self._to_end()

    def notify_style_update(self) -> None:
        """A theme was chosen."""
        self._painter.clear()
        super().notify_style_update()

    def shown_lines(self) -> Iterator[tuple[int, int]]:
        """Line and row of the line, for each row on screen."""
        return rows.on_screen(self.lens, (self.top, self._skip), self.size.height, self._rows_of)

    def render_lines(self, crop: Region) -> list[Strip]:
        """Look up once which lines are on screen, then draw them."""
        self._base = self.rich_style
        self._screen = list(self.shown_lines())
        return super().render_lines(crop)

    def render_line(self, y: int) -> Strip:
        """Only the lines on screen are ever decoded and coloured."""
        width, base = self.size.width, self._base
        room = self.text_width
        if y < len(self._screen):
            line, row = self._screen[y]
            mark, text = self._line(line)
            start = row * room if self.wrap else self._left
            body = text.crop(start, start + room).adjust_cell_length(room, base)
            glyph, tone = mark.value if row == 0 else (" ", "")
            head = [Segment(f"{glyph} ", tones.tone_style(self, tone, base))]
            if self.times:
                head.append(
                    Segment(self._time(line) if row == 0 else " " * 9, tones.tone_style(self, "dim", base))
                )
            strip = Strip([*head, *body])
        else:
            strip = Strip.blank(width, base)
        strip = strip.adjust_cell_length(max(0, width - 2), base)
        return Strip([*strip, Segment(" ", base), self._bar(y, base)])

    def _time(self, line: int) -> str:
        when = self.store.arrived(line)
        return " " * 9 if when is None else time.strftime("%H:%M:%S ", time.localtime(when))

    def _bar(self, y: int, base: Style) -> Segment:
        """One cell of the bar: where the screen is in the log, and where matches are."""
        store, height = self.store, max(1, self.size.height)
        span = max(1, store.end - store.start)
        first = (self.top - store.start) * height // span
        bottom = self._screen[-1][0] if self._screen else self.top
        last = height - 1 if self.follow else (bottom - store.start) * height // span
        here = first <= y <= max(first, last)
        if self._has_match(y, span, height):
            return Segment("▪" if not here else "█", tones.tone_style(self, "warn", base))
        name = "log--thumb" if here else "log--bar"
        return Segment("┃" if here else "│", self.get_component_rich_style(name))

    def _has_match(self, y: int, span: int, height: int) -> bool:
        if self.search is None or not self.search.count:
            return False
        matches = self.search.matches
        low = self.store.start + y * span // height
        at = bisect.bisect_left(matches, low)
        return at < len(matches) and matches[at] < self.store.start + (y + 1) * span // height

    def _line(self, line: int) -> tuple[Mark, Strip]:
        finder = self.search.finder if self.search is not None else None
        return self._painter.line(self.store, line, self._base, finder, self.current)
