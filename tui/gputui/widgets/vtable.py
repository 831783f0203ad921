"""A virtual table: only the rows on screen are drawn, and the cursor stays with its row.

Textual's DataTable measures every cell on load and repaints everything on each change;
with 10,000 rows that freezes the loop for a second. Here a row costs something when it
is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar, cast

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from gputui.clean import clean
from gputui.filtering import Filter
from gputui.table import TableModel, layout, pieces
from gputui.widgets import tones

R = TypeVar("R")
GAP = 2
_MARGIN = 2
"""Cells left of the first column; the cursor's mark stands there."""


class VTable(ScrollView, Generic[R], can_focus=True):
    """Shows a TableModel. Keys: arrows and vi keys, page and end keys, `s` and `S` sort."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False, id="table.up"),
        Binding("down,j", "move(1)", "Down", show=False, id="table.down"),
        Binding("pageup,ctrl+u", "page(-1)", "Page up", show=False, id="table.page-up"),
        Binding("pagedown,ctrl+d", "page(1)", "Page down", show=False, id="table.page-down"),
        Binding("home,g", "end(-1)", "First", show=False, id="table.first"),
        Binding("end,G", "end(1)", "Last", show=False, id="table.last"),
        Binding("s", "sort_next", "Sort", show=False, id="table.sort"),
        Binding("S", "sort_turn", "Turn sort", show=False, id="table.turn-sort"),
        Binding(
            "space",
            "mark",
            "Select",
            show=False,
            id="table.select",
            tooltip="Select the row; actions are then about all that are selected",
        ),
        Binding(
            "asterisk",
            "mark_all",
            "Select all",
            show=False,
            id="table.select-all",
            tooltip="All that are shown, or none again",
        ),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"vtable--header", "vtable--cursor", "vtable--blurred"}
    DEFAULT_CSS = """
