"""A log as it should be: follows, stands still when you scroll up, finds, colours, and obeys nothing in it."""

from __future__ import annotations

import asyncio
import bisect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import ClassVar

from rich.color import Color
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from gputui import ansi
from gputui.logring import LogRing
from gputui.widgets import tones

_BAD = re.compile(r"\b(?:error|exception|traceback|fatal|critical|out of memory|oom|nan)\b", re.IGNORECASE)
_WARN = re.compile(r"\bwarn(?:ing)?\b", re.IGNORECASE)
_SLICE = 4_000
"""Lines searched between two looks at the keyboard."""
_CACHE = 1_000


@lru_cache(maxsize=1024)
def _style(look: ansi.Sgr) -> Style:
    def color(value: ansi.Color | None) -> Color | None:
        if value is None:
            return None
        return Color.from_ansi(value) if isinstance(value, int) else Color.from_rgb(*value)

    return Style(
        color=color(look.color),
        bgcolor=color(look.background),
        bold=look.bold or None,
        dim=look.dim or None,
        italic=look.italic or None,
        underline=look.underline or None,
        reverse=look.reverse or None,
        strike=look.strike or None,
    )


class LogView(ScrollView, can_focus=True):
    """Shows a LogRing. `follow` is on at the end of the log and goes off when the person scrolls up."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "line(-1)", "Up", show=False),
        Binding("down,j", "line(1)", "Down", show=False),
        Binding("pageup,ctrl+u", "page(-1)", "Page up", show=False),
        Binding("pagedown,ctrl+d,space", "page(1)", "Page down", show=False),
        Binding("home,g", "top", "Top", show=False),
        Binding("end,G", "follow", "Follow", show=False),
        Binding("left,h", "shift(-8)", "Left", show=False),
        Binding("right", "shift(8)", "Right", show=False),
        Binding("n", "next_match(1)", "Next match", show=False),
        Binding("N", "next_match(-1)", "Previous match", show=False),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"log--match", "log--current"}
    DEFAULT_CSS = """