VTable {
    height: 1fr;
    overflow-x: hidden;
    overflow-y: auto;
    scrollbar-size-vertical: 1;
    & > .vtable--header { color: $faint; text-style: bold; }
    & > .vtable--cursor { background: $cursor; }
    & > .vtable--blurred { background: $cursor 45%; }
}
"""

    @dataclass
    class Chosen(Message):
        """A double click on a row. (Enter belongs to the screen, whose footer names what it does.)"""

        table: VTable[object]
        key: str

        @property
        def control(self) -> VTable[object]:
            """The table."""
            return self.table

    @dataclass
    class Moved(Message):
        """The cursor is on another row (None: there are no rows)."""

        table: VTable[object]
        key: str | None

        @property
        def control(self) -> VTable[object]:
            """The table."""
            return self.table

    def __init__(
        self,
        model: TableModel[R],
        *,
        id: str | None = None,  # noqa: A002
        empty: Iterable[str] = (),
        top: bool = False,
        marking: bool = False,
    ) -> None:
        super().__init__(id=id)
        self.marking = marking
        """Whether rows can be selected."""
        self.marked: set[str] = set()
        """Keys of the rows that are selected."""
        self.model = model
        self._top = top
        """Until it is moved the cursor stays on the first row rather than with its row (lists that grow on top)."""
        self.empty = list(empty)
        """What is said while there are no rows; teach here."""
        self.cursor_key: str | None = None
        self._cursor_at = 0
        self._base = Style()
        self._strips: dict[str, Strip] = {}

    @property
    def _nothing(self) -> list[str]:
        """What is said when there are rows and the filter hides them all."""
        count = len(self.model.rows)
        rows = "the one row" if count == 1 else f"all {count:,} rows"
        return [f"The filter hides {rows}.", "", "esc ends it, / changes it"]

    # --- content ---------------------------------------------------------------------------------

    def load(self, rows: Iterable[R]) -> None:
        """Show these rows instead; the cursor stays with its row, on its line of the screen."""
        before = self.model.order
        self.marked &= self.model.rows.keys() if self.marked else set()
        changed = self.model.load(rows)
        for key in changed:
            self._strips.pop(key, None)
        if self.model.order == before and self.cursor_key is not None:
            self._redraw(changed)
        else:
            self._arranged()

    def _redraw(self, changed: set[str]) -> None:
        """Draw the rows that changed and are on screen, nothing else."""
        top = self.scroll_offset.y
        shown = self.model.order[top : top + self._room]
        lines = [y for y, key in enumerate(shown, 1) if key in changed]
        if lines:
            self.refresh(*(Region(0, y, self.size.width, 1) for y in lines))

    def sort(self, column: str | None, *, reverse: bool | None = None) -> None:
        """Sort by a column; the same again turns it round."""
        self.model.sort(column, reverse=reverse)
        self._arranged()

    def filter(self, text: str) -> Filter:
        """Show only what matches."""
        understood = self.model.set_filter(text)
        self._arranged()
        return understood

    def redraw(self) -> None:
        """Cells depend on more than their rows (the time, a theme): draw them anew."""
        self._strips.clear()
        self.refresh()

    @property
    def current(self) -> R | None:
        """The row under the cursor."""
        return self.model.rows.get(self.cursor_key) if self.cursor_key is not None else None

    def _arranged(self) -> None:
        count = len(self.model.order)
        if len(self._strips) > 4 * max(count, 200):
            self._strips.clear()
        line = self._cursor_at - self.scroll_offset.y
        at = self.model.position(self.cursor_key)
        if self._top:
            at, line = 0, 0
        if at is None:
            at = min(self._cursor_at, max(0, count - 1))
        self.virtual_size = Size(self.size.width, count + 1)
        self._put_cursor(at)
        if 0 <= line < self._room:
            self.scroll_to(y=max(0, at - line), animate=False, force=True)
        self._show_cursor()
        self.refresh()

    # --- cursor ----------------------------------------------------------------------------------

    @property
    def _room(self) -> int:
        """Rows that can be seen at once."""
        return max(1, self.size.height - 1)

    def move_to(self, key: str) -> None:
        """Put the cursor on a row, when it is shown."""
        if (at := self.model.position(key)) is not None:
            self._put_cursor(at)
            self._show_cursor()
            self.refresh()

    def _put_cursor(self, at: int) -> None:
        order = self.model.order
        self._cursor_at = max(0, min(at, len(order) - 1))
        key = order[self._cursor_at] if order else None
        if key != self.cursor_key:
            self.cursor_key = key
            self.post_message(self.Moved(cast("VTable[object]", self), key))

    def _show_cursor(self) -> None:
        top = self.scroll_offset.y
        if self._cursor_at < top:
            self.scroll_to(y=self._cursor_at, animate=False, force=True)
        elif self._cursor_at >= top + self._room:
            self.scroll_to(y=self._cursor_at - self._room + 1, animate=False, force=True)

    def _go(self, at: int) -> None:
        self._top = False
        before, top = self._cursor_at, self.scroll_offset.y
        self._put_cursor(at)
        self._show_cursor()
        if self.scroll_offset.y != top:
            self.refresh()
        else:
            width = self.size.width
            self.refresh(*(Region(0, row - top + 1, width, 1) for row in {before, self._cursor_at}))

    def action_move(self, by: int) -> None:
        """Move the cursor by rows."""
        self._go(self._cursor_at + by)

    def action_page(self, by: int) -> None:
        """Move the cursor by screens."""
        self._go(self._cursor_at + by * max(1, self._room - 1))

    def action_end(self, side: int) -> None:
        """Move the cursor to the first or last row."""
        self._go(0 if side < 0 else len(self.model.order) - 1)

    def action_mark(self) -> None:
        """Select the row under the cursor, or not any more, and go to the next."""
        if self.marking and self.cursor_key is not None:
            self.marked ^= {self.cursor_key}
            self._marks_changed()
            self.action_move(1)

    def action_mark_all(self) -> None:
        """Select every row that is shown; when all are, none."""
        if self.marking:
            shown = set(self.model.order)
            self.marked = set() if shown <= self.marked else shown
            self._marks_changed()

    def unmark(self) -> None:
        """Nothing is selected."""
        self.marked.clear()
        self._marks_changed()

    def _marks_changed(self) -> None:
        self._strips.clear()
        self.refresh()
        self.post_message(self.Moved(cast("VTable[object]", self), self.cursor_key))

    def action_sort_next(self) -> None:
        """Sort by the next column; after the last, in the natural order."""
        self.model.sort_next()
        self._arranged()

    def action_sort_turn(self) -> None:
        """Turn the sort round."""
        if self.model.sorted_by is not None:
            self.model.sort(self.model.sorted_by)
            self._arranged()

    def on_click(self, event: events.Click) -> None:
        """A click on a title sorts, on a row moves there, a second one chooses it."""
        if event.y == 0:
            at = _MARGIN
            for column, width in layout(self.model.columns, self.size.width - _MARGIN - 1, GAP):
                if at <= event.x < at + width + GAP and column.sort is not None:
                    self.sort(column.key)
                at += width + GAP
            return
        row = event.y - 1 + self.scroll_offset.y
        if row < len(self.model.order):
            self._go(row)
            if event.chain == 2 and self.cursor_key is not None:
                self.post_message(self.Chosen(cast("VTable[object]", self), self.cursor_key))

    # --- drawing ---------------------------------------------------------------------------------

    def on_resize(self) -> None:
        """Columns get new widths."""
        self._strips.clear()
        self.virtual_size = Size(self.size.width, len(self.model.order) + 1)
        self._show_cursor()

    def notify_style_update(self) -> None:
        """A theme was chosen."""
        self._strips.clear()
        super().notify_style_update()

    def watch_has_focus(self, _has_focus: bool) -> None:
        """The cursor is fainter while the keys go elsewhere."""
        super().watch_has_focus(_has_focus)
        self.refresh()

    def render_lines(self, crop: Region) -> list[Strip]:
        """All lines stand on the same style: it is worked out once."""
        self._base = self.rich_style
        return super().render_lines(crop)

    def render_line(self, y: int) -> Strip:
        """Line 0 is the titles, the rest is rows."""
        width = self.size.width
        base = self._base
        if y == 0:
            return self._header(width, base)
        at = y - 1 + self.scroll_offset.y
        order = self.model.order
        if at >= len(order):
            said = self._nothing if self.model.rows else self.empty
            if not order and 2 <= y < 2 + len(said):
                return tones.draw(self, [("  " + said[y - 2], "dim")], width, base)
            return Strip.blank(width, base)
        key = order[at]
        if key == self.cursor_key:
            name = "vtable--cursor" if self.has_focus else "vtable--blurred"
            return self._row(key, width, self.get_component_rich_style(name), cursor=True)
        strip = self._strips.get(key)
        if strip is None:
            strip = self._strips[key] = self._row(key, width, base, cursor=False)
        return strip

    def _header(self, width: int, base: Style) -> Strip:
        style = self.get_component_rich_style("vtable--header")
        segments = [Segment(" " * _MARGIN, base)]
        for column, room in layout(self.model.columns, width - _MARGIN - 1, GAP):
            title = column.title
            if column.key == self.model.sorted_by:
                title += " ↓" if self.model.reverse else " ↑"
            title = tones.fit(title, room)
            segments.append(Segment(title.rjust(room) if column.right else title.ljust(room), style))
            segments.append(Segment(" " * GAP, base))
        return Strip(segments).adjust_cell_length(width, base)

    def _row(self, key: str, width: int, base: Style, *, cursor: bool) -> Strip:
        row = self.model.rows[key]
        accent = tones.tone_style(self, "accent", base)
        chosen = "✓" if key in self.marked else " "
        segments = [Segment(f"▌{chosen}" if cursor else f" {chosen}", accent)]
        for column, room in layout(self.model.columns, width - _MARGIN - 1, GAP):
            cells: list[Segment] = []
            left = room
            for text, tone in pieces(column.cell(row)):
                text = tones.fit(clean(text), left)
                left -= cell_len(text)
                cells.append(Segment(text, tones.tone_style(self, tone, base)))
                if left <= 0:
                    break
            pad = Segment(" " * left, base)
            segments += [pad, *cells] if column.right else [*cells, pad]
            segments.append(Segment(" " * GAP, base))
        segments.pop()
        return Strip(segments).adjust_cell_length(width, base)