LogView {
    height: 1fr;
    overflow-x: hidden;
    overflow-y: auto;
    scrollbar-size-vertical: 1;
    & > .log--match { background: $warn 35%; }
    & > .log--current { background: $warn; color: $background; text-style: bold; }
}
"""

    follow: reactive[bool] = reactive(True)
    """Whether new lines pull the view to the end."""
    unseen: reactive[int] = reactive(0)
    """Lines that came while not following."""

    @dataclass
    class Searched(Message):
        """The search has new results: `current` counts from 1 (0: none), `done` when all lines were looked at."""

        matches: int
        current: int
        done: bool

    @dataclass
    class AtTop(Message):
        """The oldest line held is on screen; who has older ones may `prepend` them."""

    def __init__(self, ring: LogRing | None = None, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self.ring = ring or LogRing()
        self.pattern: re.Pattern[str] | None = None
        self.matches: list[int] = []
        """Numbers of the lines that match, in order."""
        self._match_at = -1
        self._searched_to = 0
        self._left = 0
        self._strips: dict[int, Strip] = {}

    # --- content ---------------------------------------------------------------------------------

    def append(self, offset: int, data: bytes) -> None:
        """Newer bytes. Raises logring.Gap when bytes before `offset` are missing."""
        ring = self.ring
        before, first = ring.last, ring.first
        self._strips.pop(before - 1, None)  # the last line may just have been finished
        ring.append(offset, data)
        added = ring.last - before
        self.virtual_size = Size(self.size.width, len(ring))
        if self.follow:
            self.scroll_to(y=self.max_scroll_y, animate=False, force=True)
        else:
            self.unseen += max(0, added)
            if ring.first != first:
                self.scroll_to(
                    y=max(0, self.scroll_offset.y - (ring.first - first)), animate=False, force=True
                )
        if len(self._strips) > _CACHE:
            self._strips.clear()
        self._search_new()
        self.refresh()

    def prepend(self, offset: int, data: bytes) -> int | None:
        """Older bytes; what is on screen stays where it is. Returns how many lines came, None if none could."""
        added = self.ring.prepend(offset, data)
        if added is not None:
            self._strips.clear()
            self.virtual_size = Size(self.size.width, len(self.ring))
            self.scroll_to(y=self.scroll_offset.y + added, animate=False, force=True)
            if self.pattern is not None:
                older = list(self.ring.search(self.pattern, self.ring.first, self.ring.first + added))
                self.matches[:0] = older
                if self._match_at >= 0:
                    self._match_at += len(older)
                self._tell(done=True)
            self.refresh()
        return added

    # --- moving ----------------------------------------------------------------------------------

    def action_line(self, by: int) -> None:
        """Scroll by lines."""
        self._scroll(self.scroll_offset.y + by)

    def action_page(self, by: int) -> None:
        """Scroll by screens."""
        self._scroll(self.scroll_offset.y + by * max(1, self.size.height - 1))

    def action_top(self) -> None:
        """To the oldest line."""
        self._scroll(0)

    def action_follow(self) -> None:
        """To the end, and stay there."""
        self.follow = True

    def action_shift(self, by: int) -> None:
        """Sideways, for long lines."""
        self._left = max(0, self._left + by)
        self._strips.clear()
        self.refresh()

    def _scroll(self, y: int) -> None:
        self.follow = y >= self.max_scroll_y
        self.scroll_to(y=max(0, y), animate=False, force=True)

    def watch_follow(self, follow: bool) -> None:
        """Back at the end: nothing is unseen."""
        if follow:
            self.unseen = 0
            self.scroll_to(y=self.max_scroll_y, animate=False, force=True)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Ask for older lines at the top."""
        super().watch_scroll_y(old_value, new_value)
        if round(new_value) == 0 and self.ring.start > 0 and not self.follow:
            self.post_message(self.AtTop())

    def _on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        event.prevent_default()
        self.action_line(-3)

    def _on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        event.prevent_default()
        self.action_line(3)

    # --- searching -------------------------------------------------------------------------------

    def search(self, text: str) -> None:
        """Find lines by a regular expression (case is ignored when `text` has no capital).

        The newest match comes first; an empty text ends the search. Raises re.error.
        """
        flags = re.IGNORECASE if text.islower() else 0
        self.pattern = re.compile(text, flags) if text else None
        self.matches = []
        self._match_at = -1
        self._searched_to = self.ring.first
        self._strips.clear()
        self.refresh()
        if self.pattern is None:
            self._tell(done=True)
        else:
            self.run_worker(
                self._search_all(self.pattern), group="search", exclusive=True, exit_on_error=False
            )

    async def _search_all(self, pattern: re.Pattern[str]) -> None:
        while self.pattern is pattern and self._searched_to < self.ring.whole:
            self._search_slice(pattern)
            self._tell(done=False)
            await asyncio.sleep(0)
        if self.pattern is pattern:
            self._match_at = len(self.matches)
            self.action_next_match(-1)
            self._tell(done=True)

    def _search_slice(self, pattern: re.Pattern[str]) -> None:
        start = max(self._searched_to, self.ring.first)
        stop = min(start + _SLICE, self.ring.whole)
        self.matches += self.ring.search(pattern, start, stop)
        self._searched_to = stop

    def _search_new(self) -> None:
        """Keep up with what was appended, once the first pass is through."""
        drop = bisect.bisect_left(self.matches, self.ring.first)
        if drop:
            del self.matches[:drop]
            self._match_at = max(-1, self._match_at - drop)
        if self.pattern is not None and self._searched_to < self.ring.whole:
            before = len(self.matches)
            if self.ring.whole - self._searched_to <= _SLICE:
                self._search_slice(self.pattern)
            if len(self.matches) != before:
                self._tell(done=True)

    def action_next_match(self, by: int) -> None:
        """Go to the next or previous match; round at the ends."""
        if not self.matches:
            return
        at = self._match_at
        self._match_at = (len(self.matches) - 1 if at < 0 else at + by) % len(self.matches)
        self._strips.clear()
        line = self.matches[self._match_at] - self.ring.first
        self.follow = False  # a match stays put, also on the last screen
        self.scroll_to(y=max(0, line - self.size.height // 2), animate=False, force=True)
        self.refresh()
        self._tell(done=True)

    def _tell(self, *, done: bool) -> None:
        current = self._match_at + 1 if 0 <= self._match_at < len(self.matches) else 0
        self.post_message(self.Searched(len(self.matches), current, done))

    # --- drawing ---------------------------------------------------------------------------------

    def on_resize(self) -> None:
        """Keep the end in view when following."""
        self._strips.clear()
        self.virtual_size = Size(self.size.width, len(self.ring))
        if self.follow:
            self.scroll_to(y=self.max_scroll_y, animate=False, force=True)

    def notify_style_update(self) -> None:
        """A theme was chosen."""
        self._strips.clear()
        super().notify_style_update()

    def render_line(self, y: int) -> Strip:
        """Only the lines on screen are ever decoded and coloured."""
        number = self.ring.first + y + self.scroll_offset.y
        width = self.size.width
        if number >= self.ring.last:
            return Strip.blank(width, self.rich_style)
        strip = self._strips.get(number)
        if strip is None:
            strip = self._draw(number, width)
            self._strips[number] = strip
        return strip

    def _draw(self, number: int, width: int) -> Strip:
        base: Style = self.rich_style
        parts = ansi.parse(self.ring.raw(number))
        text = "".join(part for part, _ in parts)
        if all(look is ansi.PLAIN for _, look in parts):
            if _BAD.search(text):
                base = tones.tone_style(self, "bad", base)
            elif _WARN.search(text):
                base = tones.tone_style(self, "warn", base)
        segments = [Segment(part, base + _style(look)) for part, look in parts]
        if self.pattern is not None:
            current = 0 <= self._match_at < len(self.matches) and self.matches[self._match_at] == number
            found = self.get_component_rich_style("log--current" if current else "log--match")
            segments = _mark(segments, [m.span() for m in self.pattern.finditer(text)], found)
        strip = Strip(segments)
        return strip.crop(self._left, self._left + width).adjust_cell_length(width, self.rich_style)


def _mark(segments: Sequence[Segment], spans: Sequence[tuple[int, int]], style: Style) -> list[Segment]:
    """Segments with the characters in `spans` in another style."""
    out: list[Segment] = []
    at = 0
    for segment in segments:
        text, base = segment.text, segment.style or Style()
        end = at + len(text)
        cuts = sorted({at, end, *(p for span in spans for p in span if at < p < end)})
        for start, stop in pairwise(cuts):
            inside = any(a <= start and stop <= b for a, b in spans)
            out.append(Segment(text[start - at : stop - at], base + style if inside else base))
        at = end
    return out
